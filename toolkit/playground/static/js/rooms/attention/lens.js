// Layer by layer: the logit lens.
import { post } from "../../api.js";
import { bars } from "../../chart.js";
import { h, show } from "../../dom.js";
import { percent, t } from "../../i18n.js";
import { problem } from "../../parts.js";
import { cutNote, how, shade, visible, waiting } from "./parts.js";

/** The view. Context as in look.js. */
export async function lens(root, context) {
  if (!root.hasChildNodes()) show(root, h("div", { class: "card" }, waiting()));
  const { model, step, text, params, setParams } = context;
  try {
    const found = await post("/api/attention/lens", { model, step, text }, context);
    const { tokens, rows, first } = found, final = rows.at(-1);
    const name = index => (index + first ? t("attention.layer", { layer: index + first }) : t("attention.embeddings"));
    const detail = h("div", { class: "att-column" });
    const headings = tokens.map((token, place) => h("th", { scope: "col" }, h("button", {
      type: "button", class: "att-pick serif", "aria-pressed": "false", onclick: () => choose(place) }, visible(token))));

    function choose(place) {
      setParams({ at: place === tokens.length - 1 ? "" : place });
      headings.forEach((heading, other) => heading.firstChild.setAttribute("aria-pressed", String(other === place)));
      const title = t("attention.lens.column", { token: visible(tokens[place]), answer: visible(final[place].text) });
      show(detail, h("h3", {}, title), bars(rows.map((row, index) => ({
        label: name(index), value: row[place].final, text: percent(row[place].final) })).reverse(), { title }));
    }
    const table = h("table", { class: "att-lens" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("attention.lens.layer")), headings)),
      h("tbody", {}, rows.map((row, index) => h("tr", {}, h("th", { scope: "row" }, name(index)), row.map(cell => h("td", {
        class: "serif", css: { "--weight": `${(40 * shade(cell.final)).toFixed(1)}%` },
        title: t("attention.lens.cell", { p: percent(cell.p), final: percent(cell.final) }) }, visible(cell.text))))).reverse()));
    const box = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("attention.view.lens") }, table);
    show(root, h("div", { class: "card" }, h("h2", {}, t("attention.view.lens")), h("p", {}, t("attention.lens.what")), box, cutNote(found), detail,
      how(t("attention.how.lens"), t("attention.how.lens.untrained"))));
    const at = Math.min(+(params.at ?? tokens.length - 1), tokens.length - 1);
    choose(at);
    box.scrollLeft = headings[at].offsetLeft - box.clientWidth / 2;
  } catch (error) {
    if (!context.signal.aborted) show(root, h("div", { class: "card" }, problem(error)));
  }
}
