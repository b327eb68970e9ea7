"""The true probabilities of text of the small storyworld, in a model's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from toolkit.storyworld.next_token import NextTokenTruth, TokenTruth
from toolkit.storyworld.small.stories import next_token_truth

_truths: WeakKeyDictionary[PreTrainedTokenizerBase, NextTokenTruth | None] = WeakKeyDictionary()


def chances_after(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> dict[int, float] | None:
    """Return token -> probability that it follows the first tokens of a document.

    None if no document of the small storyworld begins with them.

    Args:
        ids: without the token that starts a text.
    """
    truth = _truth(tokenizer)
    try:
        return None if truth is None else truth.after(ids)
    except ValueError:
        return None


def truth_about(tokenizer: PreTrainedTokenizerBase, text: str, *, ended: bool) -> list[TokenTruth] | None:
    """Return the truth about each token of a text, and about the end after it if it has `ended`.

    None if the text is not a document of the small storyworld, or the beginning of one.
    """
    truth = _truth(tokenizer)
    try:
        return None if truth is None else truth(text, ended=ended)
    except ValueError:
        return None


def _truth(tokenizer: PreTrainedTokenizerBase) -> NextTokenTruth | None:
    if tokenizer not in _truths:
        try:
            _truths[tokenizer] = next_token_truth(tokenizer)
        except ValueError:  # it does not split texts into words
            _truths[tokenizer] = None
    return _truths[tokenizer]
