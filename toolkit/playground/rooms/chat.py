"""`/api/chat`: an answer, streamed token by token, and what one may ask a model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from toolkit.base.errors import UsageError
from toolkit.inference.engine import Token, answer
from toolkit.inference.generation import GenerationSettings, own_sampling_note
from toolkit.inference.opening import OpenModel
from toolkit.inference.prompts import fitted_conversation
from toolkit.inference.token_text import token_text
from toolkit.playground.limits import MAX_NEW_TOKENS, MAX_SEED, MAX_TEXT
from toolkit.playground.streaming import engine, library, stream
from toolkit.playground.suggestions import suggestions

router = APIRouter()


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=MAX_TEXT)


class Sampling(BaseModel):
    """How tokens are drawn; null is the model's own setting."""

    max_new_tokens: int = Field(default=200, ge=1, le=MAX_NEW_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_k: int | None = Field(default=None, ge=0, le=1_000_000)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)


class ChatRequest(BaseModel):
    """A conversation that the model answers, or a text that it continues.

    Attributes:
        draw: number of the answer in its conversation, each of which is drawn from its own stream of the
            seed. Another draw is another answer to the same question; `toolkit chat` counts in the same way.
    """

    model: str
    messages: list[ChatMessage] = Field(min_length=1, max_length=500)
    sampling: Sampling = Sampling()
    draw: int = Field(default=0, ge=0, le=MAX_SEED)


class OpenRequest(BaseModel):
    """A model by its id."""

    model: str


@router.post("/chat")
async def chat(request: Request, given: ChatRequest) -> StreamingResponse:
    """Stream the events `prompt`, `token` and `done` of an answer."""
    messages = [message.model_dump() for message in given.messages]
    if sum(len(message["content"]) for message in messages) > MAX_TEXT:
        raise UsageError(f"a conversation has at most {MAX_TEXT} characters", fix="begin a new one")

    def make(opened: OpenModel, cancelled: threading.Event) -> Iterator[dict[str, Any]]:
        settings = GenerationSettings(**given.sampling.model_dump()).for_opened(opened)
        shown = token_writer(opened)
        ids, dropped = fitted_conversation(opened, messages, max_new_tokens=settings.max_new_tokens)
        yield {
            "event": "prompt",
            "tokens": [shown(token) for token in ids],
            "dropped": dropped,
            "context": opened.context_length,
            "sampling": {name: getattr(settings, name) for name in ("temperature", "top_k", "top_p")},
        }
        events = answer(opened, ids, settings=settings, stream=("chat", given.draw), cancelled=cancelled)
        for event in events:
            if isinstance(event, Token):
                yield {"event": "token", "text": event.text, "token": shown(event.id)}
            else:
                stop = None if event.stop is None else shown(event.stop)
                yield {"event": "done", "reason": event.reason, "text": event.text, "tokens": event.tokens,
                       "stop": stop}  # fmt: skip

    return stream(request, given.model, make)


@router.post("/chat/open")
async def open_for_chat(request: Request, given: OpenRequest) -> dict[str, Any]:
    """Load a model and tell how it talks: its sampling settings, and prompts that it understands."""
    opened = (await engine(request, given.model)).opened
    settings = GenerationSettings().for_opened(opened)
    models = library(request)
    return {
        **models.describe(models.entry(given.model)),
        "template": bool(opened.tokenizer.chat_template),
        "sampling": {name: getattr(settings, name) for name in ("temperature", "top_k", "top_p")},
        "note": own_sampling_note(opened, GenerationSettings()),
        "suggestions": await run_in_threadpool(suggestions, models.entry(given.model)),
    }


def token_writer(opened: OpenModel) -> Callable[[int], dict[str, Any]]:
    """Return a function that gives a token as the page shows it.

    A token is `special` if it was added beside those of texts, as the tokens of a chat template are.
    """
    added = {*opened.tokenizer.added_tokens_decoder}
    return lambda token: {"id": token, "text": token_text(opened.tokenizer, token), "special": token in added}
