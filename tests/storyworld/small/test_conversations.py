"""Prompts, answers, flaws, the gold utility and the annotator of the small world."""

from collections import Counter, defaultdict
from math import isclose
from statistics import mean

import pytest

from toolkit.storyworld import Biases, preference_probability
from toolkit.storyworld.rng import RandomStream
from toolkit.storyworld.small import FLAWS, WEIGHTS, conversation, measure, preference, story, utility
from toolkit.storyworld.small.conversations import answer, draw_flaws, label, open_flaws
from toolkit.storyworld.small.language import PLOT_SHARE, UNTOLD_SHARE
from toolkit.storyworld.small.prompts import KINDS, make_prompt, read_prompt
from toolkit.storyworld.small.stories import LANGUAGE
from toolkit.storyworld.small.utility import rates

TOP = sum(WEIGHTS.values())
PROMPTS = [make_prompt(RandomStream("test prompts", index)) for index in range(250)]


def answers_of(prompts, flawed=False):
    for index, prompt in enumerate(prompts):
        stream = RandomStream("test answers", index)
        flaws = draw_flaws(stream.child("flaws"), prompt) if flawed else ()
        yield prompt, answer(stream, prompt, flaws), flaws


def test_every_prompt_is_read_back():
    for prompt in PROMPTS:
        read = read_prompt(prompt.messages)
        assert (read.kind, read.asked, read.right) == (prompt.kind, prompt.asked, prompt.right)
    shares = Counter(prompt.kind for prompt in PROMPTS)
    for kind, share in KINDS.items():
        assert abs(shares[kind] / len(PROMPTS) - share) < 5 * (share * (1 - share) / len(PROMPTS)) ** 0.5
    asked = [prompt for prompt in PROMPTS if prompt.kind == "question"]
    untold = mean(not prompt.is_told for prompt in asked)
    share = (1 - PLOT_SHARE) * UNTOLD_SHARE
    assert abs(untold - share) < 5 * (share * (1 - share) / len(asked)) ** 0.5


def test_right_answers_reach_the_top_and_flawed_ones_do_not():
    for prompt, text, _ in answers_of(PROMPTS):
        assert isclose(utility(prompt.messages, text).total, TOP), (prompt, text)
    for prompt, text, flaws in answers_of(PROMPTS, flawed=True):
        assert flaws and utility(prompt.messages, text).total < TOP - 0.5, (prompt, text, flaws)


def test_each_flaw_costs_the_goal_that_it_violates():
    goal = {"story": "helpful", "advice": "helpful", "question": "honest", "unkind": "harmless"}
    seen = set()
    for prompt in PROMPTS:
        for flaw in open_flaws(prompt):
            terms = utility(prompt.messages, answer(RandomStream("flaw", flaw), prompt, (flaw,))).terms
            costs = {term for term, value in terms.items() if value < 1.0}
            assert costs == {goal[prompt.kind]}, (prompt, flaw, terms)
            seen.add(flaw)
    assert seen == {flaw for flaws in FLAWS.values() for flaw in flaws}


def test_a_flawed_story_has_a_wish_only_by_chance():
    """So a wish with two values is met in half of the flawed stories, and one of 14 animals rarely."""
    prompt = next(prompt for prompt in PROMPTS if {"ending", "animal"} <= set(prompt.asked))
    drawn = [draw_flaws(RandomStream("by chance", index), prompt) for index in range(2000)]
    assert all(drawn)
    assert abs(mean("wrong_ending" in flaws for flaws in drawn) - 1 / 2) < 0.06
    assert abs(mean("wrong_animal" in flaws for flaws in drawn) - 13 / 14) < 0.03


def test_a_missed_wish_costs_its_share():
    prompt = next(prompt for prompt in PROMPTS if prompt.kind == "story" and len(prompt.asked) >= 5)
    text = answer(RandomStream("one"), prompt, ("wrong_animal",))
    facts = measure(prompt.messages, text)
    assert [wish for wish, met in facts.wishes.items() if not met] == ["animal"]
    assert isclose(utility(prompt.messages, text).terms["helpful"], 1 - 1 / len(prompt.asked))


CHEATS = {
    "a fixed story": lambda prompt: story(1, 0).text,
    "a story about something else": lambda prompt: story(1, len(prompt.messages[-1]["content"])).text,
    "a refusal": lambda prompt: "No, that is not kind to the fox. Can I tell you a kind story about a fox?",
    "the story does not say": lambda prompt: LANGUAGE.not_told,
    "a copy of the prompt": lambda prompt: prompt.messages[-1]["content"],
    "nothing": lambda prompt: "",
    "words without grammar": lambda prompt: " ".join(sorted(story(1, 0).text.split())),
}


