// Runs: the list, one run (live while it trains), and two side by side.
import { get } from "../api.js";
import { COLORS, lines } from "../chart.js";
import { h, show } from "../dom.js";
import { current, number, percent, t } from "../i18n.js";
import { problem } from "../parts.js";
import { link } from "../state.js";
import { badge, bytes, date, duration, figure, interval, lineage, short, stateOf } from "./runs_parts.js";

const POLL = 1500, POLL_LIST = 5000, FIRST_SAMPLES = 8;

export async function mount(root, { params, signal, setParams }) {
  show(root, h("h1", {}, t("room.runs")), h("p", { class: "lead busy" }, t("runs.reading")));
  if (params.run) await mountRun(root, { params, signal, setParams });
  else await mountList(root, { params, signal, setParams });
}

/** Call `action` every `wait` milliseconds while the tab is visible, until it returns false or the room is left. */
function poll(action, wait, signal) {
  const next = () => setTimeout(async () => {
    if (signal.aborted) return;
    if (document.hidden) {
      document.addEventListener("visibilitychange", next, { once: true, signal });
      return;
    }
    try {
      if (await action() === false) return;
    } catch { /* the server is away for a moment: ask again */ }
    next();
  }, wait);
  next();
}

async function mountList(root, { params, signal, setParams }) {
  const list = h("div", { class: "stack" });
  let found = await get("/api/runs", { signal });
  const filter = h("input", { type: "text", value: params.filter ?? "", placeholder: t("runs.filter.hint"), oninput: () => {
    setParams({ filter: filter.value });
    draw();
  } });

  function draw() {
    const wanted = filter.value.toLowerCase();
    const runs = found.runs.filter(run => `${run.reference} ${run.stage} ${t(`runs.${stateOf(run)}`)}`.toLowerCase().includes(wanted));
    const folders = Map.groupBy(runs, run => run.reference.split("/").slice(0, -1).join("/"));
    const newest = group => group.reduce((last, run) => run.changed > last ? run.changed : last, "");
    const groups = [...folders].sort(([, a], [, b]) => newest(b).localeCompare(newest(a)));
    show(list,
      found.damaged.length > 0 && h("div", { class: "problem" }, h("strong", {}, t("runs.damaged")),
        h("ul", {}, found.damaged.map(one => h("li", {}, `${one.reference}: ${one.problem}`)))),
      groups.map(([folder, group]) => h("section", { class: "card" }, folder && h("h2", { class: "mono" }, `${folder}/`),
        h("ul", { class: "runs-list" }, group.sort((a, b) => a.changed.localeCompare(b.changed)).map(row)))),
      runs.length === 0 && h("p", { class: "card" }, found.runs.length ? t("runs.none.filter") : t("runs.none")));
  }

  function row(run) {
    return h("li", {}, h("a", { href: link("runs", { run: run.reference }) },
      h("span", { class: "name" }, run.reference.split("/").pop()),
      h("span", { class: "stage" }, run.stage),
      badge(run),
      h("span", { class: "num when" }, date(run.changed)),
      h("span", { class: "num took" }, duration(run.seconds)),
      h("span", { class: "num size" }, bytes(run.bytes))));
  }

  show(root, h("h1", {}, t("room.runs")), h("p", { class: "lead" }, t("runs.lead")),
    h("div", { class: "stack" }, found.runs.length > 6 && h("label", { class: "field runs-filter" }, t("runs.filter"), filter), list));
  draw();
  poll(async () => {
    if (!found.runs.some(run => run.state !== "sealed")) return false;
    const newer = await get("/api/runs", { signal });
    if (JSON.stringify(newer) !== JSON.stringify(found) && !list.contains(document.activeElement)) {
      found = newer;
      draw();
    }
  }, POLL_LIST, signal);
}

