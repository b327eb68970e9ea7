// Next word: the distribution of the next token.
import { post } from "../api.js";
import { bars } from "../chart.js";
import { debounced, h, show, visible } from "../dom.js";
import { percent, t } from "../i18n.js";
import { modelPicker, problem } from "../parts.js";

export function mount(root, { params, models, signal, setParams }) {
  let model = params.model ?? models.find(one => one.kind === "language").id;
  const result = h("div", { class: "card", "aria-live": "polite" });
  const text = h("textarea", { value: params.text ?? t("next.example"), "aria-label": t("next.text"), oninput: debounced(update) });

  async function update() {
    setParams({ model, text: text.value });
    try {
      const found = await post("/api/next", { model, text: text.value }, { signal });
      show(result, h("h2", {}, t("next.after")), bars(found.tokens.slice(0, 15).map(token => ({
        label: visible(token.text), value: token.p, text: percent(token.p),
        onclick: () => { text.value += token.text; update(); },
      })), { title: t("next.after") }), h("p", { class: "note" }, t("next.entropy", { bits: found.entropy_bits })));
    } catch (error) {
      if (!signal.aborted) show(result, problem(error));
    }
  }

  show(root, h("h1", {}, t("room.next")), h("p", { class: "lead" }, t("next.lead")),
    h("div", { class: "stack" }, modelPicker(models, [model], ([chosen]) => { model = chosen; update(); }), text, result));
  return update();
}
