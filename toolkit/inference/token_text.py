"""Tokens as readable text: split characters, visible white space, and streamed decoding."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:  # importing it takes 3 s
    from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"
LONE_SPACE = (
    "warning: the text ends in a space. This tokenizer makes a space and the word after it one token: "
    "the model has hardly ever seen a space alone. Leave it out"
)
VISIBLE = {" ": "·", "\n": "↵", "\t": "→", "\r": "←"}


@cache
def byte_characters() -> dict[str, int]:
    """Return {character: byte} of the alphabet in which byte-level BPE writes its tokens.

    The printable bytes of Latin-1 are written as themselves, the other 68 as the characters from U+0100 on
    (Radford et al., 2019; `bytes_to_unicode` of https://github.com/openai/gpt-2/blob/master/src/encoder.py).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _decoded(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Return the text of a token with its space, which SentencePiece's decoders drop where a text begins."""
    text, piece = tokenizer.decode([token]), tokenizer.convert_ids_to_tokens(token)
    has_space = str(piece).startswith("▁") and not text.startswith((" ", "▁"))
    return " " + text if has_space else text


def _part_of_character(tokenizer: PreTrainedTokenizerBase, token: int, text: str) -> bytes | None:
    """Return the bytes of a token that is part of a multi-byte character, else None."""
    if REPLACEMENT not in text:
        return None
    alphabet, piece = byte_characters(), tokenizer.convert_ids_to_tokens(token)
    if fallback := re.fullmatch("<0x([0-9A-F]{2})>", piece):  # SentencePiece's byte fallback
        return bytes.fromhex(fallback[1])
    if not all(character in alphabet for character in piece):
        return None
    return bytes(alphabet[character] for character in piece)


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Return the text of a token; part of a multi-byte character as its bytes, such as `<E3 81>`."""
    text = _decoded(tokenizer, token)
    part = _part_of_character(tokenizer, token, text)
    return text if part is None else f"<{part.hex(' ').upper()}>"


def token_bytes(tokenizer: PreTrainedTokenizerBase, token: int) -> bytes:
    """Return the bytes of a token; of part of a multi-byte character those that it stands for."""
    text = _decoded(tokenizer, token)
    part = _part_of_character(tokenizer, token, text)
    return text.encode() if part is None else part


def ends_in_lone_space(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Return whether a text ends in a space that is a token of its own; see `LONE_SPACE`."""
    words = text.rstrip(" ")
    if not words or words == text:
        return False
    last = tokenizer(text, add_special_tokens=False)["input_ids"][-1]
    return not token_text(tokenizer, last).strip(" ") and _has_words_with_space(tokenizer)


_with_space: WeakKeyDictionary[PreTrainedTokenizerBase, bool] = WeakKeyDictionary()


def _has_words_with_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a space and a word are one token; listing 150,000 tokens takes 0.1 s."""
    if tokenizer not in _with_space:
        # Ġ is the space of byte-level BPE, ▁ that of SentencePiece.
        _with_space[tokenizer] = any(len(token) > 1 and token[0] in "Ġ▁" for token in tokenizer.get_vocab())
    return _with_space[tokenizer]


def visible(text: str) -> str:
    """Return the text with visible symbols for spaces, line ends and other invisible characters."""
    shown = "".join(VISIBLE.get(character, character) for character in text)
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in shown)


def harmless(text: str) -> str:
    """Return the text without control characters, so that a model's output cannot control a terminal."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else REPLACEMENT for c in text)


class StreamDecoder:
    """Decodes a stream of tokens to text without splitting characters.

    The bytes of a character may be spread over several tokens: text is returned once it is complete, and as
    replacement characters only at the end of the stream. Tokens are decoded together with the piece before
    them, because some tokenizers drop the space of the first token of a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context, self._shown = 0, 0  # ids from _context are decoded, those before _shown were returned

    def add(self, token: int) -> str:
        """Return the text that this token completes, possibly empty."""
        self._ids.append(int(token))
        before, now = self._decode(self._ids[self._context : self._shown]), self._decode(self._rest())
        if now.endswith(REPLACEMENT) or len(now) <= len(before):
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return now[len(before) :]

    def finish(self) -> str:
        """Return the remaining text: an incomplete character."""
        before, now = self._decode(self._ids[self._context : self._shown]), self._decode(self._rest())
        self._context = self._shown = len(self._ids)
        return now[len(before) :]

    def _rest(self) -> list[int]:
        return self._ids[self._context :]

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)
