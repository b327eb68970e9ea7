"""A run directory seen from Python: `toolkit.Run`.

It reads files on access and writes nothing. (`toolkit.runs.run.Run` is a run that a
stage works in.)
"""

from __future__ import annotations

import dataclasses
import html
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.base.progress import duration
from toolkit.config.schema import StageRecipe
from toolkit.proofs import rebuild
from toolkit.runs import evaluation, index, layout, metrics, seal
from toolkit.runs.evaluation import ModelComparison, ModelEvaluation, StageEvaluation
from toolkit.runs.index import State
from toolkit.runs.records import Record
from toolkit.stats import estimate_text

if TYPE_CHECKING:
    import pandas

    from toolkit.api.language_model import LanguageModel


class RunView(os.PathLike[str]):
    """A run of any stage, finished or not.

    It can stand for its directory wherever a path is taken: as a model, in overrides, as a baseline.

    Args:
        path: the run directory, such as `runs/tiny/dpo`. There need not be a run yet.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunView) and self.path.absolute() == other.path.absolute()

    def __hash__(self) -> int:
        return hash(self.path.absolute())

    def __repr__(self) -> str:
        return f"<Run {self.path}: {self.stage if self.exists else 'no run'}, {self.state}>"

    @property
    def exists(self) -> bool:
        """Whether there is a run, finished or not."""
        return seal.is_run(self.path)

    @property
    def state(self) -> State:
        """`new` (there is no run yet), `unfinished` or `sealed`."""
        return index.state_of(self.path)

    @property
    def manifest(self) -> dict[str, Any]:
        """What went into the run: settings, parents, data, versions, hardware.

        Raises:
            RunError: there is no run.
        """
        return rebuild.content(self.path)

    @property
    def stage(self) -> str:
        """The stage of the recipe, such as `dpo`."""
        return self.manifest["stage"]

    @property
    def reference(self) -> str:
        """The name below the runs directory that the run was made under, such as `tiny/dpo`."""
        return self.manifest["name"]

    @property
    def recipe(self) -> StageRecipe:
        """Every setting as it took effect.

        Raises:
            RunError: the run has settings that this version does not have.
        """
        return rebuild.recipe(self.path)

    @property
    def seconds(self) -> float:
        """Working time over all attempts."""
        return float(files.read_json(self.path / layout.TIMING)["seconds"])

    @property
    def parents(self) -> dict[str, RunView]:
        """The runs that this one was made from, by the key of the recipe that names them."""
        return {key: RunView(_near(path)) for key, path, _, is_run in seal.parents(self.path) if is_run}

    @property
    def evaluation(self) -> StageEvaluation:
        """What the stage measured; `compared` and `win_rate` are what an evaluate run measured of its model.

        That is the newest finished evaluate run in the same folder that has this run among its models.

        Raises:
            RunError: the run is not finished.
        """
        seal.require_sealed(self.path)
        return dataclasses.replace(evaluation.read(self.path, self.stage), compared=self._compared())

    def _compared(self) -> ModelEvaluation | None:
        results = [
            (entry.changed, position, entry.path)
            for entry in index.list_runs(self.path.absolute().parent, stage="evaluate")
            if entry.state == "sealed" and (position := self._position_in(entry.path)) is not None
        ]
        if not results:
            return None
        _, position, path = max(results)
        comparison = evaluation.read(path, "evaluate")
        assert isinstance(comparison, ModelComparison)
        return [*comparison.models.values()][position]

    def _position_in(self, path: Path) -> int | None:
        """Return the position of this run among the models of an evaluate run, None where it is none."""
        digest, here = seal.digest(self.path), os.path.realpath(self.path)
        for key, parent, recorded, is_run in seal.parents(path):
            match = re.fullmatch(r"models\[(\d+)\]", key)
            if match and is_run and recorded == digest and os.path.realpath(parent) == here:
                return int(match[1])
        return None

    @property
    def model_dir(self) -> Path:
        """The folder with the model, which `from_pretrained` loads.

        Raises:
            RunError: the run has no model.
        """
        folder = self.path / layout.MODEL
        if not folder.is_dir():
            what = "the run has no model" if self.state == "sealed" else "the run has no model yet"
            raise RunError(what, where=str(self.path), fix="name a pretrain, sft, reward, dpo or ppo run")
        return folder

    def metrics(self) -> pandas.DataFrame:
        """Return metrics.jsonl: one row a logged step, nan where a row lacks a column."""
        return _frame(self.path / layout.METRICS)

    def steps(self) -> pandas.DataFrame:
        """Return steps.jsonl of a pretraining: loss, gradient norm and batch digest of every step."""
        return _frame(self.path / layout.STEPS)

    def load(self) -> LanguageModel:
        """Load the model of a finished run."""
        from toolkit.api.language_model import load

        return load(self)

    def verify(self) -> list[str]:
        """Rehash the run and all runs it was made from, and return what differs; empty when nothing does."""
        return seal.verify(self.path)

    def _repr_html_(self) -> str:
        """A table of what it is and measured, and its curves, for a notebook."""
        from toolkit.report import curves  # matplotlib: 0.5 s

        if not self.exists:
            return f"<p>{html.escape(repr(self))}</p>"
        rows = [("stage", self.stage), ("state", self.state), ("time", duration(self.seconds))]
        numbers: dict[str, Any] = {}
        if self.state == "sealed":
            measured = self.evaluation
            numbers = measured.to_json()
            rows += _estimate_rows(measured)
            if measured.compared is not None:
                rows += _estimate_rows(measured.compared)
                rate = measured.compared.win_rate
                rows += [("win rate", f"{estimate_text(rate)}, {rate.verdict}")] if rate is not None else []
        figure = curves.draw(self.stage, curves.read_metrics(self.path), numbers) or ""
        body = "".join(
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(text)}</td></tr>'
            for name, text in rows
        )
        return f"<table><caption>{html.escape(self.reference)}</caption><tbody>{body}</tbody></table>{figure}"


NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
"""How metrics.jsonl writes numbers that JSON does not have."""


def list_runs(
    folder: str | os.PathLike[str] = "runs", *, stage: str | None = None, state: State | None = None
) -> list[RunView]:
    """Return the runs at or below a folder, by reference; of one stage and in one state, or all.

    Raises:
        RunError: the folder does not exist.
    """
    entries = index.list_runs(Path(folder), stage=stage)
    return [RunView(entry.path) for entry in entries if state in (None, entry.state)]


def _estimate_rows(record: Record) -> list[tuple[str, str]]:
    names = {name: value for name, value in record.estimates().items() if name != "win_rate"}
    return [(name.replace("_", " "), estimate_text(value)) for name, value in names.items()]


def _near(path: Path) -> Path:
    """Return a path as seen from the working directory where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _frame(file: Path) -> pandas.DataFrame:
    import pandas  # 0.5 s

    rows = [{key: NUMBERS.get(str(value), value) for key, value in row.items()} for row in metrics.read(file)]
    return pandas.DataFrame(rows)
