"""Kinds of words of documents, and the surprise of a model about them."""

from __future__ import annotations

import math

import pytest

from tests.pretrain.conftest import write_part
from toolkit.config.schema import ModelSettings
from toolkit.data.text.shards import TokenShards
from toolkit.models.gpt2 import build
from toolkit.pretrain.surprise import DOCUMENTS, KnownDocuments
from toolkit.stages.tokenizer import learn
from toolkit.storyworld.small.stories import document, next_token_truth
from toolkit.storyworld.small.word_kinds import KINDS, kinds_of

TEXT = (
    "A story about an owl who hides a drum. The owl is called Ada.\n"
    "There was once a young owl named Ada. One day she wanted to trick Hugo the goat. "
    "She hid his drum beside the garden and told a lie. It ended badly: Hugo never saw the drum again. "
    "Ada the owl went home sad.\n"
    "What kind of animal was Ada? Ada was an owl."
)


@pytest.fixture(scope="module")
def tokenizer():
    """A tokenizer in which most words of the world are single tokens."""
    return learn([document(0, index).text for index in range(300)], vocab_size=700)


def test_kinds_follow_from_what_is_certain_and_from_the_lexicons(tokenizer):
    encoded = tokenizer(TEXT, add_special_tokens=False, return_offsets_mapping=True)
    spans = encoded["offset_mapping"]
    truths = next_token_truth(tokenizer)(TEXT)
    kinds = kinds_of(TEXT, spans, truths)
    assert len(kinds) == len(truths) == len(spans) + 1

    def kind(word: str, nth: int = 0) -> str:
        """Return the kind of the nth mention of a word."""
        place = [at for at in range(len(TEXT)) if TEXT.startswith(word, at)][nth] + len(word)
        return next(kind for kind, (_, end) in zip(kinds, spans, strict=False) if end >= place)

    assert (kind("owl"), kind("owl", 1), kind("drum"), kind("drum", 1)) == (
        "wording", "repeat", "choice", "repeat")  # "an owl": the only animal with "an"  # fmt: skip
    assert (kind("she"), kind("his"), kind("trick"), kind("is called")) == (
        "pronoun", "pronoun", "wording", "wording")  # fmt: skip
    assert (kind("goat"), kind("Ada", 4)) == ("choice", "answer")
    assert kinds[-1] == "wording"  # the text must end here
    assert {*kinds} == {*KINDS}


def test_the_surprise_of_an_untrained_model_is_that_of_chance(tokenizer, tmp_path):
    write_part(tmp_path, tokenizer, [document(1, index).text for index in range(DOCUMENTS + 2)])
    known = KnownDocuments.of(TokenShards.open(tmp_path), tokenizer, window=256)
    assert known is not None and len(known.ids) == DOCUMENTS
    settings = ModelSettings(n_layer=1, n_head=2, n_embd=16, n_positions=256)
    model = build(settings, vocab_size=len(tokenizer), seed=0, end_id=tokenizer.eos_token_id,
                  pad_id=tokenizer.pad_token_id)  # fmt: skip
    surprise = known.surprise(model, window=256)
    assert [*surprise] == [*KINDS]
    assert sum(found.n for found in surprise.values()) == sum(len(kinds) for kinds in known.kinds)
    for kind, found in surprise.items():
        assert found.model == pytest.approx(math.log(len(tokenizer)), abs=0.3)
        assert (found.truth > 0.3) if kind == "choice" else found.truth == pytest.approx(0, abs=1e-5)


def test_other_text_has_no_known_documents(tokenizer, tmp_path):
    for name, texts in (("other", ["the river sings"]), ("mixed", [document(1, 0).text, "the river sings"])):
        write_part(tmp_path / name, tokenizer, texts)
        assert KnownDocuments.of(TokenShards.open(tmp_path / name), tokenizer, window=256) is None
    write_part(tmp_path / "long", tokenizer, [document(1, 0).text])
    assert KnownDocuments.of(TokenShards.open(tmp_path / "long"), tokenizer, window=40) is None