async function mountRun(root, { params, signal, setParams }) {
  const names = [params.run, params.with].filter(Boolean);
  const everything = () => params.all === "1";
  const [{ runs }, ...details] = await Promise.all([get("/api/runs", { signal }),
    ...names.map(name => get(`/api/runs/one?${query({ run: name })}`, { signal }))]);
  const curves = names.map(() => ({ version: "" }));
  const [first, second] = details;
  const live = h("div", { class: "stack" }), faults = h("div", {}), charts = h("div", { class: "runs-charts" }), written = h("div", {});
  const panels = new Map(), wide = Math.max(280, Math.min(460, root.clientWidth - 40)); // of a chart: legible on a phone, too

  async function refresh() {
    const answers = await Promise.all(names.map((name, index) => get(
      `/api/runs/curves?${query({ run: name, version: curves[index].version, language: current(), everything: everything() })}`, { signal })));
    answers.forEach((answer, index) => Object.assign(curves[index], answer));
    show(live, names.map((name, index) => progressOf(curves[index].progress, names.length > 1 ? name : null)));
    if (answers.some(answer => !answer.unchanged)) {
      drawCurves();
      drawFaults();
      if (!second) drawWritten();
    }
    return curves.some(one => one.progress.state !== "sealed");
  }

  function drawFaults() {
    const found = [...new Set(names.flatMap((name, index) => [...details[index].problems, ...(curves[index].problems ?? [])].map(line => second ? `${name}: ${line}` : line)))];
    show(faults, found.length > 0 && h("div", { class: "problem", role: "alert" }, h("strong", {}, t("runs.faults")), h("ul", {}, found.map(line => h("li", {}, line)))));
  }

  function drawCurves() {
    // The losses of two stages may have one name and different units: only curves of one title share a chart.
    const metrics = [...new Map(curves.flatMap(one => one.curves ?? []).map(curve => [keyOf(curve), curve])).values()];
    metrics.sort((a, b) => a.detail - b.detail);
    const kept = new Set(metrics.map(keyOf));
    [...panels].filter(([key]) => !kept.has(key)).forEach(([key, panel]) => { panel.element.remove(); panels.delete(key); });
    for (const curve of metrics) {
      const series = names.map((name, index) => ({ name, color: COLORS[index], curve: curves[index].curves?.find(one => keyOf(one) === keyOf(curve)) }))
        .filter(one => one.curve);
      if (!panels.has(keyOf(curve))) panels.set(keyOf(curve), newPanel(wide));
      const panel = panels.get(keyOf(curve));
      panel.update(curve, series);
      if (!panel.element.isConnected) charts.append(panel.element);
    }
    if (!metrics.length) show(charts, h("p", { class: "note" }, first.run.state === "sealed" ? t("runs.curves.none") : t("runs.curves.waiting")));
    else charts.querySelector(":scope > .note")?.remove();
  }

  function drawWritten() {
    const sealed = first.samples.length > 0;
    const rows = sealed ? first.samples : curves[0].samples?.rows ?? [];
    show(written, rows.length > 0 && h("section", { class: "card" },
      h("h2", {}, sealed || !curves[0].samples.step ? t("runs.samples") : t("runs.samples.step", { step: curves[0].samples.step })),
      h("div", { class: "runs-samples" }, rows.slice(0, FIRST_SAMPLES).map(sample)),
      rows.length > FIRST_SAMPLES && h("details", {}, h("summary", {}, t("runs.samples.more", { count: rows.length - FIRST_SAMPLES })),
        h("div", { class: "runs-samples" }, rows.slice(FIRST_SAMPLES).map(sample)))));
  }

  const others = runs.filter(run => run.reference !== params.run);
  const choose = h("select", { onchange: () => { location.hash = link("runs", { run: params.run, with: choose.value, all: params.all }); } },
    h("option", { value: "" }, t("runs.with.none")),
    others.map(run => h("option", { value: run.reference, selected: run.reference === params.with }, run.reference)));
  const all = h("input", { type: "checkbox", checked: everything(), onchange: () => {
    setParams({ all: all.checked ? "1" : "" });
    curves.forEach(one => { one.version = ""; });
    refresh().catch(error => { if (!signal.aborted) show(faults, problem(error)); });
  } });

  show(root,
    h("p", { class: "runs-back" }, h("a", { href: link("runs") }, `← ${t("runs.all")}`)),
    second ? h("h1", {}, t("runs.two", { a: params.run, b: params.with })) : h("h1", {}, params.run),
    details.map((one, index) => h("p", { class: "runs-facts" },
      second && h("a", { class: "runs-mark", href: link("runs", { run: names[index] }), css: { "--mark": COLORS[index] } }, names[index]),
      badge(one.run), fact(t("runs.stage"), one.run.stage), fact(t("runs.when"), date(one.run.changed)), fact(t("runs.took"), duration(one.run.seconds)), fact(t("runs.size"), bytes(one.run.bytes)))),
    h("div", { class: "stack" },
      h("div", { class: "row runs-tools" },
        h("label", { class: "field" }, t("runs.with"), choose),
        first.report && !second && h("a", { class: "button", target: "_blank", rel: "noopener", href: `/api/runs/report?${query({ run: params.run, language: current() })}` }, t("runs.report"))),
      faults, live,
      !second && first.lineage.edges.length > 0 && h("section", { class: "card" }, h("h2", {}, t("runs.lineage")),
        lineage(first.lineage, params.run, { narrow: root.clientWidth < 620 })),
      h("section", { class: "card" }, h("div", { class: "runs-head" }, h("h2", {}, t("runs.curves")),
        h("label", { class: "check" }, all, t("runs.curves.all"))), charts),
      written,
      numbersCard(details, names), settingsCard(details, names)));
  drawFaults();
  const unfinished = await refresh();
  if (unfinished) {
    poll(async () => {
      if (await refresh()) return true;
      dispatchEvent(new HashChangeEvent("hashchange")); // it was sealed: show its numbers
      return false;
    }, POLL, signal);
  }
}

