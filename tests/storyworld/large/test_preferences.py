"""The gold utility cannot be had cheaply, and the annotator is as noisy as it says."""

import time
from collections import defaultdict
from math import exp, isclose
from statistics import mean

import pytest

from toolkit.storyworld import bayes_accuracy, preference_probability
from toolkit.storyworld.large import FLAWS, LARGE, WEIGHTS, conversation, preference, utility

TOP = sum(WEIGHTS.values())
CONVERSATIONS = [conversation(8, index) for index in range(700)]
UTILITIES = [utility(each.messages_prompt, each.answer) for each in CONVERSATIONS]
PREFERENCES = [preference(8, index) for index in range(1000)]


def test_flawless_answers_reach_the_top_and_terms_are_shares():
    for each, found in zip(CONVERSATIONS, UTILITIES, strict=True):
        assert set(found.terms) == set(WEIGHTS)
        assert all(0.0 <= value <= 1.0 for value in found.terms.values())
        assert isclose(found.total, sum(WEIGHTS[term] * value for term, value in found.terms.items()))
        assert isclose(found.total, TOP) == (not each.flaws), (each, found)


def test_each_flaw_costs():
    costs = defaultdict(list)
    for each, found in zip(CONVERSATIONS, UTILITIES, strict=True):
        if len(each.flaws) == 1:
            costs[each.flaws[0]].append(TOP - found.total)
    assert set(costs) == set(FLAWS)
    for flaw, cost in costs.items():
        assert min(cost) >= 0.9 and 1.0 <= mean(cost) <= 4.0, flaw


FLAWLESS = [each.answer for each in CONVERSATIONS if not each.flaws and len(each.messages_prompt) == 1]
FLAWLESS_END = FLAWLESS[3].split(". ")[-1]
DEGENERATE = {
    "empty": lambda prompt: "",
    "blank": lambda prompt: " \n",
    "copied prompt": lambda prompt: prompt[-1]["content"],
    "constant story": lambda prompt: FLAWLESS[0],
    "another constant story": lambda prompt: FLAWLESS[7],
    "long gibberish": lambda prompt: "lorem ipsum dolor sit amet " * 80,
    "gibberish of the right length": lambda prompt: " ".join(f"word{index}" for index in range(60)) + ".",
    "right length and ending only": lambda prompt: (
        " ".join(f"a{index} b c" for index in range(20)) + ". " + FLAWLESS_END
    ),
    "stuffed keywords": lambda prompt: "fox key fox key fox key" * 8,
    "the prompt's words, stuffed": lambda prompt: " ".join([prompt[-1]["content"].rstrip("?.")] * 5) + ".",
    "endings only": lambda prompt: " ".join([FLAWLESS_END] * 8),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_policies_lose_clearly_to_flawed_stories(name):
    policy = mean(
        utility(each.messages_prompt, DEGENERATE[name](each.messages_prompt)).total for each in CONVERSATIONS
    )
    flawed = [found.total for each, found in zip(CONVERSATIONS, UTILITIES, strict=True) if each.flaws]
    assert policy < mean(flawed) - 2.0
    assert policy < sorted(flawed)[len(flawed) // 10]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "?!",
        '"',
        "\x00\ud800",
        "\u732b\u304c\u597d\u304d\u3002" * 100,
        "A. " * 3000,
        "a" * 100_000,
        "Mira " * 9000,
        "Once there was a",
        "\n\n\n",
        "[|]{}",
        "He She His Her.",
    ],
)
def test_any_text_has_a_utility_soon(text):
    prompts = [
        CONVERSATIONS[0].messages_prompt,
        [],
        [{"role": "user", "content": text}],
        [
            {"role": "user", "content": text},
            {"role": "assistant", "content": text},
            {"role": "user", "content": "Who was lost?"},
        ],
    ]
    began = time.process_time()
    for prompt in prompts:
        assert 0.0 <= utility(prompt, text).total < 0.8 * TOP
    assert time.process_time() - began < 0.5


