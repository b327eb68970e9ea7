"""Conversations as text and token ids: special tokens, chat templates, and truncation.

The toolkit's own format is `<|user|>Q<|assistant|>A<|endoftext|><|user|>...`; the generation prompt is
`<|assistant|>`. Any other template that tells where an answer ends can be used: the answer's ids are those of
its text and of the token that ends it. What a template writes after that token (ChatML: a line break) belongs
to the next turn and is neither learned nor scored. Special tokens in messages are escaped by a space
(`< |assistant|>`), so that no user can insert one; tags of thoughts stay in answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
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

_PROBE, _NEXT = "probe7", "probe8"
"""An answer that no template alters, which shows what the template writes after it, and the next request."""
_turn_ends: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, TurnEnds]] = WeakKeyDictionary()
_argument_forms: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, bool]] = WeakKeyDictionary()


class RenderedDifferently(ToolkitError):
    """The chat template renders the beginning of a conversation differently once more turns follow it."""


@dataclass(frozen=True)
class TurnEnds:
    """What the chat template writes around an answer.

    Attributes:
        last, earlier: the token that follows an answer, as the last turn and before the next turn; None if
            there is none.
        beginning: what precedes an answer though no generation prompt has it, such as the name of a role.
    """

    last: int | None
    earlier: int | None
    beginning: str


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


def marker_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the special and added tokens that the chat template writes around a question and its answer."""
    probe = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _PROBE}]
    ids = _ids(tokenizer, render(tokenizer, probe, generation_prompt=False))
    return {*ids} & {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}