function keyOf(curve) {
  return `${curve.metric}\n${curve.title}`;
}

function query(values) {
  return new URLSearchParams(values).toString();
}

function fact(name, value) {
  return h("span", {}, h("span", { class: "note" }, `${name} `), h("span", { class: "num" }, value));
}

function progressOf(progress, name) {
  if (progress.state === "sealed") return null;
  const { step, steps, left_seconds: left, running } = progress;
  const text = [
    step === null || step === undefined ? t("runs.progress.none") : steps ? t("runs.progress.of", { step, steps }) : t("runs.progress.step", { step }),
    left !== null && running && t("runs.progress.left", { time: duration(left) }),
    running ? null : t("runs.progress.stopped", { when: date(progress.changed) }),
  ].filter(Boolean).join(t("runs.progress.join"));
  return h("div", { class: "card runs-progress" },
    h("div", {}, name && h("strong", {}, `${name} `), text),
    steps && h("progress", { max: steps, value: Math.min(step ?? 0, steps), "aria-label": t("runs.progress") }));
}

/** One curve, whose table keeps its place and its state while new points come in. */
function newPanel(width) {
  const region = h("div", { class: "scroll runs-table", tabindex: "0", role: "region" });
  const figureHost = h("div", {}), body = h("tbody", {}), head = h("tr", {}), note = h("p", { class: "note" });
  const table = h("details", {}, h("summary", {}, t("chart.table")),
    region);
  region.append(h("table", {}, h("thead", {}, head), body));
  let latest = null;
  const fillTable = () => {
    if (!table.open || !latest) return;
    const rows = new Map();
    latest.series.forEach((one, index) => one.curve.points.forEach(([x, y]) => {
      if (!rows.has(x)) rows.set(x, latest.series.map(() => null));
      rows.get(x)[index] = y;
    }));
    show(head, h("th", { scope: "col" }, latest.curve.axis), latest.series.map(one => h("th", { scope: "col" }, latest.series.length > 1 ? one.name : latest.curve.title)));
    show(body, [...rows].sort(([a], [b]) => a - b).map(([x, values]) => h("tr", {}, h("th", { scope: "row" }, number(x, 0)), values.map(value => h("td", {}, figure(value))))));
  };
  table.addEventListener("toggle", fillTable);
  return {
    element: h("div", { class: "runs-chart" }, figureHost, note, table),
    update(curve, series) {
      latest = { curve, series };
      region.setAttribute("aria-label", curve.title);
      const levels = series.length === 1 || same(series.map(one => one.curve.levels)) ? series[0].curve.levels : [];
      const values = series.flatMap(one => one.curve.points.map(([, y]) => y)), spread = Math.max(...values) - Math.min(...values);
      show(figureHost, lines(series.map(one => ({ name: one.name, color: one.color, points: one.curve.points })), {
        title: curve.title, x: curve.axis, width, height: 230, yFrom: curve.from_zero || (curve.percent && spread === 0) ? 0 : undefined,
        levels: levels.map(level => ({ name: `${level.name} ${curve.percent ? percent(level.value) : figure(level.value)}`, value: level.value })),
        format: value => curve.percent ? percent(value, spread === 0 || spread > .1 ? 0 : spread > .01 ? 1 : 3) : short(value), formatX: short }));
      const notes = series.flatMap(one => [
        one.curve.count > one.curve.points.length && t("runs.curves.thinned", { shown: one.curve.points.length, count: one.curve.count }),
        one.curve.not_finite > 0 && t("runs.curves.nan", { count: one.curve.not_finite })]).filter(Boolean);
      show(note, [...new Set(notes)].join(" "));
      note.hidden = !notes.length;
      fillTable();
    },
  };
}

