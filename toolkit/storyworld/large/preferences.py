"""Preferences between two answers of the world, labeled by the annotator."""

from toolkit.storyworld.annotator import DEFAULT_TEMPERATURE, Preference, preference_probability
from toolkit.storyworld.large.conversations import Prompt, answer, draw_flaws, make_prompt
from toolkit.storyworld.large.utility import utility
from toolkit.storyworld.rng import RandomStream

DEFAULT_FLAWED_SHARE = 0.25
BOTH_FLAWLESS_SHARE = 0.05


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
