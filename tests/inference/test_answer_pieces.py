"""Stop strings: found across tokens, and never shown in part."""

from __future__ import annotations

import pytest

from toolkit.inference import answer_pieces
from toolkit.inference.answer_pieces import StopFilter, pieces
from toolkit.inference.engine import Finished, Token


def answering(monkeypatch, texts: list[str], end: str = "") -> list[Token]:
    tokens = [Token(number, text) for number, text in enumerate(texts)]
    monkeypatch.setattr(
        answer_pieces, "answer", lambda *_, **__: iter([*tokens, Finished("length", end, len(tokens))])
    )
    return tokens


def read(stops: list[str]) -> tuple[str, list[int], Finished | None, list[str]]:
    found = list(pieces(None, [0], settings=None, stream=("x",), stops=stops))
    ids = [token.id for piece in found for token in piece.tokens]
    return "".join(piece.text for piece in found), ids, found[-1].finished, [piece.text for piece in found]


def test_without_stop_strings_every_token_is_a_piece(monkeypatch):
    answering(monkeypatch, ["a", "", "é", " b"], end="\ufffd")
    text, ids, end, texts = read([])
    assert (text, ids, end.reason) == ("aé b\ufffd", [0, 1, 2, 3], "length")
    assert texts == ["a", "", "é", " b", "\ufffd"]


@pytest.mark.parametrize(
    ("texts", "stops", "expected", "ids"),
    [
        (["one", " STOP", " two"], ["STOP"], "one ", [0, 1]),
        (["one S", "TO", "P two"], ["STOP"], "one ", [0]),
        (["one", "STO", "RM"], ["STOP"], "oneSTORM", [0, 1, 2]),
        (["aab"], ["ab"], "a", [0]),
        (["a", "aab"], ["aab", "ab"], "a", [0]),
        (["x\n", "\ny"], ["\n\n"], "x", [0]),
        (["STOP"], ["STOP"], "", []),
        (["end ST"], ["STOP"], "end ST", [0]),
    ],
)
def test_an_answer_ends_before_the_first_stop_string(monkeypatch, texts, stops, expected, ids):
    answering(monkeypatch, texts)
    text, found, end, _ = read(stops)
    assert (text, found) == (expected, ids)
    assert end.reason == ("stop" if any(stop in "".join(texts) for stop in stops) else "length")


def test_text_is_held_back_only_while_it_may_begin_a_stop_string(monkeypatch):
    answering(monkeypatch, ["a", "S", "T", "x", "S"])
    assert read(["STOP"])[3] == ["a", "STx", "S"]


def test_any_split_of_a_text_gives_the_same_answer():
    text, stops = "ab abcab abcabd more", ["abcabd", "bd m"]
    for size in range(1, 9):
        found, final = StopFilter(stops), ""
        for start in range(0, len(text), size):
            part, stopped = found.add(text[start : start + size])
            final += part
            if stopped:
                break
        assert (final, stopped) == ("ab abcab ", True)
