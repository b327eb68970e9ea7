"""The corpus stage: tokenizes text to memory-mapped shards of a training and a held-out part; resumable.

corpus/tokenizer/                  the tokenizer
corpus/train/  corpus/held_out/    the shards, which depend neither on interruptions nor on `workers`
.../journal.json                   the state to resume from; removed once the part is complete
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from toolkit.base import files as run_files
from toolkit.base.console import tell
from toolkit.base.errors import DataError, RunError, ToolkitError
from toolkit.base.progress import Progress
from toolkit.config.schema import CorpusRecipe
from toolkit.data.chat import template
from toolkit.data.data_sources import Part
from toolkit.data.text import documents
from toolkit.data.text.documents import Piece, Stream
from toolkit.data.text.duplicates import NormalisedTexts
from toolkit.data.text.encoding import Encoded, encode_in_order
from toolkit.data.text.lost_text import LossCounter, sentence
from toolkit.data.text.shards import INDEX, TokenShards, TokenWriter, lost_text_in
from toolkit.models import tokenizer_loading
from toolkit.runs import layout
from toolkit.runs.evaluation import CorpusEvaluation, LostText
from toolkit.runs.run import Run
from toolkit.runtime import hardware

FOLDER = layout.CORPUS
PARTS: tuple[Part, ...] = ("train", "held_out")
BATCH_CHARACTERS = 1 << 20
BATCH_PIECES = 2048
JOURNAL_SECONDS = 5.0
"""Time between journals, and the most work that a kill loses; writing one takes about 10 ms."""
LARGEST_UNKNOWN_SHARE = 0.1
"""Of the bytes of a part: a model of such a corpus learns to predict the unknown token."""
_FINISHED = "index"
"""Key of the journal of a finished part: the SHA-256 of its index."""
_Mark = tuple[int, bool, float | None]
"""Bytes of a piece's text, whether the piece ends its document, and the document's logprob."""
_Batch = tuple[list[_Mark], list[str]]
"""The marks of some pieces, and their texts if the tokenizer may lose some of them."""


def run(recipe: CorpusRecipe, run: Run) -> None:
    """Write the shards of both parts and evaluation.json, on rank 0 only."""
    if not run.is_main:
        return
    folder = run.path / FOLDER
    run.metrics.truncate(-1)  # every attempt logs both parts
    tokenizer = load_tokenizer(run.reference(recipe.tokenizer))
    tokenizer.save_pretrained(folder / "tokenizer")
    shards: dict[str, TokenShards] = {}
    readings = {part: _Reading(Stream(recipe.data, part=part, seed=recipe.seed)) for part in PARTS}
    for part, reading in readings.items():
        began = time.monotonic()
        shards[part] = _write_part(recipe, reading, folder=folder / part, tokenizer=tokenizer)
        run.metrics.log(
            PARTS.index(part),
            part=part,
            tokens=shards[part].tokens,
            documents=shards[part].documents,
            seconds=round(time.monotonic() - began, 3),
        )
    for reading in readings.values():
        reading.complete()
    report = readings["train"].stream.report
    report.add_held_out(readings["held_out"].stream.report)
    report.print()
    in_training = readings["held_out"].texts.count_in(readings["train"].texts)
    evaluation = replace(_evaluation(recipe, shards, tokenizer, in_training), data=report.as_json())
    if evaluation.held_out_in_training:
        count = f"{evaluation.held_out_in_training:,} of {evaluation.held_out_documents:,} held-out documents"
        tell(
            f"warning: {count} are also in the training part, apart from case and white space: losses of the "
            "held-out part are too low"
        )
    run.write_json(layout.EVALUATION, evaluation.to_json())
    for part in PARTS:
        (folder / part / layout.JOURNAL).unlink(missing_ok=True)


def load_tokenizer(reference: Path | str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a tokenizer run, a folder or a hub id.

    A tokenizer with an end-of-text token stays as it is, so that the corpus fits the checkpoint that it comes
    from; to one without, our special tokens and chat template are added.

    Raises:
        ToolkitError: no tokenizer, the hub is unreachable, or the tokenizer is not a fast one.
    """
    name, revision = str(reference), None
    if isinstance(reference, Path):
        inner = reference / "tokenizer"
        name = str(inner if inner.is_dir() else reference)
    elif "@" in name:
        name, _, revision = name.partition("@")
    tokenizer = tokenizer_loading.load_tokenizer((name, revision))
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ToolkitError(
            "this tokenizer is not a fast one (tokenizers library)",
            where=str(reference),
            fix="use one that has a tokenizer.json",
        )
    if tokenizer.eos_token is None:
        template.configure(tokenizer)
    return tokenizer


