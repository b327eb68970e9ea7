// Next word: predict, choose, append, repeat; and the same prompt many times.
import { post } from "../api.js";
import { bars } from "../chart.js";
import { restrict, unpack } from "../distribution.js";
import { debounced, h, show, visible } from "../dom.js";
import { fixed, number, percent, t } from "../i18n.js";
import { modelPicker, notice, problem, slider } from "../parts.js";
import { recall, remember } from "../state.js";
import { mountTree } from "./next_tree.js";

const ROWS = 15, MORE_ROWS = 100, LONGEST_IN_ADDRESS = 1500;
const EXAMPLES = ["story", "question", "japanese"];
const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

export function mount(root, { params, models, signal, setParams }) {
  const state = {
    model: known(models, params.model),
    text: params.text ?? (params.empty ? "" : params.long ? recall("next.text", "") : t("next.example.story")),
    chat: params.chat === "1",
    appended: (params.tokens ?? "").split(".").filter(Boolean).map(Number),
    at: params.at ? +params.at : null,
    settings: { temperature: +(params.temperature ?? 1), top_k: +(params.top_k ?? 0), top_p: +(params.top_p ?? 1) },
    seed: +(params.seed ?? 0),
    rows: ROWS,
  };
  let history = recall("next.history", []);
  if (history.map(step => step.id).join(".") !== state.appended.join(".")) {
    history = state.appended.map(id => ({ id, how: "link" }));
  }
  let found = null, drawn = null, busy = 0, latest = 0;

  const strip = h("div", { class: "strip serif", role: "group", "aria-label": t("next.tokens") });
  const result = h("div", {}, h("h2", {}, t("next.after"))), facts = h("div"), line = h("div"), steps = h("div"), failure = h("div");
  const said = h("p", { class: "unseen", role: "status" });
  const waiting = h("span", { class: "note", role: "status" });
  const text = h("textarea", { id: "next-text", value: state.text, oninput: debounced(() => start(text.value)) });
  const chat = h("input", { type: "checkbox", checked: state.chat, onchange: () => { state.chat = chat.checked; start(text.value); } });
  const chatBox = h("label", { class: "check", hidden: true }, chat, t("next.chat"));
  const seed = h("input", { type: "number", value: state.seed, step: 1, onchange: () => { state.seed = Math.trunc(+seed.value) || 0; predict(); } });
  const act = {
    top: h("button", { type: "button", disabled: true, onclick: () => append(found.candidates[0], "top") }, t("next.top")),
    draw: h("button", { type: "button", class: "primary", disabled: true, onclick: draw }, t("next.draw")),
    undo: h("button", { type: "button", disabled: true, onclick: undo }, t("next.undo")),
    again: h("button", { type: "button", disabled: true, onclick: () => start(text.value) }, t("next.again")),
  };
  const tree = mountTree({ params, signal, setParams, request: () => prompt() });

  function prompt() {
    return { model: state.model, text: state.text, chat: state.chat, appended: state.appended, settings: state.settings, seed: state.seed };
  }

  function keep() {
    const long = state.text.length > LONGEST_IN_ADDRESS;
    if (long) remember("next.text", state.text);
    remember("next.history", history);
    const { temperature, top_k, top_p } = state.settings;
    setParams({
      model: state.model, text: long ? "" : state.text, long: long ? 1 : "", empty: state.text ? "" : 1, chat: state.chat ? 1 : "", tokens: state.appended.join("."),
      at: state.at ?? "", temperature: temperature === 1 ? "" : temperature, top_k: top_k || "", top_p: top_p === 1 ? "" : top_p, seed: state.seed || "",
    });
  }

  /** Begin with another text: nothing is appended to it. */
  function start(value) {
    Object.assign(state, { text: value, appended: [], at: null });
    history = [];
    return predict();
  }

  /** Ask the server for the prediction at the chosen position. */
  async function predict() {
    keep();
    const mine = ++latest;
    busy = setTimeout(() => { show(waiting, h("span", { class: "busy" }, t("next.waiting"))); }, 300);
    try {
      const answer = await post("/api/next", { ...prompt(), at: state.at }, { signal });
      if (mine !== latest || signal.aborted) return;
      found = answer;
      if (answer.logprobs) Object.assign(found, { logprobs: unpack.floats(answer.logprobs), order: unpack.integers(answer.order) });
      drawn = answer.drawn;
      show(failure);
      await showChatBox();
      drawTokens();
      drawResult();
    } catch (error) {
      if (signal.aborted || mine !== latest) return;
      show(failure, problem(error));
    } finally {
      if (mine === latest) {
        clearTimeout(busy);
        show(waiting);
      }
    }
  }

  async function showChatBox() {
    if (!chatBox.hidden || chatBox.dataset.model === state.model) return;
    chatBox.dataset.model = state.model;
    const model = await post("/api/models/open", { model: state.model }, { signal });
    chatBox.hidden = !model.chat && !state.chat;
  }

  /** The sliders: at once where the whole distribution is here, else by the server when they pause. */
  const askServer = debounced(predict, 120);
  function settingsMoved() {
    if (found?.logprobs) {
      drawn = restrict(found.logprobs, found.order, state.settings, found.uniform, found.candidates.length);
      drawResult();
      keepSoon();
    } else askServer();
  }
  const keepSoon = debounced(keep, 200);

  function drawTokens() {
    const { tokens, typed, at } = found, first = Math.max(0, tokens.length - 600);
    const items = tokens.slice(first).map((token, index) => {
      const place = first + index;
      return h("button", {
        type: "button", tabindex: place === Math.min(at, tokens.length - 1) ? 0 : -1, data: { place },
        class: `token${place >= typed ? " new" : ""}`, "aria-pressed": String(place === at), disabled: place === 0,
        title: place === 0 ? t("next.first") : null,
      }, visible(token));
    });
    const end = h("button", { type: "button", class: "token next", "aria-pressed": String(at === tokens.length),
      tabindex: at === tokens.length ? 0 : -1, data: { place: tokens.length } }, "?");
    end.setAttribute("aria-label", t("next.end"));
    show(strip, first > 0 && h("span", { class: "note" }, t("next.hidden", { count: first })), items, end);
    const chosen = strip.querySelector('[aria-pressed="true"]');
    if (chosen) strip.scrollTop = chosen.offsetTop - strip.clientHeight / 2;
    act.undo.disabled = !history.length;
    act.again.disabled = !history.length;
    act.top.disabled = act.draw.disabled = at !== tokens.length;
    show(steps, history.length > 0 && historyTable());
  }
  strip.addEventListener("click", event => {
    const place = event.target.closest("[data-place]")?.dataset.place;
    if (place !== undefined) look(+place);
  });
  strip.addEventListener("keydown", event => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    const buttons = [...strip.querySelectorAll("button:not(:disabled)")], now = buttons.indexOf(document.activeElement);
    if (!move || now < 0) return;
    event.preventDefault();
    buttons[Math.max(0, Math.min(buttons.length - 1, now + move))].focus();
  });

  async function look(place) {
    state.at = place === found.tokens.length ? null : place;
    await predict();
    strip.querySelector(`[data-place="${place}"]`)?.focus();
  }

  function drawResult() {
    const { candidates, actual, truth, at, tokens } = found, inside = at < tokens.length;
    const shown = candidates.slice(0, state.rows).map((token, place) => ({ token, place }));
    const place = actual ? candidates.findIndex(token => token.id === actual.id) : -1;
    if (place >= state.rows) shown.push({ token: candidates[place], place });
    const top = Math.max(...shown.map(({ place: one }) => Math.max(drawn.p[one], drawn.softened[one], truth?.p[one] ?? 0)), 1e-12);
    const rows = shown.map(({ token, place: one }) => {
      const reason = drawn.removed[one], share = reason ? drawn.softened[one] : drawn.p[one];
      return {
        label: visible(token.text) || `#${token.id}`, value: share / top, muted: Boolean(reason), mark: truth ? truth.p[one] / top : undefined,
        text: [actual?.id === token.id && h("span", { class: "tag actual" }, t("next.actual")),
          reason && h("span", { class: "tag" }, t(`next.removed.${reason}`)), h("span", { class: "share" }, small(share))],
        data: { id: token.id, p: drawn.p[one], softened: drawn.softened[one], removed: reason },
        onclick: inside ? undefined : () => append(token, "click"),
      };
    });
    const unlisted = candidates.length - shown.length;
    const restOf = drawn.rest + drawn.p.reduce((sum, p, i) => sum + (shown.some(item => item.place === i) ? 0 : p), 0);
    const title = inside ? t("next.here", { token: visible(actual.text) }) : t("next.after");
    show(result, h("h2", {}, title),
      inside && h("p", { class: "note" }, actual.rank === null ? t("next.never") : t("next.actual.line", { p: small(actual.p), bits: number(-Math.log2(actual.p), 2), rank: actual.rank }),
        " ", h("button", { type: "button", class: "plain", onclick: () => look(tokens.length) }, t("next.to.end"))),
      h("div", { class: `predictions${inside || rows.some(row => row.muted) ? " tagged" : ""}` }, bars(rows, { title })),
      h("p", { class: "note rest num" }, t("next.rest", { count: found.vocabulary - shown.length, p: small(restOf) })),
      unlisted > 0 && state.rows === ROWS && h("button", { type: "button", class: "plain", onclick: () => { state.rows = MORE_ROWS; drawResult(); } }, t("next.more")),
      truth && h("p", { class: "legend note" }, h("span", {}, h("i", { class: "truth" }), t("next.truth"))),
      found.lone_space && h("p", { class: "note" }, t("next.lone")),
      found.context !== null && tokens.length > found.context && h("p", { class: "note" }, t("next.dropped", { count: found.context })));
    show(facts, h("dl", { class: "facts num" },
      fact(t("next.entropy.model"), t("next.bits", { bits: number(found.entropy_bits, 2) }), t("next.choices", { count: number(2 ** found.entropy_bits, 1) })),
      fact(t("next.entropy.drawn"), t("next.bits", { bits: number(drawn.entropy_bits, 2) }), t("next.choices", { count: number(2 ** drawn.entropy_bits, 1) }), { entropy: drawn.entropy_bits }),
      truth && fact(t("next.entropy.truth"), t("next.bits", { bits: number(truth.entropy_bits, 2) }), t("next.choices", { count: number(2 ** truth.entropy_bits, 1) })),
      fact(t("next.kept"), number(drawn.kept), t("next.of", { count: found.vocabulary }), { kept: drawn.kept })));
    drawLine(null);
  }

  /** All probability end to end, from 0 to 1; a draw is a point on it. */
  function drawLine(pointer) {
    let low = 0;
    const parts = [];
    for (let place = 0; place < drawn.p.length && drawn.p[place] >= 0.004; place++) {
      const width = drawn.p[place], hit = pointer && pointer.token === found.candidates[place].id;
      parts.push(h("span", { class: `part${place % 2 ? " odd" : ""}${hit ? " hit" : ""}`, css: { width: `${100 * width}%` },
        title: `${visible(found.candidates[place].text)} ${small(width)}` }, width > 0.06 && visible(found.candidates[place].text)));
      low += width;
    }
    show(line, h("h3", {}, t("next.line")),
      h("div", { class: `line${pointer ? " drawn" : ""}` },
        h("div", { class: "parts", role: "img", "aria-label": t("next.line.label") }, parts, low < 0.9999 && h("span", { class: "part rest" })),
        pointer && h("span", { class: "pointer", css: { left: `${100 * pointer.at}%` } })),
      h("p", { class: "note num" }, pointer
        ? t("next.pointer", { u: number(pointer.at, 4), token: visible(pointer.text), low: number(pointer.low, 4), high: number(pointer.high, 4) })
        : t("next.line.note")));
  }

  async function draw() {
    const { choice } = drawn;
    const token = found.candidates.find(one => one.id === choice.token) ?? { id: choice.token, text: choice.text ?? "…", p: null };
    drawLine({ ...choice, at: found.uniform, text: token.text });
    act.draw.disabled = act.top.disabled = true;
    const mine = latest;
    await new Promise(done => setTimeout(done, calm() ? 0 : 800));
    if (mine === latest && !signal.aborted) await append(token, "draw", found.uniform);
  }

  async function append(token, how, uniform = null) {
    history = [...history, { id: token.id, text: token.text, how, p: token.p, uniform }];
    state.appended = [...state.appended, token.id];
    state.at = null;
    await predict();
    if (how === "click") result.querySelector("button")?.focus({ preventScroll: true });
    show(said, t("next.said", { token: token.text }));
    if (token.ends) notice(t("next.ended"));
  }

  async function undo() {
    history = history.slice(0, -1);
    state.appended = state.appended.slice(0, -1);
    state.at = null;
    await predict();
    (act.undo.disabled ? act.draw : act.undo).focus();
  }

  function historyTable() {
    const bits = history.reduce((sum, step) => sum - Math.log2(step.p ?? NaN), 0);
    return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("next.history") }, h("table", { class: "history" },
      h("caption", { class: "unseen" }, t("next.history")),
      h("thead", {}, h("tr", {}, ["step", "token", "how", "p", "bits"].map(key => h("th", { scope: "col" }, t(`next.column.${key}`))))),
      h("tbody", {}, history.map((step, index) => h("tr", {}, h("th", { scope: "row" }, number(index + 1)),
        h("td", { class: "serif" }, visible(step.text ?? found.tokens[found.typed + index] ?? "")),
        h("td", {}, t(`next.how.${step.how}`), step.uniform !== null && step.uniform !== undefined && ` ${number(step.uniform, 3)}`),
        h("td", {}, step.p ? small(step.p) : "–"), h("td", {}, step.p ? fixed(-Math.log2(step.p), 2) : "–"))).reverse()),
      Number.isFinite(bits) && h("tfoot", {}, h("tr", {}, h("th", { scope: "row", colspan: 4 }, t("next.together")), h("td", {}, fixed(bits, 2))))));
  }

  const sliders = h("div", { class: "sliders" },
    slider(t("next.temperature"), { min: 0, max: 2, step: 0.05, value: state.settings.temperature, id: "next-temperature", format: value => number(value, 2),
      onchange: value => { state.settings.temperature = value; settingsMoved(); } }),
    slider(t("next.top_k"), { min: 0, max: 50, step: 1, value: state.settings.top_k, id: "next-top-k", format: value => (value ? number(value) : t("next.all")),
      onchange: value => { state.settings.top_k = value; settingsMoved(); } }),
    slider(t("next.top_p"), { min: 0.05, max: 1, step: 0.01, value: state.settings.top_p, id: "next-top-p", format: value => number(value, 2),
      onchange: value => { state.settings.top_p = value; settingsMoved(); } }));

  show(root, h("h1", {}, t("room.next")), h("p", { class: "lead" }, t("next.lead")),
    h("div", { class: "stack" },
      h("div", { class: "card stack" },
        modelPicker(models, [state.model], ([chosen]) => {
          state.model = chosen;
          state.chat = chat.checked = false;
          chatBox.hidden = true;
          delete chatBox.dataset.model;
          start(text.value);
        }),
        h("label", { class: "field live" }, t("next.text"), text),
        h("div", { class: "row live" }, EXAMPLES.map(name => h("button", { type: "button", onclick: () => { text.value = t(`next.example.${name}`); start(text.value); } },
          t(`next.example.${name}.name`))), chatBox)),
      failure,
      h("section", { class: "card stack", "aria-labelledby": "next-loop" },
        h("h2", { id: "next-loop" }, t("next.loop")), h("p", { class: "note" }, t("next.loop.note")), strip,
        h("div", { class: "row actions live" }, act.draw, act.top, act.undo, act.again, h("label", { class: "field seed" }, t("next.seed"), seed), waiting), steps, said),
      h("div", { class: "columns next-columns" },
        h("section", { class: "card" }, result),
        h("section", { class: "card stack" }, h("h2", {}, t("next.sampling")), sliders, facts, line)),
      tree));
  return predict();
}

function known(models, id) {
  const language = models.filter(model => model.kind === "language");
  if (!language.length) throw new Error(t("models.none"));
  return (language.find(model => model.id === id) ?? language[0]).id;
}

function fact(name, value, note, data = {}) {
  return h("div", { data }, h("dt", {}, name), h("dd", {}, value, " ", h("span", { class: "note" }, note)));
}

/** A probability with enough digits to tell it from 0. */
export function small(p) {
  if (p === 0) return percent(0, 0);
  if (p < 0.0001) return p < 1e-6 ? "< 0.0001 %" : percent(p, 4);
  return percent(p, p < 0.01 ? 2 : 1);
}
