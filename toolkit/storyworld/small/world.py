"""The small world: its rows, digest and gold utility."""

from toolkit.storyworld.rng import RandomStream
from toolkit.storyworld.rows import (
    Row,
    conversation_row,
    identity_of,
    preference_row,
    prompt_row,
    story_row,
)
from toolkit.storyworld.small.conversations import conversation, preference
from toolkit.storyworld.small.prompts import make_prompt
from toolkit.storyworld.small.stories import LANGUAGE, document
from toolkit.storyworld.small.utility import WEIGHTS, rates, utility
from toolkit.storyworld.world import RowSource, World

VERSION = 4
"""Version of the data set; it increases with every change of a row."""
DIGEST = "b500826baf262618f3a8514dec7e6374ba49a6be6c1354966b1e63ea7bea2884"
"""Digest of this version's rows (`World.compute_digest`)."""


def _story(seed: int, index: int, options: dict) -> Row:
    drawn = document(seed, index)
    return story_row(drawn.text, drawn.logprob)


def _conversation(seed: int, index: int, options: dict) -> Row:
    drawn = conversation(seed, index, **options)
    return conversation_row(drawn.prompt.messages, drawn.answer, drawn.flaws)


def _preference(seed: int, index: int, options: dict) -> Row:
    return preference_row(preference(seed, index, **options))


def _prompt(seed: int, index: int, options: dict) -> Row:
    return prompt_row(make_prompt(RandomStream("small", "prompts", seed, index)).messages)


def _turn(seed: int, index: int, options: dict) -> Row:
    drawn = conversation(seed, index)
    turns = [message["content"] for message in drawn.prompt.messages] + [drawn.answer]
    chosen = RandomStream("small", "turns", seed, index).choose(turns)
    return drawn.prompt.messages, {"text": chosen}


SMALL = World(
    name="small",
    version=VERSION,
    digest=DIGEST,
    sources={
        "stories": RowSource(_story),
        "conversations": RowSource(_conversation, ("flawed_share", "complying_share")),
        "preferences": RowSource(_preference, ("temperature",)),
        "prompts": RowSource(_prompt),
        "turns": RowSource(_turn),
    },
    utility=utility,
    weights=WEIGHTS,
    identity=lambda: identity_of(LANGUAGE.lexicons),
    rates=rates,
)
