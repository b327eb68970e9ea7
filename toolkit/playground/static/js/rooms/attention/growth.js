// As it learned: the other views with the weights that a pretraining kept of some steps.
import { get, post } from "../../api.js";
import { bars, lines } from "../../chart.js";
import { debounced, h, show } from "../../dom.js";
import { number, percent, t } from "../../i18n.js";
import { chips, numbers, problem, slider } from "../../parts.js";
import { lens } from "./lens.js";
import { headOf, look, strongest } from "./look.js";
import { headName, how, visible } from "./parts.js";

const PLAY_MS = 900;

/** The view. Context: {model, text, params, setParams, signal}; `model` may be one that kept nothing. */
export async function growth(root, context) {
  const { params, setParams, signal, text } = context;
  let kept;
  try {
    kept = (await get("/api/attention/kept", context)).models;
  } catch (error) {
    if (!signal.aborted) show(root, problem(error));
    return;
  }
  if (!kept.length) {
    show(root, h("div", { class: "card" }, h("p", {}, t("attention.growth.none")), h("pre", { class: "mono" }, "keep_weights_at_steps: log")));
    return;
  }
  const near = kept.find(one => one.model === context.model) ?? kept.find(one => folder(one.model) === folder(context.model)) ?? kept[0];
  const { model, steps } = near, known = new Map();
  let place = steps.findIndex(one => String(one.step) === params.step), playing = 0, inner = new AbortController();
  if (place < 0) place = steps.length - 1;
  signal.addEventListener("abort", () => { clearTimeout(playing); inner.abort(); });

  const quads = h("div", { class: "att-quads" }), next = h("div", { class: "card" }), charts = [0, 1, 2].map(() => h("div", { class: "card" })), about = h("div", { class: "card wide" }), part = h("div", { class: "stack" }), status = h("p", { class: "note", role: "status" });
  const control = slider(t("attention.growth.step"), { min: 0, max: steps.length - 1, step: 1, value: place, onchange: move,
    format: index => t("attention.growth.at", { step: steps[index].step, tokens: steps[index].tokens }) });
  const play = h("button", { type: "button", onclick: () => (playing ? pause() : start()) }, t("attention.growth.play"));
  const panel = chips(t("attention.growth.show"), [{ value: "look", label: t("attention.view.look") }, { value: "lens", label: t("attention.view.lens") }],
    [params.part === "lens" ? "lens" : "look"], ([chosen]) => { setParams({ part: chosen === "look" ? "" : chosen }); detail(); }, { name: "part" });
  show(root, h("div", { class: "card stack" }, h("p", {}, t("attention.growth.what")),
    model !== context.model && h("p", { class: "note" }, t("attention.growth.other", { model, chosen: context.model })),
    h("div", { class: "att-steps" }, control, play), status), show(quads, next, charts, about), panel, part);

  function move(index) {
    place = index;
    setParams({ step: index === steps.length - 1 ? "" : steps[index].step });
    drawNext();
    drawCharts();
    detailSoon();
  }
  function start() {
    show(play, t("attention.growth.pause"));
    const ahead = () => {
      const input = control.querySelector("input");
      input.value = (place + 1) % steps.length;
      input.dispatchEvent(new Event("input"));
      playing = place === steps.length - 1 ? pause() : setTimeout(ahead, PLAY_MS);
    };
    ahead();
  }
  function pause() {
    clearTimeout(playing);
    show(play, t("attention.growth.play"));
    return (playing = 0);
  }
  function detail() {
    inner.abort();
    inner = new AbortController();
    const now = { ...context, model, step: steps[place].step, signal: inner.signal, onhead: drawCharts };
    return (params.part === "lens" ? lens : look)(part, now);
  }
  const detailSoon = debounced(detail, 200);

  function drawNext() {
    const found = known.get(steps[place].step);
    if (!found) return;
    const title = t("attention.growth.next");
    show(next, h("h2", {}, title), bars(found.next.map(token => ({ label: visible(token.text), value: token.p, text: percent(token.p) })), { title }),
      h("p", { class: "note" }, t("attention.growth.rest", { rest: percent(found.rest) })));
  }
  function drawCharts() {
    const done = steps.filter(one => known.has(one.step));
    if (!done.length) return;
    // On a log scale; step 0, which has no logarithm, stands one interval before step 1.
    const x = step => (step ? Math.log10(step) : -0.35), series = value => done.map(one => [x(one.step), value(known.get(one.step))]);
    const last = known.get(done.at(-1).step), [layer, head] = headOf(params, last.heads);
    const best = ["previous", "same", "induction"].map(score => [score, strongest(last.heads, score)]).filter(([, found]) => found);
    const width = Math.min(560, Math.max(300, charts[0].clientWidth - 40));
    const options = { width, height: 220, dots: true, mark: x(steps[place].step), xTicks: tickLabels(steps, width).map(step => [x(step), number(step)]), x: t("attention.growth.axis"), format: value => number(value, 2), yFrom: 0 };
    show(charts[0], lines([{ name: "", points: series(found => found.bits_per_token) }], { ...options, title: t("attention.growth.bits") }));
    show(charts[1], lines(best.map(([score, [l, k]]) => ({ name: `${t(`attention.role.${score}`)} (${headName(l, k)})`, points: series(found => found.heads[l][k][score]) })),
      { ...options, title: t("attention.growth.heads") }));
    show(charts[2], lines([{ name: "", color: "var(--violet)", points: series(found => found.heads[layer][head].entropy_bits) }], { ...options, title: t("attention.growth.entropy", { head: headName(layer, head) }) }));
    show(about, numbers([t("attention.growth.step"), t("attention.growth.bits"), ...best.map(([score]) => t(`attention.score.${score}`)), t("attention.score.entropy_bits")],
      done.map(one => [number(one.step), number(known.get(one.step).bits_per_token), ...best.map(([score, [l, k]]) => number(known.get(one.step).heads[l][k][score])),
        number(known.get(one.step).heads[layer][head].entropy_bits)])),
    how(t("attention.how.growth"), t("attention.how.scores"), t("attention.how.chance", { previous: number(last.uniform.previous) })));
  }

  detail();
  try {
    const order = [steps[place], ...steps.filter((_, index) => index !== place)];
    for (const [index, { step }] of order.entries()) {
      show(status, t("attention.growth.reading", { done: index, all: steps.length }));
      known.set(step, await post("/api/attention/step", { model, step, text }, context));
      if (signal.aborted) return;
      drawNext();
      drawCharts();
    }
    show(status);
  } catch (error) {
    if (!signal.aborted) show(status, problem(error));
  }
}

const folder = model => model.split("/").slice(0, -1).join("/");

/** Steps whose labels fit below the axis: 0 and powers of ten. */
function tickLabels(steps, width) {
  const last = steps.at(-1).step, powers = [0, 1, 10, 100, 1e3, 1e4, 1e5, 1e6].filter(step => step <= last);
  return width > 400 && last > 1.6 * powers.at(-1) ? [...powers, last] : powers;
}
