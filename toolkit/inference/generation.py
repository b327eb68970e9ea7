"""Answers to one prompt, for `toolkit generate`, `toolkit chat` and the Python interface."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from toolkit.base.errors import ToolkitError
from toolkit.base.rng import derive
from toolkit.data.chat import template
from toolkit.inference import sampling
from toolkit.inference.opening import OpenModel


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are sampled: as in `toolkit.inference.sampling.SamplingSettings`, and the seed."""

    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def for_model(self, opened: OpenModel, room: int | None = None) -> dict[str, Any]:
        """Return the keyword arguments of `sampling.generate`, without the seed.

        Args:
            room: tokens left in the context, None without a limit.
        """
        limit = self.max_new_tokens if room is None else min(self.max_new_tokens, room)
        return {
            "max_new_tokens": limit,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "end_id": opened.stop_tokens.ids,
            "pad_id": opened.tokenizer.pad_token_id,
        }


@dataclass(frozen=True)
class GeneratedAnswer:
    """An answer: its text, its token ids without the stop token, and whether the model ended it."""

    text: str
    ids: list[int]
    ended: bool


def generate_answers(
    opened: OpenModel, prompt_ids: list[int], *, settings: GenerationSettings, count: int
) -> tuple[list[GeneratedAnswer], GenerationSettings]:
    """Sample `count` answer a prompt, each from its own random stream of the seed.

    Returns:
        The answers, and the settings with the `max_new_tokens` that fit in the context.

    Raises:
        ToolkitError: the prompt fills the context.
    """
    limit = opened.context_length
    if limit is not None and len(prompt_ids) >= limit:
        raise ToolkitError(
            f"the prompt has {len(prompt_ids)} tokens and the model's context {limit}",
            fix="shorten the prompt",
        )
    keywords = settings.for_model(opened, None if limit is None else limit - len(prompt_ids))
    seeds = [derive(settings.seed, "generate", number) for number in range(count)]
    sampled = sampling.generate(opened.model, [prompt_ids] * count, seed=seeds, **keywords)
    texts = [template.decode_answer(opened.tokenizer, ids) for ids in sampled.ids]
    answers = [GeneratedAnswer(*fields) for fields in zip(texts, sampled.ids, sampled.ended, strict=True)]
    return answers, replace(settings, max_new_tokens=keywords["max_new_tokens"])
