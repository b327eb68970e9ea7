"""Answers of a model over HTTP: one result as JSON, or many as lines of JSON while they are made.

A worker never waits for a client: what a slow one has not read yet waits in the memory of its request, at
most the items of one answer. When a client goes away, its request leaves the queue, or ends after its next
token.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
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
    return await computed(request, await engine(request, name, kind), function)


async def computed(request: Request, owner: Engine, function: Callable[[OpenModel], T]) -> T:
    """Return a function of a model, as `compute`, computed by an engine that is not of the library.

    Raises:
        ToolkitError: the client went away, or what the function raises.
    """
    future = asyncio.wrap_future(owner.call(function))
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
    return stream_events(_events(request, name, make))


class ClosedStream(StreamingResponse):
    """A stream whose source is closed at its end, and as soon as the client goes away."""

    def __init__(self, source: AsyncGenerator[bytes], media_type: str):
        super().__init__(source, media_type=media_type)
        self.source = source

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the stream."""
        async with aclosing(self.source):
            await super().__call__(scope, receive, send)


def stream_events(events: AsyncGenerator[dict[str, Any]]) -> StreamingResponse:
    """Return events that need several models as lines of JSON; an error as in `stream`."""
    return ClosedStream(_lines(events), media_type="application/x-ndjson")


async def _events(request: Request, name: str, make: Items) -> AsyncGenerator[dict[str, Any]]:
    if library(request).state(name) in ("closed", "loading"):
        yield {"event": "loading"}
    async with aclosing(items(request, await engine(request, name), make)) as arriving:
        async for item in arriving:
            yield item


async def _lines(events: AsyncGenerator[dict[str, Any]]) -> AsyncGenerator[bytes]:
    async with aclosing(events):
        try:
            async for event in events:
                yield _line(event)
        except ToolkitError as error:
            yield _line({"event": "error", "error": error_json(error)})
        except Exception as error:  # an answer that began has its status already: the page is told here
            what = f"{type(error).__name__}: {error}"
            tell(f"error: {what}")
            yield _line({"event": "error", "error": error_json(ToolkitError(what))})


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
    told, looked = None, loop.time()
    try:
        while True:
            if work.position and work.position != told:
                told = work.position
                yield {"event": "queued", "position": told}
            if loop.time() - looked >= POLL_SECONDS:  # also while items arrive, which nobody may read
                looked = loop.time()
                if await request.is_disconnected():
                    raise ClientGoneError("the client went away")
            try:
                kind, value = await asyncio.wait_for(arrived.get(), POLL_SECONDS)
            except TimeoutError:
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
