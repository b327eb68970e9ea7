"""Streaming text: no text is lost and no partial character is emitted."""

from __future__ import annotations

import pytest

from tests.foreign_tokenizers import unigram
from toolkit.inference.token_text import (
    StreamDecoder,
    ends_in_lone_space,
    harmless,
    token_bytes,
    token_text,
    visible,
)
from toolkit.stages.tokenizer import learn

TEXTS = ["the fox and the bear", "きつねと熊🦊🦊! é", "  two  spaces\n\n", "🦊", ""]


@pytest.fixture(scope="module")
def tokenizer():
    """Return a tokenizer that splits multi-byte characters."""
    return learn(["the fox and the bear, the fox and the hare. " * 5], vocab_size=280)


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_pieces_join_to_the_text_without_partial_characters(tokenizer, text):
    decoder, pieces = StreamDecoder(tokenizer), []
    for token in tokenizer(text)["input_ids"]:
        pieces.append(decoder.add(token))
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) + decoder.finish() == text


def test_incomplete_character_is_emitted_at_the_end(tokenizer):
    decoder = StreamDecoder(tokenizer)
    ids = tokenizer("a🦊")["input_ids"][:-1]
    assert "".join(decoder.add(token) for token in ids) == "a"
    assert decoder.finish() == "\ufffd" and decoder.finish() == ""


def test_invalid_bytes_do_not_block_streaming(tokenizer):
    ids = tokenizer("🦊")["input_ids"][:2] + tokenizer("the fox")["input_ids"]
    decoder = StreamDecoder(tokenizer)
    text = "".join(decoder.add(token) for token in ids) + decoder.finish()
    assert text.endswith("the fox") and "\ufffd" in text


def test_token_text_shows_bytes_of_partial_characters(tokenizer):
    ids = tokenizer("き")["input_ids"]
    assert [token_text(tokenizer, token) for token in ids] == ["<E3>", "<81>", "<8D>"]
    assert token_text(tokenizer, tokenizer(" the")["input_ids"][0]) == " the"
    assert token_text(tokenizer, tokenizer.eos_token_id) == "<|endoftext|>"


def test_token_text_escapes_control_characters():
    assert visible(" a\n\tb\x1b") == "·a↵→b\\x1b"
    assert harmless("a\n\x1b[2Jb\tき") == "a\n\ufffd[2Jb\tき"


def test_last_space_is_found_where_words_begin_with_one(tokenizer, tiny_tokenizer):
    assert [
        text
        for text in ("the ", "the  ", "the", "the\n", " the", " ", "")
        if ends_in_lone_space(tokenizer, text)
    ] == [
        "the ",
        "the  ",
    ]
    assert not ends_in_lone_space(tiny_tokenizer, "the ")  # a vocabulary of bytes: every space is a token


@pytest.mark.parametrize("text", ["the fox", "a きつね🦊"])
def test_the_bytes_of_tokens_join_to_the_text(tokenizer, text):
    for one, expected in ((tokenizer, text), (unigram(byte_fallback=True), f" {text}")):
        ids = one(text, add_special_tokens=False)["input_ids"]
        assert b"".join(token_bytes(one, token) for token in ids).decode() == expected


def test_tokens_of_sentencepiece_have_their_space_and_their_bytes():
    tokenizer = unigram(byte_fallback=True)
    ids = tokenizer("a é", add_special_tokens=False)["input_ids"]
    texts = [token_text(tokenizer, token) for token in ids]
    assert texts == [" ", "a", " ", "<C3>", "<A9>"]
