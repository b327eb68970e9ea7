// Reward model: what its score likes, word by word, in length and endings, and among samples of a language model.
import { post, stream } from "../api.js";
import { lines } from "../chart.js";
import { debounced, h, show } from "../dom.js";
import { number, t } from "../i18n.js";
import { chips, modelPicker, numbers, problem, slider } from "../parts.js";
import { estimate, heat, points, scale, scatter, slice } from "./reward_parts.js";

const CHANGES = ["delete", "swap", "replace"];

export async function mount(root, { params, models, signal, setParams }) {
  const rewards = models.filter(one => one.kind === "reward"), languages = models.filter(one => one.kind === "language");
  if (!rewards.length) {
    show(root, h("h1", {}, t("room.reward")), h("p", { class: "lead" }, t("reward.lead")), h("p", { class: "card" }, t("reward.none")));
    return;
  }
  const wide = Math.max(280, Math.min(460, root.clientWidth - 40)); // of a chart: its text stays legible on a phone
  const state = { model: rewards.some(one => one.id === params.reward) ? params.reward : rewards[0].id, change: CHANGES.includes(params.change) ? params.change : "delete", chosen: null };
  let known = { judges: ["logprob"], examples: [], mean: null };
  let asking = new AbortController(), written = 0;

  const prompt = h("textarea", { class: "reward-prompt", value: params.prompt ?? "", oninput: () => { changed(); later(); } });
  const answer = h("textarea", { value: params.answer ?? "", oninput: () => { changed(); later(); } });
  const word = h("input", { type: "text", value: params.word ?? "", maxlength: 100, oninput: () => { changed(); later(); } });
  const examples = h("div", { class: "row" }), verdict = h("div", { "aria-live": "polite" }), words = h("div", {}), detail = h("div", { "aria-live": "polite" }), lengths = h("div", {}), selection = h("div", {});
  const wordField = h("label", { class: "field reward-word" }, t("reward.word"), word);

  function changed() {
    setParams({ reward: state.model, prompt: prompt.value, answer: answer.value, change: state.change === "delete" ? "" : state.change, word: state.change === "replace" ? word.value : "" });
  }
  const later = debounced(update, 250);

  async function open() {
    show(verdict, h("p", { class: "busy note" }, t("models.loading")));
    show(lengths, h("p", { class: "busy note" }, t("models.loading")));
    known = await post("/api/reward/open", { model: state.model }, { signal });
    if (params.prompt === undefined && params.answer === undefined && !answer.value) {
      const first = known.examples[0];
      prompt.value = first?.prompt ?? t("reward.example.prompt");
      answer.value = first?.better ?? t("reward.example.answer");
    } else if (params.answer === undefined && !answer.value && languages.length) {
      return Promise.all([drawExamples(), drawSelectionForm(), write()]);
    }
    drawExamples();
    drawSelectionForm();
    await update();
  }

  function drawExamples() {
    const writing = languages.length > 0 && h("button", { type: "button", onclick: write }, t("reward.write"));
    if (!known.examples.length) return show(examples, writing);
    const choose = h("select", { onchange: () => {
      const example = known.examples[choose.value];
      if (!example) return;
      prompt.value = example.prompt;
      take(example.better);
    } }, known.examples.map((one, index) => h("option", { value: index, selected: one.prompt === prompt.value }, one.prompt)));
    if (!known.examples.some(one => one.prompt === prompt.value)) {
      choose.prepend(h("option", { value: "", selected: true }, t("reward.own")));
    }
    const of = kind => h("button", { type: "button", onclick: () => {
      const example = known.examples[choose.value];
      if (example) { prompt.value = example.prompt; take(example[kind]); }
    } }, t(`reward.${kind}`));
    show(examples, h("label", { class: "field reward-examples" }, t("reward.examples"), choose), of("better"), of("worse"), writing);
  }

  /** Let the language model answer the prompt once. */
  async function write() {
    try {
      await stream("/api/reward/sample", { model: chance.lm, prompt: prompt.value, count: 1, seed: written++ }, event => {
        if (event.event === "samples") take(event.samples[0].text);
      }, { signal });
    } catch (error) {
      if (!signal.aborted) show(verdict, problem(error));
    }
  }

  function take(text) {
    answer.value = text;
    state.chosen = null;
    changed();
    update();
  }

  async function update() {
    asking.abort();
    asking = new AbortController();
    signal.addEventListener("abort", () => asking.abort(), { once: true });
    const own = asking.signal, given = { model: state.model, prompt: prompt.value, answer: answer.value };
    wordField.hidden = state.change !== "replace";
    try {
      const found = await post("/api/reward/score", { ...given, change: state.change, word: word.value }, { signal: own });
      drawVerdict(found);
      drawWords(found, given.answer);
      const taste = await post("/api/reward/lengths", given, { signal: own });
      drawLengths(taste);
    } catch (error) {
      if (own.aborted) return;
      show(verdict, problem(error));
      show(words);
      show(detail);
      show(lengths);
    }
  }

  function drawVerdict(found) {
    const gain = found.score - found.unended;
    show(verdict, h("div", { class: "reward-verdict" },
      h("div", {}, h("div", { class: "note" }, t("reward.score")), h("div", { class: "reward-score num" }, points(found.score))),
      h("div", { class: "reward-side" },
        known.mean !== null && scale(found.score, known, wide),
        h("p", { class: "note" }, known.mean !== null && `${t("reward.scale", { deviations: points((found.score - known.mean) / known.std, { signed: true }) })} `,
          t("reward.end", { unended: points(found.unended), gain: points(gain, { signed: true }) })))),
      found.cut && h("p", { class: "problem" }, t("reward.cut", { tokens: found.tokens, context: known.context })));
  }

  function drawWords(found, text) {
    if (state.chosen !== null && state.chosen >= found.words.length) state.chosen = null;
    if (!found.words.length) {
      show(words, h("p", { class: "note" }, t("reward.empty")));
      show(detail);
      return;
    }
    const draw = focus => {
      show(words, heat(text, found.words, { chosen: state.chosen, onchoose: index => {
        state.chosen = state.chosen === index ? null : index;
        draw(index);
        drawDetail(found, text);
      } }),
      h("p", { class: "legend note" }, h("span", {}, h("i", { class: "up" }), t("reward.up")), h("span", {}, h("i", { class: "down" }), t("reward.down"))),
      numbers([t("reward.table.word"), t("reward.table.effect"), t("reward.table.score")], found.words.map(one => [one.text, points(one.effect, { signed: true }), points(one.score)]), { title: t("reward.words") }));
      if (focus !== undefined) words.querySelectorAll(".word")[focus]?.focus();
    };
    draw();
    drawDetail(found, text);
  }

  function drawDetail(found, text) {
    const one = found.words[state.chosen];
    if (!one) return show(detail, h("p", { class: "note" }, t("reward.choose")));
    const next = found.words[state.chosen + 1];
    const fields = { word: one.text, next: next?.text ?? "", other: word.value, score: points(one.score), change: one.effect === null ? "" : points(-one.effect, { signed: true }) };
    show(detail, h("div", { class: "row reward-detail" }, h("p", {}, one.effect === null ? t("reward.same") : t(`reward.detail.${state.change}`, fields)),
      one.effect !== null && h("button", { type: "button", onclick: () => take(applied(text, found.words, state.chosen)) }, t(`reward.apply`))));
  }

  /** The answer with a change, as the server makes it. */
  function applied(text, all, index) {
    const one = all[index], before = slice(text, 0, one.start), after = slice(text, one.end);
    if (state.change === "replace") return before + word.value + after;
    if (state.change === "swap") {
      const next = all[index + 1];
      return before + next.text + slice(text, one.end, next.start) + one.text + slice(text, next.end);
    }
    return index === 0 ? before + after.trimStart() : slice(text, 0, all[index - 1].end) + after;
  }

  function drawLengths(taste) {
    const axes = { x: t("reward.words.axis"), width: wide, height: 250, format: value => number(value, 2) };
    show(lengths,
      h("div", {}, lines([
        { name: t("reward.ended"), points: taste.cut.map(([count, ended]) => [count, ended]) },
        { name: t("reward.unended"), points: taste.cut.map(([count, , unended]) => [count, unended]) },
      ], { ...axes, title: t("reward.lengths.cut") }),
      numbers([t("reward.words.axis"), t("reward.ended"), t("reward.unended")], taste.cut.map(([count, ended, unended]) => [number(count), points(ended), points(unended)]), { title: t("reward.lengths.cut") })),
      h("div", {}, taste.repeated.length
        ? [lines([{ name: t("reward.score"), points: taste.repeated }], { ...axes, title: t("reward.lengths.repeated") }),
          numbers([t("reward.words.axis"), t("reward.score")], taste.repeated.map(([count, score]) => [number(count), points(score)]), { title: t("reward.lengths.repeated") })]
        : h("p", { class: "note" }, t("reward.lengths.none"))));
  }

  // The best of n

  const chance = { lm: languages.some(one => one.id === params.model) ? params.model : languages.at(-1)?.id, n: +params.n || 64, temperature: params.temperature === undefined ? 1 : +params.temperature, judge: params.judge };

  function drawSelectionForm() {
    if (!languages.length) return show(selection, h("p", { class: "note" }, t("reward.no.language")));
    if (!known.judges.includes(chance.judge)) chance.judge = known.judges[0];
    const keep = () => setParams({ model: chance.lm, n: chance.n, temperature: chance.temperature === 1 ? "" : chance.temperature, judge: chance.judge });
    const out = h("div", { class: "stack", "aria-live": "polite" });
    const judge = h("select", { onchange: () => { chance.judge = judge.value; keep(); if (samples.length) compare(); } },
      known.judges.map(name => h("option", { value: name, selected: name === chance.judge }, judgeName(name))));
    const button = h("button", { type: "button", class: "primary", onclick: sample }, t("reward.sample"));
    let samples = [], asked = "", own = new AbortController();

    async function sample() {
      own.abort();
      own = new AbortController();
      signal.addEventListener("abort", () => own.abort(), { once: true });
      const mine = own.signal;
      samples = [];
      asked = prompt.value;
      setParams({ sampled: "1" });
      show(out, h("p", { class: "note busy" }, t("models.loading")));
      button.disabled = true;
      try {
        await stream("/api/reward/sample", { model: chance.lm, prompt: asked, count: chance.n, temperature: chance.temperature }, event => {
          if (event.event === "queued") show(out, h("p", { class: "note busy" }, t("queue.place", { position: event.position })));
          if (event.event !== "samples") return;
          samples.push(...event.samples);
          show(out, h("p", { class: "note busy" }, t("reward.sampling", { done: samples.length, count: chance.n })));
        }, { signal: mine });
        await compare();
      } catch (error) {
        if (!mine.aborted) show(out, problem(error));
      } finally {
        button.disabled = false;
      }
    }

    async function compare() {
      try {
        const found = await post("/api/reward/judge", { model: state.model, prompt: asked, judge: chance.judge,
          samples: samples.map(({ text, ended, logprob }) => ({ text, ended, logprob: Math.min(logprob, 0) })) }, { signal });
        drawSelection(out, found, samples, judgeName(chance.judge));
      } catch (error) {
        if (!signal.aborted) show(out, problem(error));
      }
    }

    show(selection, h("div", { class: "stack" },
      modelPicker(models, [chance.lm], ([chosen]) => { chance.lm = chosen; keep(); }),
      h("div", { class: "sliders" },
        slider(t("reward.count"), { min: 8, max: 256, step: 8, value: chance.n, onchange: value => { chance.n = value; keep(); } }),
        slider(t("reward.temperature"), { min: .1, max: 2, step: .1, value: chance.temperature, format: value => number(value, 1), onchange: value => { chance.temperature = value; keep(); } })),
      h("div", { class: "row" }, h("label", { class: "field reward-judge" }, t("reward.judge"), judge), button), out));
    if (params.sampled) sample();
  }

  function drawSelection(out, found, samples, judge) {
    const all = samples.map((one, index) => ({ ...one, ...found.samples[index], index }));
    const rank = (index, key) => 1 + all.filter(one => one[key] > all[index][key]).length;
    const shown = h("div", {});
    const card = (index, title, name) => h("article", { class: `reward-favourite ${name}` }, h("h3", {}, title),
      h("blockquote", { class: "serif" }, all[index].text || t("reward.empty.answer")),
      h("dl", { class: "num" }, [[t("reward.score"), points(all[index].score), rank(index, "score")], [judge, points(all[index].value), rank(index, "value")]].map(([label, value, place]) =>
        h("div", {}, h("dt", {}, label), h("dd", {}, value, h("span", { class: "note" }, ` ${t("reward.rank", { place, count: all.length })}`)))),
        h("div", {}, h("dt", {}, t("reward.table.length")), h("dd", {}, number(all[index].words)))),
      h("button", { type: "button", class: "plain", onclick: () => { take(all[index].text); answer.scrollIntoView({ block: "center" }); } }, t("reward.take")));
    const choose = index => show(shown, card(index, t("reward.chosen"), "picked"));
    const same = found.best === found.judged_best;
    show(out,
      h("div", { class: "columns" }, card(found.best, t(same ? "reward.favourite.both" : "reward.favourite"), "score"), !same && card(found.judged_best, t("reward.favourite.judge", { judge }), "judge")),
      h("ul", { class: "reward-findings" },
        h("li", {}, t("reward.finding.length"), " ", h("strong", { class: "num" }, estimate(found.length))),
        h("li", {}, t("reward.finding.judge", { judge }), " ", h("strong", { class: "num" }, estimate(found.judge))),
        h("li", {}, t("reward.finding.judgelength", { judge }), " ", h("strong", { class: "num" }, estimate(found.judge_length)))),
      h("div", { class: "reward-charts" },
        h("div", {}, scatter(all, { title: t("reward.scatter"), x: t("reward.score"), y: judge, onchoose: choose, width: wide,
          marked: [{ index: found.judged_best, name: "judge" }, { index: found.best, name: "score" }] }), shown),
        h("div", {}, lines([
          { name: t("reward.bestof.score"), points: found.best_of.map(([n, by]) => [n, by]) },
          { name: t("reward.bestof.judge", { judge }), points: found.best_of.map(([n, , by]) => [n, by]), color: "var(--green)" },
        ], { title: t("reward.bestof", { judge }), width: wide, height: 250, logX: true, xTicks: found.best_of.map(([n]) => [n, number(n)]), x: t("reward.bestof.axis"), format: value => number(value, 2) }),
        numbers([t("reward.bestof.axis"), t("reward.bestof.score"), t("reward.bestof.judge", { judge })], found.best_of.map(([n, a, b]) => [number(n), points(a), points(b)]), { title: t("reward.bestof", { judge }) }))),
      h("p", { class: "note" }, t("reward.exploit")),
      samplesTable(all, judge));
  }

  show(root, h("h1", {}, t("room.reward")), h("p", { class: "lead" }, t("reward.lead")), h("div", { class: "stack" },
    h("section", { class: "card stack" },
      modelPicker(models, [state.model], ([chosen]) => { state.model = chosen; changed(); open().catch(fail); }, { kind: "reward" }),
      examples,
      h("label", { class: "field" }, t("reward.prompt"), prompt),
      h("label", { class: "field" }, t("reward.answer"), answer),
      verdict),
    h("section", { class: "card" }, h("h2", {}, t("reward.words")), h("p", { class: "note" }, t("reward.words.lead")),
      h("div", { class: "row reward-changes" }, chips(t("reward.change"), CHANGES.map(value => ({ value, label: t(`reward.${value}`) })), [state.change], ([chosen]) => { state.change = chosen; changed(); update(); }, { name: "change" }), wordField),
      words, detail),
    h("section", { class: "card" }, h("h2", {}, t("reward.lengths")), h("p", { class: "note" }, t("reward.lengths.lead")), lengths),
    h("section", { class: "card" }, h("h2", {}, t("reward.best")), h("p", { class: "note" }, t("reward.best.lead")), selection)));
  lengths.className = "reward-charts";
  const fail = error => { if (!signal.aborted) show(verdict, problem(error)); };
  wordField.hidden = state.change !== "replace";
  await open().catch(fail);
}

function judgeName(name) {
  return name === "gold" || name === "logprob" ? t(`reward.judge.${name}`) : name;
}

function samplesTable(all, judge) {
  return h("details", {}, h("summary", {}, t("reward.all", { count: all.length })),
    h("div", { class: "scroll reward-table", tabindex: "0", role: "region", "aria-label": t("reward.all", { count: all.length }) }, h("table", {},
      h("thead", {}, h("tr", {}, [t("reward.score"), judge, t("reward.table.length"), t("reward.answer")].map(text => h("th", { scope: "col" }, text)))),
      h("tbody", {}, [...all].sort((a, b) => b.score - a.score).map(one => h("tr", {}, h("th", { scope: "row" }, points(one.score)), h("td", {}, points(one.value)), h("td", {}, number(one.words)),
        h("td", { class: "serif text" }, one.text || t("reward.empty.answer"), one.ended ? "" : ` ${t("reward.notended")}`)))))));
}
