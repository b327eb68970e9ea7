"""The large world: its rows, digest and gold utility."""

from collections.abc import Iterator
from typing import Any

from toolkit.storyworld.large.conversations import conversation, make_prompt
from toolkit.storyworld.large.lexicon import DIGEST, LEXICONS, VERSION
from toolkit.storyworld.large.preferences import preference
from toolkit.storyworld.large.stories import document, story
from toolkit.storyworld.large.utility import WEIGHTS, utility
from toolkit.storyworld.rng import RandomStream
from toolkit.storyworld.world import Message, RowSource, World, assistant_turn


def _story_row(seed: int, index: int, options: dict) -> tuple[str, dict]:
    drawn = story(seed, index)
    text = document(drawn)
    return text, {"text": text, "logprob": drawn.logprob}


def _conversation_row(seed: int, index: int, options: dict) -> tuple[list[Message], dict]:
    drawn = conversation(seed, index, **options)
    return drawn.messages_prompt, {
        "prompt": drawn.messages_prompt,
        "completion": assistant_turn(drawn.answer),
        "flaws": list(drawn.flaws),
    }


def _preference_row(seed: int, index: int, options: dict) -> tuple[list[Message], dict]:
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
    messages = make_prompt(RandomStream("prompts", seed, index)).messages
    return messages, {"prompt": messages}


def _identity() -> Iterator[Any]:
    for name, lexicon in sorted(LEXICONS.items()):
        yield [name, lexicon.forms, lexicon.kinds, lexicon.probability]


LARGE = World(
    name="large",
    version=VERSION,
    digest=DIGEST,
    sources={
        "stories": RowSource(_story_row),
        "conversations": RowSource(_conversation_row, ("flawed_share",)),
        "preferences": RowSource(_preference_row, ("flawed_share", "temperature")),
        "prompts": RowSource(_prompt_row),
    },
    utility=utility,
    weights=WEIGHTS,
    identity=_identity,
)
