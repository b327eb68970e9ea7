// Surprise: a text as a heat map of bits per token, for one model or stage by stage.
import { stream } from "../api.js";
import { debounced, h, show, visible } from "../dom.js";
import { fixed, number, percent, t } from "../i18n.js";
import { chips, modelPicker, numbers, problem } from "../parts.js";
import { recall, remember } from "../state.js";

const EXAMPLES = ["story", "typo", "japanese", "answer"], LONGEST_IN_ADDRESS = 1500;
const SCALES = { bits: 12, ratio: 6, kl: 4, excess: 6 };

export function mount(root, { params, models, signal, setParams }) {
  const language = models.filter(model => model.kind === "language").map(model => model.id);
  if (!language.length) throw new Error(t("models.none"));
  const asked = (params.models ?? "").split(",").filter(id => language.includes(id));
  const state = {
    models: asked.length ? asked : language.slice(0, 1),
    text: params.text ?? (params.empty ? "" : params.long ? recall("surprise.text", "") : t("surprise.example.story.text")),
    prompt: params.prompt ?? "", end: params.end === "1", measure: params.measure ?? "bits", against: params.against ?? "first",
  };
  let found = null, place = 0, running = null;

  const text = h("textarea", { id: "surprise-text", value: state.text, oninput: debounced(() => { state.text = text.value; read(); }, 300) });
  const prompt = h("input", { type: "text", id: "surprise-prompt", value: state.prompt, oninput: debounced(() => { state.prompt = prompt.value; read(); }, 300) });
  const end = h("input", { type: "checkbox", checked: state.end, onchange: () => { state.end = end.checked; read(); } });
  const label = h("span");
  const choices = h("div", { class: "row choices-row" }), status = h("p", { class: "note num", role: "status" });
  const result = h("div", { class: "stack" }), detail = h("div", { class: "detail" });

  function keep() {
    const long = state.text.length > LONGEST_IN_ADDRESS;
    if (long) remember("surprise.text", state.text);
    setParams({
      models: state.models.join(","), text: long ? "" : state.text, long: long ? 1 : "", empty: state.text ? "" : 1, prompt: state.prompt, end: state.end ? 1 : "",
      measure: state.measure === "bits" ? "" : state.measure, against: state.against === "first" ? "" : state.against,
    });
  }

  async function read() {
    keep();
    running?.abort();
    show(label, t(state.prompt ? "surprise.answer" : "surprise.text"));
    if (!state.text || !state.models.length) {
      found = null;
      show(status, t(state.text ? "surprise.choose" : "surprise.empty"));
      show(result);
      return;
    }
    running = new AbortController();
    const mine = running, stop = () => mine.abort();
    signal.addEventListener("abort", stop, { once: true });
    const slow = setTimeout(() => result.classList.add("stale"), 400);
    try {
      const { models: chosen, text: given, end: ended, against } = state;
      await stream("/api/surprise", { models: chosen, text: given, prompt: state.prompt || null, end: ended, against }, event => {
        if (mine.signal.aborted) return;
        if (event.event === "loading") show(status, h("span", { class: "busy" }, `${event.model}: ${t("models.loading")}`));
        if (event.event === "progress") show(status, h("span", { class: "busy" }, t("surprise.working", event)));
        if (event.event === "done") {
          found = event;
          place = Math.min(place, found.tokens.length - 1);
          show(status);
          drawAll();
        }
      }, { signal: mine.signal });
    } catch (error) {
      if (mine.signal.aborted) return;
      found = null;
      show(status);
      show(result, problem(error));
    } finally {
      clearTimeout(slow);
      signal.removeEventListener("abort", stop);
      if (mine === running) result.classList.remove("stale");
    }
  }

  const reference = index => (state.against === "first" ? 0 : Math.max(0, index - 1));

  /** Values of a row by token; null where there is nothing to show. */
  function values(row, index, measure) {
    if (measure === "bits") return row.bits;
    if (row === found.truth) return null;
    if (measure === "kl") return row.divergences;
    if (measure === "ratio") return index ? row.bits.map((bits, i) => found.models[reference(index)].bits[i] - bits) : null;
    return found.truth ? row.bits.map((bits, i) => bits - found.truth.bits[i]) : null;
  }

  function drawAll() {
    const several = found.models.length > 1;
    const offered = ["bits", ...(several ? ["ratio", "kl"] : []), ...(found.truth ? ["excess"] : [])];
    if (!offered.includes(state.measure)) state.measure = "bits";
    const focused = choices.contains(document.activeElement) ? document.activeElement.value : null;
    show(choices,
      offered.length > 1 && chips(t("surprise.measure"), offered.map(value => ({ value, label: t(`surprise.measure.${value}`) })), [state.measure],
        ([chosen]) => { state.measure = chosen; keep(); drawAll(); }, { name: "measure" }),
      several && chips(t("surprise.against"), ["first", "previous"].map(value => ({ value, label: t(`surprise.against.${value}`) })), [state.against],
        ([chosen]) => { state.against = chosen; read(); }, { name: "against" }));
    if (focused) choices.querySelector(`input[value="${focused}"]`)?.focus();
    const rows = [...(found.truth ? [[found.truth, -1]] : []), ...found.models.map((row, index) => [row, index])];
    show(result,
      h("div", { class: "card stack" }, offered.length > 1 && choices,
        h("div", { class: "row about" }, h("p", { class: "note" }, t(`surprise.about.${state.measure}`)), legend(state.measure)), detail,
        rows.map(([row, index]) => drawRow(row, index)),
        !found.truth && !state.prompt && h("p", { class: "note" }, t("surprise.truth.none"))),
      totals());
    drawDetail();
  }

  function drawRow(row, index) {
    const name = index < 0 ? t("surprise.truth") : row.model, shown = values(row, index, state.measure), sum = shown?.reduce((a, b) => a + b, 0);
    const tokens = found.tokens.map((token, i) => {
      const value = shown?.[i];
      return h("span", {
        class: `heat${isLess(value, state.measure) ? " less" : ""}${isPiece(token) ? " piece" : ""}`, role: "option", tabindex: i === place ? 0 : -1, data: { i, bits: row.bits[i] },
        "aria-label": `${visible(token)}: ${value === undefined ? "–" : t("next.bits", { bits: number(value, 2) })}`,
        css: value === undefined ? {} : { "--heat": heat(value, state.measure) },
      }, tokenText(token, i), token.endsWith("\n") && h("br"));
    });
    const line = h("div", { class: "heatmap serif", role: "listbox", "aria-orientation": "horizontal", "aria-label": t("surprise.row", { model: name }), data: { row: index } }, tokens);
    line.addEventListener("pointerover", event => at(event, line, false));
    line.addEventListener("focusin", event => at(event, line, true));
    line.addEventListener("keydown", move);
    return h("section", { class: index < 0 ? "model truth" : "model" },
      h("h3", {}, name, " ", h("span", { class: "note num", data: { total: row.total_bits } }, summary(row, index, sum))), line);
  }

  function summary(row, index, sum) {
    if (sum === undefined) return index < 0 ? "" : t("surprise.reference");
    if (state.measure === "ratio") return t(sum < 0 ? "surprise.sum.ratio.less" : "surprise.sum.ratio", { bits: number(Math.abs(sum), 2) });
    if (state.measure !== "bits") return t(`surprise.sum.${state.measure}`, { bits: number(sum, 2) });
    const bits = number(row.total_bits, 2), perByte = row.total_bits_per_byte;
    return perByte === null ? t("surprise.sum.lost", { bits }) : t("surprise.sum.bits", { bits, per_byte: number(perByte, 3) });
  }

  function tokenText(token, i) {
    return found.ended && i === found.tokens.length - 1 ? t("surprise.end.token") : visible(token);
  }

  function at(event, line, focus) {
    const token = event.target.closest("[data-i]");
    if (!token) return;
    if (focus) {
      line.querySelector('[tabindex="0"]')?.setAttribute("tabindex", -1);
      token.setAttribute("tabindex", 0);
    }
    if (+token.dataset.i === place && result.querySelector(".heat.here")) return;
    place = +token.dataset.i;
    drawDetail();
  }

  function move(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    const rows = [...result.querySelectorAll(".heatmap")], row = rows.indexOf(event.currentTarget);
    const turn = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step && !turn) return;
    event.preventDefault();
    const next = rows[Math.max(0, Math.min(rows.length - 1, row + (turn ?? 0)))];
    const i = step ? Math.max(0, Math.min(found.tokens.length - 1, place + step)) : place;
    next.querySelector(`[data-i="${i}"]`).focus();
  }

  function drawDetail() {
    for (const old of result.querySelectorAll(".heat.here")) old.classList.remove("here");
    for (const now of result.querySelectorAll(`[data-i="${place}"]`)) now.classList.add("here");
    const several = found.models.length > 1, i = place;
    const head = ["model", "p", "bits", "rank", "best", "expected", ...(several ? ["ratio", "kl"] : []), ...(found.truth ? ["excess"] : [])];
    const rows = found.models.map((row, index) => {
      const cells = [share(row.bits[i]), fixed(row.bits[i], 2), number(row.ranks[i]),
        [h("span", { class: "serif" }, visible(row.best[i])), ` ${share(row.best_bits[i])}`], fixed(row.entropies[i], 2)];
      for (const measure of head.slice(6)) cells.push(signed(values(row, index, measure)?.[i], measure));
      return h("tr", {}, h("th", { scope: "row" }, row.model), cells.map(cell => h("td", {}, cell)));
    });
    const truth = found.truth && h("tr", {}, h("th", { scope: "row" }, t("surprise.truth")), h("td", {}, share(found.truth.bits[i])), h("td", {}, fixed(found.truth.bits[i], 2)),
      head.slice(3).map(() => h("td", {}, "–")));
    show(detail, h("h2", {}, t("surprise.detail.token", { place: i + 1, of: found.tokens.length }), " ", h("span", { class: "serif chosen" }, tokenText(found.tokens[i], i)),
      h("span", { class: "note" }, t("surprise.detail"))),
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("surprise.detail.token", { place: i + 1, of: found.tokens.length }) }, h("table", {},
        h("thead", {}, h("tr", {}, head.map(key => h("th", { scope: "col" }, t(`surprise.column.${key}`))))), h("tbody", {}, truth, rows))));
  }

  function totals() {
    const several = found.models.length > 1, first = found.models[0];
    const sum = list => (list ? fixed(list.reduce((a, b) => a + b, 0), 2) : "–");
    const head = ["model", "bits", "per_byte", "perplexity", ...(several ? ["ratio", "kl"] : []), ...(found.truth ? ["excess"] : [])];
    const all = [...(found.truth ? [[found.truth, -1]] : []), ...found.models.map((row, index) => [row, index])];
    const rows = all.map(([row, index]) => h("tr", {}, h("th", { scope: "row" }, row.model ?? t("surprise.truth")),
      h("td", { data: { bits: row.total_bits } }, fixed(row.total_bits, 2)),
      h("td", {}, row.total_bits_per_byte === null ? "–" : fixed(row.total_bits_per_byte, 4)), h("td", {}, fixed(row.total_perplexity, 3)),
      head.slice(4).map(measure => h("td", {}, sum(values(row, index, measure))))));
    const table = found.tokens.slice(0, 500).map((token, i) => [`${number(i + 1)} ${tokenText(token, i)}`, ...(found.truth ? [fixed(found.truth.bits[i], 3)] : []),
      ...found.models.map(row => fixed(row.bits[i], 3))]);
    return h("section", { class: "card stack" }, h("h2", {}, t("surprise.totals")),
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("surprise.totals") }, h("table", {},
        h("thead", {}, h("tr", {}, head.map(key => h("th", { scope: "col" }, t(`surprise.column.${key}`))))), h("tbody", {}, rows))),
      h("p", { class: "note num" }, t("surprise.totals.note", { tokens: first.total_tokens, bytes: first.total_bytes })),
      numbers([t("surprise.column.token"), ...(found.truth ? [t("surprise.truth")] : []), ...found.models.map(row => row.model)], table));
  }

  show(root, h("h1", {}, t("room.surprise")), h("p", { class: "lead" }, t("surprise.lead")),
    h("div", { class: "stack" },
      h("div", { class: "card stack" },
        modelPicker(models, state.models, chosen => { state.models = chosen; read(); }, { multiple: true }),
        h("label", { class: "field live" }, t("surprise.prompt"), prompt),
        h("label", { class: "field live" }, label, text),
        h("div", { class: "row live" }, EXAMPLES.map(name => h("button", { type: "button", onclick: () => example(name) }, t(`surprise.example.${name}`))),
          h("label", { class: "check" }, end, t("surprise.end"))),
        status),
      result));

  function example(name) {
    state.text = text.value = t(`surprise.example.${name}.text`);
    state.prompt = prompt.value = name === "answer" ? t("surprise.example.answer.prompt") : "";
    read();
  }
  return read();
}

