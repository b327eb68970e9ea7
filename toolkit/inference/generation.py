"""`toolkit generate`: answers to one prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace

from toolkit.base.errors import ToolkitError
from toolkit.base.rng import derive
from toolkit.inference import sampling
from toolkit.inference.opening import OpenModel


@dataclass(frozen=True)
class Choice:
    """How tokens are chosen; see toolkit.inference.sampling.Sampling. The seed makes an answer repeatable."""

    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def settings(self, opened: OpenModel, room: int | None = None) -> dict[str, float | int | None]:
        """The keywords of toolkit.inference.sampling, seed apart, for a model with `room` tokens left."""
        limit = self.max_new_tokens if room is None else min(self.max_new_tokens, room)
        return {
            "max_new_tokens": limit,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "end_id": opened.end_id,
            "pad_id": opened.tokenizer.pad_token_id,
        }


@dataclass(frozen=True)
class Answer:
    """One answer: its text, its ids, and whether it ended by itself."""

    text: str
    ids: list[int]
    ended: bool


def answer(opened: OpenModel, ids: list[int], *, choice: Choice, count: int) -> tuple[list[Answer], Choice]:
    """Sample answers to a prompt, the i-th from its own stream of the seed; and the choice as it was used.

    Raises:
        ToolkitError: the prompt leaves no room for an answer.
    """
    if opened.positions is not None and len(ids) >= opened.positions:
        raise ToolkitError(
            f"the prompt has {len(ids)} tokens and the model takes {opened.positions}",
            fix="shorten the prompt",
        )
    room = None if opened.positions is None else opened.positions - len(ids)
    settings = choice.settings(opened, room)
    seeds = [derive(choice.seed, "generate", number) for number in range(count)]
    answers = sampling.generate(opened.model, [ids] * count, seed=seeds, **settings)
    texts = [opened.tokenizer.decode(one, skip_special_tokens=True) for one in answers.ids]
    results = [Answer(*parts) for parts in zip(texts, answers.ids, answers.ended, strict=True)]
    return results, replace(choice, max_new_tokens=settings["max_new_tokens"])
