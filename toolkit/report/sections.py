"""The sections of the page after its beginning: what was measured, and sentences that follow from it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.config.registry import STAGES, Change, Column, Product, Stage, measures_models, order
from toolkit.report import answers, curves, figures, reward_table
from toolkit.report.blocks import (
    AnsweredPrompt,
    Block,
    Cell,
    Folded,
    PageSection,
    PageTable,
    Paragraph,
    Plots,
    ShownAnswers,
    TableRow,
)
from toolkit.report.figures import Axis, Line, Panel
from toolkit.report.lesson import GOLD
from toolkit.report.seeds import SeedGroup
from toolkit.report.summary import (
    BaselineComparison,
    Numbers,
    RunNames,
    comparisons,
    measured_rates,
    rates_of,
    win_rate_text,
)
from toolkit.report.wording import Part, Wording, message, of_registry, say
from toolkit.runs.evaluation import RewardMetrics
from toolkit.stats import Estimate, interval_of, interval_text, kl_text

DATA_COLUMNS = ("read", "used", "other_part", "joined_in_pairs", "not_sampled", "not_mixed", "left_out")
"""Counts of a source in `data` of evaluation.json, or their sum; without those that are 0 everywhere."""
CUT_ROWS = ("shortened", "cut", "left_out")
"""Counts of rows that do not fit in the limit of tokens."""
KNOWN_NATS = math.log(2)
"""A kind of word is known if the model's surprise exceeds that of the truth by less: the model then gives
such words more than half of their true probability, in the geometric mean."""


@dataclass(frozen=True)
class ReportData:
    """What the sections are about.

    Attributes:
        summary: as `summarize` returns it; where several seeds are averaged, their mean.
        names: of the runs; where several seeds are averaged, of the first of each group.
        members: name of a run or of a group -> name of each of its runs -> its directory.
        groups: the runs that are averaged.
        wording: the language.
    """

    summary: Mapping[str, Any]
    names: RunNames
    members: Mapping[str, Mapping[str, Path]]
    groups: Sequence[SeedGroup]
    wording: Wording

    @property
    def stages(self) -> Mapping[str, Numbers]:
        """The numbers of every run."""
        return self.summary["stages"]

    @property
    def is_only_evaluation(self) -> bool:
        """Whether one evaluate run measured all models."""
        return sum(measures_models(row.get("stage")) for row in self.stages.values()) == 1

    def say(self, part: Part) -> str:
        """Return a message in the language of the page."""
        return say(part, self.wording)

    def join(self, sentences: Sequence[Part]) -> str:
        """Return sentences one after another."""
        return self.wording["space"].join(self.say(sentence) for sentence in sentences)

    def with_stage(self, attribute: str) -> Iterator[tuple[str, Path, Numbers, Stage]]:
        """Yield the runs whose stage has an attribute that is not empty, in the order of the stages."""
        runs = [(name, path, self.stages[name]) for path, name in self.names.runs.items()]
        for name, path, row in sorted(runs, key=lambda run: order(run[2].get("stage"))):
            stage = STAGES.get(row.get("stage"))
            if stage is not None and getattr(stage, attribute):
                yield name, path, row, stage


def sections(data: ReportData) -> list[PageSection]:
    """Return the sections of a page after its beginning."""
    compared = comparisons(data.summary)
    found = [
        *(_steps_section(data, name, row) for name, _, row, _ in data.with_stage("title")),
        *_stage_sections(data),
        *(_wins_section(data, comparison) for comparison in compared),
        *(_rates_section(data, comparison) for comparison in compared),
        *(_browse_section(data, name, path) for name, path, _, _ in data.with_stage("measures_models")),
        _rows_section(data),
        _seconds_section(data),
    ]
    return [section for section in found if section is not None]


# What a model wrote while it learned


def _steps_section(data: ReportData, name: str, row: Numbers) -> PageSection | None:
    """Show what a model wrote after each of the steps whose weights were kept, and what it knew by then."""
    steps = [step for step in row.get("kept_steps") or [] if step["samples"]]
    if not steps:
        return None
    knowledge = [step.get("surprise") for step in steps]
    has_truth = all(knowledge)
    known = _known_from(steps) if has_truth else {}
    prompts: dict[str, list[ShownAnswers]] = {}
    for step in steps:
        new = [message(f"kind.{kind}") for kind, first in known.items() if first == step["step"]]
        mark = data.say(message("steps.new", kinds=new)) if new else ""
        for sample in step["samples"]:
            shown = ShownAnswers(_step_label(data, step), [(mark, _printable(sample["text"]))])
            prompts.setdefault(sample["prompt"], []).append(shown)
    blocks: list[Block] = [Paragraph(data.say(message("steps.text")))]
    for prompt, written in prompts.items():
        shown_prompt = data.say(message("steps.prompt", prompt=prompt.strip()))
        blocks.append(AnsweredPrompt(shown_prompt, written, is_timeline=True))
    if has_truth:
        blocks += _knowledge(data, name, steps, known)
    return PageSection(f"{name}-steps", data.say(message("steps.title", name=name)), blocks)


def _step_label(data: ReportData, step: Mapping[str, Any]) -> str:
    if step["step"] == 0:
        return data.say(message("steps.first_step"))
    return data.say(message("steps.step", tokens=f"{step['tokens']:,}", step=f"{step['step']:,}"))


def _known_from(steps: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    """Return kind of word -> the first step from which on it is known; None if it is not known at the end."""
    known: dict[str, int | None] = {}
    for kind in steps[-1]["surprise"]:
        gaps = [_gap(step, kind) for step in steps]
        first = len(gaps)
        while first and gaps[first - 1] < KNOWN_NATS:
            first -= 1
        known[kind] = steps[first]["step"] if first < len(gaps) else None
    return known


def _gap(step: Mapping[str, Any], kind: str) -> float:
    return step["surprise"][kind]["model"] - step["surprise"][kind]["truth"]


def _knowledge(
    data: ReportData, name: str, steps: Sequence[Mapping[str, Any]], known: Mapping[str, int | None]
) -> Iterator[Block]:
    """Yield which kinds of words are known from which step on, and by how much the others are not."""
    tokens = {step["step"]: f"{step['tokens']:,}" for step in steps}
    names = {kind: data.say(message(f"kind.{kind}")) for kind in known}
    learned = [
        data.say(message("steps.known", kind=names[kind], tokens=tokens[first]))
        for kind, first in sorted(known.items(), key=lambda item: item[1] or 0)
        if first is not None
    ]
    missing = [names[kind] for kind, first in known.items() if first is None]
    lines = [
        Line([step["tokens"] for step in steps], [_gap(step, kind) for step in steps], name, None, False)
        for kind, name in names.items()
    ]
    ends = [
        message("panel.ends", name=line.label, first=f"{line.y[0]:.2f}", last=f"{line.y[-1]:.2f}")
        for line in lines
    ]
    axis = Axis(
        below=data.say(message("axis.tokens")),
        counts_below=True,
        log_from=min((step["tokens"] for step in steps if step["tokens"]), default=1),
        from_zero=True,
    )
    yield Paragraph(data.say(message("steps.truth")))
    yield Paragraph(data.say(message("kind.meaning")), is_note=True)
    if learned:
        yield Paragraph(data.say(message("steps.learned", kinds=learned)))
    if missing:
        unknown = message("steps.unknown", kinds=missing) if learned else message("steps.all_unknown")
        yield Paragraph(data.say(unknown))
    yield Plots([
        Panel(
            f"{name}-kinds-of-words",
            data.say(message("steps.panel")),
            data.say(message("panel.description", ends=ends)),
            lambda axes: figures.draw_lines(axes, lines, axis=axis),
        )
    ])  # fmt: skip


def _printable(text: str) -> str:
    """Replace control characters, which an untrained model writes, and leave out empty lines."""
    shown = "".join(sign if sign.isprintable() or sign.isspace() else "\ufffd" for sign in text)
    return re.sub(r"\n\s*\n", "\n", shown.strip())


# What a training did


def _stage_sections(data: ReportData) -> Iterator[PageSection | None]:
    """Yield one section for each stage, with all its runs."""
    by_stage: dict[str, list[tuple[str, Path, Numbers]]] = {}
    for name, path, row, stage in data.with_stage("title"):
        by_stage.setdefault(stage.name, []).append((name, path, row))
    for stage_name, runs in by_stage.items():
        yield _stage_section(data, STAGES[stage_name], runs)


def _stage_section(
    data: ReportData, stage: Stage, runs: Sequence[tuple[str, Path, Numbers]]
) -> PageSection | None:
    sources = [
        curves.Source(name, [curves.read_metrics(path) for path in data.members[name].values()], row)
        for name, _, row in runs
    ]
    shown = curves.panels(stage.name, sources, wording=data.wording)
    if not shown and not stage.row:
        return None
    names = ", ".join(name for name, _, _ in runs)
    title = message("stage.title", name=names, title=of_registry(stage.title))
    blocks: list[Block] = [Paragraph(data.say(of_registry(stage.description)))]
    outcomes = {name: list(_outcome(data, stage, row)) for name, _, row in runs}
    shared = [text for text in outcomes[runs[0][0]] if all(text in texts for texts in outcomes.values())]
    if len(runs) > 1:
        for name, texts in outcomes.items():
            own = [text for text in texts if text not in shared]
            if own:
                blocks.append(Paragraph(f"{name}: {data.join(own)}"))
    if shared:
        blocks.append(Paragraph(data.join(shared)))
    blocks.append(Plots(shown))
    blocks += _stage_tables(data, stage, runs)
    experts = curves.panels(stage.name, sources, details=True, wording=data.wording)
    folded: list[Block] = [Plots(experts)] if experts else []
    folded += [block for name, _, row in runs for block in _data_blocks(data, name, row)]
    if stage.product == Product.REWARD_MODEL:
        folded += [block for name, _, row in runs for block in _reward_details(data, name, row)]
    if folded:
        blocks.append(Folded(data.say(message("stage.experts")), folded))
    return PageSection(stage.name, data.say(title), blocks)


def _outcome(data: ReportData, stage: Stage, row: Numbers) -> Iterator[str]:
    """Yield sentences about one run, each of which depends on its numbers."""
    for change in stage.changes:
        yield from _moved(data, change, row)
    for note in stage.notes:
        if not note.key or row.get(note.key) is not None:
            yield data.say(of_registry(note.text, **row))
    some, every = stage.held_out_while_training, row.get("n")
    if some and isinstance(every, int) and every > some:
        yield data.say(message("stage.held_out", some=f"{some:,}", all=f"{every:,}"))


def _moved(data: ReportData, change: Change, row: Numbers) -> Iterator[str]:
    """Yield whether a number rose or fell; neither, if its interval does not tell."""
    before, after = _estimate(row, change.before), _estimate(row, change.after)
    if before is None or after is None:
        return
    if not math.isfinite(after.low):
        key = "moved.unknown"
    elif not _difference(before, after).excludes(0.0):
        key = "moved.same"
    else:
        key = "moved.rose" if after.estimate > before.estimate else "moved.fell"
    texts = {
        name: f"{value.estimate:.1%}" if change.percent else f"{value.estimate:.3g}"
        for name, value in (("before", before), ("after", after))
    }
    yield _sentence(data.say(message(key, label=of_registry(change.label), **texts)))
    is_worse = {"moved.rose": True, "moved.fell": False}.get(key)
    if is_worse is not None and change.less_is_better is is_worse:
        yield data.say(message("moved.worse"))
        if change.if_worse:
            yield data.say(of_registry(change.if_worse))


def _difference(before: Estimate, after: Estimate) -> Estimate:
    if not math.isfinite(before.low):  # measured once, before the training
        before = Estimate(before.estimate, before.estimate, before.estimate, before.n)
    return after.minus(before)


def _estimate(row: Mapping[str, Any], key: str) -> Estimate | None:
    """Return a number of evaluation.json with its interval; None if it was not measured."""
    *parents, last = key.split(".")
    for parent in parents:
        row = row.get(parent) or {}
    if row.get(last) is None:
        return None
    low, high = interval_of(row, last) or (math.nan, math.nan)
    return Estimate(row[last], low, high, 0)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _stage_tables(
    data: ReportData, stage: Stage, runs: Sequence[tuple[str, Path, Numbers]]
) -> Iterator[Block]:
    columns = [
        column
        for column in stage.row
        if not column.if_measured or any(row.get(column.key) is not None for _, _, row in runs)
    ]
    if columns:
        yield PageTable(
            stage.name,
            data.say(message("stage.table", title=of_registry(stage.title))),
            data.say(of_registry(stage.row_title)),
            [data.say(of_registry(column.heading)) for column in columns],
            [TableRow(run_label(data, name), [_column_cell(row, column) for column in columns])
             for name, _, row in runs],
        )  # fmt: skip


def _data_blocks(data: ReportData, name: str, row: Numbers) -> Iterator[Block]:
    """Yield what became of the rows of the training data (`toolkit.data.chat.report`)."""
    counts = row.get("data") or {}
    named = [(source["name"], source) for source in counts.get("sources", [])]
    if not named:
        return
    for source in counts.get("held_out", []):
        of_part = {key: value for key, value in source.items() if key != "other_part"}
        named.append((data.say(message("data.held_out", name=source["name"])), of_part))
    keys = [key for key in DATA_COLUMNS if any(_count(source, key) for _, source in named)]
    keys += ["share"] if any("share" in source for _, source in named) else []
    yield PageTable(
        f"data-{name}",
        data.say(message("data.title", name=name)),
        data.say(message("data.source")),
        [data.say(message(f"data.{key}")) for key in keys],
        [TableRow(label, [_count_cell(source, key) for key in keys]) for label, source in named],
    )
    sentences = [
        message("data.reason", reason=reason, count=f"{found['rows']:,}", first=found["first"])
        for _, source in named
        for reason, found in source["left_out"].items()
    ]
    for key, part in (("lengths", "data.long"), ("held_out_lengths", "data.long_held_out")):
        found = counts.get(key) or {}
        if any(found.get(count) for count in CUT_ROWS):
            sentences.append(message(part, **{count: f"{value:,}" for count, value in found.items()}))
    if sentences:
        yield Paragraph(data.join([data.say(sentence) for sentence in sentences]))


def _rows_section(data: ReportData) -> PageSection | None:
    """Return what the stages read that have no section of their own."""
    blocks = [
        block
        for name, row in data.stages.items()
        if row.get("stage") in STAGES and not STAGES[row["stage"]].title
        for block in _data_blocks(data, name, row)
    ]
    if not blocks:
        return None
    return PageSection(
        "rows", data.say(message("data.section")), [Folded(data.say(message("stage.experts")), blocks)]
    )


def _count(source: Mapping[str, Any], key: str) -> int:
    if key == "left_out":
        return sum(found["rows"] for found in source["left_out"].values())
    return source.get(key, 0)


def _count_cell(source: Mapping[str, Any], key: str) -> Cell:
    """Return a count, or the share of a source in a mixture; `-` where the source has none."""
    if key == "share":
        return Cell(f"{source[key]:.1%}", source[key]) if key in source else Cell("-")
    count = _count(source, key)
    return Cell(f"{count:,}", count) if key in source else Cell("-")


def _column_cell(row: Numbers, column: Column) -> Cell:
    if column.count:
        return number_cell(row, column.key, f"{row[column.key]:,.0f}" if row.get(column.key) else "-")
    return number_cell(row, column.key, interval_text(row, column.key, percent=column.percent))


def number_cell(row: Mapping[str, Any], key: str, text: str, *, tone: str | None = None) -> Cell:
    """Return the cell of a number of evaluation.json with its interval."""
    low, high = interval_of(row, key) or (None, None)
    return Cell(text, row.get(key), low, high, tone)


def run_label(data: ReportData, name: str) -> str:
    """Return the name of a run, with the number of seeds that its numbers are the mean of."""
    count = len(data.members.get(name, ()))
    return data.say(message("row.seeds", name=name, count=str(count))) if count > 1 else name


def _reward_details(data: ReportData, name: str, row: Numbers) -> Iterator[Block]:
    rows = reward_table.table_rows(RewardMetrics.from_json(row))
    yield PageTable(
        f"audit-{name}",
        data.say(message("reward.audit", name=name)),
        data.say(message("reward.head", count=f"{row.get('n', 0):,}")),
        [data.say(message("reward.interval"))],
        [TableRow(data.say(key), [Cell(data.say(value))]) for key, value in rows],
    )
    bins = (row.get("calibration") or {}).get("bins", [])
    if len(bins) < 2:
        return
    below, side = data.say(message("reward.stated")), data.say(message("reward.happened"))
    points = [
        message("reward.point", stated=f"{point['stated']:.0%}", happened=f"{point['happened']:.0%}")
        for point in bins
    ]
    yield Plots([
        Panel(
            f"calibration-{name}".replace("/", "-"),
            data.say(message("reward.panel")),
            data.say(points),
            lambda axes: figures.draw_reliability(axes, bins, below=below, side=side),
        )
    ])  # fmt: skip


# Who wins


def _wins_section(data: ReportData, comparison: BaselineComparison) -> PageSection:
    baseline, rates = comparison.baseline, comparison.win_rates
    counts = sorted({str(rate["n"]) for rate in rates.values()}, key=int)
    text = message(
        "wins.text", baseline=baseline, count=" / ".join(counts), judge=_judge(data, comparison.judge)
    )
    ends = [
        message("wins.row", name=name, rate=win_rate_text({"win_rate": rate})) for name, rate in rates.items()
    ]
    shown = [
        Panel(
            _name("win-rates", comparison),
            data.say(message("wins.panel", baseline=baseline)),
            data.say(ends),
            lambda axes: figures.draw_shares(axes, list(rates.items())),
            figures.row_height(len(rates)),
        )
    ]
    scored = [
        (name, row["score_quantiles"]) for name, row in comparison.rows.items() if row.get("score_quantiles")
    ]
    folded: list[Block] = []
    if len(scored) > 1:
        medians = [
            message("wins.score_row", name=name, median=f"{parts['0.5']:.2f}") for name, parts in scored
        ]
        folded.append(Plots([
            Panel(
                _name("scores", comparison),
                data.say(message("wins.scores")),
                data.say(medians),
                lambda axes: figures.draw_quantiles(axes, scored),
                figures.row_height(len(scored)),
            )
        ]))  # fmt: skip
    folded += _length_blocks(data, comparison)
    blocks: list[Block] = [Paragraph(data.say(text)), Plots(shown), _wins_table(data, comparison)]
    note = message("wins.note_seeds" if data.groups else "wins.note")
    blocks.append(Paragraph(data.say(note), is_note=True))
    if folded:
        blocks.append(Folded(data.say(message("wins.experts")), folded))
    title = message("wins.title", label=comparison.label)
    return PageSection(_name("win-rates", comparison), data.say(title), blocks)


def _judge(data: ReportData, judge: Mapping[str, Any]) -> str:
    """Say who judged, and how good the judge is if that is known."""
    if judge.get("votes") is not None:
        parts = [message("wins.people", votes=f"{judge['votes']:,}")]
    elif judge.get("name") == GOLD:
        parts = [message("wins.gold")]
    else:
        parts = [message("wins.judge", judge=str(judge.get("name", "?")))]
    if judge.get("accuracy") is not None:
        accuracy = interval_text(judge, "accuracy", percent=True)
        parts.append(message("wins.accuracy", accuracy=accuracy, count=f"{judge.get('n') or 0:,}"))
    if judge.get("doubt"):
        parts.append(message("wins.doubt", doubt=judge["doubt"]))
    return data.join(parts)


def _wins_table(data: ReportData, comparison: BaselineComparison) -> PageTable:
    baseline = comparison.baseline
    rows = []
    for name, row in comparison.rows.items():
        is_baseline = name == baseline
        rows.append(
            TableRow(
                run_label(data, name),
                [
                    _win_rate_cell(data, row, is_baseline=is_baseline),
                    Cell("-")
                    if is_baseline
                    else number_cell(row, "kl_to_baseline", kl_text(row, interval=True)),
                    number_cell(row, "mean_length", interval_text(row, "mean_length", digits=1)),
                    number_cell(row, "ended", interval_text(row, "ended", percent=True)),
                    number_cell(row, "bits_per_byte", interval_text(row, "bits_per_byte")),
                ],
            )
        )
    keys = ("win_rate", "kl", "length", "ended", "bits")
    return PageTable(
        _name("win-rates", comparison),
        data.say(message("wins.panel", baseline=baseline)),
        data.say(message("column.model")),
        [data.say(message(f"column.{key}", baseline=baseline)) for key in keys],
        rows,
    )


def _win_rate_cell(data: ReportData, row: Mapping[str, Any], *, is_baseline: bool) -> Cell:
    if is_baseline:
        return Cell(data.say(message("cell.baseline")))
    rate = row["win_rate"]
    text = win_rate_text(row, doubt="")
    if rate.get("verdict") == "no verdict":
        text = data.say(message("wins.no_verdict", rate=text))
    return Cell(text, rate["estimate"], rate["low"], rate["high"])


def _rates_section(data: ReportData, comparison: BaselineComparison) -> PageSection | None:
    """Show what the answers of each model do, where the prompts are of the small storyworld."""
    rates = {name: rates_of(row) for name, row in comparison.rows.items()}
    measured = measured_rates(rates)
    if not measured:
        return None
    table = PageTable(
        _name("rates", comparison),
        data.say(message("rates.title", label=comparison.label)),
        data.say(message("column.model")),
        [data.say(message(f"name.{rate}")) for rate in measured],
        [
            TableRow(
                run_label(data, name),
                [number_cell(row, rate, interval_text(row, rate, percent=True)) for rate in measured],
            )
            for name, row in rates.items()
        ],
    )
    title = data.say(message("rates.title", label=comparison.label))
    return PageSection(_name("rates", comparison), title, [Paragraph(data.say(message("rates.text"))), table])


def _length_blocks(data: ReportData, comparison: BaselineComparison) -> Iterator[Block]:
    baseline = comparison.baseline
    found = {
        name: bins
        for name in comparison.win_rates
        if len(bins := comparison.rows[name].get("wins_by_length") or []) > 1
    }
    if not found:
        return
    counts = sorted({len(bins) for bins in found.values()})
    below = data.say(message("lengths.axis", baseline=baseline))
    yield Paragraph(data.say(message("lengths.text", count=" / ".join(str(count) for count in counts))))
    yield Plots(
        [
            Panel(
                _name(f"lengths-{name}", comparison).replace("/", "-"),
                data.say(message("lengths.panel", name=name, baseline=baseline)),
                data.say(
                    message(
                        "lengths.ends",
                        first=f"{bins[0]['win_rate']:.0%}",
                        last=f"{bins[-1]['win_rate']:.0%}",
                    )
                ),
                # `bins` of this turn of the loop, not of the last one
                lambda axes, bins=bins: figures.draw_wins_by_length(axes, bins, below=below),
            )
            for name, bins in found.items()
        ]
    )


def _name(section: str, comparison: BaselineComparison) -> str:
    return section if comparison.is_only else f"{section}-{comparison.evaluation}"


# Answers and seconds


def _browse_section(data: ReportData, name: str, path: Path) -> PageSection | None:
    """Show both answers to a prompt side by side, grouped by the judge's verdict."""
    baseline = data.stages[name].get("baseline")
    groups = answers.grouped(path, baseline=baseline, names=data.names.models[name])
    if not groups:
        return None
    blocks: list[Block] = [Paragraph(data.say(message("browse.text", count=str(answers.SHOWN))))]
    for group in groups:
        model = str(group["model"])
        blocks += [
            Folded(
                data.say(
                    message(
                        f"browse.{kind['name']}", model=model, baseline=baseline, count=str(kind["count"])
                    )
                ),
                [
                    AnsweredPrompt(
                        pair["prompt"],
                        [
                            ShownAnswers(f"{model} {pair['score']}".strip(), [("", pair["answer"])]),
                            ShownAnswers(f"{baseline} {pair['other_score']}".strip(), [("", pair["other"])]),
                        ],
                    )
                    for pair in kind["pairs"]
                ],
            )
            for kind in group["kinds"]
            if kind["count"]
        ]
    return PageSection(f"{name}-answers", data.say(message("browse.title")), blocks)


def _seconds_section(data: ReportData) -> PageSection | None:
    times = {name: row["seconds"] for name, row in data.stages.items() if row.get("seconds")}
    if not times:
        return None
    total = f"{sum(times.values()):,.0f}"
    panel = Panel(
        "seconds",
        data.say(message("seconds.panel")),
        data.say(
            [message("seconds.stage", name=name, seconds=f"{value:,.0f}") for name, value in times.items()]
        ),
        lambda axes: figures.draw_seconds(axes, times),
        figures.row_height(len(times)),
    )
    return PageSection(
        "seconds",
        data.say(message("seconds.title")),
        [Paragraph(data.say(message("seconds.text", total=total))), Plots([panel])],
    )
