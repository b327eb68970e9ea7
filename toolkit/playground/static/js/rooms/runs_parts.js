// How the Runs room writes numbers and durations, and draws what runs were made from.
import { h, s } from "../dom.js";
import { current, number, t } from "../i18n.js";
import { numbers } from "../parts.js";
import { link } from "../state.js";

/** A measured number: whole numbers in full, others with four digits. */
export function figure(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return number(value, 0);
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(2);
  return new Intl.NumberFormat(current(), { maximumSignificantDigits: Math.abs(value) >= 1000 ? 7 : 4 }).format(value);
}

export function interval(row) {
  return row?.low === null || row?.low === undefined ? "" : `[${figure(row.low)}, ${figure(row.high)}]`;
}

/** A number of an axis: 250K. */
export function short(value) {
  return new Intl.NumberFormat(current(), { notation: Math.abs(value) >= 10000 ? "compact" : "standard", maximumSignificantDigits: 3 }).format(value);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const unit = (value, name) => new Intl.NumberFormat(current(), { style: "unit", unit: name, unitDisplay: "short", maximumFractionDigits: 0 }).format(value);
  const whole = Math.round(seconds);
  if (whole < 60) return unit(seconds < 1 ? Math.ceil(seconds) : whole, "second");
  if (whole < 3600) return `${unit(Math.floor(whole / 60), "minute")} ${unit(whole % 60, "second")}`;
  return `${unit(Math.floor(whole / 3600), "hour")} ${unit(Math.floor((whole % 3600) / 60), "minute")}`;
}

export function bytes(count) {
  const [unit, divisor] = count >= 1e9 ? ["gigabyte", 1e9] : count >= 1e6 ? ["megabyte", 1e6] : ["kilobyte", 1e3];
  return new Intl.NumberFormat(current(), { style: "unit", unit, maximumSignificantDigits: 3 }).format(count / divisor);
}

export function date(iso) {
  return new Intl.DateTimeFormat(current(), { dateStyle: "medium", timeStyle: "short" }).format(new Date(iso));
}

export function stateOf(run) {
  return run.state === "sealed" ? "sealed" : run.running ? "running" : "stopped";
}

export function badge(run) {
  const state = stateOf(run);
  return h("span", { class: `badge ${state}` }, t(`runs.${state}`));
}

const BOX = { width: 116, height: 44, gapX: 26, gapY: 16 };

/** The graph of a family: from what it began with, on the left (on top where it is narrow), to what was made last. */
export function lineage({ nodes, edges }, chosen, { narrow }) {
  const places = layout(nodes, edges);
  const { width, height, gapX, gapY } = BOX;
  const layers = Math.max(...places.values().map(place => place.layer)) + 1;
  const slots = Math.max(...places.values().map(place => place.slot)) + 1;
  const along = narrow ? height + gapX : width + gapX, across = narrow ? width + gapY : height + gapY;
  const { above, bow } = bows(edges, places);
  const corner = ({ layer, slot }) => narrow ? [slot * across + 2 + above, layer * along + 2] : [layer * along + 2, slot * across + 2 + above];
  const size = narrow ? [slots * across - gapY + 4 + above, layers * along - gapX + 4] : [layers * along - gapX + 4, slots * across - gapY + 4 + above];
  const drawnEdges = edges.map(edge => {
    const [x1, y1] = corner(places.get(edge.parent)), [x2, y2] = corner(places.get(edge.child));
    const path = edgePath(narrow ? [y1, x1] : [x1, y1], narrow ? [y2, x2] : [x2, y2], bow(edge), narrow);
    const near = edge.parent === chosen || edge.child === chosen;
    return s("path", { d: path, class: `edge${near ? " near" : ""}${edge.changed ? " changed" : ""}` },
      s("title", {}, `${edge.parent} → ${edge.child} (${edge.keys.join(", ")})${edge.changed ? `; ${t("runs.lineage.changed")}` : ""}`));
  });
  const drawnNodes = nodes.map(node => {
    const [x, y] = corner(places.get(node.id));
    const folder = node.id.split("/").slice(0, -1).join("/");
    const below = node.kind === "run" ? (folder || node.stage || "") : t(`runs.kind.${node.kind}`);
    const inside = [
      s("rect", { x, y, width, height, rx: 8 }),
      s("text", { x: x + width / 2, y: y + 19, "text-anchor": "middle", class: "main" }, cut(node.id.split("/").pop(), 15)),
      s("text", { x: x + width / 2, y: y + 35, "text-anchor": "middle", class: "muted" }, cut(below, 17)),
      s("title", {}, node.id),
    ];
    const kind = `node ${node.kind} ${node.state ?? ""}${node.id === chosen ? " chosen" : ""}`;
    return node.kind === "run"
      ? s("a", { href: link("runs", { run: node.id }), class: kind, "aria-current": node.id === chosen ? "true" : null }, inside)
      : s("g", { class: kind }, inside);
  });
  return h("div", {},
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("runs.lineage") },
      s("svg", { class: "lineage", viewBox: `0 0 ${size[0]} ${size[1]}`, width: size[0], height: size[1], role: "group", "aria-label": t("runs.lineage") },
        drawnEdges, drawnNodes)),
    edges.some(edge => edge.changed) && h("p", { class: "note changed-note" }, t("runs.lineage.note")),
    numbers([t("runs.lineage.run"), t("runs.lineage.from"), t("runs.lineage.key")], edges.map(edge => [edge.child, edge.parent, edge.keys.join(", ")]), { title: t("runs.lineage.table"), summary: t("runs.lineage.table") }));
}

