"""Rows of data sets, in the form that every world gives them: (what decides the split, row)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from toolkit.storyworld.annotator import Preference
from toolkit.storyworld.grammar import Lexicon
from toolkit.storyworld.world import Message

Row = tuple[list[Message] | str, dict[str, Any]]


def story_row(text: str, logprob: float) -> Row:
    """Return the row of a document with the natural log of its probability."""
    return text, {"text": text, "logprob": logprob}


def prompt_row(messages: list[Message]) -> Row:
    """Return the row of a prompt."""
    return messages, {"prompt": messages}


def conversation_row(messages: list[Message], answer: str, flaws: Sequence[str]) -> Row:
    """Return the row of a prompt with an answer and the names of its flaws."""
    return messages, {"prompt": messages, "completion": assistant_turn(answer), "flaws": list(flaws)}


def preference_row(drawn: Preference) -> Row:
    """Return the row of a preference."""
    return drawn.messages_prompt, {
        "prompt": drawn.messages_prompt,
        "chosen": assistant_turn(drawn.chosen),
        "rejected": assistant_turn(drawn.rejected),
        "utility_chosen": drawn.utility_chosen,
        "utility_rejected": drawn.utility_rejected,
        "probability": drawn.probability,
    }


def assistant_turn(text: str) -> list[Message]:
    """Return the messages of an answer."""
    return [{"role": "assistant", "content": text}]


def identity_of(lexicons: Mapping[str, Lexicon]) -> Iterator[Any]:
    """Yield what a world's digest covers of its lexicons."""
    for name, lexicon in sorted(lexicons.items()):
        yield [name, lexicon.forms, lexicon.kinds, lexicon.probability]
