"""The web application: the page, the JSON interface of its rooms, and what protects them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from toolkit.base.errors import ToolkitError, UsageError
from toolkit.inference.engine import BusyError
from toolkit.playground import pages
from toolkit.playground.library import Library
from toolkit.playground.rooms import attention, chat, compare, models, next_word, reward, runs, surprise
from toolkit.playground.security import Access, Guard
from toolkit.playground.streaming import error_json


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


def create_app(library: Library, settings: ServerSettings, access: Access) -> Guard:
    """Return the ASGI application."""
    app = FastAPI(title="toolkit playground", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.library, app.state.settings = library, settings
    for room in (models, chat, next_word, surprise, attention, compare, runs, reward):
        app.include_router(room.router, prefix="/api")
    app.include_router(pages.router)
    app.add_exception_handler(ToolkitError, _tell)
    return Guard(app, access)


async def _tell(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ToolkitError)
    status = 503 if isinstance(error, BusyError) else 400 if isinstance(error, UsageError) else 422
    return JSONResponse({"error": error_json(error)}, status_code=status)
