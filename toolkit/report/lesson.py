"""What a finished folder shows: what each stage changed, in numbers, sentences and answers.

`lesson_of` computes it as data. Sentences are messages (see `toolkit.report.wording`), so that a terminal and
a page, in any language, say the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.base import files
from toolkit.config.registry import STAGES, Number, Product, measures_models
from toolkit.evaluate.naming import display_names, evaluated_models, run_identity
from toolkit.report.summary import RATES, RunNames, name_runs, rates_of, summarize
from toolkit.report.wording import Message, message
from toolkit.runs import layout, seal
from toolkit.stats import Estimate, interval_of

GOLD = "gold"
"""The judge that knows the utility of the storyworld."""
SHOWN_CHARACTERS = 160
"""The first answer of a model to a prompt is shown, and more while all have fewer characters together."""
LESS_IS_BETTER = ("bits_per_byte", "over_refusal_rate")
WITHOUT_DIRECTION = ("mean_length", "kl_to_baseline")
SHARES = (*RATES, "ended", "win_rate")
IDEAL = {**dict.fromkeys(RATES, 1.0), "over_refusal_rate": 0.0}
"""Rates of a flawless model."""
TRUTH_TEXT = "A story about a fox who finds a"
"""The beginning of documents of the small world."""


@dataclass(frozen=True)
class TableColumn:
    """A number that an evaluate run measured of several models.

    Attributes:
        key: of the number in evaluation.json, such as `bits_per_byte`.
        heading: of its column; may have two lines.
        meaning: what it says, as a clause.
        is_share: whether it is shown in percent.
        less_is_better: None if neither direction is better.
        best: the best possible value, None if it is unknown.
    """

    key: str
    heading: Message
    meaning: Message
    is_share: bool
    less_is_better: bool | None
    best: float | None

    @property
    def name(self) -> Message:
        """What the number is called in a sentence."""
        return message(f"name.{self.key}")

    def text(self, value: float | None) -> str:
        """Return a value as text, `-` if it was not measured."""
        if value is None:
            return "-"
        if self.is_share:
            return f"{value:.0%}"
        return f"{value:.3f}" if self.key == "bits_per_byte" else f"{value:.1f}"


@dataclass(frozen=True)
class Row:
    """The numbers of one model.

    Attributes:
        model: its name; None for the rows of an untrained and of the best possible model.
        label: what the first column says.
        values: one number for each column, None if it was not measured; `nan` ends without an interval.
        changes: for each column `better` or `worse` if the number differs clearly from that of the model that
            this one was made from, otherwise None.
        is_baseline: the win rates are against this model.
        verdict: of the win rate: `better`, `worse` or `no verdict`; None without a win rate.
    """

    model: str | None
    label: str | Message
    values: tuple[Estimate | None, ...]
    changes: tuple[str | None, ...]
    is_baseline: bool = False
    verdict: str | None = None


@dataclass(frozen=True)
class ModelTable:
    """What one evaluate run measured of each model, in the order of its recipe."""

    evaluation: str
    title: Message
    columns: tuple[TableColumn, ...]
    rows: tuple[Row, ...]
    notes: tuple[Message, ...]


@dataclass(frozen=True)
class StageLesson:
    """What one stage changed, in sentences that follow from its numbers."""

    name: str
    stage: str
    sentences: tuple[Message, ...]


@dataclass(frozen=True)
class DrawnAnswer:
    """One answer to a sample prompt.

    Attributes:
        mark: what it does right or wrong; None if nobody knows.
        share: what it does right, from 0 to 1; None if nobody knows.
        count: equal answers among those that were drawn.
    """

    text: str
    ended: bool
    mark: Message | None
    share: float | None
    count: int = 1


@dataclass(frozen=True)
class ModelAnswers:
    """The answers of one model to a sample prompt, equal ones joined, the most typical one first.

    Attributes:
        total: answers that were drawn.
    """

    model: str
    answers: tuple[DrawnAnswer, ...]
    total: int


def with_room(model: ModelAnswers) -> tuple[Sequence[DrawnAnswer], Sequence[DrawnAnswer]]:
    """Return the answers of a model that are shown as text, and the others, of which the marks are shown."""
    characters = 0
    for number, answer in enumerate(model.answers):
        characters += len(" ".join(answer.text.split()))
        if number and characters > SHOWN_CHARACTERS:
            return model.answers[:number], model.answers[number:]
    return model.answers, ()


def counted(marks: Sequence[str]) -> list[str]:
    """Return each mark once, with how often it was given."""
    counts = {mark: marks.count(mark) for mark in marks}
    return [mark if count == 1 else f"{count}x {mark}" for mark, count in counts.items()]


@dataclass(frozen=True)
class SamplePrompt:
    """A sample prompt with the answers of all models.

    Attributes:
        turns: the turns of the conversation, of the user and the assistant in turn; the last is answered.
    """

    turns: tuple[str, ...]
    models: tuple[ModelAnswers, ...]


@dataclass(frozen=True)
class Samples:
    """The sample prompts of one evaluate run."""

    title: Message
    prompts: tuple[SamplePrompt, ...]


@dataclass(frozen=True)
class Seconds:
    """Seconds of each stage, and of the command that ran them if it is known.

    The stages' sum exceeds `elapsed` if several of them ran at the same time.
    """

    stages: dict[str, float]
    elapsed: float | None = None

    @property
    def total(self) -> float:
        """The sum over the stages."""
        return sum(self.stages.values())


@dataclass(frozen=True)
class NextStep:
    """Something to do with the runs.

    Attributes:
        arguments: of `toolkit`; empty if `page` is to be opened instead.
        page: the report.
    """

    purpose: Message
    arguments: tuple[str, ...] = ()
    page: Path | None = None


@dataclass(frozen=True)
class Lesson:
    """What the runs of a folder show."""

    samples: tuple[Samples, ...]
    tables: tuple[ModelTable, ...]
    stages: tuple[StageLesson, ...]
    seconds: Seconds
    next_steps: tuple[NextStep, ...]


def lesson_of(
    runs: Sequence[Path],
    *,
    names: RunNames | None = None,
    summary: Mapping[str, Any] | None = None,
    elapsed: float | None = None,
    page: Path | None = None,
) -> Lesson:
    """Return what sealed runs show.

    Args:
        runs: run directories in the order of execution.
        names: as `name_runs` returns them, which is the default.
        summary: as `summarize` returns it, which is the default.
        elapsed: seconds of the command that ran them.
        page: the report, for `next_steps`.

    Raises:
        UsageError: a run is given twice.
        RunError: a path is not a finished run.
    """
    names = names or name_runs(runs)
    summary = summary or summarize(runs, names)
    stages = summary["stages"]
    parents = _parents(names)
    evaluations = [name for name, row in stages.items() if measures_models(row.get("stage"))]
    tables = [_table(name, stages, parents, is_only=len(evaluations) == 1) for name in evaluations]
    shown = tuple(table for table in tables if table is not None)
    samples = [
        _samples(
            [sample for sample in summary["samples"] if sample["evaluated_by"] == name],
            stages[name].get("settings"),
            list(stages[name]["models"]),
        )
        for name in evaluations
    ]
    seconds = {name: row["seconds"] for name, row in stages.items() if row.get("seconds")}
    return Lesson(
        samples=tuple(one for one in samples if one is not None),
        tables=shown,
        stages=tuple(_stage_lessons(stages, shown, parents)),
        seconds=Seconds(seconds, elapsed),
        next_steps=tuple(_next_steps(names, stages, page)),
    )


def _parents(names: RunNames) -> dict[str, str]:
    """Return {name of a run: name of the run whose model it trained}, where both are in the summary."""
    by_identity = {}
    for path, name in names.runs.items():
        if name in names.models:  # an evaluate run: models of other folders
            by_identity |= {
                model: names.models[name][measured] for measured, model in evaluated_models(path).items()
            }
    by_identity |= {run_identity(path): name for path, name in names.runs.items()}
    found: dict[str, str] = {}
    for path, name in names.runs.items():
        for key, parent, _, _ in seal.parents(path):
            if key == "model" and run_identity(parent) in by_identity:
                found[name] = by_identity[run_identity(parent)]
    return found


# The table


def _table(
    evaluation: str, stages: Mapping[str, Mapping], parents: Mapping[str, str], *, is_only: bool
) -> ModelTable | None:
    """Return what an evaluate run measured; None if it measured neither text nor answers."""
    about = stages[evaluation]
    models = about["models"]
    columns = tuple(_columns(models, about.get("baseline")))
    if not columns:
        return None
    values = {name: tuple(_value(row, column.key) for column in columns) for name, row in models.items()}
    rows = []
    for name, row in models.items():
        before = values.get(parents.get(name, ""))
        rows.append(
            Row(
                name,
                name,
                values[name],
                tuple(_changes(columns, before, values[name])),
                is_baseline=name == about.get("baseline"),
                verdict=(row.get("win_rate") or {}).get("verdict"),
            )
        )
    label = "" if is_only else message("table.label", evaluation=evaluation)
    return ModelTable(
        evaluation,
        message(
            "table.title_seen" if trained_rows(about) else "table.title",
            label=label,
            measured=_measured(models),
        ),
        columns,
        (*_untrained(stages, models, columns), *rows, *_best(columns)),
        tuple(_notes(about, rows)),
    )


def _columns(models: Mapping[str, Mapping], baseline: str | None) -> Iterator[TableColumn]:
    """Yield the numbers that at least one model has."""
    rates = [rate for rate in RATES if any(_value(row, rate) for row in models.values())]
    others = () if rates else ("ended", "mean_length", "kl_to_baseline")
    for key in ("bits_per_byte", *rates, *others, "win_rate"):
        if not any(_value(row, key) for row in models.values()):
            continue
        about: dict[str, str] = {} if baseline is None else {"baseline": baseline}
        best = IDEAL.get(key)
        if key == "bits_per_byte":
            floors = (row.get("entropy_floor_bits_per_byte") for row in models.values())
            best = next((floor for floor in floors if floor is not None), None)
        yield TableColumn(
            key,
            message(f"heading.{key}", **about),
            message(f"meaning.{key}", **about),
            is_share=key in SHARES,
            less_is_better=None if key in WITHOUT_DIRECTION else key in LESS_IS_BETTER,
            best=best,
        )


def _value(row: Mapping[str, Any], key: str) -> Estimate | None:
    """Return a number of evaluation.json with its interval; None if it was not measured."""
    if key == "win_rate":
        rate = row.get(key)
        return Estimate(rate["estimate"], rate["low"], rate["high"], rate["n"]) if rate else None
    numbers = rates_of(row) if key in RATES else row
    if numbers.get(key) is None:
        return None
    low, high = numbers.get(f"{key}_interval") or (None, None)
    ends = (math.nan if end is None else end for end in (low, high))
    return Estimate(numbers[key], *ends, n=numbers.get(f"{key}_n", 0))


def _changes(
    columns: Sequence[TableColumn], before: Sequence[Estimate | None] | None, after: Sequence[Estimate | None]
) -> Iterator[str | None]:
    """Yield `better` or `worse` for each number that differs clearly from the one before."""
    for index, column in enumerate(columns):
        old, new = before[index] if before else None, after[index]
        if column.key == "win_rate" or column.less_is_better is None or old is None or new is None:
            yield None
        else:
            gain = new.minus(old)
            if not gain.excludes(0.0):
                yield None
            else:
                yield "worse" if (gain.estimate > 0) == column.less_is_better else "better"


def _measured(models: Mapping[str, Mapping]) -> Message:
    """Say on how many prompts and texts the models were measured."""
    first = next(iter(models.values()))
    counts = [
        message(f"table.{what}", count=f"{first[key]:,}")
        for what, key in (("prompts", "prompts"), ("texts", "documents"))
        if first.get(key)
    ]
    return counts[0] if len(counts) == 1 else message("table.and", first=counts[0], second=counts[1])


def _untrained(
    stages: Mapping[str, Mapping], models: Mapping[str, Mapping], columns: Sequence[TableColumn]
) -> list[Row]:
    """Return the row of the untrained model, if it was measured on the same text."""
    for name, row in models.items():
        about = stages[name]
        bits = about.get("untrained_bits_per_byte")
        if bits is not None and about.get("held_out_bytes") == row.get("bytes"):
            value = Estimate(bits, math.nan, math.nan, 0)
            values = tuple(value if column.key == "bits_per_byte" else None for column in columns)
            return [Row(None, message("row.untrained"), values, (None,) * len(columns))]
    return []


def _best(columns: Sequence[TableColumn]) -> list[Row]:
    """Return the row of the best possible model, if there is a best value."""
    if all(column.best is None for column in columns):
        return []
    values = tuple(
        None if column.best is None else Estimate(column.best, math.nan, math.nan, 0) for column in columns
    )
    return [Row(None, message("row.best"), values, (None,) * len(columns))]


def _notes(about: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[Message]:
    """Yield which rows a stage was trained on, who judged, and why there is no verdict."""
    for unit, run, count in trained_rows(about):
        yield message(f"trained.{unit}", count=f"{count:,}", run=run)
    judge = about.get("judge")
    if not judge:
        return
    reasons: list[Message] = []
    for row in rows:
        if row.model is not None and row.verdict == "no verdict":
            reason = _reason(judge, about["models"][row.model]["win_rate"])
            reasons += [reason] if reason not in reasons else []
    if reasons:
        yield message("note.doubt", reason=reasons)
    if judge["name"] == GOLD:
        yield message("note.gold")
    elif judge.get("accuracy") is not None:
        yield message("note.judge_accuracy", judge=judge["name"], accuracy=f"{judge['accuracy']:.0%}")
    else:
        yield message("note.judge", judge=judge["name"])


def trained_rows(about: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return (unit, run, number) of the measured rows that are in the training data of a run."""
    return [
        (unit, run, count)
        for unit, counts in (about.get("also_in_training") or {}).items()
        for run, count in counts.items()
        if count
    ]


