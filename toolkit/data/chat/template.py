"""Chat templates and special tokens: a conversation as one text.

The toolkit's own format is `<|user|>Q<|assistant|>A<|endoftext|><|user|>...`; the generation prompt is
`<|assistant|>`. Any other template that tells where an answer ends can be used: the answer's ids are those of
its text and of the token that ends it. What a template writes after that token (ChatML: a line break) belongs
to the next turn and is neither learned nor scored. Special tokens in messages are escaped by a space
(`< |assistant|>`), so that no user can insert one; tags of thoughts stay in answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from jinja2 import TemplateError

from toolkit.base.errors import DataError, ToolkitError
from toolkit.data.chat import thoughts, tools
from toolkit.data.chat.dates import with_fixed_date

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]
"""See `toolkit.data.chat.messages` for its keys."""

TEXT_KEYS = ("content", "reasoning_content")
"""The keys of a message that hold text."""

TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
"""What a chat template raises if it cannot render a conversation."""

END_OF_TEXT = "<|endoftext|>"

PAD = "<|pad|>"

ROLE_TOKENS = {"user": "<|user|>", "assistant": "<|assistant|>", "system": "<|system|>"}

SPECIAL_TOKENS = (END_OF_TEXT, PAD, *ROLE_TOKENS.values())
"""In the order of their ids, from 0. Pad differs from end-of-text, because a sequence classifier pools the
last token that is not padding, which should be the end of an answer."""


def _broken(token: str) -> str:
    return token[0] + " " + token[1:]


def _escaped(expression: str, end: str = END_OF_TEXT) -> str:
    tokens = (end, *SPECIAL_TOKENS[1:])
    return expression + "".join(f" | replace('{token}', '{_broken(token)}')" for token in tokens)


def toolkit_template(end: str) -> str:
    """Return the toolkit's chat template as Jinja text, whose answers end with the token `end`."""
    return (
        "{%- for message in messages -%}"
        "{%- if message['content'] is not string -%}"
        "{{- raise_exception('the content of a message must be text') -}}"
        "{%- endif -%}"
        f"{{%- set text = {_escaped('message.content', end)} -%}}"
        "{%- if message['role'] == 'assistant' -%}"
        f"{{{{- '{ROLE_TOKENS['assistant']}' -}}}}"
        f"{{%- generation -%}}{{{{- text + '{end}' -}}}}{{%- endgeneration -%}}"
        "{%- elif message['role'] in ['user', 'system'] -%}"
        "{{- '<|' + message['role'] + '|>' + text -}}"
        "{%- else -%}"
        "{{- raise_exception('unknown role ' + message['role'] + '; known: system, user, assistant') -}}"
        "{%- endif -%}"
        "{%- endfor -%}"
        f"{{%- if add_generation_prompt -%}}{{{{- '{ROLE_TOKENS['assistant']}' -}}}}{{%- endif -%}}"
    )


CHAT_TEMPLATE = toolkit_template(END_OF_TEXT)
"""A Jinja template; the `generation` block marks the tokens of `assistant_only_loss`."""

CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")


CHATML_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}{{- '\n' -}}"
    "{%- else -%}"
    "{{- message['content'] + '<|im_end|>\n' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""The format of many checkpoints, such as those of Qwen and SmolLM2."""

PROBE = "probe7"
"""A text that no template alters; of an answer it shows what the template writes after it."""

_argument_forms: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, bool]] = WeakKeyDictionary()


class RenderedDifferently(ToolkitError):
    """The chat template renders the beginning of a conversation differently once more turns follow it."""


def configure(tokenizer: PreTrainedTokenizerBase, choice: str = "auto") -> int:
    """Choose the chat template, and add the tokens that it needs; return how many were added.

    If the result is not 0, the model's embeddings must be resized. Only then a tokenizer without a pad token
    of its own gets one; otherwise end-of-text pads, so that the model keeps its vocabulary.

    Args:
        choice: `auto` keeps the tokenizer's template; without one it takes ChatML if the tokenizer has its
            tokens, else the toolkit's. `chatml`, `toolkit`, or the path of a file with a Jinja template.

    Raises:
        DataError: there is no such file.
    """
    before = len(tokenizer)
    if tokenizer.eos_token is None:
        tokenizer.add_special_tokens({"eos_token": END_OF_TEXT})
    has_chatml = all(token in tokenizer.get_vocab() for token in CHATML_TOKENS)
    if choice == "auto" and not tokenizer.chat_template:
        choice = "chatml" if has_chatml else "toolkit"
    adds_tokens = choice == "toolkit" or (choice == "chatml" and not has_chatml)
    if adds_tokens and tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.add_special_tokens({"pad_token": PAD})
    elif tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if choice == "toolkit":
        tokenizer.add_tokens(list(ROLE_TOKENS.values()), special_tokens=True)
        # the model knows its own end-of-text, and would have to learn another one
        tokenizer.chat_template = toolkit_template(tokenizer.eos_token)
    elif choice == "chatml":
        tokenizer.add_tokens(list(CHATML_TOKENS), special_tokens=True)
        tokenizer.chat_template = CHATML_TEMPLATE
    elif choice != "auto":
        tokenizer.chat_template = _read_template(Path(choice))
    return len(tokenizer) - before


