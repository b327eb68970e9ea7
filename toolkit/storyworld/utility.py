"""The gold utility of an answer, computed from the text of prompt and answer."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Utility:
    """The utility of an answer and its terms, each in [0, 1].

    total = sum over terms of weight * term; the world has the weights.
    """

    total: float
    terms: dict[str, float] = field(default_factory=dict)