@dataclass
class _Reading:
    """One part of the text, and the hashes of its documents."""

    stream: Stream
    texts: NormalisedTexts = field(default_factory=NormalisedTexts)

    def __iter__(self) -> Iterator[Piece]:
        return self.texts.watch(self.stream)

    def complete(self) -> None:
        """Read the part if an earlier attempt of the run wrote it."""
        if not len(self.texts):
            for _ in self:
                pass


def begin_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that a tokenizer puts in front of a text; None if there is none, or end-of-text."""
    bos = tokenizer.bos_token_id
    if bos is None or bos == tokenizer.eos_token_id:
        return None
    return bos if tokenizer("a")["input_ids"][:1] == [bos] else None


def _write_part(
    recipe: CorpusRecipe, reading: _Reading, *, folder: Path, tokenizer: PreTrainedTokenizerBase
) -> TokenShards:
    stream, part = reading.stream, reading.stream.part
    journal = folder / layout.JOURNAL
    begun = run_files.read_checked_json(journal) if journal.exists() else None
    if (folder / INDEX).exists() and (begun is None or _FINISHED in begun):
        return _finished_part(folder, begun)
    if begun and _FINISHED in begun:  # its index was deleted
        begun = None
    writer = TokenWriter(
        folder,
        vocab_size=len(tokenizer),
        end_id=tokenizer.eos_token_id,
        begin_id=begin_id(tokenizer),
        shard_tokens=recipe.shard_tokens,
        state=begun["writer"] if begun else None,
    )
    if begun:
        tell(f"corpus: {part}: resuming after {writer.documents:,} documents, {writer.tokens:,} tokens")
    done = begun["pieces"] if begun else 0
    losses = LossCounter(tokenizer)
    losses.add_counted(lost_text_in(begun or {}))
    batches = _batches(islice(_pieces(reading, tokenizer), done, None))
    results = encode_in_order(
        (((marks, texts if losses.is_needed else []), texts) for marks, texts in batches),
        tokenizer=tokenizer.backend_tokenizer,
        workers=recipe.workers or hardware.cores(),
    )
    for count in _append(results, writer, losses, stream=stream, description=f"corpus: {part}"):
        done += count
        if _is_due(journal):
            state = {"pieces": done, "writer": writer.state()}
            run_files.write_checked_json(journal, state | _lost_as_json(losses))
    if not writer.documents:
        raise DataError(
            f"the {part.replace('_', '-')} part has no document" + stream.report.in_brackets(),
            where=_names(stream),
            fix="hold out the end of one long text, held_out: {last_characters: 0.1}; "
            "of few documents a larger share, held_out: {documents: 0.3}",
        )
    _warn_of_lost_text(losses.result(), writer, part=part, where=_names(stream))
    writer.finish(
        {
            "documents_by_source": [stream.documents[i] for i in range(len(stream.sources))],
            "dropped": dict(stream.dropped),
        }
        | _lost_as_json(losses)
    )
    run_files.write_checked_json(journal, {_FINISHED: run_files.sha256_file(folder / INDEX)})
    return TokenShards.open(folder)


def _finished_part(folder: Path, journal: dict[str, Any] | None) -> TokenShards:
    """Open a part that an earlier attempt finished.

    Args:
        journal: the part's, with the digest of its index; None for a part that an older version finished.

    Raises:
        RunError: a file changed since it was written.
    """
    changed = []
    if journal is not None and run_files.sha256_file(folder / INDEX) != journal[_FINISHED]:
        changed = [INDEX]
    shards = None if changed else TokenShards.open(folder)
    changed = shards.verify() if shards else changed
    if shards is None or changed:
        raise RunError(
            "this file was changed since it was written",
            where=str(folder / changed[0]),
            fix="start over with --fresh",
        )
    return shards


def _lost_as_json(losses: LossCounter) -> dict[str, Any]:
    """Return what was lost as an entry of a JSON object, which has none if nothing was."""
    lost = losses.result()
    return {} if lost is None else {"lost_text": lost.to_json()}


def _warn_of_lost_text(lost: LostText | None, writer: TokenWriter, *, part: Part, where: str) -> None:
    """Say what the tokenizer did not keep of a part.

    Raises:
        DataError: most of it are characters that the tokenizer does not know.
    """
    if lost is None:
        return
    found = f"the {part.replace('_', '-')} part: {sentence(lost, documents=writer.documents)}"
    unknown = sum(lost.characters.get(kind, 0) for kind in ("unknown", "dropped"))
    if unknown > sum(lost.characters.values()) / 2 and lost.bytes > LARGEST_UNKNOWN_SHARE * writer.bytes:
        raise DataError(
            found, where=where,
            fix="use a tokenizer that knows the characters of this text: one with byte fallback, or a "
            "byte-level one of the tokenizer stage",
        )  # fmt: skip
    tell(f"warning: {found}; the bits per byte of a model are then too low")


def _append(
    results: Iterable[tuple[_Batch, Encoded]],
    writer: TokenWriter,
    losses: LossCounter,
    *,
    stream: Stream,
    description: str,
) -> Iterator[int]:
    """Write the encoded batches with a progress bar, and yield the number of pieces of each."""
    _, total, unit = stream.progress()
    first_tokens, began = writer.tokens, time.monotonic()
    with Progress(description, total, unit) as progress:
        for (marks, texts), (ids, lengths) in results:
            if texts:
                for text, own in zip(texts, np.split(ids, np.cumsum(lengths)[:-1]), strict=True):
                    losses.add(text, own.tolist())
            position = 0
            for (num_bytes, ends, logprob), length in zip(marks, lengths.tolist(), strict=True):
                writer.extend(ids[position : position + length], num_bytes=num_bytes)
                position += length
                if ends:
                    writer.end_document(logprob)
            speed = (writer.tokens - first_tokens) / max(time.monotonic() - began, 1e-9)
            # reading is a few batches ahead of writing
            progress.update(
                min(stream.progress()[0], total - 1),
                documents=writer.documents,
                tokens=writer.tokens,
                tokens_per_second=round(speed),
            )
            yield len(marks)
        progress.update(total, documents=writer.documents, tokens=writer.tokens)


def _batches(pieces: Iterable[Piece]) -> Iterator[_Batch]:
    marks, texts, size = [], [], 0
    for piece in pieces:
        marks.append((len(piece.text.encode()), piece.ends, piece.logprob))
        texts.append(piece.text)
        size += len(piece.text)
        if size >= BATCH_CHARACTERS or len(texts) >= BATCH_PIECES:
            yield marks, texts
            marks, texts, size = [], [], 0
    if texts:
        yield marks, texts


def _pieces(stream: Iterable[Piece], tokenizer: PreTrainedTokenizerBase) -> Iterator[Piece]:
    """Yield long documents in pieces if that does not change this tokenizer's ids, else whole documents."""
    pattern = json.loads(tokenizer.backend_tokenizer.to_str())
    split = pattern["pre_tokenizer"] or {}
    if (
        pattern["normalizer"] is None
        and split.get("type") == "ByteLevel"
        and split.get("use_regex")
        and not split.get("add_prefix_space")
    ):
        return documents.whole_words(stream)
    return (Piece(whole.text, whole.source_index, True, whole.logprob) for whole in documents.joined(stream))


