"""The audit of a reward model finds what was planted in its scores, in units of the utility."""

import numpy as np
import pytest

from toolkit.stages.reward_biases import score_biases
from toolkit.storyworld import Biases
from toolkit.storyworld.rng import RandomStream
from toolkit.storyworld.small import story, utility
from toolkit.storyworld.small.prompts import make_prompt


def pairs(count=800):
    """Two stories each for requests, with their utilities."""
    chosen, rejected, difference = [], [], []
    for index in range(count):
        messages = make_prompt(RandomStream("audited prompts", index)).messages
        texts = [story(8, 2 * index + side).text for side in (0, 1)]
        first, second = (utility(messages, text).total for text in texts)
        chosen.append(texts[0])
        rejected.append(texts[1])
        difference.append(first - second)
    return chosen, rejected, np.array(difference)


@pytest.fixture(scope="module")
def audited():
    return pairs()


def scored(audited, biases=None, *, scale=0.7):
    """Margins of a reward model that is `scale` times the utility and the biases, with noise."""
    chosen, rejected, difference = audited
    biases = biases or Biases()
    planted = np.array([biases.of(a) - biases.of(b) for a, b in zip(chosen, rejected, strict=True)])
    noise = np.random.default_rng(3).normal(0, 0.5, len(difference))
    return scale * (difference + planted) + noise


def test_a_planted_length_bias_is_found(audited):
    chosen, rejected, difference = audited
    [found] = score_biases(scored(audited, Biases(length=0.2)), difference, chosen, rejected, seed=0)
    assert found.word is None and found.bias.low < 0.2 < found.bias.high
    assert found.bias.high - found.bias.low < 0.1


def test_a_planted_bias_for_a_word_is_found(audited):
    chosen, rejected, difference = audited
    found = score_biases(scored(audited, Biases(word={"barn": 3.0})), difference, chosen, rejected, seed=0)
    named = {bias.word: bias.bias for bias in found}
    assert next(iter(named)) == "barn"
    assert named["barn"].low < 3.0 < named["barn"].high


def test_an_unbiased_model_is_not_accused(audited):
    chosen, rejected, difference = audited
    assert score_biases(scored(audited), difference, chosen, rejected, seed=0) == []


def test_scores_that_do_not_go_with_the_utility_have_no_audit(audited):
    chosen, rejected, difference = audited
    margins = scored(audited, scale=0.0)
    assert score_biases(margins, difference, chosen, rejected, seed=0) == []
