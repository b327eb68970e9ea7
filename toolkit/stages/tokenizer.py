"""The tokenizer stage: byte-level BPE trained on the training part of the text.

Byte-level BPE (Sennrich et al., 2016, arXiv:1508.07909; Radford et al., 2019) starts from the 256 bytes, so
that it encodes any text losslessly and needs no unknown token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from toolkit.base.console import tell
from toolkit.base.errors import DataError
from toolkit.base.progress import Progress
from toolkit.config.schema import TokenizerRecipe
from toolkit.data.chat import template
from toolkit.data.chat.report import ReadingReport
from toolkit.data.data_sources import has_held_out
from toolkit.data.text import documents
from toolkit.runs import layout
from toolkit.runs.evaluation import TokenizerEvaluation
from toolkit.runs.run import Run

FOLDER = "tokenizer"
HELD_OUT_CHARACTERS = 10_000_000
"""Held-out text for bytes per token: 10 MB take a few seconds and give four digits."""


def learn(pieces: Iterable[str], *, vocab_size: int, min_frequency: int = 2) -> PreTrainedTokenizerFast:
    """Train a tokenizer; special tokens have the ids 0 to 4 (see `toolkit.data.chat.template`).

    The result does not depend on how the text is split into pieces at white space.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(template.SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces, trainer)
    return wrap(tokenizer)


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Return a transformers tokenizer with our special tokens and chat template."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=template.END_OF_TEXT,
        eos_token=template.END_OF_TEXT,
        pad_token=template.PAD,
        extra_special_tokens=list(template.ROLE_TOKENS.values()),
        chat_template=template.CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=10**9,
    )


@dataclass
class Limited:
    """Yields the text of pieces up to a number of characters, and counts it."""

    pieces: Iterable[documents.Piece]
    max_characters: int
    documents: int = 0
    characters: int = 0
    bytes: int = 0
    cut: bool = False

    def __iter__(self) -> Iterator[str]:
        for piece in self.pieces:
            if self.characters >= self.max_characters:
                self.cut = True
                return
            text = piece.text[: self.max_characters - self.characters]
            self.cut = len(text) < len(piece.text)
            self.documents += piece.ends
            self.characters += len(text)
            self.bytes += len(text.encode())
            yield text


def run(recipe: TokenizerRecipe, run: Run) -> None:
    """Train the tokenizer, save it as `tokenizer/`, and measure bytes per token on the held-out part."""
    if not run.is_main:
        return
    stream = documents.Stream(recipe.data, part="train", seed=recipe.seed)
    limited = Limited(documents.whole_words(stream), recipe.max_characters)
    tokenizer = learn(
        _shown(limited, stream), vocab_size=recipe.vocab_size, min_frequency=recipe.min_frequency
    )
    if not limited.characters:
        raise DataError(
            "the training part has no text to learn a tokenizer from" + stream.report.in_brackets(),
            fix="give more text, or a smaller held_out share",
        )
    if len(tokenizer) < recipe.vocab_size:
        tell(
            f"tokenizer: {len(tokenizer)} entries, not {recipe.vocab_size}: no further pair occurs "
            f"{recipe.min_frequency} times in this text; give more text or a smaller vocab_size"
        )
    tokenizer.save_pretrained(run.path / FOLDER)
    report = stream.report
    held_out, held_out_tokens = _tokenize_held_out(recipe, tokenizer, report)
    evaluation = TokenizerEvaluation(
        vocab_size=len(tokenizer),
        requested_vocab_size=recipe.vocab_size,
        seed=recipe.seed,
        characters=limited.characters,
        documents=limited.documents,
        train_bytes=limited.bytes,
        bytes_per_token=held_out.bytes / held_out_tokens if held_out_tokens else None,
        held_out_documents=held_out.documents,
        held_out_bytes=held_out.bytes,
        held_out_tokens=held_out_tokens,
        data=report.as_json(),
        nulls=frozenset({"bytes_per_token"}),
    )
    run.write_json(layout.EVALUATION, evaluation.to_json())


def _tokenize_held_out(
    recipe: TokenizerRecipe, tokenizer: PreTrainedTokenizerFast, report: ReadingReport
) -> tuple[Limited, int]:
    """Return the held-out text as read to its limit, and the number of its tokens.

    Args:
        report: of the training documents; receives the counts of the held-out ones.
    """
    stream = documents.Stream(recipe.data, part="held_out", seed=recipe.seed)
    limited = Limited(documents.whole_words(stream), HELD_OUT_CHARACTERS)
    tokens = sum(len(template.encode_text(tokenizer, text)) for text in limited)
    report.add_held_out(stream.report)
    if report.held_out:
        ReadingReport(held_out=report.held_out).print()
    if not tokens:
        tell(
            "tokenizer: no held-out rows (held_out: none), so bytes per token are not measured"
            if not has_held_out(recipe.data)
            else "tokenizer: the held-out part is empty, so bytes per token are not measured; "
            "one long text can be split with held_out: {last_characters: 0.1}"
        )
    return limited, tokens


def _shown(limited: Limited, stream: documents.Stream) -> Iterator[str]:
    _, total, unit = stream.progress()
    if unit == "byte" and total > limited.max_characters:
        total, unit = limited.max_characters, "character"
    with Progress("tokenizer: reading", total, unit) as progress:
        for text in limited:
            yield text
            share = max(limited.characters / limited.max_characters, stream.fraction())
            progress.update(min(int(total * share), total - 1), documents=limited.documents)
        progress.update(total, documents=limited.documents)
    stream.report.print()
    if limited.cut:
        tell(f"tokenizer: only the first {limited.characters:,} characters are read (max_characters)")
    tell(f"tokenizer: merging pairs of {limited.characters:,} characters")