# What a stage changed


def _stage_lessons(
    stages: Mapping[str, Mapping], tables: Sequence[ModelTable], parents: Mapping[str, str]
) -> Iterator[StageLesson]:
    """Yield the sentences of every stage that has some, in the order of the stages.

    Evaluated models of other folders are in the tables only.
    """
    for name, row in stages.items():
        if "stage" not in row:
            continue
        sentences = (*_own_sentences(row), *_comparison(name, stages, tables, parents))
        if sentences:
            yield StageLesson(name, str(row.get("stage")), sentences)


def _own_sentences(row: Mapping[str, Any]) -> Iterator[Message]:
    """Yield what a stage did, as the table of stages says it."""
    stage = STAGES.get(str(row.get("stage")))
    for sentence in () if stage is None else stage.sentences:
        if sentence.chance is not None and not _is_chance(row, sentence.chance):
            continue
        if sentence.unless_fell is not None and _fell(row, *sentence.unless_fell):
            continue
        if all(row.get(number.key) is not None for number in sentence.numbers):
            yield message(
                sentence.key, **{number.key: _number_text(row, number) for number in sentence.numbers}
            )


def _is_chance(row: Mapping[str, Any], key: str) -> bool:
    """Return whether the interval of a share is not above one half."""
    interval = interval_of(row, key)
    return row.get(key) is not None and (interval is None or interval[0] <= 0.5)