def require_answers(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ToolkitError unless the chat template lets a model begin and end an answer.

    It must end an answer with a special token, and have a generation prompt if it begins an answer with
    anything, such as the name of a role, which a model would otherwise write as part of its answers.
    """
    if turn_end_id(tokenizer) is None:
        after, earlier = _after_answer(tokenizer), turn_ends_of(tokenizer).earlier
        what = f"the chat template writes {after!r} after an answer, which contains no special token"
        if earlier is not None and not after.strip():  # as in GLM's
            what = (
                "the chat template ends no answer: nothing follows the last one, and only the next turn "
                f"({tokenizer.convert_ids_to_tokens(earlier)}) shows where an earlier one ends"
            )
        raise ToolkitError(
            f"{what}: a model would never learn to stop",
            where=tokenizer.name_or_path or None,
            fix=f"set chat_template: chatml or toolkit, or end the answers with {tokenizer.eos_token}",
        )
    if beginning := turn_ends_of(tokenizer).beginning:
        raise ToolkitError(
            f"the chat template has no generation prompt, and begins an answer with {beginning!r}: a model "
            "would write this as part of its answers",
            where=tokenizer.name_or_path or None,
            fix="set chat_template: chatml or toolkit, or write this if `add_generation_prompt` is true",
        )


def turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token with which the chat template ends an answer, None if it ends it with no token.

    It is the first special or added token after an answer: end-of-text in the toolkit's template,
    `<|im_end|>` in ChatML, whatever the tokenizer's `eos_token` is.

    Raises:
        DataError: the template refuses a question and its answer, or does not write the answer.
    """
    return turn_ends_of(tokenizer).last


def turn_ends_of(tokenizer: PreTrainedTokenizerBase) -> TurnEnds:
    """Return the tokens with which the chat template ends answers; errors as `turn_end_id`."""
    state = (tokenizer.chat_template, len(tokenizer), tokenizer.eos_token_id)
    if tokenizer not in _turn_ends or _turn_ends[tokenizer][0] != state:
        last = _first_added_token(tokenizer, _after_answer(tokenizer))
        earlier = last
        with suppress(DataError):  # a template for single questions
            after = _after_answer(tokenizer, is_last=False)
            # Not what ends the whole conversation, in a template that ends no earlier answer.
            earlier = _first_added_token(tokenizer, after.partition(_NEXT)[0])
        _turn_ends[tokenizer] = state, TurnEnds(last, earlier, _unprompted_beginning(tokenizer))
    return _turn_ends[tokenizer][1]


def _unprompted_beginning(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what a template without a generation prompt begins an answer with, apart from white space."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _PROBE}]
    try:
        prompted, question = (
            render(tokenizer, turns[:1], generation_prompt=generation_prompt)
            for generation_prompt in (True, False)
        )
    except Refused:  # a template for whole conversations
        return ""
    answered = render(tokenizer, turns, generation_prompt=False)
    if prompted != question or not answered.startswith(question):
        return ""
    beginning = answered.removeprefix(question).partition(_PROBE)[0]
    return "" if thoughts.is_remainder(beginning) else beginning


def _first_added_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    added = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return next((token for token in _ids(tokenizer, text) if token in added), None)


def end_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that ends an answer: `turn_end_id`, or end-of-text where no template names one."""
    found = None
    if tokenizer.chat_template:
        with suppress(DataError):  # it refuses even one question and its answer
            found = turn_end_id(tokenizer)
    return tokenizer.eos_token_id if found is None else found


def _after_answer(tokenizer: PreTrainedTokenizerBase, *, is_last: bool = True) -> str:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _PROBE}]
    turns += [] if is_last else [{"role": "user", "content": _NEXT}]
    try:
        text = render(tokenizer, turns, generation_prompt=False)
    except Refused as error:
        raise DataError(
            f"the chat template refuses the conversation of one question and its answer: {error.reason}",
            where=error.where,
            fix="set chat_template: chatml or toolkit, or mend the template",
        ) from None
    _, probe, after = text.rpartition(_PROBE)
    if not probe:
        raise DataError(
            "the chat template does not write the text of an answer",
            where=tokenizer.name_or_path or None,
            fix="set chat_template: chatml or toolkit",
        )
    return after


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


_LONGEST_OPENING = 16
"""Tokens at the end of a prompt in which a thought may begin."""


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of generated ids, without special tokens; tags of thoughts stay."""
    added = tokenizer.added_tokens_encoder
    tags = {added[tag] for tag in thoughts.WRITTEN_BY_MODELS if tag in added}
    if tags.isdisjoint(ids):
        return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    special = set(tokenizer.all_special_ids) - tags
    return tokenizer.decode([i for i in ids if i not in special], clean_up_tokenization_spaces=False)


def is_unfinished(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], answer: str) -> bool:
    """Return whether an answer to a prompt ends within its thought (see `thoughts.is_unfinished`)."""
    end = tokenizer.decode(list(prompt[-_LONGEST_OPENING:]), clean_up_tokenization_spaces=False)
    return thoughts.is_unfinished(end, answer)


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
    special = _special_tokens(tokenizer)
    safe = partial(_without, special=special)
    as_text = any(tools.CALLS in turn for turn in messages) and takes_arguments_as_text(tokenizer)
    turns = [
        _without_special(message, special)
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
        as_text = not _renders_arguments(tokenizer, {_PROBE: 1}) and _renders_arguments(
            tokenizer, f'{{"{_PROBE}": 1}}'
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
    return f"'{_PROBE}'" not in text


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, max_tokens: int | None = None
) -> list[int]:
    """Return the ids of messages with the generation prompt, truncated by `shorten` if necessary."""
    if max_tokens is not None:
        messages = shorten(tokenizer, messages, max_tokens=max_tokens)
    return _ids(tokenizer, render(tokenizer, messages, generation_prompt=True))


def prompts_that_fit(
    tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Sequence[Message]], *, max_tokens: int, count: int
) -> list[tuple[Sequence[Message], list[int]]]:
    """Return the first `count` prompts with their ids, without conversations with tools that are too long."""
    found: list[tuple[Sequence[Message], list[int]]] = []
    for messages in prompts:
        if len(found) == count:
            break
        with suppress(TooLong):
            found.append((messages, prompt_ids(tokenizer, messages, max_tokens=max_tokens)))
    return found


def example_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    answer: str | Message,
    *,
    max_tokens: int | None = None,
) -> tuple[list[int], list[int]]:
    """Return (prompt ids, answer ids) of `fitted_example`."""
    example = fitted_example(tokenizer, prompt, answer, max_tokens=max_tokens)
    return example.prompt, example.answer


@dataclass(frozen=True)
class FittedExample:
    """Token ids of a prompt and its answer within a limit, and what was removed for it.

    `messages` are those of the prompt that are left.
    """

    messages: Sequence[Message]
    prompt: list[int]
    answer: list[int]
    is_shortened: bool = False
    is_cut: bool = False


