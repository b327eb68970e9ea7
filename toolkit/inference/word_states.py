"""How similar the states of one word are in different sentences, layer by layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.base.errors import ToolkitError
from toolkit.inference.layer_states import layer_states
from toolkit.inference.opening import OpenModel
from toolkit.stats.permutation import GroupTest, group_test


@dataclass(frozen=True)
class WordStates:
    """A word in the sentences of two senses.

    Attributes:
        first: number of layers before the first matrix; 0 if that is the embeddings.
        cosines: of each layer, (sentences, sentences) float64; the sentences of the first sense come first.
        test: the difference of each layer, within a sense and across.
        tokens: ids of the word in each sentence.
    """

    first: int
    cosines: list[np.ndarray]
    test: GroupTest
    tokens: list[list[int]]


def word_states(
    opened: OpenModel, word: str, senses: Sequence[Sequence[str]], *, seed: int = 0
) -> WordStates:
    """Compare the states of a word in the sentences of two senses, each sentence a text of its own.

    The state of a word of several tokens is the mean of their states. Whether the senses differ is tested by
    a permutation test of each layer.

    Raises:
        ToolkitError: a sentence does not contain the word or is longer than the context.
    """
    vectors, tokens, first = [], [], 0
    for sense, sentences in enumerate(senses, 1):
        for number, sentence in enumerate(sentences, 1):
            where = f"sense {sense}, sentence {number}"
            ids, places = word_places(opened, sentence, word, where=where)
            found = layer_states(opened.model, ids)
            first = found.first
            vectors.append([state[places].cpu().double().mean(dim=0).numpy() for state in found.states])
            tokens.append([ids[place] for place in places])
    cosines = [cosine_matrix(np.array(layer)) for layer in zip(*vectors, strict=True)]
    return WordStates(first, cosines, group_test(cosines, len(senses[0]), seed=seed), tokens)


def cosine_matrix(vectors: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows, (rows, rows); 0 with a row of zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return np.clip(units @ units.T, -1.0, 1.0)


def word_places(opened: OpenModel, sentence: str, word: str, *, where: str) -> tuple[list[int], list[int]]:
    """Return the ids of a sentence and the positions of the tokens of a word in it, where it stands last.

    Upper and lower case are the same. A word inside another counts only if it stands nowhere alone, as in
    Japanese, which has no spaces.

    Raises:
        ToolkitError: as `word_states`.
    """
    spelled = re.escape(word)
    found = [*re.finditer(rf"(?<!\w){spelled}(?!\w)", sentence, re.IGNORECASE)] or [
        *re.finditer(spelled, sentence, re.IGNORECASE)
    ]
    if not found:
        raise ToolkitError(f"there is no {word!r} in {sentence!r}", where=where,
                           fix="write the word into the sentence, or leave the sentence out")  # fmt: skip
    ids, spans = opened.text_ids(sentence), _spans(opened, sentence)
    limit = opened.context_length
    if limit is not None and len(ids) > limit:
        raise ToolkitError(f"{len(ids)} tokens are more than the model's {limit}", where=where,
                           fix="write a shorter sentence")  # fmt: skip
    start, end = found[-1].span()
    offset = len(ids) - len(spans)
    places = [offset + number for number, (a, b) in enumerate(spans) if a < end and b > start]
    if not places:
        raise ToolkitError(f"the tokenizer has no token of {word!r}", where=where, fix="choose another word")
    return ids, places


def _spans(opened: OpenModel, sentence: str) -> list[tuple[int, int]]:
    """Return the characters of each token of a text, [start, end)."""
    encoded = opened.tokenizer(sentence, add_special_tokens=False, split_special_tokens=True,
                               return_offsets_mapping=True, verbose=False)  # fmt: skip
    return encoded["offset_mapping"]