def _fell(row: Mapping[str, Any], before: str, after: str) -> bool:
    """Return whether a number became smaller, or was not measured."""
    return row.get(before) is None or row.get(after) is None or row[after] < row[before]


def _number_text(row: Mapping[str, Any], number: Number) -> str | list[str]:
    value = row[number.key]
    if isinstance(value, Mapping):
        return list(display_names(list(value)).values())
    if number.count:
        return f"{value:,}"
    digits, scale, sign = (0, 100, "%") if number.percent else (3, 1, "")
    text = f"{scale * value:.{digits}f}{sign}"
    interval = interval_of(row, number.key) if number.interval else None
    return text + (
        f" [{scale * interval[0]:.{digits}f}, {scale * interval[1]:.{digits}f}]" if interval else ""
    )


def _comparison(
    name: str, stages: Mapping[str, Mapping], tables: Sequence[ModelTable], parents: Mapping[str, str]
) -> Iterator[Message]:
    """Yield how a model compares with the baseline, and with the model that it was made from."""
    found = next(((table, row) for table in tables for row in table.rows if row.model == name), None)
    if found is None:
        return
    table, row = found
    about = stages[table.evaluation]
    if row.verdict is not None and name not in _ancestors(about["baseline"], parents):
        yield _verdict(row.verdict, about, about["models"][name]["win_rate"])
    before = next((other for other in table.rows if other.model == parents.get(name, "")), None)
    if before is None:
        values = [
            message("value", name=column.name, value=column.text(value.estimate))
            for column, value in zip(table.columns, row.values, strict=True)
            if column.key in RATES and not column.less_is_better and value is not None
        ]
        if values:
            taught = _stage_has(stages[name], "has_conversations")
            yield message("answers.first" if taught else "answers.untaught", values=values)
        return
    compared = [
        (column, change, old, new)
        for column, change, old, new in zip(
            table.columns, row.changes, before.values, row.values, strict=True
        )
        if column.less_is_better is not None and column.key != "win_rate" and old and new
    ]
    compared.sort(key=lambda entry: entry[0].key == "bits_per_byte")  # what answers do comes first
    for kind in ("better", "worse"):
        changes = [
            message(
                "change", name=column.name, before=column.text(old.estimate), after=column.text(new.estimate)
            )
            for column, change, old, new in compared
            if change == kind
        ]
        if changes:
            yield message(f"change.{kind}", before=parents[name], changes=changes)
    unclear = [column.name for column, change, _, _ in compared if change is None]
    if unclear:
        yield message("change.unclear", before=parents[name], names=unclear)