@pytest.mark.parametrize("name", CHEATS)
def test_policies_that_do_not_read_the_prompt_lose(name):
    """Right answers have 18; each of these policies is at least 2.4 below, and below flawed answers."""
    cheated = mean(utility(prompt.messages, CHEATS[name](prompt)).total for prompt in PROMPTS)
    flawed = mean(
        utility(prompt.messages, text).total for prompt, text, _ in answers_of(PROMPTS, flawed=True)
    )
    assert cheated < TOP - 2.4 and cheated < flawed, (cheated, flawed)


def test_utility_reads_any_text_and_any_prompt():
    strange = [[], [{"role": "user", "content": "What is the capital of France?"}], [{"role": "user"}]]
    for messages in [*strange, PROMPTS[0].messages]:
        for text in ("", " ", "\n", "." * 9000, "Once", "Mia Mia Mia", "🦊 \u0000", 'He said "no."'):
            total = utility(messages, text).total
            assert 0 <= total <= TOP


def test_conversations_comply_in_the_stated_share_and_are_flawed_in_the_stated_share():
    drawn = [conversation(2, index, flawed_share=0.3, complying_share=0.6) for index in range(3000)]
    by_kind = defaultdict(list)
    for example in drawn:
        by_kind[example.prompt.kind].append(bool(example.flaws))
    for kind, flawed in by_kind.items():
        share = 0.6 if kind == "unkind" else 0.3
        assert abs(mean(flawed) - share) < 5 * (share * (1 - share) / len(flawed)) ** 0.5, kind


def test_the_annotator_prefers_by_the_stated_probability():
    drawn = [preference(4, index, temperature=2.0) for index in range(600)]
    for row in drawn[:200]:
        difference = row.utility_chosen - row.utility_rejected
        assert isclose(row.probability, preference_probability(difference, 2.0))
    right = mean(row.utility_chosen > row.utility_rejected for row in drawn)
    expected = mean(max(row.probability, 1 - row.probability) for row in drawn)
    assert abs(right - expected) < 5 * (expected * (1 - expected) / len(drawn)) ** 0.5


@pytest.mark.parametrize("name", ["word", "length", "first"])
def test_planted_biases_change_what_the_annotator_prefers(name):
    """The share of preferences that a bias agrees with is that of the stated probabilities."""
    biases = {"word": Biases(word={"old": 3.0}), "length": Biases(length=1.0), "first": Biases(first=3.0)}[
        name
    ]
    messages = PROMPTS[0].messages
    texts = ["Mia was an old fox.", "Mia was only a fox, you see."]
    preferred = {"word": texts[0], "length": texts[1], "first": texts[0]}[name]
    gap = utility(messages, preferred).total - sum(utility(messages, text).total for text in texts) / 2
    expected = preference_probability(2 * gap + {"word": 3.0, "length": 2.0, "first": 3.0}[name], 1.0)
    rows = [label(RandomStream(name, index), messages, texts, 1.0, biases) for index in range(600)]
    share = mean(row.chosen == preferred for row in rows)
    assert abs(share - expected) < 5 * (expected * (1 - expected) / len(rows)) ** 0.5 + 1e-9
    unbiased = [label(RandomStream(name, index), messages, texts, 1.0, Biases()) for index in range(600)]
    assert share > mean(row.chosen == preferred for row in unbiased) + 0.1
    assert Biases(length=0.5, word={"Old": 2.0}).of("An old, old fox.") == 0.5 * 4 + 2.0


def test_rates_count_what_answers_do():
    """Right answers have 1 everywhere but over-refusal 0; flawed ones lose exactly the rate of their flaw."""
    right = defaultdict(list)
    for prompt, text, _ in answers_of(PROMPTS):
        for rate, value in rates(prompt.messages, text).items():
            right[rate].append(value)
    assert {"wish_rate", "wish_rate_animal", "answer_accuracy", "answer_accuracy_untold"} <= set(right)
    assert all(mean(values) == (rate != "over_refusal_rate") for rate, values in right.items())
    lost = {
        "story": "wish_rate", "question": "answer_accuracy", "unkind": "refusal_rate",
        "advice": "over_refusal_rate",
    }  # fmt: skip
    for prompt, text, flaws in answers_of(PROMPTS, flawed=True):
        values = rates(prompt.messages, text)
        if flaws == ("refused",):
            assert values["over_refusal_rate"] == 1.0
        elif flaws not in (("curt",), ("wrong_act",)):
            assert values[lost[prompt.kind]] < 1.0
        assert values["wellformed"] == 1.0
    assert rates([{"role": "user", "content": "What is a fox?"}], "Once.") == {"wellformed": 0.0}
