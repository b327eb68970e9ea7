// Two meanings: the states of a word in sentences of two senses.
import { post } from "../../api.js";
import { heatmap, lines } from "../../chart.js";
import { debounced, h, show } from "../../dom.js";
import { number, t } from "../../i18n.js";
import { chips, numbers, problem, slider } from "../../parts.js";
import { recall, remember } from "../../state.js";
import { how, waiting } from "./parts.js";

// In the words of the storyworld, so that small models know them; what tells the meanings apart stands before the word.
const EXAMPLES = {
  story: { word: "bank", senses: [
    ["Jack was a small frog. He liked to sit on the bank of the river.", "Nora was a kind pig. She liked to sit on the bank of the river.",
      "There was once a clever wolf named Tom. He liked to sit on the bank of the river.", "Once there was a hen called Ivy. She liked to sit on the bank of the river."],
    ["Emma was a shy rabbit. She had two coins in the bank.", "Leo was an old duck. He had ten coins in the bank.",
      "There was once a brave bear named Anna. She had three coins in the bank.", "Once there was a goat called Sam. He had five coins in the bank."]] },
  plain: { word: "bank", senses: [
    ["She sat on the bank of the river.", "We swam across the river and rested on the bank.", "Fishermen stood along the muddy bank.", "The boat drifted slowly towards the bank."],
    ["He took his money to the bank.", "She asked for a loan at the bank.", "They keep their savings in the bank.", "My salary is paid straight into my bank."]] },
  spring: { word: "spring", senses: [
    ["After the long winter came the spring.", "Birds build their nests in spring.", "The flowers open early this spring.", "We plant the seeds in the spring."],
    ["The clock stopped because of a broken spring.", "He pushed down the metal spring.", "The mattress has a rusty spring.", "The lid is held shut by a small spring."]] },
};

/** The view. Context: {model, params, setParams, signal}. */
export function senses(root, context) {
  const { params, setParams } = context;
  const given = read(params) ?? recall("attention.senses") ?? EXAMPLES.story;
  const result = h("div", { class: "card" }, waiting()), common = h("div", {});
  const word = h("input", { type: "text", value: given.word, maxlength: 60, oninput: debounced(update, 400) });
  const areas = given.senses.map(sentences => h("textarea", { rows: 6, value: sentences.join("\n"), oninput: debounced(update, 600) }));
  const examples = h("div", { class: "row" }, Object.entries(EXAMPLES).map(([name, example]) =>
    h("button", { type: "button", onclick: () => {
      word.value = example.word;
      areas.forEach((area, index) => { area.value = example.senses[index].join("\n"); });
      update();
    } }, t(`attention.senses.${name}`))));
  show(root, h("div", { class: "card stack" }, h("p", {}, t("attention.senses.what")), h("p", { class: "note" }, t("attention.senses.before")), examples,
    h("div", { class: "columns" }, areas.map((area, index) => h("label", { class: "field" }, t(`attention.senses.${index ? "second" : "first"}`), area))),
    h("div", { class: "row" }, h("label", { class: "field" }, t("attention.senses.word"), word), common)), result);

  async function update() {
    const now = { word: word.value.trim(), senses: areas.map(area => area.value.split("\n").map(line => line.trim()).filter(Boolean)) };
    setParams({ word: now.word, ...written(now) });
    remember("attention.senses", now);
    show(common, shared(now).length > 0 && chips(t("attention.senses.common"), shared(now).map(one => ({ value: one, label: one })), [now.word.toLowerCase()], ([chosen]) => {
      word.value = chosen;
      update();
    }));
    if (!now.word || now.senses.some(sense => sense.length < 2)) {
      show(result, h("p", { class: "note" }, t("attention.senses.few")));
      return;
    }
    try {
      draw(result, await post("/api/attention/senses", { model: context.model, ...now }, context), now, context);
    } catch (error) {
      if (!context.signal.aborted) show(result, problem(error));
    }
  }
  return update();
}

/** Sentences in the address where they are few; longer ones are remembered by the browser. */
function written({ senses }) {
  const [a, b] = senses.map(sense => sense.join("|"));
  const isExample = Object.values(EXAMPLES).some(example => JSON.stringify(example.senses) === JSON.stringify(senses));
  const name = Object.keys(EXAMPLES).find(key => JSON.stringify(EXAMPLES[key].senses) === JSON.stringify(senses));
  return isExample ? { set: name, a: "", b: "" } : a.length + b.length > 1500 ? { set: "", a: "", b: "" } : { set: "", a, b };
}

