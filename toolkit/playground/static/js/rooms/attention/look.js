// Where it looks: a small picture of every head, and one head large.
import { post } from "../../api.js";
import { bars } from "../../chart.js";
import { h, show } from "../../dom.js";
import { number, percent, t } from "../../i18n.js";
import { notice, numbers, problem } from "../../parts.js";
import { cutNote, headName, how, picture, roving, shade, visible, waiting } from "./parts.js";

const SCORES = ["previous", "same", "induction", "first", "entropy_bits"];
const roleName = role => t(`attention.role.${role ?? "none"}`);

/** The view. Context: {model, step?, text, params, setParams, signal}. */
export function look(root, context) {
  const { params, setParams } = context;
  const grid = h("div", { class: "card" }), one = h("div", { class: "card" });
  const first = h("input", { type: "checkbox", checked: params.first === "1", onchange: () => {
    setParams({ first: first.checked ? "1" : "" });
    update();
  } });
  if (!root.hasChildNodes()) show(root, h("div", { class: "card" }, waiting()));

  async function update() {
    const body = { model: context.model, step: context.step, text: context.text, first: first.checked };
    try {
      const found = await post("/api/attention", body, context);
      const chosen = headOf(params, found.heads);
      const choose = (layer, head) => drawHead(one, { ...context, body, found, layer, head });
      show(grid, h("h2", {}, t("attention.heads")), h("p", {}, t("attention.heads.what")), h("div", { class: "att-overview" },
        heads(found, chosen, choose, context), h("div", {}, cutNote(found),
          found.heads.length < found.layers && h("p", { class: "note" }, t("attention.layers", { some: found.heads.length, all: found.layers })),
          h("label", { class: "check" }, first, h("span", {}, t("attention.first"))), h("p", { class: "note" }, t("attention.first.note")))),
        how(t("attention.how.picture"), t("attention.how.scores"), t("attention.how.exact")));
      await choose(...chosen);
      if (!context.signal.aborted) show(root, grid, one);
    } catch (error) {
      if (!context.signal.aborted) show(root, h("div", { class: "card" }, problem(error)));
    }
  }
  return update();
}

/** The head of the address, else the one with the clearest look back. */
export function headOf(params, layers) {
  const [layer, head] = (params.head ?? "").split(".").map(part => part - 1);
  if (layers[layer]?.[head]) return [layer, head];
  return strongest(layers, "induction") ?? strongest(layers, "previous");
}

/** [layer, head] with the highest score; null if the score is not defined for the text. */
export function strongest(layers, score) {
  const all = layers.flatMap((row, layer) => row.map((one, head) => ({ layer, head, value: one[score] })));
  if (all.some(one => one.value === null)) return null;
  const best = all.reduce((a, b) => (b.value > a.value ? b : a));
  return [best.layer, best.head];
}

function heads({ heads: layers, side }, [layer0, head0], choose, context) {
  const columns = Math.max(...layers.map(row => row.length));
  const cells = layers.map((row, layer) => [
    h("span", { class: "att-layer", "aria-hidden": "true" }, t("attention.layer.short", { layer: layer + 1 })),
    row.map((one, head) => h("button", {
      type: "button", class: "att-cell", "aria-pressed": String(layer === layer0 && head === head0), title: headName(layer, head),
      "aria-label": `${headName(layer, head)}: ${roleName(one.role)}`,
      onclick: event => {
        box.querySelectorAll("[aria-pressed=true]").forEach(other => other.setAttribute("aria-pressed", "false"));
        event.currentTarget.setAttribute("aria-pressed", "true");
        context.setParams({ head: `${layer + 1}.${head + 1}` });
        context.onhead?.();
        choose(layer, head).catch(error => context.signal.aborted || notice(error.message));
      },
    }, picture(Array.from(atob(one.picture), c => c.charCodeAt(0) / 255), side, context),
    h("span", { class: `att-role${one.role ? "" : " none"}` }, one.role ? t(`attention.role.${one.role}.short`) : "–"))),
  ]);
  const box = h("div", { class: "att-heads", role: "group", "aria-label": t("attention.heads") }, cells);
  return h("div", { class: "scroll att-pictures", css: { "--heads": columns } }, roving(box, columns));
}

