"""What an evaluation needs besides its recipe: where models and data lie, and where judgements are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from toolkit.base.errors import RunError, UsageError
from toolkit.config.schema import Data
from toolkit.data import files
from toolkit.data.data_sources import Part, as_sources
from toolkit.models.loading import Reference
from toolkit.runs import references, seal
from toolkit.runs.run import Run

JUDGEMENTS = "judgements.jsonl"
NO_CORPUS = "is not a corpus run"


@dataclass(frozen=True)
class EvaluationContext:
    """The surroundings of an evaluation: a run directory, or the current folder.

    Attributes:
        model_reference: returns what `from_pretrained` loads for a model that the recipe names.
        corpus: returns the directory of a corpus run that the recipe names.
        judgements: the file that keeps the judgements of an endpoint.
        reads_whole_files: measure on all of a file or Hub dataset, not on its held-out part.
    """

    model_reference: Callable[[str], Reference]
    corpus: Callable[[str], Path]
    judgements: Path
    reads_whole_files: bool = False

    def part_of(self, data: Data) -> Part:
        """Return the part of a source that is measured on; of storyworld always the held-out part."""
        names = {source.name for source in as_sources(data)}
        return "all" if self.reads_whole_files and files.STORYWORLD not in names else "held_out"


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

    return EvaluationContext(references.named_model, corpus, judgements, reads_whole_files=True)