def fitted_example(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    answer: str | Message,
    *,
    max_tokens: int | None = None,
) -> FittedExample:
    """Return the ids of a prompt and its answer, which ends with `turn_end_id`.

    Where the tokenizer merges the end of the prompt with the beginning of the answer, the token of both
    belongs to the answer. If both exceed `max_tokens`, the prompt loses its oldest turns, down to half of
    `max_tokens`, then the answer is truncated at its end.

    Raises:
        RenderedDifferently: the text of the prompt is no prefix of the text with the answer.
        ToolkitError: no token ends the answer.
    """
    head, tail = _split(tokenizer, prompt, answer)
    if max_tokens is None or len(head) + len(tail) <= max_tokens:
        return FittedExample(prompt, head, tail)
    room = max(max_tokens - len(tail), max_tokens // 2)
    if is_shortened := len(head) > room:
        prompt = shorten(tokenizer, prompt, max_tokens=room)
        head, tail = _split(tokenizer, prompt, answer)
    kept = tail[: max_tokens - len(head)]
    return FittedExample(prompt, head, kept, is_shortened, is_cut=len(kept) < len(tail))


def _split(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], answer: str | Message
) -> tuple[list[int], list[int]]:
    turn = {"role": "assistant", **({"content": answer} if isinstance(answer, str) else answer)}
    before = render(tokenizer, prompt, generation_prompt=True)
    head, opening = _ids(tokenizer, before), thoughts.Opening.of(before)
    text = _with_answer(tokenizer, prompt, turn, before)
    whole = _ids(tokenizer, text)
    if opening is not None and text.startswith(before) and whole[: len(head)] != head:
        # the line breaks around an empty thought would merge; sampling begins after that of the prompt
        whole = head + _ids(tokenizer, text.removeprefix(before))
    head = whole[: common_prefix(head, whole)]
    tail, ends = whole[len(head) :], turn_ends_of(tokenizer)
    end = ends.last
    if end not in tail or ends.beginning:
        require_answers(tokenizer)
        raise DataError(
            f"the chat template does not end an answer with {tokenizer.decode([end])!r}, as it usually does",
            where=tokenizer.name_or_path or None,
            fix="set chat_template: chatml or toolkit",
        )
    return head, tail[: tail.index(end) + 1]


def _with_answer(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], turn: Message, before: str
) -> str:
    """Return the text of a prompt and its answer, as a model writes it after the generation prompt `before`.

    If the generation prompt begins a thought that the template does not render in the same way, the text is
    put together from the generation prompt, the thought, and the rendered answer.
    """
    turn = _without_special(turn, _special_tokens(tokenizer))
    opening = thoughts.Opening.of(before) or thoughts.Opening.within(turn)
    text = render(tokenizer, [*prompt, turn], generation_prompt=False)
    if opening is None and text.startswith(before):
        return text
    if opening is not None:
        header = before.removesuffix(opening.text)
        rest = text.removeprefix(header)
        if opening.is_closed and text.startswith(header):
            # the prompt holds an empty thought; if the answer has one, it takes its place
            return text if rest.startswith(opening.tag) else before + rest
        thought, answer = opening.divided(turn)
        reasoning = {"reasoning_content": thought} if thought else {}
        for candidate in [{**answer, **reasoning}] if opening.text else [turn, {**answer, **reasoning}]:
            text = render(tokenizer, [*prompt, candidate], generation_prompt=False)
            if text.startswith(before) and opening.holds(text.removeprefix(before), thought):
                return text
        text = render(tokenizer, [*prompt, answer], generation_prompt=False)
        if text.startswith(header):
            return before + opening.continued(thought, text.removeprefix(header))
    raise RenderedDifferently(
        "the chat template renders a prompt differently once the answer follows it",
        where=tokenizer.name_or_path or None,
        fix="set chat_template: chatml or toolkit",
    )


