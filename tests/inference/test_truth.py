"""True probabilities of storyworld text in a model's tokens."""

from __future__ import annotations

import math

import pytest

from tests.foreign_tokenizers import unigram
from toolkit.inference.truth import chances_after, truth_about
from toolkit.storyworld.small.stories import document, document_logprob

STORY = document(0, 3)


def test_the_surprise_of_a_whole_document_is_its_probability(tiny_tokenizer):
    truths = truth_about(tiny_tokenizer, STORY.text, ended=True)
    assert sum(truth.surprise for truth in truths) == pytest.approx(-document_logprob(STORY.text), rel=1e-9)
    assert len(truths) == len(STORY.text.encode()) + 1


def test_a_beginning_has_the_truth_of_the_whole_up_to_there(tiny_tokenizer):
    beginning = truth_about(tiny_tokenizer, STORY.text[:30], ended=False)
    whole = truth_about(tiny_tokenizer, STORY.text, ended=True)[:30]
    assert [one.surprise for one in beginning] == pytest.approx([one.surprise for one in whole])
    assert truth_about(tiny_tokenizer, STORY.text[:30], ended=True) is None
    ids = tiny_tokenizer(STORY.text[:30], add_special_tokens=False)["input_ids"]
    chances = chances_after(tiny_tokenizer, ids[:-1])
    assert -math.log(chances[ids[-1]]) == pytest.approx(beginning[-1].surprise)
    assert sum(chances.values()) == pytest.approx(1)


def test_other_text_and_other_tokenizers_have_no_truth(tiny_tokenizer):
    assert truth_about(tiny_tokenizer, "The capital of France", ended=False) is None
    assert chances_after(tiny_tokenizer, [250, 251]) is None
    whole = unigram()
    whole.backend_tokenizer.pre_tokenizer = None  # tokens can span words
    assert chances_after(whole, []) is None
    assert truth_about(whole, STORY.text, ended=True) is None
