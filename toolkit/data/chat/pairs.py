"""Preferences as token ids, one way for the reward model and for DPO, and what is known of held-out ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from toolkit.base.errors import DataError
from toolkit.data.chat.rows import RowTable
from toolkit.data.chat.template import Message, example_ids, prompt_ids


@dataclass(frozen=True)
class Pair:
    """Token ids of a preference: both answers follow the same prompt and end with end-of-text."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


@dataclass
class HeldOutPairs:
    """Preferences that are never trained on, and what their makers know of them (None for real data)."""

    pairs: list[Pair] = field(default_factory=list)
    messages: list[list[Message]] = field(default_factory=list)
    probability: list[float | None] = field(default_factory=list)
    """That the noisy annotator prefers the chosen answer, as this one did."""
    utility_margin: list[float | None] = field(default_factory=list)
    """Gold utility of the chosen answer less that of the rejected one."""
    left_out: int = 0
    """Pairs that do not fit in the model."""

    def bayes_accuracy(self) -> float | None:
        """The accuracy of one who knows the true utilities, mean of max(p, 1 - p); None without them."""
        known = np.array([p for p in self.probability if p is not None])
        return float(np.maximum(known, 1 - known).mean()) if len(known) else None


def encode(
    preferences: Iterable[Mapping], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> Iterator[Pair | None]:
    """Yield the ids of each preference; None where an answer does not fit with a half-length prompt.

    A cut answer would lack its end, which the judgement may be about; so such a pair is left out.
    """
    for example in preferences:
        prompt = example["prompt"]
        head, chosen = example_ids(tokenizer, prompt, example["chosen"][0]["content"])
        _, rejected = example_ids(tokenizer, prompt, example["rejected"][0]["content"])
        room = max_length - max(len(chosen), len(rejected))
        if len(head) > room:
            if room < min(len(head), max_length // 2):
                yield None
                continue
            head = prompt_ids(tokenizer, prompt, max_tokens=room)
        yield Pair(head, chosen, rejected)


def training_pairs(
    preferences: Iterable[Mapping],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    joined: bool = False,
) -> tuple[RowTable, int]:
    """Return prompt_ids, chosen_ids and rejected_ids of each pair, and the number of pairs that do not fit.

    Args:
        joined: the prompt is the beginning of both answers, and no column of its own.
    """
    columns = ["chosen_ids", "rejected_ids"] if joined else ["prompt_ids", "chosen_ids", "rejected_ids"]
    table, left_out = RowTable(columns), 0
    for pair in encode(preferences, tokenizer, max_length=max_length):
        if pair is None:
            left_out += 1
            continue
        row = {"chosen_ids": pair.chosen, "rejected_ids": pair.rejected}
        if joined:
            table.append({name: pair.prompt + ids for name, ids in row.items()})
        else:
            table.append({"prompt_ids": pair.prompt, **row})
    if left_out and not len(table):
        raise DataError(f"not one of {left_out} preferences fits in {max_length} tokens",
                        fix="raise trainer.max_length, or take a model with more positions")  # fmt: skip
    return table, left_out


def held_out_pairs(
    preferences: Sequence[Mapping], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> HeldOutPairs:
    """Tokenize what is measured on."""
    held_out = HeldOutPairs()
    for example, pair in zip(preferences, encode(preferences, tokenizer, max_length=max_length), strict=True):
        if pair is None:
            held_out.left_out += 1
            continue
        utilities = example.get("utility_chosen"), example.get("utility_rejected")
        held_out.pairs.append(pair)
        held_out.messages.append(example["prompt"])
        held_out.probability.append(example.get("probability"))
        held_out.utility_margin.append(None if None in utilities else utilities[0] - utilities[1])
    return held_out


def wins(margins: np.ndarray) -> np.ndarray:
    """1 where the chosen answer is preferred, 0.5 at a tie, else 0; margins (pairs,)."""
    return (margins > 0) + 0.5 * (margins == 0)