def learned_spans(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], ids: Sequence[int]
) -> list[slice]:
    """Return where in the ids of a conversation its answers are, each with the token that ends it.

    A token that ends only earlier answers (`<|end|>` of gpt-oss, whose last answer ends with `<|return|>`) is
    left out: a model that learned it would not stop.

    Args:
        messages: the turns before the last answer; those with `learned: False`, and those before the first
            request, are left out.
        ids: of the whole conversation, (length,).

    Raises:
        RenderedDifferently: the template renders the beginning of a conversation differently once more
            turns follow.
    """
    spans, ends = [], turn_ends_of(tokenizer)
    for index, message in enumerate(messages):
        is_answer = message["role"] == "assistant" and any(
            turn["role"] == "user" for turn in messages[:index]
        )
        if not is_answer or message.get("learned") is False:
            continue
        context = prompt_ids(tokenizer, messages[:index])
        start = common_prefix(context, ids)
        # one token may merge with the answer, and templates leave out what begins a thought
        is_prefix = len(context) - start <= 1 or thoughts.is_remainder(tokenizer.decode(context[start:]))
        if not is_prefix or ends.earlier not in ids[start:]:
            raise RenderedDifferently(
                "the chat template renders a turn differently once more turns follow it",
                where=tokenizer.name_or_path or None,
                fix="set multi_turn: last, which learns the last answer only, or another chat_template",
            )
        spans.append(slice(start, ids.index(ends.earlier, start) + (ends.earlier == ends.last)))
    return spans


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of tokens with which both begin."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


class TooLong(ToolkitError):
    """A conversation cannot be shortened to a number of tokens."""


def shorten(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, max_tokens: int
) -> list[Message]:
    """Return the newest turns that fit in `max_tokens`, generation prompt included.

    The oldest turns are removed first, so that the rest begins with a user's turn; a leading system message
    is kept if it fits together with the last turn. A last turn that is too long loses its beginning.

    Raises:
        TooLong: a conversation with tools, whose tools and turns since the last request do not fit: an answer
            that calls a function, or uses its result, must not be learned without them.
    """
    messages = list(messages)
    if len(prompt_ids(tokenizer, messages)) <= max_tokens:
        return messages
    has_tools = tools.has_tools(messages)
    system = [message for message in messages[:2] if message["role"] in ("system", tools.TOOLS)]
    turns = [i for i, message in enumerate(messages) if message["role"] == "user"] or [len(messages) - 1]
    candidates = [system + messages[i:] for i in turns if i > 0]
    if not has_tools:
        candidates.append(messages[turns[-1] :])
    for candidate in candidates:
        if len(prompt_ids(tokenizer, candidate)) <= max_tokens:
            return candidate
    if has_tools:
        raise TooLong(
            f"a conversation with tools has more than {max_tokens} tokens since its last request",
            fix="allow more tokens, or remove the row",
        )
    return _shorten_text(tokenizer, messages[-1], max_tokens=max_tokens)


def _shorten_text(tokenizer: PreTrainedTokenizerBase, message: Message, *, max_tokens: int) -> list[Message]:
    frame = len(prompt_ids(tokenizer, [{**message, "content": ""}]))
    if max_tokens < frame:
        raise ToolkitError(
            f"a prompt of {max_tokens} tokens has no room for its {frame} special tokens",
            fix="allow more tokens for the prompt",
        )
    ids = encode_text(tokenizer, message["content"])
    for keep in range(min(max_tokens - frame, len(ids)), 0, -1):
        # a split character decodes to U+FFFD, and the rest may encode to more ids
        text = tokenizer.decode(ids[-keep:], clean_up_tokenization_spaces=False).lstrip("\ufffd")
        shorter = [{**message, "content": text}]
        if len(prompt_ids(tokenizer, shorter)) <= max_tokens:
            return shorter
    return [{**message, "content": ""}]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
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
    special = _special_tokens(tokenizer)
    return any(_without_special(message, special) != message for message in messages)


def _without_special(message: Message, special: Sequence[str]) -> dict[str, str]:
    """Return a message whose text contains no special token; an answer may contain tags of thoughts."""
    if message["role"] == "assistant":
        special = [token for token in special if token not in thoughts.WRITTEN_BY_MODELS]
    return {key: _without(value, special) if key in TEXT_KEYS else value for key, value in message.items()}


def _without(text: str, special: Sequence[str]) -> str:
    for token in special:
        if token in text:
            text = text.replace(token, _broken(token))
    return text