function same(values) {
  return values.every(value => JSON.stringify(value) === JSON.stringify(values[0]));
}

function sample(row) {
  return h("article", {},
    h("p", { class: "note" }, row.model && h("strong", { class: "mono" }, `${row.model} `), row.prompt),
    h("blockquote", { class: "serif" }, row.answer || t("runs.samples.empty")),
    (row.ended === false || row.score !== null) && h("p", { class: "note num" },
      [row.score !== null && t("runs.samples.score", { score: figure(row.score) }), row.ended === false && t("runs.samples.cut")].filter(Boolean).join(" · ")));
}

function numbersCard(details, names) {
  const keys = [...new Set(details.flatMap(one => one.numbers.map(row => row.key)))];
  if (!keys.length) return h("section", { class: "card" }, h("h2", {}, t("runs.numbers")), h("p", { class: "note" }, t("runs.numbers.none")));
  const tables = details.map(one => new Map(one.numbers.map(row => [row.key, row])));
  const cells = row => [h("td", {}, figure(row?.value)), h("td", { class: "interval" }, interval(row))];
  const table = h("div", { class: "scroll runs-table", tabindex: "0", role: "region", "aria-label": t("runs.numbers") }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("runs.numbers.key")), names.map((name, index) => [
      h("th", { scope: "col" }, names.length > 1 ? h("span", { class: "runs-mark", css: { "--mark": COLORS[index] } }, name) : t("runs.numbers.value")),
      h("th", { scope: "col" }, t("runs.numbers.interval"))]))),
    h("tbody", {}, keys.map(key => h("tr", {}, h("th", { scope: "row", class: "mono" }, key), tables.map(one => cells(one.get(key))))))));
  return h("section", { class: "card" }, h("h2", {}, t("runs.numbers")), h("p", { class: "note" }, t("runs.numbers.note")), table);
}

function settingsCard(details, names) {
  const tables = details.map(one => new Map(one.settings));
  const keys = [...new Set(tables.flatMap(one => [...one.keys()]))];
  const differs = key => tables.length > 1 && !same(tables.map(one => one.get(key) ?? null));
  const table = (shown, marked) => h("div", { class: "scroll runs-table", tabindex: "0", role: "region",
    "aria-label": t(marked ? "runs.settings.differ" : "runs.settings.equal", { count: shown.length }) }, h("table", { class: "settings" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("runs.settings.key")), names.map((name, index) => h("th", { scope: "col" },
      names.length > 1 ? h("span", { class: "runs-mark", css: { "--mark": COLORS[index] } }, name) : t("runs.settings.value"))))),
    h("tbody", {}, shown.map(key => h("tr", { class: marked ? "differs" : "" }, h("th", { scope: "row", class: "mono" }, key),
      tables.map(one => h("td", { class: "mono" }, one.get(key) ?? "–")))))));
  const different = keys.filter(differs), equal = keys.filter(key => !differs(key));
  return h("section", { class: "card" }, h("h2", {}, names.length > 1 ? t("runs.settings.differ", { count: different.length }) : t("runs.settings")),
    different.length > 0 && table(different, true),
    h("details", {}, h("summary", {}, t(names.length > 1 ? "runs.settings.equal" : "runs.settings.show", { count: equal.length })), table(equal, false)));
}
