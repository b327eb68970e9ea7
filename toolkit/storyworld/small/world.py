"""The small world: its rows, digest and gold utility."""

from collections.abc import Iterator
from typing import Any

from toolkit.storyworld.annotator import Biases
from toolkit.storyworld.rng import RandomStream
from toolkit.storyworld.small.conversations import conversation, preference
from toolkit.storyworld.small.prompts import make_prompt
from toolkit.storyworld.small.stories import LANGUAGE, document, story
from toolkit.storyworld.small.utility import WEIGHTS, rates, utility
from toolkit.storyworld.world import Message, RowSource, World, assistant_turn

VERSION = 1
"""Version of the data set; it increases with every change of a row."""
DIGEST = "2bb5f84bcb9502f6d88e415af07e51905526d828fbb55ecccca9d9a007c0a94e"
"""Digest of this version's rows (`World.compute_digest`)."""


def _story_row(seed: int, index: int, options: dict) -> tuple[str, dict]:
    drawn = story(seed, index)
    text = document(drawn)
    return text, {"text": text, "logprob": drawn.logprob}


def _conversation_row(seed: int, index: int, options: dict) -> tuple[list[Message], dict]:
    drawn = conversation(seed, index, **options)
    messages = drawn.prompt.messages
    return messages, {
        "prompt": messages,
        "completion": assistant_turn(drawn.answer),
        "flaws": list(drawn.flaws),
    }


def _preference_row(seed: int, index: int, options: dict) -> tuple[list[Message], dict]:
    options = dict(options)
    if "biases" in options:
        options["biases"] = Biases(**options["biases"])
    drawn = preference(seed, index, **options)
    return drawn.messages_prompt, {
        "prompt": drawn.messages_prompt,
        "chosen": assistant_turn(drawn.chosen),
        "rejected": assistant_turn(drawn.rejected),
        "utility_chosen": drawn.utility_chosen,
        "utility_rejected": drawn.utility_rejected,
        "probability": drawn.probability,
    }


def _prompt_row(seed: int, index: int, options: dict) -> tuple[list[Message], dict]:
    messages = make_prompt(RandomStream("small", "prompts", seed, index)).messages
    return messages, {"prompt": messages}


def _turn_row(seed: int, index: int, options: dict) -> tuple[list[Message], dict]:
    drawn = conversation(seed, index)
    turns = [message["content"] for message in drawn.prompt.messages] + [drawn.answer]
    return drawn.prompt.messages, {
        "text": turns[RandomStream("small", "turns", seed, index).index(len(turns))]
    }


def _identity() -> Iterator[Any]:
    for name, lexicon in sorted(LANGUAGE.lexicons.items()):
        yield [name, lexicon.forms, lexicon.kinds, lexicon.probability]


SMALL = World(
    name="small",
    version=VERSION,
    digest=DIGEST,
    sources={
        "stories": RowSource(_story_row),
        "conversations": RowSource(_conversation_row, ("flawed_share", "complying_share")),
        "preferences": RowSource(_preference_row, ("temperature", "biases")),
        "prompts": RowSource(_prompt_row),
        "turns": RowSource(_turn_row),
    },
    utility=utility,
    weights=WEIGHTS,
    identity=_identity,
    rates=rates,
)
