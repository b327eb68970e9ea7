// Compare: two answers without the names of their models, and a vote by key or click.
import { post } from "../api.js";
import { h, show } from "../dom.js";
import { number, percent, t } from "../i18n.js";
import { chips, modelPicker, notice, problem, slider } from "../parts.js";
import { recall, remember } from "../state.js";

const VOTES = [["left", "1"], ["right", "2"], ["tie", "3"], ["bad", "4"]];

export function mount(root, { params, models, signal, setParams }) {
  const language = models.filter(model => model.kind === "language");
  if (!language.length) throw new Error(t("models.none"));
  const named = (params.models ?? "").split(",").filter(id => language.some(model => model.id === id));
  const setup = {
    models: named.length ? named : defaults(language),
    voter: recall("voter", ""),
    source: params.prompt ? "typed" : "data",
    prompt: params.prompt ?? "",
    temperature: params.temperature ? +params.temperature : null,
    max_new_tokens: +(params.length ?? 200),
    annotators: +(params.annotators ?? 1),
    repeats: +(params.repeats ?? 0.1),
    checks: +(params.checks ?? 0.05),
    reveal: params.reveal === "1",
  };
  const stage = h("div", { class: "stage" });
  const help = h("div", { class: "columns folds" });
  let item = null, busy = false;

  const request = () => ({
    voter: setup.voter, models: setup.models, prompt: setup.source === "typed" ? setup.prompt : null, temperature: setup.temperature,
    max_new_tokens: setup.max_new_tokens, annotators: setup.annotators, repeats: setup.repeats, checks: setup.checks, reveal: setup.reveal,
  });
  const keep = () => setParams({
    models: setup.models.join(","), prompt: setup.source === "typed" ? setup.prompt : "", temperature: setup.temperature,
    length: setup.max_new_tokens === 200 ? "" : setup.max_new_tokens, annotators: setup.annotators === 1 ? "" : setup.annotators,
    repeats: setup.repeats === 0.1 ? "" : setup.repeats, checks: setup.checks === 0.05 ? "" : setup.checks, reveal: setup.reveal ? "1" : "",
  });

  // What is compared

  const name = h("input", { type: "text", value: setup.voter, maxlength: 80, autocomplete: "nickname", required: true, id: "voter" });
  const typed = h("textarea", { value: setup.prompt, rows: 3, placeholder: t("compare.placeholder"), oninput: () => { setup.prompt = typed.value; } });
  const typedField = h("label", { class: "field", hidden: setup.source !== "typed" }, t("compare.typed"), typed);
  const sourceNote = h("p", { class: "note" });
  const sources = chips(t("compare.prompts"), ["data", "typed"].map(value => ({ value, label: t(`compare.prompts.${value}`) })), [setup.source],
    ([chosen]) => { setup.source = chosen; typedField.hidden = chosen !== "typed"; sourceNote.hidden = chosen === "typed"; });
  const form = h("form", { class: "card stack setup", onsubmit: event => { event.preventDefault(); start(); } },
    modelPicker(models, setup.models, chosen => { setup.models = chosen; learn(); }, { multiple: true }),
    h("p", { class: "note" }, t("compare.models.note")),
    sources, sourceNote, typedField,
    h("label", { class: "field voter" }, t("compare.voter"), name),
    h("details", {}, h("summary", {}, t("compare.settings")), h("div", { class: "sliders" },
      slider(t("compare.annotators"), { min: 1, max: 10, step: 1, value: setup.annotators, onchange: value => { setup.annotators = value; } }),
      slider(t("compare.repeats"), { min: 0, max: 0.5, step: 0.05, value: setup.repeats, format: value => percent(value, 0), onchange: value => { setup.repeats = value; } }),
      slider(t("compare.checks"), { min: 0, max: 0.5, step: 0.05, value: setup.checks, format: value => percent(value, 0), onchange: value => { setup.checks = value; } }),
      slider(t("compare.temperature"), { min: 0, max: 2, step: 0.1, value: setup.temperature ?? 0.8,
        format: value => number(value, 1), onchange: value => { setup.temperature = value; } }),
      slider(t("compare.length"), { min: 20, max: 1000, step: 20, value: setup.max_new_tokens, onchange: value => { setup.max_new_tokens = value; } })),
      h("label", { class: "check" }, h("input", { type: "checkbox", checked: setup.reveal, onchange: event => { setup.reveal = event.target.checked; } }), t("compare.reveal"))),
    h("div", { class: "row" }, h("button", { class: "primary", type: "submit" }, t("compare.start"))));

  async function learn() {
    if (!setup.models.length) return;
    try {
      const found = await post("/api/compare/setup", { models: setup.models }, { signal });
      show(sourceNote, found.prompts ? t(`compare.source.${found.prompts.kind}`, { name: found.prompts.name }) : t("compare.source.none"));
      sourceNote.hidden = setup.source === "typed";
      drawHelp(found);
    } catch (error) {
      if (!signal.aborted) show(sourceNote, error.message);
    }
  }

  async function start() {
    setup.voter = name.value.trim();
    if (!setup.models.length) return notice(t("compare.no_model"));
    if (!setup.voter) return name.focus();
    if (setup.source === "typed" && !setup.prompt.trim()) return typed.focus();
    remember("voter", setup.voter);
    remember("comparing", setup.models.join(","));  // a reload goes on
    keep();
    form.hidden = lead.hidden = true;
    await next();
  }

  function change() {
    item = null;
    remember("comparing", "");
    form.hidden = lead.hidden = false;
    show(stage);
    name.focus();
  }

  // One pair after another

  async function next(said = null) {
    // The old pair stays in place for a moment, so that the page does not jump while the next one is fetched.
    stage.classList.add("pending");
    const waiting = setTimeout(() => show(stage, h("p", { class: "card busy", role: "status" }, t("compare.making"))), stage.firstChild ? 400 : 0);
    try {
      item = await post("/api/compare/next", request(), { signal });
      clearTimeout(waiting);
      draw(said);
    } catch (error) {
      clearTimeout(waiting);
      if (signal.aborted) return;
      stage.classList.remove("pending");
      item = null;
      show(stage, problem(error), h("div", { class: "row after" },
        h("button", { type: "button", class: "primary", onclick: () => next() }, t("compare.again")),
        h("button", { type: "button", onclick: change }, t("compare.change"))));
    }
  }

  function draw(said) {
    stage.classList.remove("pending");
    const heading = h("h2", { class: "unseen", tabindex: "-1" }, t("compare.pair", { count: item.votes + 1 }));
    show(stage,
      h("div", { class: "status row" },
        h("span", { class: "note num" }, t(item.votes === 1 ? "compare.votes.one" : "compare.votes", { name: setup.voter, count: item.votes })),
        item.identical ? h("span", { class: "note num" }, t(item.identical === 1 ? "compare.identical.one" : "compare.identical", { count: item.identical })) : null,
        h("button", { type: "button", class: "plain", onclick: change }, t("compare.change"))),
      said && h("p", { class: "said", role: "status" }, said),
      heading,
      h("div", { class: "card prompt" }, item.prompt.map(turn => h("div", { class: `turn turn-${turn.role}` },
        h("span", { class: "who" }, t(`compare.role.${["user", "assistant", "system"].includes(turn.role) ? turn.role : "user"}`)),
        h("div", { class: "serif text" }, turn.content)))),
      h("div", { class: "pair" }, item.answers.map((answer, index) => h("section", { class: "card answer", "aria-label": t(`compare.answer.${VOTES[index][0]}`) },
        h("h3", {}, t(`compare.answer.${VOTES[index][0]}`)),
        h("div", { class: "serif text" }, answer.text || h("span", { class: "note" }, t("compare.empty"))),
        answer.ended ? null : h("p", { class: "note" }, t("compare.cut"))))),
      h("div", { class: "votes", role: "group", "aria-label": t("compare.which") }, VOTES.map(([value, key]) =>
        h("button", { type: "button", class: `vote vote-${value}`, "aria-keyshortcuts": key, onclick: () => vote(value) },
          h("kbd", { "aria-hidden": "true" }, key), h("span", {}, t(`compare.vote.${value}`))))),
      h("div", { class: "row after" },
        h("button", { type: "button", "aria-keyshortcuts": "s", onclick: skip }, h("kbd", { "aria-hidden": "true" }, "s"), " ", t("compare.skip")),
        h("button", { type: "button", "aria-keyshortcuts": "u", onclick: undo }, h("kbd", { "aria-hidden": "true" }, "u"), " ", t("compare.undo"))));
    heading.focus({ preventScroll: true });
  }

  /** Send one thing at a time; what fails is said, and the pair stays. */
  async function send(path, more, after) {
    if (busy || !item) return;
    busy = true;
    try {
      const found = await post(`/api/compare/${path}`, { ...request(), ...more }, { signal });
      await next(after(found));
      if (statistics.open) await drawStatistics();
    } catch (error) {
      if (signal.aborted) return;
      notice(error.message);
      if (error.status === 400) await next();
    } finally {
      busy = false;
    }
  }

  const vote = value => send("vote", { item: item.item, vote: value }, found => found.models
    ? t("compare.revealed", { left: found.models.left, right: found.models.right }) : null);
  const skip = () => send("skip", { item: item.item }, () => t("compare.skipped"));
  const undo = () => send("undo", {}, found => t(found.undone ? "compare.undone" : "compare.nothing"));

  document.addEventListener("keydown", event => {
    if (!item || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest?.("input, textarea, select")) return;
    const found = VOTES.find(([, key]) => key === event.key);
    const action = found ? () => vote(found[0]) : { s: skip, u: undo }[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  }, { signal });

  // What the votes say: folded, so that it does not sway anybody

  const statisticsBody = h("div", { class: "stack", "aria-live": "polite" });
  const statistics = h("details", { class: "card fold", ontoggle: () => { if (statistics.open) drawStatistics(); } },
    h("summary", {}, t("compare.statistics")), statisticsBody);
  const training = h("details", { class: "card fold" }, h("summary", {}, t("compare.training")));

  async function drawStatistics() {
    try {
      show(statisticsBody, describe(await post("/api/compare/statistics", { models: setup.models }, { signal })));
    } catch (error) {
      if (!signal.aborted) show(statisticsBody, problem(error));
    }
  }

  function drawHelp({ commands, feedback }) {
    show(training, h("summary", {}, t("compare.training")),
      h("p", {}, t("compare.training.lead", { file: feedback })),
      ["summary", "export", "train"].map(step => h("div", { class: "command" }, h("p", { class: "note" }, t(`compare.training.${step}`)),
        h("pre", {}, h("code", {}, commands[step])))));
  }

  show(help, statistics, training);
  const lead = h("p", { class: "lead" }, t("compare.lead"));
  show(root, h("h1", {}, t("room.compare")), lead, h("div", { class: "stack" }, form, stage, help));
  learn();
  if (named.length && setup.voter && params.models && recall("comparing") === params.models) return start();
  return undefined;

  function defaults(found) {
    const after = stageName => found.find(model => model.stage === stageName)?.id;
    const pair = [after("sft"), after("dpo") ?? after("ppo")].filter(Boolean);
    return pair.length ? pair : found.slice(0, 1).map(model => model.id);
  }
}

/** The statistics of the server as elements. */
function describe(found) {
  if (!found.votes && !found.by_voter.length) return [h("p", { class: "note" }, t("compare.none"))];
  const facts = [
    [t("compare.fact.votes"), t("compare.fact.votes.value", { votes: found.votes, pairs: found.pairs, voters: found.voters })],
    [t("compare.fact.ties"), t("compare.fact.ties.value", { ties: found.ties, bad: found.bad })],
    [t("compare.fact.agreement"), found.agreement?.alpha == null ? t("compare.fact.agreement.none")
      : t("compare.fact.agreement.value", { alpha: number(found.agreement.alpha, 2), interval: range(found.agreement.alpha_interval, value => number(value, 2)), pairs: found.agreement.pairs })],
    [t("compare.fact.consistent"), share(found.consistent)],
    [t("compare.fact.checks"), share(found.checks_passed)],
    [t("compare.fact.first"), share(found.first_preferred)],
  ];
  return [
    ...found.comparisons.map(comparison),
    h("dl", { class: "facts" }, facts.map(([label, value]) => [h("dt", {}, label), h("dd", { class: "num" }, value)])),
    found.by_voter.length > 1 && h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("compare.voters") }, h("table", {},
      h("thead", {}, h("tr", {}, ["voter", "votes", "consistent", "checks"].map(key => h("th", { scope: "col" }, t(`compare.column.${key}`))))),
      h("tbody", {}, found.by_voter.map(row => h("tr", {}, h("th", { scope: "row" }, row.voter ?? "–"), h("td", {}, number(row.votes)),
        h("td", {}, row.repeats ? `${row.same} / ${row.repeats}` : "–"), h("td", {}, row.checks ? `${row.passed} / ${row.checks}` : "–")))))),
  ];
}