async function drawHead(card, context) {
  const { body, found, layer, head } = context, about = found.heads[layer][head];
  const answer = await post("/api/attention/head", { ...body, layer, head }, context);
  const { tokens, rows } = answer;
  const panel = h("div", { "aria-live": "polite" });
  let at = Math.min(+(context.params.at ?? tokens.length - 1), tokens.length - 1);
  const words = tokens.map((token, place) => h("button", {
    type: "button", class: `att-token${/^<.+>$/.test(token) ? " special" : ""}`, "aria-pressed": "false", "aria-label": token.trim() ? null : visible(token),
    onpointerenter: event => event.pointerType === "mouse" && light(place), onfocus: () => choose(place), onclick: () => choose(place),
  }, token.includes("\n") ? visible(token) : token));
  const text = h("div", { class: "att-text", role: "group", "aria-label": t("attention.text"), onpointerleave: () => light(at) },
    words.map((word, place) => [word, tokens[place].includes("\n") && h("br")]));

  function choose(place) {
    at = place;
    context.setParams({ at: place === tokens.length - 1 ? "" : place });
    light(place);
  }
  function light(place) {
    marker.style.setProperty("--row", place);
    const row = rows[place], known = row.some(value => value !== null);
    words.forEach((word, other) => {
      word.style.setProperty("--weight", `${(40 * shade(row[other] ?? 0)).toFixed(1)}%`);
      word.setAttribute("aria-pressed", String(other === place));
      word.classList.toggle("later", other > place);
    });
    const best = row.map((weight, other) => ({ weight, other })).filter(one => one.weight).sort((a, b) => b.weight - a.weight).slice(0, 6);
    const name = visible(tokens[place]);
    show(panel, h("h3", {}, t("attention.from", { token: name })),
      known ? bars(best.map(({ weight, other }) => ({ label: visible(tokens[other]), value: weight, text: percent(weight) })), { title: t("attention.from", { token: name }) })
        : h("p", { class: "note" }, t("attention.alone")),
      place > 0 && h("p", { class: "note" }, t("attention.rest", { share: percent(answer.first[place]) })));
  }

  const marker = h("span", { class: "att-marker", css: { "--rows": tokens.length } });
  const flat = rows.flatMap(row => [...row.map(value => value ?? 0), ...Array(tokens.length - row.length).fill(0)]);
  show(card, h("h2", {}, headName(layer, head)), h("p", {}, t("attention.role.is", { role: roleName(about.role) })),
    h("p", { class: "note" }, t("attention.head.what")), roving(text), h("div", { class: "columns att-detail" }, panel,
      h("figure", {}, h("figcaption", {}, t("attention.matrix")), h("div", { class: "att-matrix", role: "img", "aria-label": t("attention.matrix"),
        onclick: event => choose(Math.min(tokens.length - 1, Math.floor(event.offsetY / event.target.clientHeight * tokens.length))) },
        picture(flat, tokens.length, context), marker), h("p", { class: "note" }, t("attention.matrix.what")))),
    h("details", {}, h("summary", {}, t("attention.scores")), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("attention.scores") }, h("table", {},
      h("thead", {}, h("tr", {}, [t("attention.score"), t("attention.score.head"), t("attention.score.chance")].map(name => h("th", { scope: "col" }, name)))),
      h("tbody", {}, SCORES.map(score => h("tr", {}, h("th", { scope: "row" }, t(`attention.score.${score}`)),
        [about, found.uniform].map(one => h("td", {}, one[score] === null ? "–" : number(one[score])))))))),
    h("p", { class: "note" }, t("attention.scores.note"))),
    numbers([t("attention.token"), ...tokens.map(visible)], rows.map((row, place) => [visible(tokens[place]),
      ...tokens.map((_, other) => (row[other] === undefined || row[other] === null ? "" : percent(row[other])))])));
  light(at);
}
