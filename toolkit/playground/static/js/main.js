// The frame of the page: rooms by address, language and theme.
import { get } from "./api.js";
import { h, show } from "./dom.js";
import { LANGUAGES, current, t, useLanguage } from "./i18n.js";
import { problem } from "./parts.js";
import { here, link, recall, remember, replace } from "./state.js";

const ROOMS = ["chat", "next", "surprise", "attention", "compare", "runs", "reward"];
const main = document.getElementById("main");
let leave = new AbortController();

async function enter() {
  leave.abort();
  leave = new AbortController();
  const { room, params } = here();
  const known = ROOMS.includes(room) || room === "tour" ? room : "chat";
  drawBar(known);
  document.title = `${t(`room.${known}`)} – ${t("page.name")}`;
  const { signal } = leave;
  try {
    const [{ models }, { mount }] = await Promise.all([get("/api/models", { signal }), import(`./rooms/${known}.js`)]);
    if (signal.aborted) return;
    const root = h("div", { class: `room room-${known}` });
    show(main, root);
    await mount(root, { params, models, signal, setParams: changed => {
      if (!signal.aborted) replace(known, Object.assign(params, changed));
    } });
  } catch (error) {
    if (!signal.aborted) show(main, problem(error));
  }
}

function drawBar(room) {
  show(document.getElementById("skip"), t("page.skip"));
  show(document.getElementById("bar"), h("div", {},
    h("a", { class: "name", href: link("tour") }, t("page.name")),
    h("nav", { "aria-label": t("page.rooms") }, ROOMS.map(name =>
      h("a", { href: link(name), "aria-current": name === room ? "page" : null }, t(`room.${name}`)))),
    h("div", { class: "tools" },
      h("button", { type: "button", class: "plain", lang: current() === "en" ? "ja" : "en", onclick: switchLanguage },
        LANGUAGES[current() === "en" ? "ja" : "en"]),
      h("button", { type: "button", class: "plain", "aria-label": t("page.theme"), title: t("page.theme"), onclick: switchTheme }, "◐"))));
  document.querySelector(".bar nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
}

async function switchLanguage() {
  const next = current() === "en" ? "ja" : "en";
  await useLanguage(next);
  remember("language", next);
  const entered = enter();
  document.querySelector(".bar .tools button").focus();  // the bar was drawn again
  await entered;
}

function switchTheme() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  remember("theme", next);
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const applyTheme = () => { document.documentElement.dataset.theme = recall("theme") ?? (dark.matches ? "dark" : "light"); };
dark.addEventListener("change", applyTheme);
applyTheme();
document.getElementById("skip").addEventListener("click", event => {
  event.preventDefault();
  main.focus();
});
await useLanguage(recall("language") ?? (navigator.language.startsWith("ja") ? "ja" : "en"));
addEventListener("hashchange", event => {
  if (event.isTrusted) {  // a person went to another place: it begins at its top, for the eye and for the keyboard
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
  enter();
});
await enter();