function read({ word, set, a, b }) {
  if (!word) return null;
  if (EXAMPLES[set]) return { word, senses: EXAMPLES[set].senses };
  return a && b ? { word, senses: [a, b].map(text => text.split("|")) } : null;
}

/** Words that stand in every sentence, lower case. */
function shared({ senses }) {
  const segmenter = new Intl.Segmenter(undefined, { granularity: "word" });
  const sets = senses.flat().map(sentence => new Set([...segmenter.segment(sentence.toLowerCase())].filter(part => part.isWordLike).map(part => part.segment)));
  return sets.length ? [...sets[0]].filter(one => sets.every(set => set.has(one))).slice(0, 12) : [];
}

function draw(card, found, { word, senses: [first] }, { signal, params, setParams }) {
  if (signal.aborted) return;
  const name = index => (index + found.first ? t("attention.layer", { layer: index + found.first }) : t("attention.embeddings"));
  const { layers } = found, best = layers.reduce((a, b, index) => (b.within - b.across > layers[a].within - layers[a].across ? index : a), 0);
  const top = layers[best], pieces = found.tokens[0].length, p = value => (value < 0.001 ? value.toExponential(1) : number(value));
  const fields = { word, layer: name(best), within: number(top.within), across: number(top.across), p: p(found.p_value) };
  const chart = lines([["within", "var(--blue)"], ["across", "var(--orange)"]].map(([key, color]) => ({ name: t(`attention.senses.${key}`), color,
    points: layers.map((layer, index) => [index + found.first, layer[key]]) })), {
    title: t("attention.senses.chart"), width: Math.min(560, Math.max(300, card.clientWidth - 40)), dots: true,
    xTicks: layers.map((_, index) => [index + found.first, String(index + found.first)]).filter((_, index) => index % Math.ceil(layers.length / 12) === 0),
    x: t("attention.senses.axis"), format: value => number(value, 2) });
  const map = h("div", {});
  const showMap = index => {
    setParams({ layer: index === best ? "" : index });
    const matrix = layers[index].cosines, off = matrix.flatMap((row, i) => row.filter((_, j) => i !== j)), low = Math.min(...off), high = Math.max(...off);
    show(map, h("figure", { class: "att-map" }, h("figcaption", {}, t("attention.senses.map", { layer: name(index) })),
      h("div", { class: "att-blocks" }, edge("top"), edge("side"), heatmap(matrix.map((row, i) => row.map((value, j) => (i === j ? 1 : high > low ? (value - low) / (high - low) : 1))), { title: t("attention.senses.map", { layer: name(index) }), cell: 24,
        label: (i, j) => `${place(i)} – ${place(j)}: ${number(matrix[i][j])}` })),
      h("p", { class: "note" }, t("attention.senses.map.what", { low: number(low), high: number(high), a: first.length }))));
  };
  const edge = side => h("div", { class: side, "aria-hidden": "true" }, [["A", first.length], ["B", layers[0].cosines.length - first.length]].map(([letter, count]) =>
    h("span", { css: { "flex-grow": count } }, letter)));
  const place = index => (index < first.length ? `A${index + 1}` : `B${index + 1 - first.length}`);
  const at = Math.min(+(params.layer ?? best), layers.length - 1);
  show(card, h("h2", {}, t("attention.senses.result")), h("p", {}, t(found.p_value <= 0.05 ? "attention.senses.apart" : "attention.senses.alike", fields)),
    pieces > 1 && h("p", { class: "note" }, t("attention.senses.pieces", { word, pieces: found.tokens[0].join(" · ") })),
    h("div", { class: "columns" }, chart, h("div", {}, slider(t("attention.lens.layer"), { min: 0, max: layers.length - 1, step: 1, value: at, format: name, onchange: showMap }), map)),
    numbers(["attention.lens.layer", "attention.senses.within", "attention.senses.across", "attention.senses.p"].map(key => t(key)),
      layers.map((layer, index) => [name(index), number(layer.within), number(layer.across), p(layer.p_value)])),
    how(t("attention.how.cosine"), t("attention.how.test", { divisions: found.divisions, kind: t(found.exact ? "attention.how.all" : "attention.how.drawn") }), t("attention.how.position")));
  showMap(at);
}
