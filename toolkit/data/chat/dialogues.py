"""Dialogues that are one text: names of speakers, or the tokens of a chat template, begin their turns."""

from __future__ import annotations

import re
from typing import Any

from toolkit.data.chat.roles import ROLES

Message = dict[str, Any]
Messages = list[Message]

END_TOKENS = ("<|endoftext|>", "<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<eos>")
"""End tokens of common checkpoints. An answer that spells one would teach its letters, not the token."""
_BEGIN_TOKENS = re.compile(r"\s*(?:<s>|<bos>|<\|begin_of_text\|>)?\s*")

_HUMAN_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_HUMAN_LINE = re.compile(r"(?:\A|\n)(Human|Assistant):")
_USER_LINES = (
    re.compile(r"(?:\A|\n)(System|User|Assistant):"),
    re.compile(r"(?:\A|\n)(SYSTEM|HUMAN|ASSISTANT):"),
    re.compile(r"(?:\A|\s|</s>)(USER|ASSISTANT):"),
)
"""Other speakers; the last ones are those of Vicuna, whose turns are divided by a space."""
_PREAMBLES = ("Below is an instruction that describes a task", "A chat between a curious")
"""How the prompts of Alpaca and Vicuna begin; this belongs to the format, as the headings do."""
_HEADING = re.compile(
    r"(?:^|(?=### ?(?:Human|Assistant):))### ?(System|Instruction|Input|Human|User|Response|Assistant):", re.M
)
"""At the beginning of a line; `### Human:` and `### Assistant:` anywhere, as in openassistant-guanaco."""
_HEADING_ROLES = {"instruction": "user", "response": "assistant", **ROLES}
_TEMPLATE_TURN = re.compile(
    r"<\|im_start\|>(\w+)\n|<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n|<start_of_turn>(\w+)\n"
    r"|<\|(system|user|assistant)\|>\n?"
)
"""How ChatML, Llama 3, Gemma, and Zephyr or Phi begin a turn."""
_INSTRUCTION = re.compile(r"\[(/?)INST\]")
_INSTRUCTION_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.S)
_SPELLED_TURN = re.compile(rf"\n\nHuman:|\[INST\]|{_TEMPLATE_TURN.pattern}")


def dialogue(text: str) -> Messages | None:
    """Return the turns of a dialogue as text, None if it is none.

    These are `Human: ...`, a blank line, `Assistant: ...` (hh-rlhf; or a line end, if no answer follows a
    blank line), the same with `User:` or in capitals, turns below the headings `### Instruction:`,
    `### Input:` and `### Response:` (Alpaca), or `### Human:` and `### Assistant:`, and turns as the chat
    templates of ChatML, Llama 2, Llama 3, Gemma, Zephyr and Phi write them.
    """
    beginning = text.lstrip()
    if beginning.startswith("System:") and "\n\nHuman:" in beginning:
        system, _, rest = beginning.removeprefix("System:").partition("\n\nHuman:")
        return [{"role": "system", "content": system.strip()}, *(dialogue(f"Human:{rest}") or [])]
    if beginning.startswith("Human:"):
        has_lines = "\n\nAssistant:" not in beginning and "\nAssistant:" in beginning
        return _spoken(beginning, _HUMAN_LINE if has_lines else _HUMAN_TURN)
    if _HEADING.match(beginning) or (beginning.startswith(_PREAMBLES[0]) and _HEADING.search(beginning)):
        return _headed(beginning)
    for speakers in _USER_LINES:
        names = [found[1].lower() for found in speakers.finditer(beginning)]
        is_dialogue = any(name in ("user", "human") for name in names) and "assistant" in names
        if is_dialogue and (speakers.match(beginning) or beginning.startswith(_PREAMBLES[1])):
            return _spoken(beginning, speakers)
    return _rendered(beginning)


def spells_turns(text: str) -> bool:
    """Return whether the text of a message spells the beginning of a turn, which stays text."""
    return _SPELLED_TURN.search(text) is not None


def _spoken(text: str, speakers: re.Pattern[str]) -> Messages:
    """Return the turns of a text in which the name of the speaker, and a colon, begin every turn."""
    preamble, *parts = speakers.split(text)
    system = [{"role": "system", "content": preamble.strip()}] if preamble.strip() else []
    return system + [
        {"role": ROLES[speaker.lower()], "content": content.strip()}
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def _rendered(text: str) -> Messages | None:
    """Return the turns of a text that a chat template has rendered, None if it is none."""
    text = _BEGIN_TOKENS.sub("", text, count=1)
    if _INSTRUCTION.match(text):
        return _instructions(text)
    found = list(_TEMPLATE_TURN.finditer(text))
    if not found or found[0].start() or any(turn[turn.lastindex] not in ROLES for turn in found):
        return None
    ends = [turn.start() for turn in found[1:]] + [len(text)]
    return [
        {"role": ROLES[turn[turn.lastindex]], "content": without_end(text[turn.end() : end]).strip()}
        for turn, end in zip(found, ends, strict=True)
    ]


def _instructions(text: str) -> Messages:
    """Return the turns of Llama 2's and Mistral's format: a request stands between [INST] and [/INST]."""
    parts, messages = _INSTRUCTION.split(text)[1:], []
    for slash, content in zip(parts[::2], parts[1::2], strict=True):
        if slash:
            answer = without_end(content.strip().removesuffix("<s>"))
            messages.append({"role": "assistant", "content": answer.strip()})
            continue
        if not messages and (system := _INSTRUCTION_SYSTEM.match(content)):
            messages.append({"role": "system", "content": system[1].strip()})
            content = content[system.end() :]
        messages.append({"role": "user", "content": content.strip()})
    return messages


def without_end(text: str) -> str:
    """Return a text without the end tokens, and the white space after each of them, at its end."""
    while end := next((token for token in END_TOKENS if text.rstrip().endswith(token)), None):
        text = text.rstrip().removesuffix(end)
    return text


def _headed(text: str) -> Messages:
    parts = _HEADING.split(text)
    preamble = parts[0].strip()
    messages: Messages = []
    if preamble and not preamble.startswith(_PREAMBLES[0]):
        messages.append({"role": "system", "content": preamble})
    previous = ""
    for name, content in zip(parts[1::2], parts[2::2], strict=True):
        if name != "Input":
            messages.append({"role": _HEADING_ROLES[name.lower()], "content": content.strip()})
        elif previous != "Instruction":  # a heading in the text of an answer
            messages[-1 if messages else 0 :] = [_extended(messages, f"### Input:{content.rstrip()}")]
        elif content.strip():
            messages[-1]["content"] += f"\n\n{content.strip()}"
        previous = name
    return messages


def _extended(messages: Messages, text: str) -> Message:
    if not messages:
        return {"role": "user", "content": text}
    return {**messages[-1], "content": f"{messages[-1]['content']}\n{text}"}
