"""Signs that a training memorized its text: it went on to learn that text and got worse at other text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.base.console import tell

TOLERANCE = 1.02
"""Held-out bits per byte above this multiple of their lowest value have risen, and not by chance."""
LOSS_RATIO = 0.5
"""A loss on training text below this multiple of that on held-out text: the model knows its text by heart."""
MANY_EPOCHS = 8
"""Up to 4 epochs teach as much as new text, many more nothing (Muennighoff et al., 2023,
https://arxiv.org/abs/2305.16264). On 100 kB, recipes/own-text is best after 6 epochs, worse from 9 on."""


@dataclass(frozen=True)
class Memorization:
    """What evaluation.json records of a training that memorized its text.

    Attributes:
        lowest_bits_per_byte: of the evaluations during the training, which are on the same held-out text.
        lowest_at_tokens: tokens that the training had read then.
        train_loss: mean of the last steps, in nats per token.
        held_out_loss: of the final weights on all held-out text, in nats per token.
    """

    lowest_bits_per_byte: float
    lowest_at_tokens: int
    train_loss: float
    held_out_loss: float


def find(rows: Sequence[Mapping[str, Any]], *, held_out_loss: float) -> Memorization | None:
    """Return the signs in the lines of metrics.jsonl of a finished training; None if there are none."""
    # NaN is logged as text
    evaluations = [row for row in rows if isinstance(row.get("bits_per_byte"), float)]
    losses = [row["loss"] for row in rows if isinstance(row.get("loss"), float)]
    if not evaluations or not losses:
        return None
    lowest = min(evaluations, key=lambda row: row["bits_per_byte"])
    has_risen = evaluations[-1]["bits_per_byte"] > TOLERANCE * lowest["bits_per_byte"]
    if not has_risen and losses[-1] >= LOSS_RATIO * held_out_loss:
        return None
    return Memorization(lowest["bits_per_byte"], lowest["tokens"], losses[-1], held_out_loss)


def warn(signs: Memorization, *, bits_per_byte: float, before: float, start: str) -> None:
    """Print the signs and what to do.

    Args:
        bits_per_byte, before: of held-out text, by the final and by the initial weights.
        start: what the initial weights are.
    """
    fewer = f", or train_tokens={signs.lowest_at_tokens}" if signs.lowest_at_tokens else ""
    tell(
        "warning: the model memorized its training text. Bits per byte of held-out text: "
        f"{before:.2f} {start}, {signs.lowest_bits_per_byte:.2f} at best (after "
        f"{signs.lowest_at_tokens:,} tokens), {bits_per_byte:.2f} at the end. Loss, nats per token: "
        f"{signs.train_loss:.2f} on training text, {signs.held_out_loss:.2f} on held-out text.\n"
        f"  fix: use more text{fewer}"
    )


def report_epochs(name: str, *, corpus_tokens: int, train_tokens: int, epochs: float) -> None:
    """Print how often a training of more than one epoch reads its corpus, and warn where that is often.

    Args:
        name: of the run.
        corpus_tokens, train_tokens: tokens of the corpus, and tokens that the training reads.
    """
    if epochs <= 1:
        return
    tell(
        f"{name}: the corpus has {corpus_tokens:,} tokens and is read {epochs:.1f} times, "
        "each time in another order"
    )
    if epochs > MANY_EPOCHS:
        fewer = int(train_tokens * MANY_EPOCHS / epochs)
        tell(
            f"warning: a model that reads a text more than {MANY_EPOCHS} times learns hardly anything new "
            f"and begins to memorize it\n  fix: use more text, or about train_tokens={fewer}"
        )
