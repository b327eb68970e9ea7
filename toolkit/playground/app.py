"""The web application: the page, the JSON interface of its rooms, and what protects them.

The page and the list of models are served at once. The rooms need torch and transformers, whose import takes
seconds: it happens in the library's loader, and requests to the rooms wait for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from toolkit.base.errors import ToolkitError, UsageError
from toolkit.inference.engine import BusyError
from toolkit.playground import pages
from toolkit.playground.library import Library
from toolkit.playground.openai_errors import ApiError, is_openai_path, openai_error
from toolkit.playground.rooms import models
from toolkit.playground.streaming import error_json

ROOMS = ("rooms.chat", "rooms.next_word", "rooms.surprise", "rooms.attention", "rooms.compare",
         "rooms.reward", "rooms.runs", "openai_api")  # fmt: skip
"""Modules that import torch."""
Application = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True)
class ServerSettings:
    """Settings of the server.

    Attributes:
        runs_dir: the folder whose runs the page shows.
        feedback: the SQLite file of the votes.
        prompts: a file or Hub dataset with the prompts of the Compare room; None for those of the world of
            the models.
        seed: of the pairs of the Compare room.
    """

    runs_dir: Path
    feedback: Path
    prompts: str | None = None
    seed: int = 0


class Playground:
    """The ASGI application: the page and the models, and the rooms as soon as they are imported."""

    def __init__(self, library: Library, settings: ServerSettings):
        self._library, self._settings = library, settings
        self._frame = self._app({"/api": [models.router], "": [pages.router]})
        self._rooms: Future[Application] | None = None
        self._lock = Lock()

    def warm(self) -> Future[Application]:
        """Import torch, transformers and the rooms in the library's loader, if this did not begin yet.

        A model that is asked for meanwhile loads before the rooms are imported, which takes another 0.7 s.
        """
        with self._lock:
            if self._rooms is None:
                loader = self._library.loader
                loader.submit(partial(import_module, "toolkit.inference.opening"))
                for name in ROOMS:
                    loader.submit(partial(import_module, f"toolkit.playground.{name}"), later=True)
                self._rooms = loader.submit(self._with_rooms, later=True)
            return self._rooms

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request."""
        app: Application = self._frame
        path = scope["path"]
        if path.startswith(("/api/", "/v1/")) and not path.startswith("/api/models"):
            try:
                app = await asyncio.wrap_future(self.warm())
            except Exception as error:  # of an import: the page is there, and tells it
                app = _refused(ToolkitError(f"the rooms cannot be opened: {error!r}"))
        await app(scope, receive, send)

    def _app(self, routers: dict[str, list[APIRouter]]) -> FastAPI:
        app = FastAPI(title="toolkit playground", docs_url=None, redoc_url=None, openapi_url=None)
        app.state.library, app.state.settings = self._library, self._settings
        for prefix, included in routers.items():
            for router in included:
                app.include_router(router, prefix=prefix)
        app.add_exception_handler(ToolkitError, _tell)
        app.add_exception_handler(RequestValidationError, _tell_invalid)
        app.add_exception_handler(HTTPException, _tell_refused)
        return app

    def _with_rooms(self) -> Application:
        from toolkit.playground import openai_api
        from toolkit.playground.catalog import Catalog
        from toolkit.playground.kept import KeptSteps
        from toolkit.playground.rooms import attention, chat, compare, next_word, reward, runs, surprise

        rooms = (chat, next_word, surprise, attention, compare, runs, reward)
        app = self._app({"/api": [room.router for room in rooms], "/v1": [openai_api.router]})
        settings = self._settings
        app.state.kept = KeptSteps(self._library)
        app.state.catalog, app.state.reports = Catalog(settings.runs_dir), OrderedDict()
        app.state.surprise_slots = asyncio.Semaphore(surprise.COMPARISONS)
        app.state.comparisons = compare.Comparisons(
            self._library, settings.feedback, settings.prompts, settings.seed
        )
        return app


def _refused(error: ToolkitError) -> Application:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await _refusal(Request(scope), 500, error)(scope, receive, send)

    return app


async def _tell(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ToolkitError)
    if isinstance(error, ApiError):
        body = openai_error(error.what, status=error.status, param=error.param, code=error.code)
        return JSONResponse(body, status_code=error.status)
    status = 503 if isinstance(error, BusyError) else 400 if isinstance(error, UsageError) else 422
    return _refusal(request, status, error)


async def _tell_invalid(request: Request, error: Exception) -> JSONResponse:
    """Tell what is wrong with the values of a request; without the values, which may not be text at all."""
    assert isinstance(error, RequestValidationError)
    places = [".".join(str(part) for part in one["loc"][1:]) for one in error.errors()]
    found = [f"{place}: {one['msg']}" for place, one in zip(places, error.errors(), strict=True)]
    what = "; ".join(found).encode(errors="replace").decode()
    if is_openai_path(request.url.path):
        return JSONResponse(
            openai_error(what, status=400, param=places[0].partition(".")[0]), status_code=400
        )
    return _refusal(request, 422, ToolkitError(what))


async def _tell_refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _refusal(request, error.status_code, ToolkitError(str(error.detail)))


def _refusal(request: Request, status: int, error: ToolkitError) -> JSONResponse:
    if is_openai_path(request.url.path):
        return JSONResponse(openai_error(str(error), status=status), status_code=status)
    return JSONResponse({"error": error_json(error)}, status_code=status)