/** Edges over other nodes of their row are drawn as arcs above it: the room that they need, and the height of each. */
function bows(edges, places) {
  const bow = edge => {
    const [from, to] = [places.get(edge.parent), places.get(edge.child)];
    return to.layer - from.layer > 1 && from.slot === to.slot && from.slot === 0 ? 8 + 7 * (to.layer - from.layer) : 0;
  };
  return { above: Math.max(0, ...edges.map(bow)), bow };
}

/** The path from a box to another, both by their corners [along, across]; the graph runs along x, or along y. */
function edgePath([a1, b1], [a2, b2], bow, narrow) {
  const [length, breadth] = narrow ? [BOX.height, BOX.width] : [BOX.width, BOX.height];
  const point = (a, b) => narrow ? `${b} ${a}` : `${a} ${b}`;
  if (bow) { // from the upper side of a box to that of the other
    const [start, end, top] = [a1 + length * .75, a2 + length * .25, b1 - bow * 1.3];
    return `M${point(start, b1)} C${point(start + 12, top)} ${point(end - 12, top)} ${point(end, b2)}`;
  }
  const [from, to] = [[a1 + length, b1 + breadth / 2], [a2, b2 + breadth / 2]];
  const middle = Math.min(from[0] + BOX.gapX, (from[0] + to[0]) / 2);
  return `M${point(...from)} C${point(middle, from[1])} ${point(middle, to[1])} ${point(to[0] - (to[0] - middle) / 2, to[1])} L${point(...to)}`;
}

/** Return id -> {layer, slot}: a node is one layer after the last of its parents; beside its parents where there is room. */
function layout(nodes, edges) {
  const parents = new Map(nodes.map(node => [node.id, []]));
  edges.forEach(edge => parents.get(edge.child).push(edge.parent));
  const layers = new Map();
  const layerOf = (id, above = []) => {
    if (above.includes(id)) return 0;
    if (!layers.has(id)) layers.set(id, Math.max(-1, ...parents.get(id).map(parent => layerOf(parent, [...above, id]))) + 1);
    return layers.get(id);
  };
  nodes.forEach(node => layerOf(node.id));
  const places = new Map();
  for (let layer = 0; layer <= Math.max(...layers.values()); layer++) {
    const wish = id => {
      const slots = parents.get(id).map(parent => places.get(parent)?.slot ?? 0);
      return slots.length ? slots.reduce((sum, slot) => sum + slot, 0) / slots.length : 0;
    };
    nodes.map(node => node.id).filter(id => layers.get(id) === layer).sort((a, b) => wish(a) - wish(b) || a.localeCompare(b))
      .forEach((id, slot) => places.set(id, { layer, slot }));
  }
  return places;
}

function cut(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}
