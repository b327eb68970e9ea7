"""`/api/chat`: an answer, streamed token by token."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from toolkit.inference.engine import Finished, Token, answer
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.opening import OpenModel
from toolkit.inference.token_text import token_text
from toolkit.playground.limits import MAX_TEXT
from toolkit.playground.streaming import stream

router = APIRouter()


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=MAX_TEXT)


class Sampling(BaseModel):
    """How tokens are drawn; null is the model's own setting."""

    max_new_tokens: int = Field(default=200, ge=1, le=4096)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_k: int | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int = 0


class ChatRequest(BaseModel):
    """A conversation that the model answers, or a text that it continues."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1, max_length=500)
    sampling: Sampling = Sampling()


@router.post("/chat")
async def chat(request: Request, given: ChatRequest) -> StreamingResponse:
    """Stream the events `prompt`, `token` and `done` of an answer."""

    def make(opened: OpenModel, cancelled: threading.Event) -> Iterator[dict[str, Any]]:
        ids = prompt_ids(opened, given.messages)
        yield {"event": "prompt", "tokens": [token_text(opened.tokenizer, token) for token in ids]}
        settings = GenerationSettings(**given.sampling.model_dump())
        for event in answer(opened, ids, settings=settings, cancelled=cancelled):
            yield event_json(opened, event)

    return stream(request, given.model, make)


def prompt_ids(opened: OpenModel, messages: list[ChatMessage]) -> list[int]:
    """Return the ids of a conversation; of plain text where the model has no chat template."""
    if opened.tokenizer.chat_template:
        return opened.chat_ids([message.model_dump() for message in messages])
    return opened.text_ids("".join(message.content for message in messages))


def event_json(opened: OpenModel, event: Token | Finished) -> dict[str, Any]:
    """Return an event of an answer as the browser reads it."""
    if isinstance(event, Token):
        return {"event": "token", "id": event.id, "text": event.text,
                "token": token_text(opened.tokenizer, event.id)}  # fmt: skip
    return {"event": "done", **asdict(event)}
