// Controls that several rooms use.
import { h, show } from "./dom.js";
import { t } from "./i18n.js";

/** Show an error of the server, or of the page, in an element. */
export function problem(error) {
  return h("div", { class: "problem", role: "alert" },
    h("div", {}, error.where ? `${error.where}: ${error.message}` : error.message),
    error.fix && h("div", { class: "fix" }, t("error.fix", { fix: error.fix })));
}

/** Say something at the bottom of the page for a few seconds. */
export function notice(text) {
  const line = h("div", {}, text);
  document.getElementById("notices").append(line);
  setTimeout(() => line.remove(), 4000);
}

/** A slider with its value. `onchange(value)` is called while it moves. */
export function slider(label, { min, max, step, value, format = String, onchange, id }) {
  const output = h("output", {}, format(value));
  const input = h("input", { type: "range", min, max, step, value, id, oninput: () => {
    show(output, format(+input.value));
    onchange(+input.value);
  } });
  return h("label", { class: "field slider" }, h("span", {}, label), output, input);
}

let groups = 0;

/** Chips of which one is chosen (`multiple: false`) or several. Returns the fieldset. */
export function chips(legend, options, chosen, onchange, { multiple = false, name = "chips" } = {}) {
  const group = `${name}-${++groups}`;  // radio buttons of one name exclude each other, also across rooms
  const inputs = options.map(({ value, label }) => h("label", { class: "chip" },
    h("input", { type: multiple ? "checkbox" : "radio", name: group, value, checked: chosen.includes(value), onchange: () => {
      onchange(inputs.map(item => item.querySelector("input")).filter(input => input.checked).map(input => input.value));
    } }),
    h("span", {}, label)));
  return h("fieldset", { class: "choices" }, h("legend", {}, legend), inputs);
}

/** Return the language models; without any the room says so instead of itself. */
export function languageModels(models) {
  const found = models.filter(model => model.kind === "language");
  if (!found.length) throw new Error(t("models.none"));
  return found;
}

/** The models of the server as chips; by default language models. */
export function modelPicker(models, chosen, onchange, { multiple = false, kind = "language" } = {}) {
  const options = models.filter(model => model.kind === kind).map(model => ({ value: model.id, label: model.id }));
  return chips(t(multiple ? "models.several" : "models.one"), options, chosen, onchange, { multiple, name: "models" });
}

/** A table of a chart's numbers, folded under the chart for everybody, and read out by screen readers. `title` tells several apart; `summary` opens it. */
export function numbers(headings, rows, { title = t("chart.table"), summary = t("chart.table") } = {}) {
  return h("details", {}, h("summary", {}, summary),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, h("table", {},
      h("thead", {}, h("tr", {}, headings.map(text => h("th", { scope: "col" }, text)))),
      h("tbody", {}, rows.map(row => h("tr", {}, row.map((cell, index) => index ? h("td", {}, cell) : h("th", { scope: "row" }, cell))))))));
}