def _read_template(path: Path) -> str:
    if not path.is_file():
        raise DataError(
            "there is no such file with a chat template",
            where=str(path),
            fix="give auto, chatml, toolkit, or the path of a Jinja file as `chat_template`",
        )
    return path.read_text(encoding="utf-8")


def check_messages(messages: Sequence[Message], *, where: str | None = None) -> None:
    """Raise DataError unless `messages` is a list of {role, content} with supported roles and text."""
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence):
        raise DataError(
            "a conversation must be a list of messages",
            where=where,
            fix='write it as [{"role": "user", "content": "..."}, ...]',
        )
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise DataError(
                "a message must have `role` and `content`, both text",
                where=where,
                fix='write it as {"role": "user", "content": "..."}',
            )
        if message.get("role") not in (known := sorted([*ROLE_TOKENS, tools.TOOLS, tools.TOOL])):
            raise DataError(
                f"unknown role {message.get('role')!r}", where=where, fix=f"use one of {', '.join(known)}"
            )


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of plain text; adds no token, and encodes `<|user|>` in it as text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


class Refused(DataError):
    """A chat template refuses a conversation; `reason` is what it says."""

    def __init__(self, reason: str, *, begins: str, where: str | None):
        self.reason = reason
        super().__init__(
            f"the chat template refuses the conversation that begins {begins[:60]!r}: {reason}",
            where=where,
            fix="change or remove it (on_bad_row: skip), or set another chat_template",
        )


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generation_prompt: bool
) -> str:
    """Return the conversation as one text, with special tokens in messages escaped.

    Our template escapes its own special tokens; this function escapes those of other tokenizers, too.

    Raises:
        ToolkitError: the tokenizer has no chat template.
        Refused: the template refuses the messages, for example a system message, or two turns of a user.
    """
    check_messages(messages)
    if not tokenizer.chat_template:
        raise ToolkitError(
            "the tokenizer has no chat template",
            where=tokenizer.name_or_path or None,
            fix="fine-tune the model with the sft stage first, which adds one",
        )
    special = special_tokens(tokenizer)
    safe = partial(_without, special=special)
    as_text = any(tools.CALLS in turn for turn in messages) and takes_arguments_as_text(tokenizer)
    turns = [
        without_special(message, special)
        | ({tools.CALLS: tools.calls(message, safe, as_text=as_text)} if tools.CALLS in message else {})
        for message in messages
        if message["role"] != tools.TOOLS
    ]
    functions = tools.functions(messages, safe)
    try:
        return tokenizer.apply_chat_template(
            turns, tools=functions, tokenize=False, add_generation_prompt=generation_prompt,
            chat_template=with_fixed_date(tokenizer.get_chat_template(tools=functions)),
        )  # fmt: skip
    except TEMPLATE_ERRORS as error:
        begins = next((message["content"] for message in messages if message["role"] == "user"), "")
        raise Refused(str(error), begins=begins, where=tokenizer.name_or_path or None) from None


def takes_arguments_as_text(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the template takes the arguments of a call as JSON text instead of as an object.

    That is so if it cannot render an object, or renders it as Python does.
    """
    if tokenizer not in _argument_forms or _argument_forms[tokenizer][0] != tokenizer.chat_template:
        as_text = not _renders_arguments(tokenizer, {PROBE: 1}) and _renders_arguments(
            tokenizer, f'{{"{PROBE}": 1}}'
        )
        _argument_forms[tokenizer] = tokenizer.chat_template, as_text
    return _argument_forms[tokenizer][1]


def _renders_arguments(tokenizer: PreTrainedTokenizerBase, arguments: object) -> bool:
    function = {"name": "f", "arguments": arguments}
    call = {"id": "call00001", "type": "function", "function": function}
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", tools.CALLS: [call]},
    ]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except TEMPLATE_ERRORS:
        return False
    return f"'{PROBE}'" not in text


def rendered_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the tokens that text must not contain."""
    given = tokenizer.chat_template
    written = "".join(given.values()) if isinstance(given, dict) else given
    return [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if len(token.content) > 1 and (token.special or token.content in written)
    ]


def spells_special_token(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> bool:
    """Return whether the text of a message has a special token, which `render` escapes."""
    special = special_tokens(tokenizer)
    return any(without_special(message, special) != message for message in messages)


def without_special(message: Message, special: Sequence[str]) -> dict[str, str]:
    """Return a message whose text contains no special token; an answer may contain tags of thoughts."""
    if message["role"] == "assistant":
        special = [token for token in special if token not in thoughts.WRITTEN_BY_MODELS]
    return {key: _without(value, special) if key in TEXT_KEYS else value for key, value in message.items()}


def _without(text: str, special: Sequence[str]) -> str:
    for token in special:
        if token in text:
            text = text.replace(token, _broken(token))
    return text
