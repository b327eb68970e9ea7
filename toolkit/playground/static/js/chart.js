// Charts as SVG. Each function returns an element; the caller adds `numbers(...)` with the same values as a table.
import { h, s } from "./dom.js";

export const COLORS = ["var(--blue)", "var(--orange)", "var(--green)", "var(--rose)", "var(--violet)"];

/** Horizontal bars: rows of {label, value, text, muted?, mark?, onclick?}; `value` and `mark` in [0, 1] of the width. */
export function bars(rows, { title }) {
  return h("ol", { class: "bars", "aria-label": title }, rows.map(row => {
    const inside = [
      h("span", { class: "label mono" }, row.label),
      h("span", { class: "track", "aria-hidden": "true" },
        h("span", { class: "fill", css: { width: `${100 * row.value}%` } }),
        row.mark === undefined ? null : h("span", { class: "mark", css: { left: `${100 * row.mark}%` } })),
      h("span", { class: "value num" }, row.text),
    ];
    const attributes = { class: row.muted ? "muted" : "", data: row.data ?? {} };
    return h("li", attributes, row.onclick ? h("button", { type: "button", onclick: row.onclick }, inside) : h("div", {}, inside));
  }));
}

/**
 * Lines over a numeric x axis: series of {name, color?, points: [[x, y], ...]}. `levels` of {name, value} are dashed
 * lines across, `mark` is an x to point out, `dots` marks every point, `yFrom` is included in the vertical axis,
 * `xTicks` [[x, label], ...] replaces round values, and `formatX` writes the numbers of the horizontal axis.
 */
export function lines(series, { title, width = 640, height = 260, x: xLabel = "", y: yLabel = "", logX = false, format = String,
  formatX = format, xTicks, dots = false, mark, levels = [], yFrom }) {
  const [left, right, top, bottom] = [52, 12, 12, 36];
  const points = series.flatMap(one => one.points).filter(([, y]) => Number.isFinite(y));
  const at = x => (logX ? Math.log10(Math.max(x, 1)) : x);
  const [x0, x1] = extent(points.map(([x]) => at(x)));
  const [y0, y1] = extent([...points.map(([, y]) => y), ...levels.map(level => level.value), ...(yFrom === undefined ? [] : [yFrom])]);
  const px = x => left + (width - left - right) * (at(x) - x0) / (x1 - x0 || 1);
  const py = y => height - bottom - (height - top - bottom) * (y - y0) / (y1 - y0 || 1);
  const grid = ticks(y0, y1).map(value => [
    s("line", { x1: left, x2: width - right, y1: py(value), y2: py(value), stroke: "var(--grid)" }),
    s("text", { x: left - 6, y: py(value) + 4, "text-anchor": "end", class: "muted" }, format(value)),
  ]);
  const shown = xTicks ?? ticks(x0, x1, 5).map(value => (logX ? 10 ** value : value)).map(x => [x, formatX(+x.toPrecision(3))]);
  const axis = shown.map(([x, label]) => s("text", { x: px(x), y: height - bottom + 16, "text-anchor": px(x) > width - 24 ? "end" : "middle", class: "muted" }, label));
  const pointed = mark !== undefined && s("line", { x1: px(mark), x2: px(mark), y1: top, y2: height - bottom, stroke: "var(--muted)", "stroke-dasharray": "3 3" });
  const across = levels.map(level => [
    s("line", { x1: left, x2: width - right, y1: py(level.value), y2: py(level.value), stroke: "var(--muted)", "stroke-dasharray": "5 4" }),
    s("text", { x: width - right - 2, y: py(level.value) < top + 12 ? py(level.value) + 14 : py(level.value) - 5, "text-anchor": "end", class: "muted" }, level.name),
  ]);
  const circles = series.map((one, index) => (dots || one.points.length === 1) && one.points.filter(([, y]) => Number.isFinite(y)).map(([x, y]) =>
    s("circle", { cx: px(x), cy: py(y), r: 3, fill: one.color ?? COLORS[index % COLORS.length] })));
  const drawn = series.map((one, index) => s("polyline", {
    points: one.points.filter(([, y]) => Number.isFinite(y)).map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" "),
    fill: "none", stroke: one.color ?? COLORS[index % COLORS.length], "stroke-width": 2, "stroke-linejoin": "round",
  }));
  return h("figure", {}, h("figcaption", {}, title),
    s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title }, grid, axis, pointed, across, drawn, circles,
      s("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle", class: "muted" }, xLabel),
      s("text", { x: 4, y: 12, class: "muted" }, yLabel)),
    series.length > 1 && h("p", { class: "legend note" }, series.map((one, index) => h("span", {},
      h("i", { css: { background: one.color ?? COLORS[index % COLORS.length] } }), one.name))));
}

/** A grid of squares: values[row][column] in [0, 1]; `label(row, column)` is its tooltip. */
export function heatmap(values, { title, color = "var(--blue)", cell = 16, label, onclick }) {
  const rows = values.length, columns = Math.max(...values.map(row => row.length));
  return s("svg", { class: "chart heat", viewBox: `0 0 ${columns * cell} ${rows * cell}`, role: "img", "aria-label": title },
    values.map((row, i) => row.map((value, j) => s("rect", {
      x: j * cell, y: i * cell, width: cell - 1, height: cell - 1, rx: 2, fill: color, "fill-opacity": Math.max(0, Math.min(1, value)).toFixed(3),
      onclick: onclick && (() => onclick(i, j)) }, label && s("title", {}, label(i, j))))));
}

function extent(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return Number.isFinite(low) ? [low, high === low ? low + 1 : high] : [0, 1];
}

/** Round values between two bounds. */
export function ticks(low, high, count = 4) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(one => one >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) found.push(+value.toPrecision(12));
  return found;
}
