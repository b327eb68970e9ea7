// A file of `toolkit explain`: three rooms one below the other, about one text.
import { h, show } from "./dom.js";
import { LANGUAGES, current, provide, t, useLanguage } from "./i18n.js";
import { problem } from "./parts.js";
import { mount as attention } from "./rooms/attention.js";
import { mount as next } from "./rooms/next.js";
import { mount as surprise } from "./rooms/surprise.js";

const ROOMS = { next, surprise, attention };
const { models, text, language, strings } = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
let leave = new AbortController();

for (const [code, table] of Object.entries(strings)) provide(code, table);

async function draw(code) {
  leave.abort();
  leave = new AbortController();
  await useLanguage(code);
  document.title = t("explain.title");
  const other = Object.keys(LANGUAGES).find(one => one !== current());
  show(document.getElementById("bar"), h("div", {}, h("span", { class: "name" }, t("explain.title")),
    h("nav", { "aria-label": t("page.rooms") }, Object.keys(ROOMS).map(room => h("a", { href: `#${room}` }, t(`room.${room}`)))),
    h("div", { class: "tools" },
      h("button", { type: "button", class: "plain", lang: other, onclick: () => draw(other) }, LANGUAGES[other]),
      h("button", { type: "button", class: "plain", "aria-label": t("page.theme"), title: t("page.theme"), onclick: switchTheme }, "◐"))));
  const language = models.filter(model => model.kind === "language").map(model => model.id);
  const states = { next: { model: language[0] }, surprise: { models: language.join(",") }, attention: { model: language[0] } };
  show(document.getElementById("main"), h("h1", {}, t("explain.title")), h("p", { class: "lead" }, t("explain.lead", { text })));
  for (const [room, mount] of Object.entries(ROOMS)) {
    const inside = h("div", { class: `room room-${room} recorded` });
    document.getElementById("main").append(h("section", { id: room, class: "explained" }, h("h2", {}, t(`room.${room}`)), inside));
    const params = { ...states[room], text };
    try {
      await mount(inside, { params, models, signal: leave.signal, setParams: changed => Object.assign(params, changed), recorded: true });
    } catch (error) {
      show(inside, problem(error));
    }
    inside.querySelector("h1")?.remove();
  }
}

function switchTheme() {
  document.documentElement.dataset.theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
}

document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
draw(language);
