"""Weights of some steps that are never deleted (`keep_weights_at_steps`): model folders with samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.pretrain.training_state import ModelExporter
from toolkit.runs import checkpoint, layout
from toolkit.runs.evaluation import KindSurprise


def folder(run: Path, step: int) -> Path:
    """Return the folder of the weights that the run directory `run` keeps of a step."""
    return run / layout.KEPT_STEPS / f"{step:06d}"


@dataclass(frozen=True)
class KeptWeights:
    """A copy on the CPU of the weights after `step` steps, and samples of the model."""

    step: int
    tokens: int
    weights: dict[str, Tensor]
    samples: list[dict[str, Any]]
    """`prompt`, `text` and `seed` of each."""
    surprise: dict[str, KindSurprise] | None = None
    """By kind of word; None if the text is not of the small storyworld."""

    def write(self, run: Path, exporter: ModelExporter) -> None:
        """Write the folder of this step, atomically; a folder of an interrupted attempt is replaced."""
        with files.atomic_folder(folder(run, self.step)) as temporary:
            exporter.write(temporary, self.weights)
            content: dict[str, Any] = {"step": self.step, "tokens": self.tokens, "samples": self.samples}
            if self.surprise is not None:
                content["surprise"] = {kind: value.to_json() for kind, value in self.surprise.items()}
            files.write_json(temporary / layout.SAMPLES, content)
            checkpoint.seal_folder(temporary)


def require_whole(run: Path, step: int) -> None:
    """Check the kept weights of the steps up to `step`, which a resumed run does not write again.

    Folders that an older version wrote have no seal, and are not checked.

    Raises:
        RunError: a folder changed since it was sealed.
    """
    for place in sorted((run / layout.KEPT_STEPS).glob("*/")):
        is_final = place.name.isdigit() and int(place.name) <= step
        if (
            is_final
            and (place / layout.CHECKPOINT_SEAL).exists()
            and (differing := checkpoint.problems(place))
        ):
            raise RunError(
                f"changed since it was sealed ({differing[0]})",
                where=str(place),
                fix="restore the file, or start over with --fresh",
            )


def read_samples(run: Path) -> list[dict[str, Any]]:
    """Return `step`, `tokens`, `samples` and `surprise` of every kept step of a run, by step."""
    paths = (run / layout.KEPT_STEPS).glob(f"*/{layout.SAMPLES}")
    return sorted((files.read_json(path) for path in paths), key=lambda kept: kept["step"])
