"""A noisy annotator of known temperature, and the Bayes accuracy of its labels."""

from dataclasses import dataclass
from math import exp

from toolkit.storyworld.conversations import Message, Prompt, answer, draw_flaws, make_prompt
from toolkit.storyworld.rng import RandomStream
from toolkit.storyworld.utility import utility

DEFAULT_TEMPERATURE = 1.0
DEFAULT_FLAWED_SHARE = 0.25
BOTH_FLAWLESS_SHARE = 0.05


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


def preference(
    seed: int,
    index: int,
    temperature: float = DEFAULT_TEMPERATURE,
    flawed_share: float = DEFAULT_FLAWED_SHARE,
) -> Preference:
    """Return preference ``index`` of a seed.

    flawed_share: share of the pairs in which both answers are flawed; of the others, a share of
    BOTH_FLAWLESS_SHARE has two flawless answers, and the rest has exactly one flawed answer.
    """
    stream = RandomStream("preferences", seed, index)
    prompt = make_prompt(stream.child("prompt"))
    first, second = _pair(stream, prompt, flawed_share)
    if stream.uniform() < 0.5:
        first, second = second, first
    utilities = [utility(prompt.messages, text).total for text in (first, second)]
    probability = preference_probability(utilities[0] - utilities[1], temperature)
    if stream.uniform() >= probability:
        first, second, probability = second, first, 1.0 - probability
        utilities.reverse()
    return Preference(prompt.messages, first, second, utilities[0], utilities[1], probability)


def _pair(stream: RandomStream, prompt: Prompt, flawed_share: float) -> tuple[str, str]:
    """Return two different answers; in the rare case of equal texts, texts and flaws are redrawn."""
    attempt = 0
    while True:
        draw = stream.child(attempt)
        kind = draw.uniform()
        flaws: list[tuple[str, ...]] = [(), ()]
        if kind < flawed_share:
            flaws = [draw_flaws(draw, prompt, 1), draw_flaws(draw, prompt, 2 + draw.index(2))]
        elif kind < flawed_share + (1.0 - flawed_share) * (1.0 - BOTH_FLAWLESS_SHARE):
            flaws = [(), draw_flaws(draw, prompt, 1 + draw.index(3))]
        texts = [answer(draw.child(side), prompt, flaws[side]) for side in (0, 1)]
        if texts[0] != texts[1]:
            return texts[0], texts[1]
        attempt += 1
