// Attention: where the model looks, what its states contain, and when it learned this. One module a view.
import { debounced, h, show } from "../dom.js";
import { t } from "../i18n.js";
import { chips, languageModels, modelPicker } from "../parts.js";
import { recall, remember } from "../state.js";
import { growth } from "./attention/growth.js";
import { lens } from "./attention/lens.js";
import { look } from "./attention/look.js";
import { senses } from "./attention/senses.js";

const VIEWS = { look, lens, senses, growth };
const LONGEST = 1500;

export function mount(root, { params, models, signal, setParams, recorded = false }) {
  const views = Object.keys(VIEWS).filter(name => !recorded || name !== "senses");
  const language = languageModels(models).map(one => one.id);
  let model = language.includes(params.model) ? params.model : language[0];
  let view = VIEWS[params.view] ? params.view : "look", inner = new AbortController();
  signal.addEventListener("abort", () => inner.abort());
  const text = h("textarea", { value: params.text ?? recall("attention.text") ?? t("attention.example"), rows: 3, oninput: debounced(update, 300) });
  const field = h("label", { class: "field live" }, t("attention.text"), text);
  const result = h("div", { class: "stack", "aria-live": "off" });

  function update() {
    inner.abort();
    inner = new AbortController();
    const long = text.value.length > LONGEST;
    remember("attention.text", long ? text.value : null);
    setParams({ model, view: view === "look" ? "" : view, text: long ? "" : text.value });
    field.hidden = view === "senses";
    show(result);
    return VIEWS[view](result, { model, text: text.value, params, setParams, signal: inner.signal });
  }

  show(root, h("h1", {}, t("room.attention")), h("p", { class: "lead" }, t("attention.lead")), h("div", { class: "stack" },
    modelPicker(models, [model], ([chosen]) => { model = chosen; setParams({ head: "", step: "" }); update(); }),
    chips(t("attention.view"), views.map(name => ({ value: name, label: t(`attention.view.${name}`) })), [view], ([chosen]) => { view = chosen; update(); }, { name: "view" }),
    field, result));
  return update();
}
