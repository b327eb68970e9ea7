"""The files of the page. They are read once; no path of a request reaches the file system."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from importlib import resources

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

router = APIRouter()
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".json": "application/json",
         ".svg": "image/svg+xml"}  # fmt: skip


@cache
def contents() -> dict[str, tuple[bytes, str, str]]:
    """Return {path of a URL: (content, media type, entity tag)} of every file of the page."""
    found = {}

    def collect(folder: resources.abc.Traversable, prefix: str) -> None:
        for item in folder.iterdir():
            if item.is_dir():
                collect(item, f"{prefix}{item.name}/")
                continue
            data, suffix = item.read_bytes(), "." + item.name.rpartition(".")[2]
            kind = TYPES.get(suffix) or mimetypes.guess_type(item.name)[0] or "application/octet-stream"
            found[prefix + item.name] = (data, kind, f'"{hashlib.sha256(data).hexdigest()[:16]}"')

    collect(resources.files("toolkit.playground") / "static", "/")
    return found


@router.get("/{path:path}", include_in_schema=False)
async def file(request: Request, path: str) -> Response:
    """Return a file of the page."""
    found = contents().get("/" + (path or "index.html"))
    if found is None:
        return JSONResponse({"error": {"what": f"there is no page /{path}"}}, status_code=404)
    data, kind, tag = found
    headers = {"etag": tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=kind, headers=headers)