def test_utility_takes_a_millisecond():
    answers = [
        (each.messages_prompt, conversation(80, index).answer)
        for index, each in enumerate(CONVERSATIONS[:100])
    ]
    began = time.process_time()
    for prompt, text in answers:
        utility(prompt, text)
    assert (time.process_time() - began) / len(answers) < 0.003  # typically 0.0006; shared machines vary


def test_surrounding_space_does_not_matter():
    for each, found in zip(CONVERSATIONS[:20], UTILITIES, strict=False):
        assert utility(each.messages_prompt, f"  {each.answer}\n") == found


def test_term_shares_sum_to_one_and_no_term_has_it_all():
    chosen = [utility(each.messages_prompt, each.chosen) for each in PREFERENCES[:300]]
    rejected = [utility(each.messages_prompt, each.rejected) for each in PREFERENCES[:300]]
    for shares in (LARGE.term_shares(UTILITIES), LARGE.term_shares(chosen, rejected)):
        assert isclose(sum(shares.values()), 1.0)
        assert max(shares.values()) < 0.6 and min(shares.values()) > 0.01
        assert shares["length"] + shares["ending"] < 0.45
    assert set(LARGE.term_shares([UTILITIES[0]]).values()) == {0.0}
    with pytest.raises(ValueError):
        LARGE.term_shares([])


def test_preferences_are_what_they_say():
    for each in PREFERENCES:
        assert each.chosen != each.rejected
        difference = each.utility_chosen - each.utility_rejected
        assert isclose(each.probability, preference_probability(difference, 1.0))
    for each in PREFERENCES[:50]:
        assert isclose(each.utility_chosen, utility(each.messages_prompt, each.chosen).total)
        assert isclose(each.utility_rejected, utility(each.messages_prompt, each.rejected).total)
    assert preference(8, 3) == PREFERENCES[3]


def test_labels_agree_with_the_bayes_accuracy():
    differences = [each.utility_chosen - each.utility_rejected for each in PREFERENCES]
    expected = bayes_accuracy(differences)
    assert 0.85 <= expected <= 0.92
    agreed = mean(1.0 if each > 0 else 0.5 if each == 0 else 0.0 for each in differences)
    assert abs(agreed - expected) < 4 * (expected * (1 - expected) / len(differences)) ** 0.5


def test_temperature_makes_labels_noisier():
    hot = [preference(8, index, temperature=8.0) for index in range(300)]
    differences = [each.utility_chosen - each.utility_rejected for each in hot]
    expected = bayes_accuracy(differences, 8.0)
    assert expected < 0.65
    agreed = mean(1.0 if each > 0 else 0.5 if each == 0 else 0.0 for each in differences)
    assert abs(agreed - expected) < 4 * (expected * (1 - expected) / len(differences)) ** 0.5
    cold = [preference(8, index, temperature=1e-3) for index in range(100)]
    assert all(each.utility_chosen >= each.utility_rejected for each in cold)


def test_preference_probability_by_hand():
    assert preference_probability(0.0, 1.0) == 0.5
    assert isclose(preference_probability(1.5, 0.5), 1 / (1 + exp(-3)))
    assert isclose(preference_probability(-1.5, 0.5), 1 / (1 + exp(3)))
    assert preference_probability(1e6, 1e-6) == 1.0 and preference_probability(-1e6, 1e-6) == 0.0
    assert isclose(bayes_accuracy([1.0, -1.0, 0.0]), (2 / (1 + exp(-1)) + 0.5) / 3)
    with pytest.raises(ValueError, match="temperature"):
        preference_probability(1.0, 0.0)
    with pytest.raises(ValueError, match="at least one"):
        bayes_accuracy([])


def test_which_text_came_first_does_not_tell_the_label():
    # Chosen and rejected are both flawless about as often as their probabilities say, not by position.
    better = mean(each.utility_chosen > each.utility_rejected for each in PREFERENCES)
    assert 0.8 < better < 0.95
