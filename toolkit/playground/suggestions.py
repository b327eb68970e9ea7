"""Prompts that a model of the storyworld understands, for people who do not know what to ask it.

They are held out: no run was trained on them.
"""

from __future__ import annotations

from toolkit.playground.library import Entry
from toolkit.playground.worlds import world_of

COUNT = 5
DRAWN = 60
"""Rows among which prompts that begin differently are looked for."""
SEED = 1
WORDS = 3
"""Prompts that begin with the same words are alike."""
BEGINNING_WORDS = 6
"""Words of a story that a pretrained model continues."""


def suggestions(entry: Entry) -> list[str]:
    """Return prompts for a model: questions, or beginnings of stories for one that was only pretrained.

    Empty for a model that was not trained on a world.
    """
    world = world_of(entry.reference)
    if world is None:
        return []
    if entry.stage == "pretrain":
        texts = [row["text"] for row in world.rows("stories", SEED, "held_out", DRAWN)]
        return _different([" ".join(text.split()[:BEGINNING_WORDS]) for text in texts])
    rows = [row["prompt"] for row in world.rows("prompts", SEED, "held_out", DRAWN)]
    return _different([messages[0]["content"] for messages in rows if len(messages) == 1])


def _different(texts: list[str]) -> list[str]:
    """Return the first texts that begin with different words."""
    found = {" ".join(text.split()[:WORDS]): text for text in reversed(texts)}
    chosen = set(found.values())
    return [text for text in dict.fromkeys(texts) if text in chosen][:COUNT]
