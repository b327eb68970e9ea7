"""The corpus stage: tokenizes text to memory-mapped shards of a training and a held-out part; resumable.

corpus/tokenizer/                  the tokenizer
corpus/train/  corpus/held_out/    the shards, which depend neither on interruptions nor on `workers`
.../journal.json                   the state to resume from; removed once the part is complete
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

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
from toolkit.data.text.shards import INDEX, TokenShards, TokenWriter
from toolkit.models import tokenizer_loading
from toolkit.runs import layout
from toolkit.runs.evaluation import CorpusEvaluation
from toolkit.runs.run import Run
from toolkit.runtime import hardware

FOLDER = layout.CORPUS
PARTS: tuple[Part, ...] = ("train", "held_out")
BATCH_CHARACTERS = 1 << 20
BATCH_PIECES = 2048
JOURNAL_SECONDS = 5.0
"""Time between journals, and the most work that a kill loses; writing one takes about 10 ms."""
_Mark = tuple[int, bool, float | None]
"""Bytes of a piece's text, whether the piece ends its document, and the document's logprob."""


def run(recipe: CorpusRecipe, run: Run) -> None:
    """Write the shards of both parts and evaluation.json, on rank 0 only."""
    if not run.is_main:
        return
    folder = run.path / FOLDER
    tokenizer = load_tokenizer(run.reference(recipe.tokenizer))
    tokenizer.save_pretrained(folder / "tokenizer")
    shards: dict[str, TokenShards] = {}
    seen = {part: NormalisedTexts() for part in PARTS}
    for part in PARTS:
        began = time.monotonic()
        shards[part] = _write_part(recipe, part, folder=folder / part, tokenizer=tokenizer, seen=seen)
        run.metrics.log(
            PARTS.index(part),
            part=part,
            tokens=shards[part].tokens,
            documents=shards[part].documents,
            seconds=round(time.monotonic() - began, 3),
        )
    evaluation = _evaluation(recipe, shards, tokenizer, _held_out_in_training(recipe, seen))
    if evaluation.held_out_in_training:
        count = f"{evaluation.held_out_in_training:,} of {evaluation.held_out_documents:,} held-out documents"
        tell(
            f"warning: {count} are also in the training part, apart from case and white space: losses of the "
            "held-out part are too low"
        )
    run.write_json(layout.EVALUATION, evaluation.to_json())


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


def begin_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that a tokenizer puts in front of a text; None if there is none, or end-of-text."""
    bos = tokenizer.bos_token_id
    if bos is None or bos == tokenizer.eos_token_id:
        return None
    return bos if tokenizer("a")["input_ids"][:1] == [bos] else None


def _write_part(
    recipe: CorpusRecipe,
    part: Part,
    *,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    seen: Mapping[Part, NormalisedTexts],
) -> TokenShards:
    journal = folder / layout.JOURNAL
    if (folder / INDEX).exists():
        shards = TokenShards.open(folder)
        changed = shards.verify()
        if changed:
            raise RunError(
                "this file was changed since it was written",
                where=str(folder / changed[0]),
                fix="start over with --fresh",
            )
        journal.unlink(missing_ok=True)
        return shards
    begun = run_files.read_json(journal) if journal.exists() else None
    stream = Stream(recipe.data, part=part, seed=recipe.seed)
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
    batches = _batches(islice(_pieces(seen[part].watch(stream), tokenizer), done, None))
    results = encode_in_order(
        batches, tokenizer=tokenizer.backend_tokenizer, workers=recipe.workers or hardware.cores()
    )
    for count in _append(results, writer, stream=stream, description=f"corpus: {part}"):
        done += count
        if _is_due(journal):
            run_files.write_json(journal, {"pieces": done, "writer": writer.state()})
    if not writer.documents:
        raise DataError(
            f"the {part.replace('_', '-')} part has no document",
            where=_names(stream),
            fix="hold out the end of one long text, held_out: {last_characters: 0.1}; "
            "of few documents a larger share, held_out: {documents: 0.3}",
        )
    writer.finish(
        {
            "documents_by_source": [stream.documents[i] for i in range(len(stream.sources))],
            "dropped": dict(stream.dropped),
        }
    )
    journal.unlink(missing_ok=True)
    return TokenShards.open(folder)


def _held_out_in_training(recipe: CorpusRecipe, seen: Mapping[Part, NormalisedTexts]) -> int:
    """Return the number of held-out texts in the training part; those of earlier attempts are read again."""
    for part, texts in seen.items():
        if not len(texts):
            for _ in texts.watch(Stream(recipe.data, part=part, seed=recipe.seed)):
                pass
    return seen["held_out"].count_in(seen["train"])


def _append(
    results: Iterable[tuple[list[_Mark], Encoded]], writer: TokenWriter, *, stream: Stream, description: str
) -> Iterator[int]:
    """Write the encoded batches with a progress bar, and yield the number of pieces of each."""
    _, total, unit = stream.progress()
    first_tokens, began = writer.tokens, time.monotonic()
    with Progress(description, total, unit) as progress:
        for marks, (ids, lengths) in results:
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


def _batches(pieces: Iterable[Piece]) -> Iterator[tuple[list[_Mark], list[str]]]:
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
