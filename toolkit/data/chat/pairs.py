"""Preferences as token ids for reward models and DPO, and held-out preferences with their utilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from toolkit.base.errors import DataError
from toolkit.base.progress import slowly
from toolkit.data.chat.fitting import TooLong, common_prefix, example_ids, learned_spans, prompt_ids, shorten
from toolkit.data.chat.report import LengthReport
from toolkit.data.chat.rows import RowTable
from toolkit.data.chat.template import Message, RenderedDifferently

CONTEXTS = ("chosen_context", "rejected_context")
"""Columns of `Pair.contexts`."""


@dataclass(frozen=True)
class Pair:
    """Token ids of a preference; both answers follow the same prompt and end with end-of-text.

    Attributes:
        chosen, rejected: the answer, or the turns from the first different message to the last answer.
        contexts: of these, the positions that no assistant wrote: the turns between several answers. A policy
            is not scored on them.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    contexts: tuple[list[int], list[int]] = ([], [])


@dataclass
class HeldOutPairs:
    """Held-out preferences, with the true utilities of storyworld's (None for other data).

    Attributes:
        messages: the prompts as text.
        answers: the chosen and the rejected answers as text; of several, the last one.
        probability: with which the noisy annotator prefers the chosen answer.
        utility_margin: true utility of the chosen answer minus that of the rejected one.
        lengths: what did not fit.
    """

    lengths: LengthReport

    pairs: list[Pair] = field(default_factory=list)
    messages: list[list[Message]] = field(default_factory=list)
    answers: list[tuple[str, str]] = field(default_factory=list)
    probability: list[float | None] = field(default_factory=list)
    utility_margin: list[float | None] = field(default_factory=list)

    def rows(self) -> list[list[int]]:
        """Return prompt and chosen answer of each pair."""
        return [pair.prompt + pair.chosen for pair in self.pairs]

    def bayes_accuracy(self) -> float | None:
        """Return the best possible accuracy, mean of max(p, 1 - p); None without probabilities."""
        probability = np.array([p for p in self.probability if p is not None])
        return float(np.maximum(probability, 1 - probability).mean()) if len(probability) else None