def _ancestors(name: str | None, parents: Mapping[str, str]) -> list[str]:
    """Return the models that a model was made from, itself included."""
    found: list[str] = []
    while name is not None and name not in found:
        found.append(name)
        name = parents.get(name)
    return found


def _verdict(verdict: str, about: Mapping[str, Any], rate: Mapping[str, Any]) -> Message:
    shown = {
        "baseline": about["baseline"],
        "rate": f"{rate['estimate']:.0%}",
        "low": f"{100 * rate['low']:.0f}",
        "high": f"{100 * rate['high']:.0f}",
    }
    if verdict == "no verdict":
        return message("win.none", reason=_reason(about["judge"], rate), **shown)
    return message(f"win.{verdict}", **shown)


def _reason(judge: Mapping[str, Any], rate: Mapping[str, Any]) -> Message:
    """Return why a win rate has no verdict."""
    if judge.get("doubt"):
        return message("reason.judge", doubt=judge["doubt"])
    if rate["low"] <= 0.5 <= rate["high"]:
        return message("reason.interval")
    return message("reason.test", p=f"{rate['p_value_holm']:.2g}")


# Samples


def _samples(
    samples: Sequence[Mapping[str, Any]], settings: Mapping[str, Any] | None, models: Sequence[str]
) -> Samples | None:
    """Return the answers to the sample prompts of an evaluate run; None without them.

    Args:
        samples: as in the summary.
        settings: of the evaluate run.
        models: names in the order in which they are shown.
    """
    if not samples:
        return None
    prompts = []
    for sample in samples:
        several = sample.get("all_answers", {})
        answers = {name: several.get(name) or [{"answer": text}] for name, text in sample["answers"].items()}
        turns = tuple(sample.get("turns") or [sample["prompt"]])
        shown = (_joined(name, answers[name]) for name in models if name in answers)
        prompts.append(SamplePrompt(turns, tuple(shown)))
    count = max(answers.total for prompt in prompts for answers in prompt.models)
    temperature = ((settings or {}).get("win_rate") or {}).get("temperature", 1.0)
    title = message(
        "samples.title" if count > 1 else "samples.title_one",
        count=str(count),
        temperature=f"{temperature:g}",
    )
    return Samples(title, tuple(prompts))


