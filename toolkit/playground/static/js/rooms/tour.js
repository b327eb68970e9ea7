// The tour: eight steps, each a few sentences beside a room with a prepared state. The address carries the number of
// the step, and the state of the room once a person has changed it.
import { get } from "../api.js";
import { h, show } from "../dom.js";
import { t } from "../i18n.js";
import { problem } from "../parts.js";
import { link } from "../state.js";

const STORY = "A story about a fox who finds a";
const QUESTION = "Tell me a story about a fox who finds a key. Let it end well.";

/** The steps: a room, the stage of a model that must be there, and the state of the room; `kept`: see WITHOUT_KEPT. */
const STEPS = [
  { room: "next", stage: "pretrain", state: model => ({ model, text: STORY }) },
  { room: "next", stage: "pretrain", state: model => ({ model, text: STORY }) },
  { room: "next", stage: "pretrain", state: model => ({ model, text: STORY, temperature: 1.5 }) },
  { room: "attention", stage: "pretrain", state: model => ({ model, text: t("attention.example") }) },
  { room: "attention", stage: "pretrain", state: model => ({ model, text: t("attention.example"), view: "growth", step: 0 }), kept: true },
  { room: "chat", stage: "sft", state: (model, models) => ({ models: [byStage(models, "pretrain"), model].filter(Boolean).join(","), prompt: QUESTION }) },
  { room: "compare", stage: "sft", state: () => ({ reveal: 1 }) },
  { room: "reward", stage: "reward", kind: "reward", state: model => ({ reward: model, prompt: QUESTION }) },
];
/** Instead of a step that shows weights which a pretraining kept, if none did. */
const WITHOUT_KEPT = { room: "surprise", state: model => ({ models: model, text: t("surprise.example.typo.text") }), trying: "tour.5.other" };

export async function mount(root, { params, models, signal, setParams }) {
  const { number: asked = "1", ...changed } = params;
  const number = Math.min(Math.max(parseInt(asked, 10) || 1, 1), STEPS.length);
  let step = STEPS[number - 1];
  show(root, h("p", { class: "note busy", role: "status" }, t("models.loading")));
  if (step.kept && !(await get("/api/attention/kept", { signal })).models.length) step = { ...step, ...WITHOUT_KEPT };
  const { room, stage, kind = "language", state, trying = `tour.${number}.try` } = step;
  const model = byStage(models, stage) ?? models.find(one => one.kind === kind)?.id;
  const inside = Object.keys(changed).length ? changed : stringified(model === undefined ? {} : state(model, models));
  const open = h("a", { class: "button", href: link(room, inside) }, t("tour.open", { room: t(`room.${room}`) }));
  const stageBox = h("div", { class: "tour-room" });
  show(root, h("div", { class: "tour" },
    h("div", { class: "card step" },
      h("p", { class: "note" }, t("tour.step", { number, count: STEPS.length })),
      h("h1", {}, t(`tour.${number}.title`)),
      number === 1 && h("p", { class: "lead" }, t("tour.lead")),
      h("p", {}, t(`tour.${number}.text`)),
      h("p", { class: "try" }, t(trying)),
      number === STEPS.length && h("p", {}, t("tour.done")),
      h("nav", { class: "row", "aria-label": t("room.tour") },
        number > 1 && h("a", { class: "button", href: link("tour", { number: number - 1 }) }, t("tour.back")),
        number < STEPS.length
          ? h("a", { class: "button primary", href: link("tour", { number: number + 1 }) }, t("tour.on"))
          : h("a", { class: "button primary", href: link("chat") }, t("tour.end")),
        h("ol", { class: "dots" }, STEPS.map((_, index) => h("li", {}, h("a", {
          href: link("tour", { number: index + 1 }), "aria-label": t("tour.step", { number: index + 1, count: STEPS.length }),
          "aria-current": index + 1 === number ? "step" : null })))),
        open)),
    stageBox));
  if (model === undefined) {
    show(stageBox, problem(new Error(t("tour.missing", { stage }))));
    return;
  }
  const inner = h("div", { class: `room room-${room} embedded` });
  show(stageBox, inner);
  const { mount: mountRoom } = await import(`./${room}.js`);
  if (signal.aborted) return;
  await mountRoom(inner, { params: inside, models, signal, setParams: values => {
    Object.assign(inside, values);
    open.setAttribute("href", link(room, inside));
    setParams({ number, ...inside });
  } });
}

function byStage(models, stage) {
  return models.find(model => model.stage === stage)?.id;
}

function stringified(state) {
  return Object.fromEntries(Object.entries(state).map(([name, value]) => [name, String(value)]));
}