def _evaluation(
    recipe: CorpusRecipe,
    shards: dict[str, TokenShards],
    tokenizer: PreTrainedTokenizerBase,
    held_out_in_training: int,
) -> CorpusEvaluation:
    train, held_out = shards["train"], shards["held_out"]
    return CorpusEvaluation(
        documents=train.documents,
        tokens=train.tokens,
        bytes=train.bytes,
        held_out_documents=held_out.documents,
        held_out_tokens=held_out.tokens,
        held_out_bytes=held_out.bytes,
        held_out_in_training=held_out_in_training,
        lost_text=train.lost_text,
        held_out_lost_text=held_out.lost_text,
        entropy_floor_bits_per_byte=held_out.entropy_floor(),
        vocab_size=len(tokenizer),
        digest=train.digest,
        held_out_digest=held_out.digest,
        documents_by_source=train.index["facts"]["documents_by_source"],
        dropped=train.index["facts"]["dropped"],
        seed=recipe.seed,
        nulls=frozenset({"entropy_floor_bits_per_byte"}),
    )


def _is_due(journal: Path) -> bool:
    try:
        return time.time() - journal.stat().st_mtime >= JOURNAL_SECONDS
    except FileNotFoundError:
        return True


def _names(stream: Stream) -> str:
    return ", ".join(source.name for source in stream.sources)