def encode(
    preferences: Iterable[Mapping],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    lengths: LengthReport | None = None,
) -> Iterator[Pair | None]:
    """Yield the ids of each preference, None if an answer does not fit with a prompt of half the length.

    Answers are never truncated, because the preference may depend on their end; the prompt is.

    Args:
        lengths: counts what does not fit, and what the chat template renders differently.

    Raises:
        RenderedDifferently: without `lengths`, a prompt is rendered differently once an answer follows.
    """
    for example in preferences:
        messages, sides = example["prompt"], [example[side] for side in ("chosen", "rejected")]
        try:
            pair = _pair(tokenizer, messages, *sides)
        except RenderedDifferently:
            if lengths is None:
                raise
            lengths.add(rendered_differently=True)
            yield None
            continue
        room = max_length - max(len(pair.chosen), len(pair.rejected))
        is_long = len(pair.prompt) > room
        is_left_out = is_long and room < min(len(pair.prompt), max_length // 2)
        if is_long and not is_left_out:
            try:
                pair = _pair(tokenizer, shorten(tokenizer, messages, max_tokens=room), *sides)
            except TooLong:
                is_left_out = True
        if lengths is not None:
            lengths.add(shortened=is_long and not is_left_out, left_out=is_left_out)
        yield None if is_left_out else pair


def _pair(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    chosen: Sequence[Message],
    rejected: Sequence[Message],
) -> Pair:
    """Return the ids of a pair; a token that merges with one of the answers belongs to both."""
    if len(chosen) > 1 or len(rejected) > 1:
        return _pair_of_turns(tokenizer, prompt, chosen, rejected)
    (head, first), (other, second) = (example_ids(tokenizer, prompt, side[0]) for side in (chosen, rejected))
    shared = common_prefix(head, other)
    return Pair(head[:shared], head[shared:] + first, other[shared:] + second)


def _pair_of_turns(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    chosen: Sequence[Message],
    rejected: Sequence[Message],
) -> Pair:
    """Return the ids of a pair whose conversations differ before the last turn."""
    known = [{**message, "learned": False} for message in prompt]
    shown, wholes, scored = prompt_ids(tokenizer, prompt), [], []
    for side in (chosen, rejected):
        before = [*known, *({**message, "learned": True} for message in side[:-1])]
        head, answer = example_ids(tokenizer, before, side[-1])
        spans = [*learned_spans(tokenizer, before, head + answer), slice(len(head), len(head + answer))]
        wholes.append(head + answer)
        scored.append({position for span in spans for position in range(span.start, span.stop)})
    shared = min(common_prefix(shown, whole) for whole in wholes)
    contexts = tuple(
        [position - shared for position in range(shared, len(whole)) if position not in positions]
        for whole, positions in zip(wholes, scored, strict=True)
    )
    return Pair(shown[:shared], wholes[0][shared:], wholes[1][shared:], contexts)


def training_pairs(
    preferences: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    joined: bool = False,
) -> tuple[RowTable, LengthReport]:
    """Return the columns prompt_ids, chosen_ids and rejected_ids, and what did not fit.

    Without `joined`, there are also the columns of CONTEXTS if a conversation has several answers.

    Args:
        preferences: with or without a column margin.
        joined: for reward models: prepend the prompt to both answers instead of storing it in a column, and
            keep the margin, 0 in rows without one.

    Raises:
        DataError: no pair fits.
    """
    columns = (
        ["chosen_ids", "rejected_ids"] if joined else ["prompt_ids", "chosen_ids", "rejected_ids", *CONTEXTS]
    )
    has_margin = joined and "margin" in preferences.column_names
    table = RowTable(columns, ["margin"] if has_margin else [])
    lengths = LengthReport(max_length)
    pairs = encode(preferences, tokenizer, max_length=max_length, lengths=lengths)
    rows = zip(preferences, pairs, strict=True)
    for example, pair in slowly(rows, "pairs as tokens", total=len(preferences), unit="pair"):
        if pair is None:
            continue
        row = {"chosen_ids": pair.chosen, "rejected_ids": pair.rejected}
        if joined:
            margin = {"margin": example["margin"] or 0.0} if has_margin else {}
            table.append({name: pair.prompt + ids for name, ids in row.items()}, **margin)
        else:
            table.append(
                {"prompt_ids": pair.prompt, **row, **dict(zip(CONTEXTS, pair.contexts, strict=True))}
            )
    if lengths.rendered_differently and not len(table):
        raise RenderedDifferently(
            "the chat template renders every prompt differently once an answer follows it",
            where=tokenizer.name_or_path or None,
            fix="fine-tune the model with another chat_template first: chatml or toolkit",
        )
    if lengths.left_out and not len(table):
        raise DataError(f"none of {lengths.rows} preferences fits in {max_length} tokens",
                        fix="raise trainer.max_length, or use a model with a longer context")  # fmt: skip
    return table, lengths


def held_out_pairs(
    preferences: Sequence[Mapping], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> HeldOutPairs:
    """Tokenize held-out preferences."""
    held_out = HeldOutPairs(LengthReport(max_length))
    pairs = encode(preferences, tokenizer, max_length=max_length, lengths=held_out.lengths)
    rows = zip(preferences, pairs, strict=True)
    for example, pair in slowly(rows, "held-out pairs as tokens", total=len(preferences), unit="pair"):
        if pair is None:
            continue
        utilities = example.get("utility_chosen"), example.get("utility_rejected")
        held_out.pairs.append(pair)
        held_out.messages.append(example["prompt"])
        held_out.answers.append((example["chosen"][-1]["content"], example["rejected"][-1]["content"]))
        held_out.probability.append(example.get("probability"))
        held_out.utility_margin.append(None if None in utilities else utilities[0] - utilities[1])
    return held_out


def wins(margins: np.ndarray) -> np.ndarray:
    """Return 1 for each positive margin, 0.5 for a tie, else 0, (pairs,)."""
    return (margins > 0) + 0.5 * (margins == 0)
