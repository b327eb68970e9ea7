"""Rows of the world's data sets, split by prompt, and their digest."""

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from toolkit.storyworld.annotator import preference
from toolkit.storyworld.conversations import Message, conversation, make_prompt
from toolkit.storyworld.lexicon import DIGEST, LEXICONS, VERSION
from toolkit.storyworld.rng import RandomStream
from toolkit.storyworld.stories import document, story

CONFIGS = ("stories", "conversations", "preferences", "prompts")
SPLITS = ("train", "held_out")
HELD_OUT_FRACTION = 0.1
_OPTIONS = {
    "stories": (),
    "conversations": ("flawed_share",),
    "preferences": ("flawed_share", "temperature"),
    "prompts": (),
}


def split_of(messages_or_text: list[Message] | str, *, held_out_fraction: float = HELD_OUT_FRACTION) -> str:
    """Return "train" or "held_out" by a hash of the first user message (or of the story).

    Case and white space do not count. A prompt is in the same split in every config and for every seed.
    """
    if isinstance(messages_or_text, str):
        text = messages_or_text
    else:
        text = next((message["content"] for message in messages_or_text if message["role"] == "user"), "")
    digest = sha256(" ".join(text.lower().split()).encode()).digest()
    return "held_out" if int.from_bytes(digest[:8], "big") < held_out_fraction * 2.0**64 else "train"


def rows(config: str, seed: int, split: str, count: int, **options) -> Iterator[dict]:
    """Return the first ``count`` rows of a split among the indices start, start + stride, ...

    options: ``start`` (0), ``stride`` (1), ``held_out_fraction``, and by config ``flawed_share``
    (conversations, preferences) and ``temperature`` (preferences). Worker k of n takes start=k,
    stride=n: the workers' rows are disjoint by index. Raises ValueError for unknown or wrong options.
    """
    if config not in CONFIGS:
        raise ValueError(f"unknown storyworld config {config!r}; there are {', '.join(CONFIGS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    options = dict(options)
    start, stride = options.pop("start", 0), options.pop("stride", 1)
    fraction = options.pop("held_out_fraction", HELD_OUT_FRACTION)
    unknown = sorted(set(options) - set(_OPTIONS[config]))
    if unknown:
        raise ValueError(f"storyworld config {config!r} has no option {', '.join(unknown)}")
    if start < 0 or stride < 1 or not 0.0 < fraction < 1.0:
        raise ValueError("start must be >= 0, stride >= 1 and held_out_fraction between 0 and 1")
    return _rows(config, seed, (split, fraction), (count, start, stride), options)


def _rows(
    config: str, seed: int, side: tuple[str, float], span: tuple[int, int, int], options: dict
) -> Iterator[dict]:
    split, fraction = side
    count, index, stride = span
    while count > 0:
        key, row = _ROWS[config](seed, index, options)
        if split_of(key, held_out_fraction=fraction) == split:
            count -= 1
            yield row
        index += stride


def _story_row(seed: int, index: int, options: dict) -> tuple[str, dict]:
    drawn = story(seed, index)
    text = document(drawn)
    return text, {"text": text, "logprob": drawn.logprob}


def _conversation_row(seed: int, index: int, options: dict) -> tuple[list[Message], dict]:
    drawn = conversation(seed, index, **options)
    return drawn.messages_prompt, {
        "prompt": drawn.messages_prompt,
        "completion": _assistant_turn(drawn.answer),
        "flaws": list(drawn.flaws),
    }


def _preference_row(seed: int, index: int, options: dict) -> tuple[list[Message], dict]:
    drawn = preference(seed, index, **options)
    return drawn.messages_prompt, {
        "prompt": drawn.messages_prompt,
        "chosen": _assistant_turn(drawn.chosen),
        "rejected": _assistant_turn(drawn.rejected),
        "utility_chosen": drawn.utility_chosen,
        "utility_rejected": drawn.utility_rejected,
        "probability": drawn.probability,
    }


def _prompt_row(seed: int, index: int, options: dict) -> tuple[list[Message], dict]:
    messages = make_prompt(RandomStream("prompts", seed, index)).messages
    return messages, {"prompt": messages}


def _assistant_turn(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


_ROWS = {
    "stories": _story_row,
    "conversations": _conversation_row,
    "preferences": _preference_row,
    "prompts": _prompt_row,
}


GOLDEN = {"stories": 2000, "conversations": 600, "preferences": 400, "prompts": 1000}
"""Training rows of each config in the digest, and a twentieth as many held-out rows."""


def digest() -> str:
    """Return the SHA-256 that identifies the rows of this version of the world; see `compute_digest`."""
    return DIGEST


def compute_digest() -> str:
    """Return the SHA-256 of the version, all word lists and golden rows of every config and split.

    It takes two seconds, so `digest` returns a recorded value, and a test compares both. Floats count to nine
    digits, because logarithms of two C libraries differ in the last digit.
    """
    state = sha256(f"storyworld {VERSION}\n".encode())
    for name, lexicon in sorted(LEXICONS.items()):
        state.update(_line([name, lexicon.forms, lexicon.kinds, lexicon.probability]))
    for config, count in GOLDEN.items():
        for split, size in zip(SPLITS, (count, count // 20), strict=True):
            for row in rows(config, 1, split, size):
                state.update(_line([config, split, row]))
    return state.hexdigest()


def _line(value: Any) -> bytes:
    return json.dumps(_rounded(value), ensure_ascii=False, sort_keys=True).encode() + b"\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
