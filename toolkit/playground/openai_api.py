"""`/v1/`: the models in the form of the OpenAI interface, for other programs and `toolkit evaluate`.

The form is that of https://platform.openai.com/docs/api-reference (chat completions, completions, models). A
parameter that would change the answer and is not supported is refused by its name.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from toolkit.base.errors import ToolkitError
from toolkit.inference.answer_pieces import AnswerPiece, pieces
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.opening import OpenModel
from toolkit.inference.token_text import token_bytes, token_text
from toolkit.models.description import vocabulary
from toolkit.playground.limits import MAX_NEW_TOKENS, MAX_SEED, MAX_TEXT
from toolkit.playground.openai_errors import ApiError, openai_error
from toolkit.playground.streaming import ClosedStream, engine, items, library

router = APIRouter()
MAX_CHOICES = 16
"""Answers to one request: its prompts times `n`."""
MAX_LOGPROBS = 200_000
"""Log-probabilities that one request may ask for, about 0.5 kB each while they wait for their client."""
COMPLETION_TOKENS = 16
"""Tokens of a completion without `max_tokens`, as in the OpenAI interface."""
DONE = b"data: [DONE]\n\n"
NO_EFFECT: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "best_of": (1,),
    "echo": (False,), "suffix": ("",), "response_format": ({"type": "text"},), "store": (False,),
    "tools": ([],), "service_tier": ("auto", "default"), "modalities": (["text"],),
}  # fmt: skip
"""Values of unsupported parameters that change nothing, beside null. `user` never does."""

Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]
TokenId = Annotated[int, Field(ge=0)]


class StreamOptions(BaseModel):
    """What a stream tells beside the answer."""

    include_usage: bool = False


class CompletionBase(BaseModel):
    """Parameters of both kinds of completion."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_NEW_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=1_000_000)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    stop: Stop | Annotated[list[Stop], Field(max_length=8)] | None = None

    def require_supported(self) -> None:
        """Raise ApiError if a parameter is set that is not supported."""
        for name, value in (self.model_extra or {}).items():
            if value is not None and name != "user" and value not in NO_EFFECT.get(name, ()):
                raise ApiError(f"{name} is not supported", param=name, code="unsupported_parameter")


class TextPart(BaseModel):
    """Part of a message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: Text


class ApiMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    def to_message(self) -> dict[str, str]:
        """Return the turn as a chat template takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatCompletion(CompletionBase):
    """A conversation to answer."""

    messages: list[ApiMessage] = Field(min_length=1, max_length=500)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_NEW_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)


class Completion(CompletionBase):
    """Texts to continue, as text or as token ids."""

    prompt: Text | list[Text] | list[TokenId] | list[list[TokenId]]
    logprobs: int | None = Field(default=None, ge=0, le=20)


