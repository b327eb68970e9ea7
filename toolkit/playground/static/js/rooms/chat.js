// Chat: a conversation with one model, or with several side by side.
import { post, stream } from "../api.js";
import { debounced, h, show, visible } from "../dom.js";
import { number, t } from "../i18n.js";
import { modelPicker, notice, problem, slider } from "../parts.js";
import { recall, remember } from "../state.js";

const KEY = "chat", MAX_SIDE_BY_SIDE = 4, MAX_IN_ADDRESS = 1500;
/** Sampling settings; one that is not in the address is the model's own. */
const SLIDERS = {
  temperature: { min: 0, max: 2, step: 0.05 },
  top_k: { min: 0, max: 100, step: 1 },
  top_p: { min: 0.05, max: 1, step: 0.05 },
};

export async function mount(root, { params, models, signal, setParams, embedded = false }) {
  const known = models.filter(model => model.kind === "language").map(model => model.id);
  if (!known.length) {
    show(root, h("h1", {}, t("room.chat")), h("p", { class: "lead" }, t("chat.none")));
    return;
  }
  const kept = embedded ? null : recall(KEY);
  const state = { turns: kept?.turns ?? [], draws: kept?.draws ?? 0 };
  let chosen = (params.models ?? kept?.models?.join(",") ?? "").split(",").filter(id => known.includes(id));
  if (!chosen.length) chosen = [(models.findLast(one => ["sft", "dpo", "ppo"].includes(one.stage)) ?? { id: known.at(-1) }).id];
  chosen = chosen.slice(0, MAX_SIDE_BY_SIDE);
  let literal = params.tokens === "1";
  const opened = {}, running = new Map();

  const save = () => embedded || remember(KEY, { turns: state.turns.map(compact), draws: state.draws, models: chosen });
  const saveSoon = debounced(save, 400);
  addEventListener("pagehide", save, { signal });

  // ------------------------------------------------------------------ models and settings
  const status = h("div", { class: "status", role: "status" });
  const settings = h("div", { class: "stack" });
  const pickers = h("div");

  function drawPicker() {
    show(pickers, modelPicker(models, chosen, picked => {
      const added = picked.filter(id => !chosen.includes(id));
      chosen = [...chosen.filter(id => picked.includes(id)), ...added];
      if (chosen.length > MAX_SIDE_BY_SIDE) {
        chosen = chosen.slice(-MAX_SIDE_BY_SIDE);
        notice(t("chat.most", { count: MAX_SIDE_BY_SIDE }));
        drawPicker();
      }
      if (!chosen.length) {
        chosen = [known.find(id => !picked.includes(id))];
        drawPicker();
      }
      setParams({ models: chosen.join(",") });
      save();
      openModels();
    }, { multiple: true }));
  }

  async function openModels() {
    drawStatus();
    await Promise.all(chosen.filter(id => !opened[id]?.id).map(async id => {
      try {
        opened[id] = await post("/api/chat/open", { model: id }, { signal });
      } catch (error) {
        opened[id] = { error };
      }
      if (!signal.aborted) drawStatus();
    }));
    if (!signal.aborted) drawSettings();
  }

  function drawStatus() {
    const waiting = chosen.filter(id => !opened[id]);
    const plain = chosen.filter(id => opened[id]?.id && !opened[id].template);
    const pretrained = chosen.filter(id => opened[id]?.template && !opened[id].chat);
    const notes = chosen.map(id => opened[id]?.note).filter(Boolean);
    show(status,
      waiting.length > 0 && h("p", { class: "note busy" }, t("chat.loading", { models: waiting.join(", ") })),
      chosen.filter(id => opened[id]?.error).map(id => problem(opened[id].error)),
      plain.length > 0 && h("p", { class: "note" }, t("chat.plain", { models: plain.join(", ") })),
      pretrained.length > 0 && h("p", { class: "note" }, t("chat.pretrained", { models: pretrained.join(", ") })),
      [...new Set(notes)].map(note => h("p", { class: "note" }, note)));
    drawEmpty();
  }

  function drawSettings() {
    const own = chosen.map(id => opened[id]?.sampling).find(Boolean) ?? { temperature: 0.8, top_k: 0, top_p: 1 };
    const isOwn = Object.keys(SLIDERS).every(name => !params[name]);
    const shown = name => value => {
      const text = name === "top_k" && value === 0 ? t("chat.all") : number(value, 2);
      return params[name] ? text : t("chat.own", { value: text });
    };
    show(settings,
      h("div", { class: "sliders" }, Object.entries(SLIDERS).map(([name, range]) => slider(t(`chat.${name}`), {
        ...range, value: Number(params[name] || own[name]), format: shown(name),
        onchange: value => {
          const first = !params[name];
          setParams({ [name]: String(value) });
          if (first) drawReset();
          root.querySelector(`#chat-${name}`).parentElement.querySelector("output").textContent = shown(name)(value);
        },
        id: `chat-${name}`,
      }))),
      h("div", { class: "row" },
        field("max", t("chat.max"), { min: 1, max: 4096, value: params.max || 200 }),
        field("seed", t("chat.seed"), { min: 0, max: 2 ** 53 - 1, value: params.seed || 0 }),
        reset),
      h("label", { class: "field" }, t("chat.system"),
        h("input", { type: "text", value: params.system ?? "", maxlength: 2000, oninput: event => setParams({ system: event.target.value }) })));
    drawReset(isOwn);
  }

  function field(name, label, props) {
    return h("label", { class: "field" }, label, h("input", { type: "number", step: 1, ...props, onchange: event => {
      const value = Math.min(Math.max(Math.round(Number(event.target.value)) || props.min, props.min), props.max);
      event.target.value = value;
      setParams({ [name]: String(value) });
    } }));
  }

  const reset = h("button", { type: "button", class: "plain", onclick: () => {
    setParams({ temperature: "", top_k: "", top_p: "" });
    drawSettings();
  } }, t("chat.reset"));
  const drawReset = (isOwn = false) => { reset.hidden = isOwn; };

  // ------------------------------------------------------------------ the conversation
  const log = h("div", { class: "turns" });
  const empty = h("div", { class: "empty" });

  function drawEmpty() {
    const found = chosen.map(id => opened[id]?.suggestions ?? []).find(list => list.length) ?? [];
    show(empty, state.turns.length === 0 && [
      h("p", { class: "lead" }, t(found.length ? "chat.begin" : "chat.write")),
      h("div", { class: "suggestions" }, found.map(text => h("button", { type: "button", class: "serif", onclick: () => send(text) }, text))),
    ]);
  }

  function drawTurns() {
    show(log, state.turns.map((turn, index) => drawTurn(turn, index === state.turns.length - 1)));
    drawEmpty();
    drawTools();
  }

  function drawTurn(turn, isLast) {
    return h("section", { class: "turn", "aria-label": t("chat.turn") },
      h("div", { class: "asked serif" }, turn.text),
      h("div", { class: "answers", css: { "--columns": String(Object.keys(turn.answers).length) } },
        Object.entries(turn.answers).map(([id, answer]) => drawAnswer(id, answer, isLast))));
  }

  /** One answer; `answer.view` are the elements that its stream writes to. */
  function drawAnswer(id, answer, isLast) {
    const body = h("div", { class: literal ? "literal" : "said serif" });
    const foot = h("p", { class: "note foot" });
    const card = h("article", { class: "card answer", "aria-label": t("chat.answer", { model: id }), "aria-live": "polite" },
      h("h2", {}, id), body, foot);
    Object.defineProperty(answer, "view", { value: { card, body, foot }, configurable: true, enumerable: false });
    if (literal) {
      if (isLast) body.append(...(answer.prompt ?? []).map(token => box(token, "given")));
      body.append(...answer.tokens.map(token => box(token)));
      if (answer.stop) body.append(box(answer.stop));
    } else {
      body.append(answer.text);
    }
    drawFoot(answer, running.get(id)?.answer === answer);
    return card;
  }

  function drawFoot(answer, isRunning) {
    const { card, foot } = answer.view;
    card.setAttribute("aria-busy", String(isRunning));
    foot.classList.toggle("busy", isRunning);
    if (answer.error) show(foot, problem(answer.error));
    else if (isRunning) show(foot, answer.waiting ?? t("chat.tokens", { count: answer.tokens.length }));
    else show(foot, t("chat.tokens", { count: answer.tokens.length }), " · ",
      h("span", { class: answer.reason === "length" ? "warn" : "" }, t(`chat.ended.${answer.reason ?? "cancelled"}`)),
      answer.dropped ? ` · ${t("chat.dropped", { count: answer.dropped })}` : null);
  }

  function box(token, kind = "") {
    return h("span", { class: `token ${kind} ${token.special ? "special" : ""}`, title: t("chat.id", { id: String(token.id) }) },
      visible(token.text), token.text.includes("\n") && h("br"));
  }

  // ------------------------------------------------------------------ asking
  function send(text) {
    if (running.size || !text.trim()) return;
    state.turns.push({ text, answers: {} });
    input.value = "";
    setParams({ prompt: "" });
    ask();
  }

  function ask() {
    const turn = state.turns.at(-1), draw = state.draws++;
    turn.answers = Object.fromEntries(chosen.map(id => [id, { text: "", tokens: [], waiting: t("chat.wait") }]));
    for (const id of chosen) running.set(id, { answer: turn.answers[id], stop: new AbortController() });
    drawTurns();
    log.lastElementChild.scrollIntoView({ block: "nearest" });
    for (const id of chosen) run(id, turn, draw);
  }

  async function run(id, turn, draw) {
    const { answer, stop } = running.get(id);
    const history = state.turns.slice(0, state.turns.indexOf(turn)).filter(one => one.answers[id]?.text);
    const messages = [
      ...(params.system ? [{ role: "system", content: params.system }] : []),
      ...history.flatMap(one => [{ role: "user", content: one.text }, { role: "assistant", content: one.answers[id].text }]),
      { role: "user", content: turn.text },
    ];
    const value = name => (params[name] ? Number(params[name]) : null);
    const sampling = { temperature: value("temperature"), top_k: value("top_k"), top_p: value("top_p"),
      max_new_tokens: value("max") ?? 200, seed: value("seed") ?? 0 };
    try {
      await stream("/api/chat", { model: id, messages, sampling, draw }, event => happened(answer, event),
        { signal: AbortSignal.any([signal, stop.signal]) });
    } catch (error) {
      if (!stop.signal.aborted && !signal.aborted) answer.error = error;
    }
    answer.reason ??= "cancelled";
    delete answer.waiting;
    running.delete(id);
    save();
    if (signal.aborted) return;
    drawFoot(answer, false);
    drawTools();
  }

  function happened(answer, event) {
    const { body } = answer.view, isAtEnd = log.getBoundingClientRect().bottom < innerHeight;
    if (event.event === "loading") answer.waiting = t("models.loading");
    if (event.event === "queued") answer.waiting = t("queue.place", { position: event.position });
    if (event.event === "prompt") {
      Object.assign(answer, { prompt: event.tokens, dropped: event.dropped, waiting: t("chat.thinking") });
      if (literal) body.append(...event.tokens.map(token => box(token, "given")));
    }
    if (event.event === "token") {
      delete answer.waiting;
      answer.tokens.push(event.token);
      answer.text += event.text;
      body.append(literal ? box(event.token) : event.text);
    }
    if (event.event === "done") {
      Object.assign(answer, { reason: event.reason, stop: event.stop, text: answer.text + event.text });
      if (!literal) body.append(event.text);
      else if (event.stop) body.append(box(event.stop));
    }
    drawFoot(answer, true);
    if (isAtEnd) log.lastElementChild?.scrollIntoView({ block: "end" });
    saveSoon();
  }

  // ------------------------------------------------------------------ what one can do
  const input = h("textarea", { rows: 2, value: params.prompt ?? "", "aria-label": t("chat.message"), placeholder: t("chat.message"), maxlength: 100000,
    oninput: debounced(() => setParams({ prompt: input.value.length > MAX_IN_ADDRESS ? "" : input.value })),
    onkeydown: event => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send(input.value);
      }
    } });
  const sendButton = h("button", { type: "submit", class: "primary" }, t("chat.send"));
  const stopButton = h("button", { type: "button", onclick: () => running.forEach(({ stop }) => stop.abort()) }, t("chat.stop"));
  const tools = h("div", { class: "row tools" });

  function drawTools() {
    const isRunning = running.size > 0, has = state.turns.length > 0;
    sendButton.hidden = isRunning;
    stopButton.hidden = !isRunning;
    const focused = tools.contains(document.activeElement) ? document.activeElement.dataset.tool : null;
    const tool = (name, action) => h("button", { type: "button", class: "plain", data: { tool: name }, disabled: isRunning || !has, onclick: action }, t(`chat.${name}`));
    show(tools,
      tool("retry", ask),
      tool("edit", () => { const { text } = state.turns.pop(); input.value = text; changed(); input.focus(); }),
      tool("undo", () => { state.turns.pop(); changed(); }),
      tool("clear", () => { state.turns = []; state.draws = 0; changed(); input.focus(); }));
    if (focused) (tools.querySelector(`[data-tool="${focused}"]:not(:disabled)`) ?? input).focus();
  }

  function changed() {
    save();
    drawTurns();
  }

  const literalSwitch = h("label", { class: "check" }, h("input", { type: "checkbox", checked: literal, onchange: event => {
    literal = event.target.checked;
    setParams({ tokens: literal ? "1" : "" });
    drawTurns();
  } }), t("chat.literal"));

  show(root, h("h1", {}, t("room.chat")), h("p", { class: "lead" }, t("chat.lead")),
    h("div", { class: "card stack" }, pickers, status,
      h("details", { open: Object.keys(SLIDERS).some(name => params[name]) || null }, h("summary", {}, t("chat.settings")), settings)),
    log, empty,
    h("form", { class: "card composer", onsubmit: event => { event.preventDefault(); send(input.value); } },
      input, h("div", { class: "actions" }, sendButton, stopButton),
      h("div", { class: "under" }, tools, literalSwitch)));
  drawPicker();
  drawSettings();
  drawTurns();
  await openModels();
}

/** What is kept of a turn: only the last prompt is shown as tokens, and that has all turns. */
function compact(turn, index, turns) {
  const answers = Object.entries(turn.answers).map(([id, { text, tokens, reason, stop, dropped, prompt }]) =>
    [id, { text, tokens, reason, stop, dropped, ...(index === turns.length - 1 ? { prompt } : {}) }]);
  return { text: turn.text, answers: Object.fromEntries(answers) };
}
