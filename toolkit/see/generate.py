"""`toolkit generate`: answers to one prompt."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import asdict, dataclass, replace

from toolkit import sampling
from toolkit.recipe.errors import ToolkitError, UsageError
from toolkit.runs.streams import derive
from toolkit.see.opening import OpenModel, open_model, tell
from toolkit.see.text import harmless


@dataclass(frozen=True)
class Choice:
    """How tokens are chosen; see toolkit.sampling.Sampling. The seed makes an answer repeatable."""

    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def settings(self, opened: OpenModel, room: int | None = None) -> dict[str, float | int | None]:
        """The keywords of toolkit.sampling, seed apart, for a model with `room` tokens left."""
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


def generate_command(
    model: str, prompt: str, *, choice: Choice, count: int = 1, chat: bool | None = None, json: bool = False
) -> int:
    """Print `count` answers on stdout, what is to be said about them on stderr.

    `chat` puts the prompt into the chat template, False continues it as plain text; by default a model that
    was trained on conversations is asked, and another one continues.
    """
    if count < 1:
        raise UsageError("--n must be at least 1")
    opened = open_model(model)
    if chat and not opened.tokenizer.chat_template:
        raise UsageError("the model has no chat template", where=model, fix="use --raw to continue the text")
    chat = opened.converses if chat is None else chat
    answers, choice = answer(opened, opened.prompt_ids(prompt, chat=chat), choice=choice, count=count)
    if json:
        about = {"model": model, "prompt": prompt, "chat": chat, "settings": asdict(choice)}
        print(json_format.dumps({**about, "answers": [asdict(one) for one in answers]}, ensure_ascii=False))
        return 0
    tell("answering in the chat template; --raw continues the text" if chat else "continuing the text")
    for number, one in enumerate(answers):
        if count > 1:
            tell(f"-- {number + 1} of {count}")
        print(harmless(one.text) if sys.stdout.isatty() else one.text, flush=True)
        if not one.ended:
            tell(f"cut off after {len(one.ids)} tokens")
    return 0


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
