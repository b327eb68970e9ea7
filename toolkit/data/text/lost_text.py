"""What a tokenizer loses of a text: unknown characters, case, accents, white space.

A model predicts ids. Where ids do not determine the text, its bits are those of a poorer text, and bits per
byte of the original are too low: a text that is one unknown token needs almost no bits. Each document is
therefore compared with what its ids decode to.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from toolkit.runs.evaluation import LostText

ERROR_SHOWN = 0.001
"""Bits per byte: the last decimal that is shown."""
BITS_OF_BYTE = 8
_KEEPING_SPLITS = ("Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
"""Behaviours of a pre-tokenizer `Split` that drop no character; `Removed` does."""


def keeps_every_byte(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer is lossless by construction: byte-level BPE that changes no character.

    The 256 bytes are entries of its vocabulary, so that every text has ids that spell its bytes. Then nothing
    needs to be decoded. False also means that it is not known.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer) or backend.normalizer is not None:
        return False
    content = json.loads(backend.to_str())
    strips = any(
        (token["lstrip"] or token["rstrip"]) and not token["special"] for token in content["added_tokens"]
    )
    vocabulary = content["model"].get("vocab", {})
    return (
        content["model"]["type"] == "BPE"
        and not strips
        and _keeps_characters(content["pre_tokenizer"])
        and all(byte in vocabulary for byte in pre_tokenizers.ByteLevel.alphabet())
    )


def _keeps_characters(split: dict | None) -> bool:
    """Return whether a pre-tokenizer only divides a text and then writes it as bytes."""
    if split is None:
        return False
    steps = split["pretokenizers"] if split["type"] == "Sequence" else [split]
    *before, last = steps or [{"type": "none"}]
    return last["type"] == "ByteLevel" and all(
        step["type"] == "Digits" or (step["type"] == "Split" and step["behavior"] in _KEEPING_SPLITS)
        for step in before
    )


@dataclass
class LossCounter:
    """Counts what a tokenizer loses of documents; one that is lossless by construction costs nothing."""

    tokenizer: PreTrainedTokenizerBase
    documents: int = 0
    unknown_tokens: int = 0
    characters: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    def __post_init__(self) -> None:
        self.is_needed = not keeps_every_byte(self.tokenizer)

    def add(self, text: str, ids: Sequence[int]) -> None:
        """Count the characters of a document that its ids do not give back."""
        self.add_counted(self.lost(text, ids))

    def lost(self, text: str, ids: Sequence[int]) -> LostText | None:
        """Return what the ids of a document do not give back; None if that is nothing. Nothing is counted."""
        if not self.is_needed:
            return None
        unknown = self.tokenizer.unk_token_id
        known = [token for token in ids if token != unknown] if unknown is not None else list(ids)
        unknown_tokens = len(ids) - len(known)
        decoded = self.tokenizer.decode(known, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        # A space at the beginning, which the tokenizer or its decoder adds or leaves out, is no loss.
        if not unknown_tokens and (decoded in (text, f" {text}") or text == f" {decoded}"):
            return None
        missing, added = Counter(text) - Counter(decoded), Counter(decoded) - Counter(text)
        for one, other, surplus in ((text, decoded, missing), (decoded, text, added)):
            if one.startswith(" ") and not other.startswith(" "):
                surplus[" "] -= 1
        missing, added = +missing, +added
        return LostText(
            documents=1,
            unknown_tokens=unknown_tokens,
            characters=dict(_kinds(missing, added, unknown=unknown_tokens > 0)),
            bytes=max(_bytes(missing), _bytes(added), 1),
        )

    def add_counted(self, lost: LostText | None) -> None:
        """Add what was counted elsewhere, such as by an attempt that was interrupted."""
        if lost is not None:
            self.documents += lost.documents
            self.unknown_tokens += lost.unknown_tokens
            self.characters.update(lost.characters)
            self.bytes += lost.bytes

    def result(self) -> LostText | None:
        """Return what was lost; None if nothing was."""
        if not self.documents:
            return None
        return LostText(
            documents=self.documents,
            unknown_tokens=self.unknown_tokens,
            characters=dict(sorted(self.characters.items())),
            bytes=self.bytes,
        )


def lost_text(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], ids: Sequence[Sequence[int]]
) -> LostText | None:
    """Return what the ids of documents, without added special tokens, do not keep; None if nothing."""
    counter = LossCounter(tokenizer)
    if counter.is_needed:
        for text, document in zip(texts, ids, strict=True):
            counter.add(text, list(map(int, document)))
    return counter.result()


def changes_bits_per_byte(lost: LostText | None, total_bytes: float) -> bool:
    """Return whether lost text can change the bits per byte that are shown.

    A byte that was not predicted would have needed 8 bits at most with a uniform code.
    """
    return lost is not None and BITS_OF_BYTE * lost.bytes >= ERROR_SHOWN * total_bytes


def sentence(lost: LostText, *, documents: int) -> str:
    """Return what was lost, in words."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in lost.characters.items())
    unknown = f"; {lost.unknown_tokens:,} unknown tokens" if lost.unknown_tokens else ""
    return (
        f"the tokenizer does not keep the text of {lost.documents:,} of {documents:,} documents "
        f"(characters: {kinds}{unknown})"
    )


def _kinds(missing: Counter[str], added: Counter[str], *, unknown: bool) -> Counter[str]:
    """Return the characters that differ, by kind; `added` are those that only the decoded text has."""
    kinds: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for character, count in added.items():
        left.update(dict.fromkeys(_folded(character), count))
    for character, count in missing.items():
        if character.isspace():
            kinds["white space"] += count
            continue
        folded = _folded(character)
        replaced = min([count, *(left[letter] for letter in folded)])
        left.subtract(dict.fromkeys(folded, replaced))
        kinds["case" if added[character.lower()] else "normalised"] += replaced
        kinds["unknown" if unknown else "dropped"] += count - replaced
    spaces = sum(count for character, count in added.items() if character.isspace())
    kinds["white space"] = max(kinds["white space"], spaces)
    return +kinds


def _folded(character: str) -> str:
    """Return a character without its accents, in its compatible spelling and in lower case."""
    parts = unicodedata.normalize("NFKD", character.lower())
    return "".join(part for part in parts if not unicodedata.combining(part))


def _bytes(characters: Counter[str]) -> int:
    return sum(len(character.encode()) * count for character, count in characters.items())