def _joined(model: str, answers: Sequence[Mapping[str, Any]]) -> ModelAnswers:
    """Join equal answers; first the most frequent, then those whose share is next to the median."""
    drawn: dict[tuple[str, bool], DrawnAnswer] = {}
    for answer in answers:
        key = (answer["answer"].strip(), bool(answer.get("ended", True)))
        mark, share = _mark(answer.get("rates") or {})
        count = drawn[key].count + 1 if key in drawn else 1
        drawn[key] = DrawnAnswer(*key, mark, share, count)
    shares = sorted(
        item.share for item in drawn.values() for _ in range(item.count) if item.share is not None
    )
    median = shares[(len(shares) - 1) // 2] if shares else 0.0
    ordered = sorted(drawn.values(), key=lambda item: (-item.count, abs((item.share or 0.0) - median)))
    return ModelAnswers(model, tuple(ordered), len(answers))


def _mark(rates: Mapping[str, float]) -> tuple[Message | None, float | None]:
    """Return what an answer does right, from the rates of the small world that its prompt tests."""
    wishes = [value for rate, value in rates.items() if rate.startswith("wish_rate_")]
    if wishes:
        met = message("mark.wishes", met=f"{sum(wishes):.0f}", total=str(len(wishes)))
        return met, sum(wishes) / len(wishes)
    for rate, marks in (
        ("answer_accuracy", ("mark.wrong", "mark.right")),
        ("refusal_rate", ("mark.not_refused", "mark.refused")),
    ):
        if rate in rates:
            return message(marks[rates[rate] > 0.5]), rates[rate]
    return None, None


# What to do next


def _next_steps(names: RunNames, stages: Mapping[str, Mapping], page: Path | None) -> Iterator[NextStep]:
    paths = {name: path for path, name in names.runs.items()}
    speakers = [name for name in paths if _stage_has(stages[name], "has_conversations")]
    if speakers:
        chosen = max(reversed(speakers), key=lambda name: _won(stages[name]))
        aligned = _stage_has(stages[chosen], "aligned")
        purpose = message("next.chat" if aligned else "next.chat_sft")
        yield NextStep(purpose, ("chat", str(paths[chosen])))
    readers = [
        path for name, path in paths.items() if name not in speakers and _is_language_model(stages[name])
    ]
    if readers:
        path = readers[0]
        if _is_small_world(path):
            yield NextStep(message("next.truth"), ("next", str(path), TRUTH_TEXT, "--truth"))
        elif text := _first_words(path):
            yield NextStep(message("next.next"), ("next", str(path), text))
    if speakers or readers:
        runs_dir = next(iter(paths.values())).parent.parent
        where = () if runs_dir == Path("runs") else ("--runs-dir", str(runs_dir))
        yield NextStep(message("next.playground"), ("playground", "--tour", *where))
    if page is not None:
        yield NextStep(message("next.report"), page=page)


def _stage_has(row: Mapping[str, Any], attribute: str) -> bool:
    stage = STAGES.get(str(row.get("stage")))
    return stage is not None and bool(getattr(stage, attribute))


def _is_language_model(row: Mapping[str, Any]) -> bool:
    stage = STAGES.get(str(row.get("stage")))
    return stage is not None and stage.product == Product.LANGUAGE_MODEL


def _won(row: Mapping[str, Any]) -> float:
    """Return the win rate of a model that is clearly better than the baseline; 0 for any other."""
    rate = row.get("win_rate") or {}
    return rate["estimate"] if rate.get("verdict") == "better" else 0.0


def _settings(path: Path) -> Mapping[str, Any]:
    return files.read_json(path / layout.MANIFEST)["inputs"]["settings"]


def _is_small_world(pretrain: Path) -> bool:
    """Return whether a pretraining read the stories of the small world."""
    for key, corpus, _, _ in seal.parents(pretrain):
        if key == "tokens" and seal.is_run(corpus):
            data = _settings(corpus).get("data")
            sources = data if isinstance(data, list) else [data]
            return all(source.get("world") == "small" for source in sources)
    return False


def _first_words(pretrain: Path) -> str:
    """Return the text that the recipe of a pretraining continues."""
    samples = files.read_json(pretrain / layout.EVALUATION).get("samples") or [{"prompt": ""}]
    return samples[0]["prompt"].strip()
