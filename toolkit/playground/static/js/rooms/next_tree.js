// The same prompt many times, as a tree: how often each branch was drawn, beside its predicted probability.
import { stream } from "../api.js";
import { h, s, show, visible } from "../dom.js";
import { number, percent, t } from "../i18n.js";
import { numbers, problem, slider } from "../parts.js";

const ROW = 36, BAR = 92;

/** Return the section. `request()` returns the body of a request without `count` and `depth`. */
export function mountTree({ params, signal, setParams, request }) {
  const chosen = { count: +(params.count ?? 100), depth: +(params.depth ?? 3) };
  const result = h("div"), status = h("p", { class: "note num", role: "status" });
  let running = null;
  const button = h("button", { type: "button", class: "primary", onclick: () => (running ? running.abort() : sample()) }, t("next.tree.sample"));

  async function sample() {
    running = new AbortController();
    const mine = running, stop = () => mine.abort();
    signal.addEventListener("abort", stop, { once: true });
    show(button, t("next.tree.stop"));
    show(status, h("span", { class: "busy" }, t("models.loading")));
    try {
      await stream("/api/next/tree", { ...request(), ...chosen }, event => {
        if (event.event === "queued") show(status, h("span", { class: "busy" }, t("queue.place", event)));
        if (event.event !== "tree") return;
        show(status, event.done < event.of ? h("span", { class: "busy" }, t("next.tree.progress", event)) : t("next.tree.done", event));
        show(result, drawing(event));
      }, { signal: mine.signal });
    } catch (error) {
      if (!signal.aborted && mine.signal.aborted) show(status, t("next.tree.stopped"));
      else if (!signal.aborted) show(result, problem(error));
    } finally {
      signal.removeEventListener("abort", stop);
      running = null;
      show(button, t("next.tree.sample"));
      if (status.querySelector(".busy")) show(status);
    }
  }

  return h("section", { class: "card stack live", "aria-labelledby": "next-tree" },
    h("h2", { id: "next-tree" }, t("next.tree")), h("p", { class: "note" }, t("next.tree.note")),
    h("div", { class: "sliders tree-controls" },
      slider(t("next.tree.count"), { min: 20, max: 500, step: 10, value: chosen.count, id: "tree-count", format: number,
        onchange: value => { chosen.count = value; setParams({ count: value }); } }),
      slider(t("next.tree.depth"), { min: 2, max: 4, step: 1, value: chosen.depth, id: "tree-depth", format: number,
        onchange: value => { chosen.depth = value; setParams({ depth: value }); } })),
    h("div", { class: "row" }, button, status), result);
}

function drawing({ root, fit, done }) {
  const placed = [], table = [], COLUMN = innerWidth < 900 ? 190 : 255;
  let rows = 0, depth = 0;
  (function place(node, level, path, parent) {
    const children = node.children.filter(child => child.text !== null || child.count || child.p >= 0.005);
    const one = { node, level, parent, y: 0, of: parent ? parent.node.count : node.count };
    if (level) {
      const whole = [...path, node.text === null ? t("next.tree.others") : visible(node.text)];
      table.push([whole.join(" / "), number(node.count), percent(node.count / one.of), percent(node.p)]);
      path = whole;
    }
    placed.push(one);
    depth = Math.max(depth, level);
    const below = children.map(child => place(child, level + 1, path, one));
    one.y = below.length ? (below[0].y + below.at(-1).y) / 2 : ROW * (rows++ + 0.5);
    return one;
  })(root, 0, [], null);
  const width = COLUMN * depth + 24, height = rows * ROW;
  const x = level => 12 + COLUMN * (level - 1) + (level ? 44 : COLUMN - 8);
  const edges = placed.filter(one => one.parent).map(one => {
    const from = one.parent.level ? x(one.parent.level) + BAR + 44 : 12, to = x(one.level) - 4, middle = (from + to) / 2;
    return s("path", { d: `M${from},${one.parent.y} C${middle},${one.parent.y} ${middle},${one.y} ${to},${one.y}`, fill: "none",
      class: one.node.text === null ? "edge others" : "edge", "stroke-width": Math.max(0.75, 14 * one.node.count / done).toFixed(2) });
  });
  const labels = placed.filter(one => one.parent).map(one => {
    const share = one.node.count / one.of, left = x(one.level);
    const text = one.node.text === null ? t("next.tree.others") : short(visible(one.node.text));
    return s("g", { class: one.node.text === null ? "branch others" : "branch" },
      s("title", {}, t("next.tree.branch", { token: text, count: one.node.count, of: one.of, observed: percent(share), predicted: percent(one.node.p) })),
      s("text", { x: left, y: one.y - 3, class: one.node.text === null ? "muted" : "word" }, text, one.node.ends && " ■"),
      s("rect", { x: left, y: one.y + 3, width: BAR, height: 8, rx: 2, class: "ground" }),
      s("rect", { x: left, y: one.y + 3, width: (BAR * share).toFixed(1), height: 4, class: "observed" }),
      s("rect", { x: left, y: one.y + 7, width: (BAR * one.node.p).toFixed(1), height: 4, class: "predicted" }),
      s("text", { x: left + BAR + 4, y: one.y + 11, class: "muted count" }, number(one.node.count)));
  });
  return h("div", { class: "stack" },
    h("p", { class: "legend note" }, h("span", {}, h("i", { class: "observed" }), t("next.tree.observed")),
      h("span", {}, h("i", { class: "predicted" }), t("next.tree.predicted"))),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("next.tree.label") },
      s("svg", { class: "chart tree", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": t("next.tree.label") }, edges, labels)),
    h("ul", { class: "fits num" }, fitLine("next.tree.first", root.fit), fitLine("next.tree.all", fit)),
    numbers([t("next.tree.path"), t("next.tree.number"), t("next.tree.observed"), t("next.tree.predicted")], table));
}

function fitLine(key, fit) {
  const test = fit
    ? t("next.tree.fit", { chi: number(fit.statistic, 2), df: fit.degrees_of_freedom, p: fit.p_value < 0.0001 ? "< 0.0001" : number(fit.p_value, 4) })
    : t("next.tree.few");
  return h("li", { data: fit ? { chi: fit.statistic, df: fit.degrees_of_freedom, p: fit.p_value } : {} }, h("b", {}, t(key)), " ", test,
    fit && ` ${t(fit.p_value < 0.01 ? "next.tree.unlikely" : "next.tree.likely")}`);
}

const short = text => ([...text].length > 14 ? `${[...text].slice(0, 13).join("")}…` : text);
