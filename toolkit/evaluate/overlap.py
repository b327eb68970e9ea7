"""How many of the measured rows are in the training data of a model, also where those are other files.

Prompts and texts are compared apart from case, white space and Unicode form.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.base.console import tell_once
from toolkit.base.errors import ToolkitError
from toolkit.config.inputs import has_separate_held_out
from toolkit.config.schema import Data, HeldOut
from toolkit.data import files
from toolkit.data.chat import sources, split_key
from toolkit.data.chat.messages import Message
from toolkit.data.chat.report import ReadingReport
from toolkit.data.data_sources import DEFAULT_HELD_OUT, as_sources
from toolkit.data.text.documents import Piece, Stream
from toolkit.data.text.duplicates import NormalisedTexts
from toolkit.evaluate import trained_on
from toolkit.evaluate.trained_on import READING, Training
from toolkit.models.tokenizer_loading import Reference

MAX_BYTES = 100_000_000
"""Larger training files are not compared; one of this size takes about ten seconds."""


@dataclass(frozen=True)
class MeasuredRows:
    """Rows that are measured, as fingerprints.

    Attributes:
        data: the sources that they are from.
        unit: `documents`, or `prompts` and `pairs`, which are compared by their whole prompt.
        is_held_out: whether they are the held-out part of `data`.
    """

    data: Data
    unit: str
    fingerprints: np.ndarray
    is_held_out: bool

    @classmethod
    def of_prompts(
        cls, data: Data, prompts: Iterable[Sequence[Message]], *, unit: str, is_held_out: bool
    ) -> MeasuredRows:
        """Return the rows with these prompts."""
        return cls(data, unit, _prompt_fingerprints(prompts), is_held_out)

    @classmethod
    def of_texts(cls, data: Data, texts: Iterable[str], *, is_held_out: bool) -> MeasuredRows:
        """Return the documents with these texts."""
        pieces = (Piece(text, 0) for text in texts)
        return cls(data, "documents", _text_fingerprints(pieces), is_held_out)


def count(rows: MeasuredRows, models: Iterable[Reference]) -> dict[str, int]:
    """Return {run: number of rows} for the runs whose training files are here and unchanged, and say it.

    Args:
        models: the models that are measured, and their judges; their ancestors count, too.
    """
    known: dict[object, np.ndarray | None] = {}
    found: dict[str, np.ndarray] = {}
    for training in dict.fromkeys(trained_on.trainings(models, _names(rows.data))):
        if not training.files or _holds_out(training, rows):
            continue
        same = (training.digest, training.is_text, training.source.held_out)
        key = (*same, *(str(getattr(training.source, name)) for name in READING))
        if key not in known:
            known[key] = _fingerprints(training, is_text=rows.unit == "documents")
        if (trained := known[key]) is not None:
            is_trained = np.isin(rows.fingerprints, trained)
            found[training.run] = found.get(training.run, False) | is_trained
            if is_trained.any():
                _tell(training, rows, int(is_trained.sum()))
    return {run: int(is_trained.sum()) for run, is_trained in found.items()}


def _tell(training: Training, rows: MeasuredRows, number: int) -> None:
    of_all = f"{number:,} of {len(rows.fingerprints):,} {rows.unit} of {_names(rows.data)}"
    what = "are also documents" if rows.unit == "documents" else "have a prompt"
    tell_once(
        f"warning: {of_all} {what} that {training.run} was trained on ({training.source.name}), "
        "apart from case and white space"
    )


def _names(data: Data) -> str:
    return ", ".join(source.name for source in as_sources(data))


def _holds_out(training: Training, rows: MeasuredRows) -> bool:
    """Return whether the rows are those that the training held out."""
    measured = as_sources(rows.data)
    if not rows.is_held_out or len(measured) > 1 or has_separate_held_out(measured[0]):
        return False
    held_out = [
        source.held_out or HeldOut(documents=DEFAULT_HELD_OUT) for source in (measured[0], training.source)
    ]
    return (
        held_out[0] == held_out[1]
        and isinstance(held_out[0], HeldOut)
        and all(getattr(measured[0], name) == getattr(training.source, name) for name in READING)
        and files.digest(measured[0]) == training.digest
    )


def _fingerprints(training: Training, *, is_text: bool) -> np.ndarray | None:
    """Return those of the training part of a source; None where it is of another kind, or too large."""
    source = training.source.model_copy(
        update={"examples": None, "held_out_examples": None, "on_bad_row": "skip", "weight": 1.0}
    )
    size = files.size_bytes(files.resolve(source, quiet=True) or [])
    if size > MAX_BYTES:
        tell_once(f"{source.name}: not compared with the measured rows, because it has {size:,} bytes")
        return None
    try:
        if is_text:
            return _text_fingerprints(Stream(source, part="train", seed=0)) if training.is_text else None
        if training.is_text and not trained_on.is_conversation(source):
            return None
        rows = sources.prompts(source, part="train", seed=0, report=ReadingReport())
        return _prompt_fingerprints(row["prompt"] for row in rows)
    except ToolkitError as error:
        tell_once(f"warning: {source.name} cannot be compared with the measured rows: {error}")
        return None


def _prompt_fingerprints(prompts: Iterable[Sequence[Message]]) -> np.ndarray:
    texts = (split_key.whole_prompt(prompt) for prompt in prompts)
    return np.fromiter(map(split_key.fingerprint, texts), dtype=np.uint64)


def _text_fingerprints(pieces: Iterable[Piece]) -> np.ndarray:
    texts = NormalisedTexts()
    for _ in texts.watch(pieces):
        pass
    return np.asarray(texts.hashes, dtype=np.uint64)