class Form:
    """How choices are written: as chat completions, or as completions."""

    def __init__(self, given: ChatCompletion | Completion):
        self.given, self.is_chat = given, isinstance(given, ChatCompletion)
        kind, prefix = ("chat.completion", "chatcmpl") if self.is_chat else ("text_completion", "cmpl")
        self.head = {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": given.model}
        self.kind, self.chunk_kind = kind, "chat.completion.chunk" if self.is_chat else kind

    def top(self) -> int | None:
        """Return how many alternatives of each token are told, None for no log-probabilities."""
        if isinstance(self.given, Completion):
            return self.given.logprobs
        if self.given.top_logprobs is not None and not self.given.logprobs:
            raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")
        return (self.given.top_logprobs or 0) if self.given.logprobs else None

    def whole(self, choices: list[list[dict[str, Any]]], usage: dict[str, int]) -> dict[str, Any]:
        """Return the answer to a request without `stream`."""
        written = []
        for index, found in enumerate(choices):
            text = "".join(item["text"] for item in found)
            tokens = [token for item in found for token in item["tokens"]]
            choice = {
                "index": index,
                "finish_reason": found[-1]["finish"],
                "logprobs": self._logprobs(tokens, 0),
            }
            message = {"message": {"role": "assistant", "content": text, "refusal": None}}
            written.append(choice | (message if self.is_chat else {"text": text}))
        return {**self.head, "object": self.kind, "choices": written, "usage": usage}

    def chunk(self, item: dict[str, Any], *, offset: int, is_first: bool) -> dict[str, Any]:
        """Return one piece of a stream; `offset` is the number of characters of its choice before it."""
        choice = {"index": item["choice"], "finish_reason": item["finish"],
                  "logprobs": self._logprobs(item["tokens"], offset)}  # fmt: skip
        if self.is_chat:
            delta = {"role": "assistant"} if is_first else {}
            choice["delta"] = delta | ({"content": item["text"]} if item["text"] or is_first else {})
        else:
            choice["text"] = item["text"]
        return {**self.head, "object": self.chunk_kind, "choices": [choice]}

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return the last piece of a stream with `include_usage`."""
        return {**self.head, "object": self.chunk_kind, "choices": [], "usage": usage}

    def _logprobs(self, tokens: list[dict[str, Any]], offset: int) -> dict[str, Any] | None:
        if self.top() is None:
            return None
        if self.is_chat:
            return {"content": [{key: token[key] for key in ("token", "logprob", "bytes", "top_logprobs")}
                                for token in tokens], "refusal": None}  # fmt: skip
        offsets: list[int] = []
        tops: list[dict[str, float]] = []
        for token in tokens:
            offsets.append(offset)
            offset += token["length"]
            tops.append({})
            for one in token["top_logprobs"]:  # of tokens with the same text, the more probable one
                tops[-1].setdefault(one["token"], one["logprob"])
        return {"tokens": [token["token"] for token in tokens], "top_logprobs": tops,
                "token_logprobs": [token["logprob"] for token in tokens], "text_offset": offsets}  # fmt: skip


@router.get("/models")
async def list_models(request: Request) -> dict[str, Any]:
    """Return the language models."""
    return {"object": "list", "data": [_model_json(name) for name in _language_models(request)]}


@router.get("/models/{name:path}")
async def retrieve_model(request: Request, name: str) -> dict[str, Any]:
    """Return one model."""
    _require_model(request, name)
    return _model_json(name)


@router.post("/chat/completions")
async def chat_completions(request: Request, given: ChatCompletion) -> Response:
    """Answer a conversation."""
    if sum(len(message.to_message()["content"]) for message in given.messages) > MAX_TEXT:
        raise ApiError(f"the messages have more than {MAX_TEXT} characters", param="messages")
    return await _respond(request, given)


@router.post("/completions")
async def completions(request: Request, given: Completion) -> Response:
    """Continue texts."""
    return await _respond(request, given)


def _language_models(request: Request) -> list[str]:
    return [entry.id for entry in library(request).entries.values() if entry.kind == "language"]


def _require_model(request: Request, name: str) -> None:
    if name not in _language_models(request):
        raise ApiError(f"there is no language model {name!r}; GET /v1/models lists them", param="model",
                       code="model_not_found", status=404)  # fmt: skip


def _model_json(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "toolkit"}


async def _respond(request: Request, given: ChatCompletion | Completion) -> Response:
    _require_model(request, given.model)
    given.require_supported()
    form = Form(given)
    top = form.top()
    owner = await engine(request, given.model)

    def make(opened: OpenModel, cancelled: threading.Event) -> Iterator[dict[str, Any]]:
        return _choices(opened, given, top, cancelled)

    arriving = items(request, owner, make)
    if given.stream:
        # The first item comes before the status: what is wrong with the prompt is an error of HTTP.
        first = await _first(arriving)
        return ClosedStream(_events(form, first, arriving), media_type="text/event-stream")
    async with aclosing(arriving):
        found = [item async for item in arriving if "event" not in item]
    count = 1 + max(item["choice"] for item in found if "choice" in item)
    choices = [[item for item in found if item.get("choice") == index] for index in range(count)]
    return _json(form.whole(choices, _usage(found)))


async def _first(arriving: AsyncGenerator[dict[str, Any]]) -> dict[str, Any]:
    async for item in arriving:
        if "event" not in item:
            return item
    raise AssertionError("a request has at least one item")


async def _events(
    form: Form, first: dict[str, Any], arriving: AsyncGenerator[dict[str, Any]]
) -> AsyncGenerator[bytes]:
    """Yield the server-sent events of a stream."""
    found, lengths = [first], dict[int, int]()
    options = form.given.stream_options
    async with aclosing(arriving):
        try:
            async for item in arriving:
                if "choice" in item:
                    index = item["choice"]
                    is_first = index not in lengths
                    chunk = form.chunk(item, offset=lengths.get(index, 0), is_first=is_first)
                    lengths[index] = lengths.get(index, 0) + len(item["text"])
                    yield _event(chunk | ({"usage": None} if options and options.include_usage else {}))
                found.append(
                    {key: item[key] for key in ("prompt_tokens", "completion_tokens") if key in item}
                )
        except ToolkitError as error:
            yield _event(openai_error(str(error), status=422))
            return
        except Exception as error:  # the status is sent already
            yield _event(openai_error(f"{type(error).__name__}: {error}", status=500))
            return
    if options and options.include_usage:
        yield _event(form.usage_chunk(_usage(found)))
    yield DONE


def _choices(
    opened: OpenModel, given: ChatCompletion | Completion, top: int | None, cancelled: threading.Event
) -> Iterator[dict[str, Any]]:
    """Yield the pieces of all choices, one choice after another; for `streaming.items`."""
    prompts, stops = (
        _prompts(opened, given),
        [given.stop] if isinstance(given.stop, str) else given.stop or [],
    )
    count = given.n or 1
    if len(prompts) * count > MAX_CHOICES:
        raise ApiError(
            f"{len(prompts)} prompts with {count} answers each are more than {MAX_CHOICES}", param="n"
        )
    settings = _settings(opened, given)
    if top is not None:
        longest = min(settings.max_new_tokens, opened.context_length or settings.max_new_tokens)
        asked = len(prompts) * count * longest * (top + 1)
        if asked > MAX_LOGPROBS:
            raise ApiError(f"{asked} log-probabilities are more than {MAX_LOGPROBS}: lower n or max_tokens",
                           param="logprobs")  # fmt: skip
    yield {"prompt_tokens": sum(map(len, prompts))}
    for index in range(len(prompts) * count):
        stream = ("generate", index % count)  # the answers of `toolkit generate --count`
        for piece in pieces(opened, prompts[index // count], settings=settings, stream=stream, stops=stops,
                            top_logprobs=top, cancelled=cancelled):  # fmt: skip
            yield {"choice": index, **_piece_json(opened, piece)}


def _settings(opened: OpenModel, given: ChatCompletion | Completion) -> GenerationSettings:
    if isinstance(given, ChatCompletion):
        limit = given.max_completion_tokens or given.max_tokens or MAX_NEW_TOKENS
    else:
        limit = given.max_tokens or COMPLETION_TOKENS
    return GenerationSettings(max_new_tokens=limit, temperature=given.temperature, top_k=given.top_k,
                              top_p=given.top_p, seed=given.seed or 0).for_opened(opened)  # fmt: skip


def _prompts(opened: OpenModel, given: ChatCompletion | Completion) -> list[list[int]]:
    """Return the ids of every prompt.

    Raises:
        ApiError: one fills the context, or has a token that the model does not have.
    """
    if isinstance(given, ChatCompletion):
        if not opened.tokenizer.chat_template:
            raise ApiError("the model has no chat template: use /v1/completions", param="model")
        name, prompts = "messages", [opened.chat_ids([turn.to_message() for turn in given.messages])]
    else:
        name, prompt = "prompt", given.prompt
        several = isinstance(prompt, list) and not all(isinstance(one, int) for one in prompt)
        prompts = [_ids(opened, one) for one in (prompt if several else [prompt])]
    limit = opened.context_length
    for ids in prompts:
        if not ids:
            raise ApiError("a prompt has no token", param=name)
        if limit is not None and len(ids) >= limit:
            raise ApiError(f"the prompt has {len(ids)} tokens, and the model's context {limit}", param=name,
                           code="context_length_exceeded")  # fmt: skip
    if not prompts:
        raise ApiError("there is no prompt", param=name)
    return prompts


def _ids(opened: OpenModel, prompt: Any) -> list[int]:
    if isinstance(prompt, str):
        return opened.text_ids(prompt)
    entries = min(len(opened.tokenizer), vocabulary(opened.model))
    if any(token >= entries for token in prompt):
        raise ApiError(f"token ids are below {entries}", param="prompt")
    return list(prompt)


def _piece_json(opened: OpenModel, piece: AnswerPiece) -> dict[str, Any]:
    def named(token: int, logprob: float | None) -> dict[str, Any]:
        return {"token": token_text(opened.tokenizer, token), "logprob": logprob,
                "bytes": list(token_bytes(opened.tokenizer, token))}  # fmt: skip

    tokens = [
        {**named(token.id, token.logprob), "top_logprobs": [named(*one) for one in token.top],
         "length": len(token.text)}
        for token in piece.tokens
        if token.logprob is not None
    ]  # fmt: skip
    found: dict[str, Any] = {"text": piece.text, "tokens": tokens, "finish": None}
    if piece.finished is not None:
        found |= {"finish": piece.finished.reason, "completion_tokens": piece.finished.tokens}
    return found


def _usage(found: list[dict[str, Any]]) -> dict[str, int]:
    names = ("prompt_tokens", "completion_tokens")
    prompt, completion = (sum(item.get(name, 0) for item in found) for name in names)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"


def _json(value: dict[str, Any]) -> Response:
    return Response(json.dumps(value, ensure_ascii=False, allow_nan=False), media_type="application/json")
