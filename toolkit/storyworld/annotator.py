"""A noisy annotator of known temperature and known biases, and the Bayes accuracy of its labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp

from toolkit.storyworld.world import Message

DEFAULT_TEMPERATURE = 1.0


def words_in(answer: str) -> set[str]:
    """Return the words of an answer, in lower case and without the marks around them."""
    return {word.strip(".,!?\"'").lower() for word in answer.split()}


@dataclass(frozen=True)
class Biases:
    """What an annotator also rewards in an answer besides its utility, in units of the utility.

    Attributes:
        length: added for each word of an answer.
        first: added to the answer that is shown first.
        word: word -> what its first occurrence in an answer adds.
    """

    length: float = 0.0
    first: float = 0.0
    word: Mapping[str, float] = field(default_factory=dict)

    def of(self, answer: str) -> float:
        """Return what length and words add to the utility of an answer."""
        words = words_in(answer)
        return self.length * len(answer.split()) + sum(
            bonus for word, bonus in self.word.items() if word.lower() in words
        )

    def difference(self, answers: Sequence[str], utilities: Sequence[float]) -> float:
        """Return by how much the first of two answers is liked more than the second."""
        first, second = (value + self.of(answer) for value, answer in zip(utilities, answers, strict=True))
        return first + self.first - second


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt; ``probability`` is that of the annotator preferring the chosen answer."""

    messages_prompt: list[Message]
    chosen: str
    rejected: str
    utility_chosen: float
    utility_rejected: float
    probability: float


def preference_probability(difference: float, temperature: float) -> float:
    """Return the probability that the annotator prefers an answer whose utility is higher by ``difference``.

    Bradley-Terry: sigmoid(difference / temperature).
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    # exp of a negative number cannot overflow.
    likelier = 1.0 / (1.0 + exp(-abs(difference) / temperature))
    return likelier if difference >= 0 else 1.0 - likelier


def bayes_accuracy(utility_differences, temperature: float = DEFAULT_TEMPERATURE) -> float:
    """Return the expected accuracy of the best judge on these pairs: the mean of max(s, 1 - s).

    utility_differences: differences between the two utilities of each pair, of either sign.
    """
    scores = [
        preference_probability(abs(float(difference)), temperature) for difference in utility_differences
    ]
    if not scores:
        raise ValueError("bayes_accuracy needs at least one difference")
    return sum(scores) / len(scores)
