"""Tokenizers of other people's checkpoints, small: those that lose text, and those that only seem to."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def wrapped(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    tokens = {"eos_token": "</s>", "unk_token": "<unk>", **special}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{name: token for name, token in tokens.items() if token}
    )


def unigram(characters: str = LETTERS, *, byte_fallback: bool = False) -> PreTrainedTokenizerFast:
    """Return a Unigram tokenizer with SentencePiece's spaces; what it does not know is `<unk>`, or bytes."""
    fallback = [(f"<0x{byte:02X}>", -9.0) for byte in range(256)] if byte_fallback else []
    pieces = [
        ("<unk>", 0.0),
        ("</s>", 0.0),
        ("▁", -2.0),
        *((letter, -3.0) for letter in characters),
        *fallback,
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=byte_fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = [decoders.ByteFallback(), decoders.Fuse()] if byte_fallback else []
    tokenizer.decoder = decoders.Sequence([decoders.Metaspace(), *steps])
    return wrapped(tokenizer)


def wordpiece(*, lowercase: bool = True) -> PreTrainedTokenizerFast:
    """Return a tokenizer as BERT's, whose words are single letters."""
    letters = LETTERS + LETTERS.upper() + ".,!0123456789"
    entries = ["<unk>", "</s>", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(
        models.WordPiece({token: number for number, token in enumerate(entries)}, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return wrapped(tokenizer)


def byte_level(
    normalizer: normalizers.Normalizer | None = None, *, split: bool = False, **options: bool
) -> PreTrainedTokenizerFast:
    """Return byte-level BPE without merges, as GPT-2's or, with `split`, as Llama 3's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split, **options)
    if split:
        words = pre_tokenizers.Split(Regex(r"\p{L}+|\s+|[^\s\p{L}]+"), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pieces])
    else:
        tokenizer.pre_tokenizer = pieces
    tokenizer.decoder = decoders.ByteLevel()
    return wrapped(tokenizer, unk_token="")
