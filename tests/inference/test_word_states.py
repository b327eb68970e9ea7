"""The states of a word are found in each sentence and compared as cosines."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.architectures import build_architecture
from tests.foreign_tokenizers import unigram
from toolkit.base.errors import ToolkitError
from toolkit.inference.layer_states import layer_states
from toolkit.inference.opening import OpenModel
from toolkit.inference.word_states import cosine_matrix, word_places, word_states


@pytest.fixture
def opened(tiny_model, tiny_tokenizer):
    return OpenModel(tiny_model, tiny_tokenizer, False)


@pytest.mark.parametrize(
    ("sentence", "word", "expected"),
    [
        ("the bank", "bank", "bank"),
        ("Bankers at the Bank.", "bank", "Bank"),
        ("a bank, a bank!", "bank", "bank"),
        ("橋を渡る", "橋", "橋"),
        ("the bankers", "bank", "bank"),
    ],
    ids=["end", "case", "twice", "japanese", "inside"],
)
def test_the_tokens_of_a_word_are_found(opened, sentence, word, expected):
    ids, places = word_places(opened, sentence, word, where="here")
    assert opened.tokenizer.decode([ids[place] for place in places]) == expected
    assert places == list(range(places[0], places[-1] + 1))
    assert places[-1] == max(place for place in range(len(ids)) if place <= places[-1])
    start = sentence.lower().rindex(word)
    assert opened.tokenizer.decode(ids[1 : places[0]]) == sentence[:start]


def test_spaces_before_a_word_belong_to_its_token(tiny_tokenizer):
    tokenizer = unigram()
    opened = OpenModel(build_architecture("llama", tokenizer), tokenizer, False)
    ids, places = word_places(opened, "a bank", "bank", where="here")
    assert "".join(tokenizer.convert_ids_to_tokens([ids[place] for place in places])).lstrip("▁") == "bank"


def test_a_sentence_without_the_word_is_named(opened):
    with pytest.raises(ToolkitError, match="there is no 'bank'") as raised:
        word_states(opened, "bank", [["a bank", "the bank"], ["my bank", "a river"]])
    assert raised.value.where == "sense 2, sentence 2"
    with pytest.raises(ToolkitError, match="more than the model's 64"):
        word_states(opened, "bank", [["a " * 40 + "bank", "the bank"], ["my bank", "your bank"]])


def test_cosines_are_those_of_the_mean_states_of_the_word(opened):
    senses = [["on the bank", "at a bank"], ["his bank", "that old bank"]]
    found = word_states(opened, "bank", senses)
    sentences = [sentence for sense in senses for sentence in sense]
    for layer in range(3):
        means = []
        for sentence in sentences:
            states = layer_states(opened.model, opened.text_ids(sentence)).states[layer].double().numpy()
            means.append([sum(column) / 4 for column in zip(*states[-4:], strict=True)])
        for i, a in enumerate(means):
            for j, b in enumerate(means):
                product = sum(x * y for x, y in zip(a, b, strict=True))
                length = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
                assert found.cosines[layer][i, j] == pytest.approx(product / length, abs=1e-6)
    assert found.first == 0 and len(found.test.differences) == 3
    within = (found.cosines[2][0, 1] + found.cosines[2][2, 3]) / 2
    assert found.test.differences[2].within == pytest.approx(within)
    assert [opened.tokenizer.decode(tokens) for tokens in found.tokens] == ["bank"] * 4


def test_what_stands_after_a_word_does_not_change_its_state(opened):
    found = word_states(
        opened, "bank", [["the bank of a river", "the bank"], ["the bank is shut", "the bank!"]]
    )
    assert all(matrix == pytest.approx(1, abs=1e-6) for matrix in found.cosines)
    assert found.test.p_value == 1


def test_a_state_of_zeros_has_no_direction():
    assert cosine_matrix(np.array([[0.0, 0.0], [3.0, 4.0]])).tolist() == [[0, 0], [0, 1]]
