"""Answers to one prompt, for `toolkit generate`, `toolkit chat` and the Python interface."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from transformers import GenerationConfig

from toolkit.base.errors import ToolkitError
from toolkit.base.rng import derive
from toolkit.data.chat import answer_end
from toolkit.inference import sampling
from toolkit.inference.opening import OpenModel

DEFAULTS: dict[str, float | int] = {"temperature": 0.8, "top_k": 0, "top_p": 1.0}
"""Of models that have no sampling settings of their own."""
NOT_APPLIED = ("repetition_penalty", "min_p", "typical_p", "no_repeat_ngram_size")
"""Sampling settings of transformers that the toolkit does not have."""


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are sampled: as in `toolkit.inference.sampling.SamplingSettings`, and the seed.

    None stands for the model's own setting (see `for_opened`).
    """

    max_new_tokens: int = 200
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def for_opened(self, opened: OpenModel) -> GenerationSettings:
        """Return the settings without None: the model's own, or those of DEFAULTS if it has none."""
        own = own_sampling(getattr(opened.model, "generation_config", None))
        return replace(self, **{name: own[name] for name in DEFAULTS if getattr(self, name) is None})

    def for_model(self, opened: OpenModel, room: int | None = None) -> dict[str, Any]:
        """Return the keyword arguments of `sampling.generate`, without the seed.

        Args:
            room: tokens left in the context, None without a limit.
        """
        if None in (self.temperature, self.top_k, self.top_p):
            return self.for_opened(opened).for_model(opened, room)
        limit = self.max_new_tokens if room is None else min(self.max_new_tokens, room)
        return {
            "max_new_tokens": limit,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "end_id": opened.stop_tokens.ids,
            "pad_id": opened.tokenizer.pad_token_id,
        }


def own_sampling(config: GenerationConfig | None) -> dict[str, float | int]:
    """Return the sampling settings of a model's generation_config.json, or DEFAULTS if it has none.

    If it has some, the others are those that change nothing. A value that cannot be used is left out, and so
    is `do_sample`: a temperature without it, which several chat models ship, is meant for sampling.
    """
    own = {
        name: type(default)(value)
        for name, default in DEFAULTS.items()
        if _is_usable(name, value := getattr(config, name, None))
    }
    return {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **own} if own else DEFAULTS


def own_sampling_note(opened: OpenModel, given: GenerationSettings) -> str | None:
    """Return the line about settings that come from the model and not from the user; None without any."""
    config = getattr(opened.model, "generation_config", None)
    own = [name for name in DEFAULTS if getattr(config, name, None) is not None]
    used = [name for name in own if getattr(given, name) is None]
    if not used:
        return None
    values = own_sampling(config)
    usable = [name for name in used if _is_usable(name, getattr(config, name))]
    parts = [f"{name} {values[name]:g}" for name in usable]
    wrong = [f"{name} {getattr(config, name)!r}" for name in used if name not in usable]
    ignored = [f"{name} {value}" for name in NOT_APPLIED if (value := getattr(config, name, None))]
    note = f"as the model's generation_config.json says: {', '.join(parts)}" if parts else ""
    if wrong:
        note += f"{'; ' if note else ''}its {', '.join(wrong)} cannot be used"
    return note + (f"; {', '.join(ignored)} is not applied" if ignored else "")


def _is_usable(name: str, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if name == "top_k" else int | float):
        return False
    return {"temperature": 0 <= value < math.inf, "top_k": value >= 0, "top_p": 0 < value <= 1}[name]


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
        The answers, and the settings that were used, with the `max_new_tokens` that fit in the context.

    Raises:
        ToolkitError: the prompt fills the context.
    """
    settings, limit = settings.for_opened(opened), opened.context_length
    if limit is not None and len(prompt_ids) >= limit:
        raise ToolkitError(
            f"the prompt has {len(prompt_ids)} tokens and the model's context {limit}",
            fix="shorten the prompt",
        )
    keywords = settings.for_model(opened, None if limit is None else limit - len(prompt_ids))
    seeds = [derive(settings.seed, "generate", number) for number in range(count)]
    sampled = sampling.generate(opened.model, [prompt_ids] * count, seed=seeds, **keywords)
    texts = [answer_end.decode_answer(opened.tokenizer, ids) for ids in sampled.ids]
    answers = [GeneratedAnswer(*fields) for fields in zip(texts, sampled.ids, sampled.ended, strict=True)]
    return answers, replace(settings, max_new_tokens=keywords["max_new_tokens"])
