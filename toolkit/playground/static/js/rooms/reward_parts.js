// What the Reward model room draws: the scale of scores, an answer as a heat map, and samples as points.
import { ticks } from "../chart.js";
import { h, s } from "../dom.js";
import { current, t } from "../i18n.js";

/** A score with two decimals, its sign always written where it is a difference. */
export function points(value, { signed = false } = {}) {
  if (value === null || value === undefined) return "–";
  const rounded = Math.abs(value) < .005 ? 0 : value;
  return new Intl.NumberFormat(current(), { minimumFractionDigits: 2, maximumFractionDigits: 2, signDisplay: signed ? "exceptZero" : "auto" }).format(rounded);
}

export function estimate({ value, low, high }) {
  return value === null ? t("reward.constant") : low === null ? points(value, { signed: true }) : `${points(value, { signed: true })} [${points(low, { signed: true })}, ${points(high, { signed: true })}]`;
}

/** Where a score lies among the scores of the held-out answers of the reward run: mean and three deviations around it. */
export function scale(score, { mean, std }, width) {
  const height = 44, edge = 14;
  const at = value => edge + (width - 2 * edge) * Math.max(0, Math.min(1, (value - mean + 3 * std) / (6 * std)));
  return s("svg", { class: "chart reward-scale", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": t("reward.scale", { deviations: points((score - mean) / std, { signed: true }) }) },
    s("line", { x1: edge, x2: width - edge, y1: 16, y2: 16, class: "axis" }),
    [-2, -1, 0, 1, 2].map(step => [
      s("line", { x1: at(mean + step * std), x2: at(mean + step * std), y1: step ? 12 : 8, y2: step ? 20 : 24, class: "axis" }),
      s("text", { x: at(mean + step * std), y: 38, "text-anchor": "middle", class: "muted" }, step ? `${step > 0 ? "+" : "−"}${Math.abs(step)}σ` : t("reward.mean"))]),
    s("circle", { cx: at(score), cy: 16, r: 7, class: "mark" }));
}

/** An answer whose words are coloured by what they add to the score; spaces and line breaks stay as they are. */
export function heat(answer, words, { chosen, onchoose }) {
  const most = Math.max(...words.map(word => Math.abs(word.effect ?? 0)), 1e-9);
  const parts = [];
  let at = 0;
  words.forEach((word, index) => {
    // Offsets count characters as Python does, not UTF-16 units.
    parts.push(slice(answer, at, word.start));
    const share = (word.effect ?? 0) / most;
    parts.push(h("button", { type: "button", class: `word ${share >= .1 ? "up" : share <= -.1 ? "down" : ""}`, css: { "--share": `${Math.round(55 * Math.abs(share))}%` },
      "aria-pressed": index === chosen ? "true" : "false", title: word.effect === null ? t("reward.same") : points(word.effect, { signed: true }), onclick: () => onchoose(index) },
      word.text, h("span", { class: "unseen" }, word.effect === null ? "" : ` ${points(word.effect, { signed: true })}`)));
    at = word.end;
  });
  parts.push(slice(answer, at));
  return h("div", { class: "reward-heat serif" }, parts);
}

export function slice(text, start, end) {
  return Array.from(text).slice(start, end).join("");
}

/** Samples by score (across) and the judge's value (upwards); `marked` of {index, class}. */
export function scatter(samples, { title, x: xLabel, y: yLabel, marked, onchoose, width }) {
  const [height, left, right, top, bottom] = [300, 52, 14, 22, 40];
  const bounds = values => {
    const [low, high] = [Math.min(...values), Math.max(...values)], pad = (high - low || 1) * .06;
    return [low - pad, high + pad];
  };
  const [x0, x1] = bounds(samples.map(one => one.score)), [y0, y1] = bounds(samples.map(one => one.value));
  const px = value => left + (width - left - right) * (value - x0) / (x1 - x0), py = value => height - bottom - (height - top - bottom) * (value - y0) / (y1 - y0);
  const short = value => new Intl.NumberFormat(current(), { maximumSignificantDigits: 3 }).format(value);
  const point = (one, index, name) => s("circle", { cx: px(one.score).toFixed(1), cy: py(one.value).toFixed(1), r: name ? 7 : 4.5, class: `point ${name}`, onclick: () => onchoose(index) },
    s("title", {}, `${points(one.score)} / ${points(one.value)}`));
  return h("figure", {}, h("figcaption", {}, title),
    s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title },
      ticks(y0, y1).map(value => [s("line", { x1: left, x2: width - right, y1: py(value), y2: py(value), stroke: "var(--grid)" }),
        s("text", { x: left - 6, y: py(value) + 4, "text-anchor": "end", class: "muted" }, short(value))]),
      ticks(x0, x1, 5).map(value => s("text", { x: px(value), y: height - bottom + 16, "text-anchor": "middle", class: "muted" }, short(value))),
      samples.map((one, index) => point(one, index, "")),
      marked.map(({ index, name }) => point(samples[index], index, name)),
      s("text", { x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle", class: "muted" }, xLabel),
      s("text", { x: 4, y: 13, class: "muted" }, yLabel)));
}
