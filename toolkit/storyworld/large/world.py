"""The large world: its rows, digest and gold utility."""

from toolkit.storyworld.large.conversations import conversation, make_prompt
from toolkit.storyworld.large.lexicon import DIGEST, LEXICONS, VERSION
from toolkit.storyworld.large.preferences import preference
from toolkit.storyworld.large.stories import document, story
from toolkit.storyworld.large.utility import WEIGHTS, utility
from toolkit.storyworld.rng import RandomStream
from toolkit.storyworld.rows import (
    Row,
    conversation_row,
    identity_of,
    preference_row,
    prompt_row,
    story_row,
)
from toolkit.storyworld.world import RowSource, World


def _story(seed: int, index: int, options: dict) -> Row:
    drawn = story(seed, index)
    return story_row(document(drawn), drawn.logprob)


def _conversation(seed: int, index: int, options: dict) -> Row:
    drawn = conversation(seed, index, **options)
    return conversation_row(drawn.messages_prompt, drawn.answer, drawn.flaws)


def _preference(seed: int, index: int, options: dict) -> Row:
    return preference_row(preference(seed, index, **options))


def _prompt(seed: int, index: int, options: dict) -> Row:
    return prompt_row(make_prompt(RandomStream("prompts", seed, index)).messages)


LARGE = World(
    name="large",
    version=VERSION,
    digest=DIGEST,
    sources={
        "stories": RowSource(_story),
        "conversations": RowSource(_conversation, ("flawed_share",)),
        "preferences": RowSource(_preference, ("flawed_share", "temperature")),
        "prompts": RowSource(_prompt),
    },
    utility=utility,
    weights=WEIGHTS,
    identity=lambda: identity_of(LEXICONS),
)