/** Share of full colour; the square root shows small differences, too. */
function heat(value, measure) {
  return Math.sqrt(Math.min(1, Math.abs(value) / SCALES[measure])).toFixed(3);
}

function legend(measure) {
  const limit = SCALES[measure], diverging = measure === "ratio" || measure === "excess", steps = 9;
  const at = index => (diverging ? limit * (2 * index / (steps - 1) - 1) : limit * index / (steps - 1));
  return h("div", { class: "scale num" }, h("span", { class: "note" }, number(at(0))),
    h("span", { class: "ramp", role: "img", "aria-label": t("surprise.legend", { low: at(0), high: limit }) },
      [...Array(steps).keys()].map(index => h("i", { class: `heat${isLess(at(index), measure) ? " less" : ""}`, css: { "--heat": heat(at(index), measure) } }))),
    h("span", { class: "note" }, `${number(limit)} +`));
}

/** Less surprise than the row compared with: blue. */
const isLess = (value, measure) => (measure === "ratio" ? value > 0 : value < 0);
const isPiece = token => /^<([0-9A-F]{2})( [0-9A-F]{2})*>$/.test(token);

function share(bits) {
  const p = 2 ** -bits;
  return p < 0.0001 ? "< 0.01 %" : percent(p, p < 0.01 ? 2 : 1);
}

function signed(value, measure) {
  if (value === undefined) return "–";
  return measure === "kl" || value <= 0 ? fixed(value, 3) : `+${fixed(value, 3)}`;
}
