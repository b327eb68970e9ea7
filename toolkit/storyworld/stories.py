"""A story as every world tells it."""

from dataclasses import dataclass

from toolkit.storyworld.grammar import Roles


@dataclass(frozen=True)
class Story:
    """A story, the natural log of its probability as a complete document, and its roles."""

    text: str
    logprob: float
    roles: Roles
