"""Answers of a model over HTTP: one result as JSON, or many as lines of JSON while they are made.

A worker never waits for a client: what a slow one has not read yet waits in the memory of its request, at
most the items of one answer. When a client goes away, its request leaves the queue, or ends after its next
token.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse

from toolkit.base.console import tell
from toolkit.base.errors import ToolkitError
from toolkit.inference.engine import Engine
from toolkit.playground.library import Kind, Library

if TYPE_CHECKING:  # imports torch
    from toolkit.inference.opening import OpenModel

T = TypeVar("T")
Items = Callable[["OpenModel", threading.Event], Iterator[dict[str, Any]]]
"""Returns the items of a request; the event is set when the request is cancelled."""
POLL_SECONDS = 0.25
"""How often a waiting request tells its place in the queue, and looks whether its client went away."""


class ClientGoneError(ToolkitError):
    """The client of a request closed its connection."""


def library(request: Request) -> Library:
    """Return the models of the server."""
    models: Library = request.app.state.library
    return models


async def engine(request: Request, name: str, kind: Kind = "language") -> Engine:
    """Return the engine of a model; loads it, in another thread, if it is not loaded yet.

    Raises:
        ToolkitError: there is no such model, or it cannot be loaded.
    """
    return await asyncio.wrap_future(library(request).opening(name, kind))


async def compute(
    request: Request, name: str, function: Callable[[OpenModel], T], *, kind: Kind = "language"
) -> T:
    """Return a function of a model, computed by its engine. It leaves the queue when the client goes away.

    Raises:
        ToolkitError: there is no such model, it cannot be loaded, the client went away, or what the function
            raises.
    """
    future = asyncio.wrap_future((await engine(request, name, kind)).call(function))
    while not (await asyncio.wait({future}, timeout=POLL_SECONDS))[0]:
        if await request.is_disconnected():
            future.cancel()
            raise ClientGoneError("the client went away")
    return future.result()


def stream(request: Request, name: str, make: Items) -> StreamingResponse:
    """Return the items of a request to a model as lines of JSON, while they are made.

    Before the first item come `{"event": "loading"}` and `{"event": "queued", "position": N}`. An error is
    the line `{"event": "error", "error": {"what", "where", "fix"}}`. When the client goes away, the request
    is cancelled.

    Raises:
        UsageError: there is no such model.
    """
    library(request).entry(name)
    return ClosedStream(_lines(request, name, make), media_type="application/x-ndjson")


class ClosedStream(StreamingResponse):
    """A stream whose source is closed at its end, and as soon as the client goes away."""

    def __init__(self, source: AsyncGenerator[bytes], media_type: str):
        super().__init__(source, media_type=media_type)
        self.source = source

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the stream."""
        async with aclosing(self.source):
            await super().__call__(scope, receive, send)


def stream_events(events: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """Return events that need several models as lines of JSON; an error as in `stream`."""

    async def lines() -> AsyncGenerator[bytes]:
        try:
            async for event in events:
                yield _line(event)
        except ToolkitError as error:
            yield _line({"event": "error", "error": error_json(error)})

    return ClosedStream(lines(), media_type="application/x-ndjson")


async def _lines(request: Request, name: str, make: Items) -> AsyncGenerator[bytes]:
    try:
        if library(request).state(name) in ("closed", "loading"):
            yield _line({"event": "loading"})
        async with aclosing(items(request, await engine(request, name), make)) as arriving:
            async for item in arriving:
                yield _line(item)
    except ToolkitError as error:
        yield _line({"event": "error", "error": error_json(error)})
    except Exception as error:  # an answer that began has its status already: the page is told here
        tell(f"error: {request.url.path}: {type(error).__name__}: {error}")
        yield _line({"event": "error", "error": error_json(ToolkitError(f"{type(error).__name__}: {error}"))})


async def items(request: Request, owner: Engine, make: Items) -> AsyncGenerator[dict[str, Any]]:
    """Yield the items of a request to an engine, and its place while it waits: `queued` with a `position`.

    Closing the generator cancels the request.

    Raises:
        ToolkitError: too many requests wait, the client went away, or what `make` raises.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    def put(kind: str, value: Any) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, (kind, value))

    work = owner.submit(make, deliver=lambda item: put("item", item), end=lambda error: put("end", error))
    told = None
    try:
        while True:
            if work.position and work.position != told:
                told = work.position
                yield {"event": "queued", "position": told}
            try:
                kind, value = await asyncio.wait_for(arrived.get(), POLL_SECONDS)
            except TimeoutError:
                if await request.is_disconnected():
                    raise ClientGoneError("the client went away") from None
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
