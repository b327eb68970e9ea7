"""What a tokenizer loses of a text is counted by kind; a tokenizer that loses nothing is recognised."""

from __future__ import annotations

import unicodedata

import pytest
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers

from tests.foreign_tokenizers import byte_level, unigram, wordpiece
from toolkit.data.chat.template import encode_text
from toolkit.data.text import lost_text
from toolkit.data.text.lost_text import LossCounter, keeps_every_byte

STRANGE = [
    "The Fox.", " begins with a space", "two  spaces\tand a tab\n\n", "é ë \u0301 きつね🦊 ﬁ İ", "\n",
    "</s> <unk> ▁",
]  # fmt: skip


def losses(tokenizer, *texts):
    return lost_text.lost_text(tokenizer, texts, [encode_text(tokenizer, text) for text in texts])


@pytest.mark.parametrize("split", [False, True])
def test_byte_level_bpe_is_lossless_by_construction(split):
    tokenizer = byte_level(split=split)
    assert keeps_every_byte(tokenizer)
    for text in STRANGE:  # the argument is true
        assert tokenizer.decode(encode_text(tokenizer, text)) == text
    tokenizer.decode = None  # nothing is decoded
    assert losses(tokenizer, *STRANGE) is None


def test_tokenizer_of_the_toolkit_is_lossless_by_construction(tiny_tokenizer):
    assert keeps_every_byte(tiny_tokenizer)


def removes_spaces(tokenizer):
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pieces])


def splits_away(tokenizer):
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False)
    split = pre_tokenizers.Split("\n", "removed")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pieces])


def strips_beside_a_token(tokenizer):
    tokenizer.backend_tokenizer.add_tokens([AddedToken("fox", lstrip=True, normalized=False)])


@pytest.mark.parametrize("change", [removes_spaces, splits_away, strips_beside_a_token])
def test_byte_level_bpe_that_drops_white_space_is_measured(change):
    tokenizer = byte_level()
    change(tokenizer)
    assert not keeps_every_byte(tokenizer)
    lost = losses(tokenizer, "the fox\nran")
    assert lost.characters == {"white space": 2 if change is removes_spaces else 1}


def test_byte_level_bpe_with_a_missing_byte_is_measured():
    tokenizer = byte_level()
    content = tokenizer.backend_tokenizer.to_str().replace('"a":', '"aa":', 1)
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(content)
    assert not keeps_every_byte(tokenizer)
    lost = losses(tokenizer, "abca")
    assert lost.characters == {"dropped": 2} and lost.bytes == 2 and lost.unknown_tokens == 0


def test_sentencepiece_spaces_and_byte_fallback_are_no_loss():
    tokenizer = unigram(byte_fallback=True)
    assert not keeps_every_byte(tokenizer)
    texts = [text for text in STRANGE if "▁" not in text]
    assert losses(tokenizer, *texts, "the fox", " the fox", "  two spaces") is None


def test_cleaning_of_the_decoder_alone_is_no_loss():
    tokenizer = unigram(".,'")
    tokenizer.clean_up_tokenization_spaces = True
    assert losses(tokenizer, " . ,", "' '") is None


def test_unknown_characters_are_counted():
    lost = losses(unigram(), "the fox", "きつね ran", "a 猫")
    assert lost.documents == 2 and lost.unknown_tokens == 2
    assert lost.characters == {"unknown": 4} and lost.bytes == 12


def test_every_kind_of_change_is_counted():
    text = "The Fox,  née Éclair\n"
    lost = losses(wordpiece(), text)
    assert lost.characters["case"] == 2 and lost.characters["normalised"] == 2
    assert lost.characters["white space"] >= 2 and "unknown" not in lost.characters
    assert losses(wordpiece(lowercase=False), "a b c") is None


def test_white_space_that_the_ids_do_not_tell_is_a_loss():
    tokenizer = wordpiece(lowercase=False)
    assert encode_text(tokenizer, "a.b") == encode_text(tokenizer, "a . b")
    assert losses(tokenizer, "a.b").characters == {"white space": 1}


def test_unicode_normalisation_is_counted():
    tokenizer = byte_level(normalizers.NFC())
    assert losses(tokenizer, "née") is None
    lost = losses(tokenizer, unicodedata.normalize("NFD", "née"))
    assert lost.characters == {"normalised": 2} and lost.documents == 1


def test_spelled_out_special_tokens_are_text():
    tokenizer = byte_level(normalizers.NFC())
    assert losses(tokenizer, "a</s>b") is None


def test_a_garbled_decoder_is_reported():
    tokenizer = unigram()
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    assert losses(tokenizer, "the fox").documents == 1


def test_counts_of_an_interrupted_attempt_are_added():
    first, second, whole = (LossCounter(unigram()) for _ in range(3))
    for counter, texts in ((first, ["é"]), (second, ["a", "ü ö"]), (whole, ["é", "a", "ü ö"])):
        for text in texts:
            counter.add(text, encode_text(counter.tokenizer, text))
    second.add_counted(first.result())
    assert second.result() == whole.result() != first.result()


@pytest.mark.parametrize(("lost_bytes", "changes"), [(1, True), (0, False)])
def test_a_loss_counts_where_it_could_change_what_is_shown(lost_bytes, changes):
    lost = lost_text.LostText(documents=1, unknown_tokens=0, characters={}, bytes=lost_bytes)
    assert lost_text.changes_bits_per_byte(lost, 8000) == changes
    assert not lost_text.changes_bits_per_byte(lost, 8001)
    assert not lost_text.changes_bits_per_byte(None, 1)
