// The tour: eight steps, each a few sentences and a room with a prepared state.
import { h, show } from "../dom.js";
import { t } from "../i18n.js";
import { problem } from "../parts.js";
import { link } from "../state.js";

const STORY = "A story about a fox who finds a";
const QUESTION = "Tell me a story about a fox who finds a key. Let it end well.";

/** The steps: a room, the stage of a model that must be there, and the state of the room. */
const STEPS = [
  { room: "next", stage: "pretrain", state: model => ({ model, text: STORY }) },
  { room: "next", stage: "pretrain", state: model => ({ model, text: STORY }) },
  { room: "next", stage: "pretrain", state: model => ({ model, text: STORY, temperature: 1.5 }) },
  { room: "attention", stage: "pretrain", state: model => ({ model, text: "A story about a fox who finds a key. The fox" }) },
  { room: "surprise", stage: "pretrain", state: model => ({ models: model, text: "A story about a fox who fnids a key." }) },
  { room: "chat", stage: "sft", state: (model, models) => ({ models: [byStage(models, "pretrain"), model].filter(Boolean).join(","), prompt: QUESTION }) },
  { room: "compare", stage: "sft", state: () => ({}) },
  { room: "reward", stage: "reward", kind: "reward", state: model => ({ reward: model, prompt: QUESTION }) },
];

export async function mount(root, context) {
  const { params, models, signal } = context;
  const number = Math.min(Math.max(parseInt(params.step ?? "1", 10) || 1, 1), STEPS.length);
  const { room, stage, kind = "language", state } = STEPS[number - 1];
  const model = byStage(models, stage) ?? models.find(one => one.kind === kind)?.id;
  const stageBox = h("div", { class: "stage" });
  const given = model === undefined ? {} : state(model, models);
  show(root,
    h("div", { class: "card step" },
      h("p", { class: "note" }, t("tour.step", { number, count: STEPS.length })),
      h("h1", {}, t(`tour.${number}.title`)),
      number === 1 && h("p", { class: "lead" }, t("tour.lead")),
      h("p", {}, t(`tour.${number}.text`)),
      h("p", { class: "try" }, t(`tour.${number}.try`)),
      h("nav", { class: "row", "aria-label": t("room.tour") },
        number > 1 && h("a", { class: "button", href: link("tour", { step: number - 1 }) }, t("tour.back")),
        number < STEPS.length
          ? h("a", { class: "button primary", href: link("tour", { step: number + 1 }) }, t("tour.on"))
          : h("a", { class: "button primary", href: link("chat") }, t("tour.end")),
        h("a", { class: "button", href: link(room, given) }, t("tour.open", { room: t(`room.${room}`) })),
        h("ol", { class: "dots" }, STEPS.map((_, index) => h("li", {}, h("a", {
          href: link("tour", { step: index + 1 }), "aria-label": t("tour.step", { number: index + 1, count: STEPS.length }),
          "aria-current": index + 1 === number ? "step" : null }))))),
      number === STEPS.length && h("p", { class: "note" }, t("tour.done"))),
    stageBox);
  if (model === undefined) {
    show(stageBox, problem(new Error(t("tour.missing", { stage }))));
    return;
  }
  const inner = h("div", { class: `room room-${room} embedded` });
  show(stageBox, inner);
  const { mount: mountRoom } = await import(`./${room}.js`);
  const inside = stringified(given);
  await mountRoom(inner, { params: inside, models, signal, setParams: changed => Object.assign(inside, changed) });
  inner.querySelector("h1")?.remove();
  inner.querySelector(".lead")?.remove();
}

function byStage(models, stage) {
  return models.find(model => model.stage === stage)?.id;
}

function stringified(state) {
  return Object.fromEntries(Object.entries(state).map(([name, value]) => [name, String(value)]));
}
