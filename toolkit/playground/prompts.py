"""The prompts on which answers are compared, where nobody types one.

They are of the training part of the data: votes are what a model is trained on, and the held-out part is what
it is evaluated on.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.config.schema import DataSource
from toolkit.data import files
from toolkit.playground.worlds import world_of
from toolkit.storyworld import get_world

Message = dict[str, str]
WORLD_PROMPTS = 2000
"""Of a world, where no file of prompts is given."""


def read_file(name: str) -> list[list[Message]]:
    """Return the training prompts of a file, or of a Hub dataset, that holds prompts or conversations.

    Raises:
        DataError: it cannot be read.
    """
    from toolkit.data.chat import sources  # imports `datasets`, which takes 1 to 2 s

    return [list(row["prompt"]) for row in sources.prompts(DataSource(name=name), part="train", seed=0)]


def world_of_models(names: Sequence[str]) -> str | None:
    """Return the storyworld that a model was trained on, the first that is found; None if there is none.

    Args:
        names: runs, folders or Hub ids.
    """
    worlds = (world_of(name) for name in names)
    return next((world.name for world in worlds if world is not None), None)


def of_world(name: str) -> list[list[Message]]:
    """Return training prompts of a world."""
    return [row["prompt"] for row in get_world(name).rows("prompts", 0, "train", WORLD_PROMPTS)]


def check_file(name: str) -> None:
    """Refuse a file that does not exist or has another format, without reading it.

    Raises:
        DataError: as `files.resolve`.
    """
    files.resolve(DataSource(name=name))
