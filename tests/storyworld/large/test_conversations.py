"""Requests, questions, answers and their flaws."""

from collections import Counter

import pytest

from toolkit.storyworld.large import FLAWS, conversation, story_logprob
from toolkit.storyworld.large.conversations import (
    QUESTION_FLAWS,
    RAMBLING_WORDS,
    STORY_FLAWS,
    answer,
    make_prompt,
    word_range,
)
from toolkit.storyworld.large.lexicon import LEXICONS
from toolkit.storyworld.large.requests import read_question, read_request, request
from toolkit.storyworld.large.stories import reader
from toolkit.storyworld.reading import split_sentences
from toolkit.storyworld.rng import RandomStream

CONVERSATIONS = [conversation(4, index) for index in range(900)]
PROMPTS = [make_prompt(RandomStream("test prompts", index)) for index in range(300)]


def test_requests_are_read_back():
    for index in range(300):
        text, asked = request(RandomStream("requests", index))
        assert read_request(text) == asked, text


def test_requests_are_many():
    texts = {request(RandomStream("many", index))[0] for index in range(2000)}
    # By birthday: fewer than 4% repeats among 2,000 draws means an effective number above 50,000.
    assert len(texts) > 1960


def test_free_requests_are_read_by_their_words():
    asked = read_request("pls do a SHORT thing with an owl that found one music box, happy ending")
    assert asked == {"animal": "owl", "object": "music box", "ending": "well", "length": "short"}
    name = LEXICONS["name"].keys[0]
    assert read_request(f"Something sad at the end about {name}. It ends badly. Someone called {name}.") == {
        "hero": name,
        "ending": "badly",
    }
    assert read_request("") == {} == read_request("\u732b" * 5000)


def test_flawless_answers_do_as_asked():
    for prompt in PROMPTS:
        text = answer(RandomStream("flawless", prompt.messages[0]["content"]), prompt)
        if prompt.told is not None:
            assert text == prompt.right_answer
            continue
        found = reader.read(text)
        assert story_logprob(text) is not None and found.conflicts == 0
        assert all(found.facts[role] == word for role, word in prompt.asked.items() if role != "length")
        fewest, most = word_range(prompt.asked)
        assert fewest <= len(text.split()) <= most


def test_conversations_have_the_stated_shares():
    questions = [each for each in CONVERSATIONS if len(each.messages_prompt) == 3]
    assert 0.14 < len(questions) / len(CONVERSATIONS) < 0.26
    assert 0.44 < sum(bool(each.flaws) for each in CONVERSATIONS) / len(CONVERSATIONS) < 0.56
    assert not any(conversation(4, index, flawed_share=0.0).flaws for index in range(20))
    assert all(conversation(4, index, flawed_share=1.0).flaws for index in range(20))
    for each in CONVERSATIONS:
        roles = [message["role"] for message in each.messages_prompt]
        assert roles in (["user"], ["user", "assistant", "user"]) and each.answer


def test_flaws_are_balanced():
    counts = Counter(flaw for each in CONVERSATIONS if len(each.messages_prompt) == 1 for flaw in each.flaws)
    assert set(counts) == set(STORY_FLAWS)
    assert max(counts.values()) < 2.2 * min(counts.values()), counts
    assert {flaw for each in CONVERSATIONS for flaw in each.flaws} == set(FLAWS)


def _facts_of(flaw):
    prompts = [prompt for prompt in PROMPTS if prompt.told is None and flaw in prompt.open_flaws][:40]
    return [
        (prompt, answer(RandomStream(flaw, index), prompt, (flaw,))) for index, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("role", ["animal", "object", "ending"])
def test_wrong_answers_are_wrong_in_that_and_nothing_else(role):
    for prompt, text in _facts_of(f"wrong_{role}"):
        found = reader.read(text)
        wrong = {
            asked
            for asked, word in prompt.asked.items()
            if asked != "length" and found.facts.get(asked) != word
        }
        assert wrong == {role} and found.conflicts == 0


def test_switched_name_is_another_of_the_same_kind_later():
    for _, text in _facts_of("switched_name"):
        found = reader.read(text)
        assert found.conflicts >= 1 and None not in found.kinds


def test_missing_ending_breaks_off():
    for _, text in _facts_of("missing_ending"):
        assert not text.endswith(".") and reader.read(text).kinds[-1] is None


def test_repeated_sentence_is_there_twice():
    for _, text in _facts_of("repeated_sentence"):
        sentences = split_sentences(text)
        assert len(sentences) == len(set(sentences)) + 1


def test_garbled_sentences_are_no_sentences_of_the_world():
    for _, text in _facts_of("garbled"):
        kinds = reader.read(text).kinds
        assert 1 <= kinds.count(None) <= len(kinds) / 2 and kinds[0] is not None and kinds[-1] is not None


def test_rambling_is_long_without_repeating_itself():
    for _, text in _facts_of("rambling"):
        sentences = split_sentences(text)
        assert len(text.split()) >= RAMBLING_WORDS and len(sentences) == len(set(sentences))
        assert reader.read(text).conflicts == 0


def test_questions_are_answered_from_the_story():
    asked = [prompt for prompt in PROMPTS if prompt.told is not None]
    assert len(asked) > 30
    for index, prompt in enumerate(asked):
        question = read_question(
            prompt.messages[-1]["content"], reader.read(prompt.messages[1]["content"]).facts
        )
        assert question.right == prompt.right_answer and question.is_right(prompt.right_answer)
        wrong = answer(RandomStream("wrong", index), prompt, ("wrong_answer",))
        assert wrong != prompt.right_answer and not question.is_right(wrong), wrong
        for flaw in prompt.open_flaws:
            assert flaw in QUESTION_FLAWS
            assert answer(RandomStream(flaw, index), prompt, (flaw,)) != prompt.right_answer
    assert read_question("What is love?", asked[0].told) is None
