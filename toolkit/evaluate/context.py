"""What an evaluation needs besides its recipe: where models and data lie, and where judgements are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base.console import tell_once
from toolkit.base.errors import RunError, UsageError
from toolkit.config.schema import Data, DataSource
from toolkit.data import files
from toolkit.data.chat import sources
from toolkit.data.chat.report import ReadingReport
from toolkit.data.data_sources import Part, as_sources
from toolkit.evaluate import overlap, perplexity
from toolkit.evaluate.overlap import MeasuredRows
from toolkit.evaluate.perplexity import HeldOutText
from toolkit.evaluate.trained_on import MeasuredPart
from toolkit.runs import references, seal
from toolkit.runs.evaluation import ModelComparison
from toolkit.runs.hub import Reference
from toolkit.runs.run import Run

if TYPE_CHECKING:
    import datasets


@dataclass
class Findings:
    """What was found while the data were read, by unit: `documents`, `prompts`, `pairs` or `judge_data`.

    Attributes:
        reports: what became of the rows.
        also_in_training: for each run with training data that were compared, how many of the measured rows
            are in them.
    """

    reports: dict[str, ReadingReport] = field(default_factory=dict)
    also_in_training: dict[str, dict[str, int]] = field(default_factory=dict)


JUDGEMENTS = "judgements.jsonl"
NO_CORPUS = "is not a corpus run"


@dataclass(frozen=True)
class EvaluationContext:
    """The surroundings of an evaluation: a run directory, or the current folder.

    Attributes:
        model_reference: returns what `from_pretrained` loads for a model that the recipe names.
        corpus: returns the directory of a corpus run that the recipe names.
        judgements: the file that keeps the judgements of an endpoint.
        measured_part: what of the data is measured; in a recipe the settings of the data say it.
        models: the models that are measured, and their judges.
        findings: filled while the data are read.
    """

    model_reference: Callable[[str], Reference]
    corpus: Callable[[str], Path]
    judgements: Path
    measured_part: MeasuredPart | None = None
    models: tuple[Reference, ...] = ()
    findings: Findings = field(default_factory=Findings)

    @property
    def part(self) -> Part:
        """The part of the data to read."""
        return "held_out" if self.measured_part is None else self.measured_part.part_to_read

    def read_rows(
        self, read: Callable[..., datasets.Dataset], data: Data, *, unit: str, seed: int
    ) -> datasets.Dataset:
        """Return the rows to measure, read by a function of `toolkit.data.chat.sources`."""
        report = ReadingReport()
        try:
            rows = read(data, part=self.part, seed=seed, report=report)
        finally:  # an error because no row is left comes after the reason
            for source, found in zip(as_sources(data), report.sources, strict=False):
                self.tell_part(source, found.used, found.usable, unit)
        self.record(report, unit)
        if not self._are_training_rows:
            is_held_out = self.part == "held_out"
            measured = MeasuredRows.of_prompts(data, rows["prompt"], unit=unit, is_held_out=is_held_out)
            self.findings.also_in_training[unit] = overlap.count(measured, self.models)
        return rows

    def compare_judge_data(self, data: Data, judge: Reference, *, seed: int) -> None:
        """Count the preferences that measure a judge's accuracy, and that the judge was trained on."""
        rows = sources.preferences(data, part="held_out", seed=seed, report=ReadingReport())
        measured = MeasuredRows.of_prompts(data, rows["prompt"], unit="pairs", is_held_out=True)
        self.findings.also_in_training["judge_data"] = overlap.count(measured, [judge])

    def read_text(self, data: Data, *, seed: int) -> HeldOutText:
        """Return the documents to measure."""
        text = perplexity.from_data(data, part=self.part, seed=seed, tell_part=self.tell_part)
        self.record(text.report, "documents")
        if not self._are_training_rows:
            measured = MeasuredRows.of_texts(data, text.texts, is_held_out=self.part == "held_out")
            self.findings.also_in_training["documents"] = overlap.count(measured, self.models)
        return text

    @property
    def _are_training_rows(self) -> bool:
        return self.measured_part is not None and self.measured_part.part == "train"

    def record(self, report: ReadingReport, unit: str) -> None:
        """Keep the counts of rows that were read, and print them in a run, or where they are notable."""
        self.findings.reports[unit] = report
        if self.measured_part is None or report.is_notable():
            report.print()

    def complete(self, results: ModelComparison) -> ModelComparison:
        """Return the results with what was found out about their data."""
        compared = {unit: counts for unit, counts in self.findings.also_in_training.items() if counts}
        data = {unit: report.as_json() for unit, report in self.findings.reports.items()}
        results = replace(results, also_in_training=compared or None, data=data or None)
        if self.measured_part is None:
            return results
        return replace(results, part=self.measured_part.part, trained_on=list(self.measured_part.trained_on))

    def tell_part(self, source: DataSource, used: int, total: int, unit: str) -> None:
        """Say how many of the rows of a source are measured, unless it is what everybody expects."""
        if self.measured_part is not None:
            if self.measured_part.trained_on:
                tell_once(self.measured_part.sentence(used, total, unit))
        elif source.held_out is source.held_out_examples is None and files.is_local(source.name):
            count = f"{used:,} of {total:,} {unit}"
            tell_once(f"{source.name}: {count}: the held-out tenth; held_out: all measures the whole file")


def of_run(run: Run) -> EvaluationContext:
    """Return the context of the evaluate stage, whose references are those of its run."""

    def corpus(reference: str) -> Path:
        path = run.reference(reference)
        if not isinstance(path, Path):
            raise RunError(NO_CORPUS, where=reference, fix="name one, or give perplexity.data")
        return path

    return EvaluationContext(run.model_reference, corpus, run.path / JUDGEMENTS)


def of_current_folder(judgements: Path = Path(JUDGEMENTS)) -> EvaluationContext:
    """Return the context of an evaluation outside of any run, such as `toolkit evaluate`."""

    def corpus(reference: str) -> Path:
        path = Path(reference)
        seal.require_sealed(path)
        if not (path / "corpus" / "held_out").is_dir():
            raise UsageError(NO_CORPUS, where=reference, fix="name a corpus run, a file or a dataset")
        return path

    return EvaluationContext(references.named_model, corpus, judgements)
