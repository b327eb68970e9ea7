"""Answers of a model over HTTP: one result as JSON, or many as lines of JSON while they are made."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from toolkit.base.errors import ToolkitError
from toolkit.inference.engine import Engine
from toolkit.inference.opening import OpenModel
from toolkit.playground.library import Library

T = TypeVar("T")
POLL_SECONDS = 0.25
"""How often a waiting request tells its place in the queue, and looks whether its client went away."""


def library(request: Request) -> Library:
    """Return the models of the server."""
    models: Library = request.app.state.library
    return models


async def engine(request: Request, name: str) -> Engine:
    """Return the engine of a model; loads it, in another thread, if it is not loaded yet.

    Raises:
        ToolkitError: there is no such model, or it cannot be loaded.
    """
    models = library(request)
    return models.loaded(name) or await run_in_threadpool(models.engine, name)


async def compute(request: Request, name: str, function: Callable[[OpenModel], T]) -> T:
    """Return a function of a model, computed by its engine.

    Raises:
        ToolkitError: there is no such model, it cannot be loaded, or what the function raises.
    """
    return await asyncio.wrap_future((await engine(request, name)).call(function))


def stream(
    request: Request, name: str, make: Callable[[OpenModel, threading.Event], Iterator[dict[str, Any]]]
) -> StreamingResponse:
    """Return the items of a request to a model as lines of JSON, while they are made.

    Before the first item come `{"event": "loading"}` and `{"event": "queued", "position": N}`. An error is
    the line `{"event": "error", "error": {"what", "where", "fix"}}`. When the client goes away, the request
    is cancelled.

    Args:
        make: returns the items; the event is set when the request is cancelled.
    """
    return StreamingResponse(_lines(request, name, make), media_type="application/x-ndjson")


def stream_events(events: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """Return events that need several models as lines of JSON; an error as in `stream`."""

    async def lines() -> AsyncIterator[bytes]:
        try:
            async for event in events:
                yield _line(event)
        except ToolkitError as error:
            yield _line({"event": "error", "error": error_json(error)})

    return StreamingResponse(lines(), media_type="application/x-ndjson")


async def _lines(request: Request, name: str, make: Any) -> AsyncIterator[bytes]:
    try:
        if library(request).state(name) in ("closed", "loading"):
            yield _line({"event": "loading"})
        owner = await engine(request, name)
        async for item in _items(request, owner, make):
            yield _line(item)
    except ToolkitError as error:
        yield _line({"event": "error", "error": error_json(error)})


async def _items(request: Request, owner: Engine, make: Any) -> AsyncIterator[dict[str, Any]]:
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    def put(kind: str, value: Any) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, (kind, value))

    work = owner.submit(make, deliver=lambda item: put("item", item), end=lambda error: put("end", error))
    told = None
    try:
        while True:
            try:
                kind, value = await asyncio.wait_for(arrived.get(), POLL_SECONDS)
            except TimeoutError:
                if await request.is_disconnected():
                    return
                if work.position and work.position != told:
                    told = work.position
                    yield {"event": "queued", "position": told}
                continue
            if kind == "item":
                yield value
            elif value is not None:
                raise value
            else:
                return
    finally:
        work.cancel()


def error_json(error: ToolkitError) -> dict[str, str | None]:
    """Return an error as the page shows it."""
    return {"what": error.what, "where": error.where, "fix": error.fix}


def _line(item: dict[str, Any]) -> bytes:
    return (json.dumps(item, ensure_ascii=False, allow_nan=False) + "\n").encode()
