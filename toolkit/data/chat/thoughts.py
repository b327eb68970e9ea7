"""Thoughts of models that reason: the part of an answer between tags such as `<think>` and `</think>`.

Some chat templates begin the thought in the generation prompt (DeepSeek-R1, Nemotron, Qwen3.5), and some
leave it out of the answer that they render (DeepSeek-R1). An answer is learned and scored as the model writes
it: after the generation prompt, with its thought, or with an empty one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

TAGS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "[THINK]": "[/THINK]",
}
"""The tag that closes a thought, by the tag that opens it."""

WRITTEN_BY_MODELS = frozenset(TAGS) | frozenset(TAGS.values())
"""Tags that may stand in an answer; in the text of others they are escaped like special tokens."""

_THOUGHT = "|".join(rf"{re.escape(tag)}\s*(?:{re.escape(end)}\s*)?" for tag, end in TAGS.items())
_SUFFIX = re.compile(rf"({_THOUGHT})\Z")
_REMAINDER = re.compile(rf"\s*({_THOUGHT})?")


@dataclass(frozen=True)
class Opening:
    """Where the thought of an answer begins.

    Attributes:
        text: the end of the generation prompt that begins a thought, such as `<think>\n`, or holds an empty
            one; no text if the answer begins it.
        tag, end: the tags of the thought.
    """

    text: str
    tag: str
    end: str

    @classmethod
    def of(cls, generation_prompt: str) -> Opening | None:
        """Return how a prompt ends, None if it does not end with a thought."""
        found = _SUFFIX.search(generation_prompt)
        if found is None:
            return None
        tag = next(tag for tag in TAGS if found[1].startswith(tag))
        return cls(found[1], tag, TAGS[tag])

    @classmethod
    def within(cls, answer: Mapping[str, str]) -> Opening | None:
        """Return how the text of an answer begins its thought, None if it does not begin with one."""
        if answer.get("reasoning_content"):
            return None
        content = answer["content"]
        pairs = ((tag, end) for tag, end in TAGS.items() if content.lstrip().startswith(tag))
        return next((cls("", tag, end) for tag, end in pairs if end in content), None)

    @property
    def is_closed(self) -> bool:
        """Whether the prompt also ends the thought: the model answers at once."""
        return self.end in self.text

    def divided(self, answer: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """Return the thought of an answer, empty without one, and the answer without it.

        A sampled answer has no opening tag, because the prompt has it.
        """
        rest = {key: value for key, value in answer.items() if key != "reasoning_content"}
        if answer.get("reasoning_content"):
            return answer["reasoning_content"].strip("\n"), rest
        thought, end, content = answer["content"].partition(self.end)
        if not end:
            return "", rest
        return thought.strip().removeprefix(self.tag).strip("\n"), {**rest, "content": content.lstrip("\n")}

    def holds(self, continuation: str, thought: str) -> bool:
        """Return whether what follows the prompt begins with this thought."""
        return thought in continuation.partition(self.end)[0]

    def continued(self, thought: str, rendered: str) -> str:
        """Return what a model writes after the prompt: the thought, its end, and the rendered answer.

        Args:
            rendered: the answer and what follows it, without thought or with an empty one.
        """
        begin = "" if self.text else f"{self.tag}\n"
        thought = begin + (f"{thought}\n" if thought else "")
        rendered = rendered.removeprefix(self.tag).lstrip("\n")
        return thought + (rendered if rendered.startswith(self.end) else f"{self.end}\n\n{rendered}")


def is_unfinished(prompt: str, answer: str) -> bool:
    """Return whether an answer ends within its thought, so that it answers nothing.

    Args:
        prompt: text whose end may begin the thought.
        answer: what a model wrote after it.
    """
    opening = Opening.of(prompt)
    if opening is not None and not opening.is_closed:
        return opening.end not in answer
    ends = [end for tag, end in TAGS.items() if answer.lstrip().startswith(tag)]
    return bool(ends) and ends[0] not in answer


def is_remainder(text: str) -> bool:
    """Return whether the end of a prompt is only white space, or begins a thought, or holds an empty one."""
    return _REMAINDER.fullmatch(text) is not None