function comparison(row) {
  const [first, second] = row.models;
  const { win_rate: rate, win_rate_interval: interval } = row.anytime;
  const [low, high] = interval;
  const power = row.power;
  const words = t("compare.rate", { first, rate: percent(rate), interval: range(interval, percent) });
  return h("div", { class: "comparison" },
    h("h3", {}, t("compare.against", { first, second })),
    h("div", { class: "rate", role: "img", "aria-label": words },
      h("span", { class: "band", css: { left: `${100 * (low ?? 0)}%`, width: `${100 * ((high ?? 1) - (low ?? 0))}%` } }),
      h("span", { class: "half" }), h("span", { class: "dot", css: { left: `${100 * rate}%` } })),
    h("p", { class: "num" }, words),
    h("p", { class: "note num" }, t("compare.counts", { wins: row.wins, losses: row.losses, ties: row.ties, bad: row.bad, first, second })),
    h("p", { class: "verdict" }, row.verdict ? t("compare.decided", { model: row.verdict, count: row.anytime.decided_at }) : t("compare.undecided")),
    h("p", { class: "note num" }, row.verdict ? t("compare.power.enough", { detectable: percent(power.detectable, 0) }) : [
      power.more_for_observed ? t("compare.power", { more: power.more_for_observed, rate: percent(row.win_rate, 0) }) : "", " ",
      t("compare.power.for", { low: power.more_for["0.55"], middle: power.more_for["0.6"], high: power.more_for["0.7"] })]));
}

const range = (ends, format) => (ends[0] === null ? "–" : `${format(ends[0])} – ${format(ends[1])}`);

function share(found) {
  return found ? t("compare.fact.share", { share: percent(found.share, 0), interval: range(found.share_interval, value => percent(value, 0)), n: found.n }) : t("compare.fact.none");
}
