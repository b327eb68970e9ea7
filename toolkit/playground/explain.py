"""`toolkit explain`: rooms of the page as one file, with the answers to its own text recorded.

The file runs the same scripts as the page. What they would ask the server for is asked here beforehand, of
the same interface, and written into the file (`static/js/recorded.js` answers from it). So the file can show
every token of its text, every model and every head, but no other text.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from toolkit.base.errors import ToolkitError, UsageError
from toolkit.base.files import write_atomic
from toolkit.base.progress import Progress
from toolkit.base.system_errors import require_writable
from toolkit.playground import pages
from toolkit.playground.app import Playground, ServerSettings
from toolkit.playground.bundle import bundled
from toolkit.playground.library import Library, entries_of

LANGUAGES = ("en", "ja")
FIELDS: Mapping[str, tuple[str, ...]] = {
    "/api/next": ("model", "text", "chat", "appended", "at"),
    "/api/models/open": ("model",),
    "/api/surprise": ("models", "text", "prompt", "end", "against"),
    "/api/attention": ("model", "step", "text", "first"),
    "/api/attention/head": ("model", "step", "text", "first", "layer", "head"),
    "/api/attention/lens": ("model", "step", "text"),
    "/api/attention/step": ("model", "step", "text"),
    "/api/attention/kept": (),
}
"""Request -> the fields on which its answer depends."""
MAX_HEADS = 400
"""Heads that are recorded, of all models and both ways to show the first position."""
MAX_SUBSETS = 4
"""Up to so many models, Surprise compares any of them; more: each one and all."""

Question = tuple[str, dict[str, Any] | None]


class Recorder:
    """Asks the JSON interface in this process, and keeps the answers."""

    def __init__(self, library: Library):
        self._app = Playground(library, ServerSettings(Path(), Path()))
        self.answers: dict[str, Any] = {}
        # Who calls may be in an event loop already, as in a notebook.
        self._thread = ThreadPoolExecutor(1, "recorder")

    def ask(self, path: str, body: dict[str, Any] | None) -> Any:
        """Return the answer to a request, and keep it: an object, or the list of the events of a stream.

        Raises:
            ToolkitError: what the server answers with instead.
        """
        status, text = self._thread.submit(asyncio.run, self._request(path, body)).result()
        lines = [json.loads(line) for line in text.splitlines()]
        failed = next((line["error"] for line in lines if "error" in line), None)
        if failed is not None or status != 200:
            raise ToolkitError(**(failed or {"what": f"{path} answers with status {status}"}))
        answer = [line for line in lines if line["event"] == "done"] if "event" in lines[0] else lines[0]
        self.answers[key(path, body)] = answer
        return answer

    async def _request(self, path: str, body: dict[str, Any] | None) -> tuple[int, str]:
        sent: list[dict[str, Any]] = []
        given = b"" if body is None else json.dumps(body).encode()
        messages = iter([{"type": "http.request", "body": given, "more_body": False}])
        waiting = asyncio.Event()  # the client stays until the answer is complete

        async def receive() -> dict[str, Any]:
            message = next(messages, None)
            if message is None:
                await waiting.wait()
            return message or {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "GET" if body is None else "POST", "path": path, "query_string": b"",
            "headers": [(b"content-type", b"application/json")], "asgi": {"version": "3.0"},
            "http_version": "1.1", "scheme": "http", "root_path": "", "raw_path": path.encode(),
        }  # fmt: skip
        await self._app(scope, receive, send)
        content = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], content.decode()


def key(path: str, body: Mapping[str, Any] | None) -> str:
    """Return the name under which an answer is kept; `recorded.js` builds the same."""
    values = [(body or {}).get(name) for name in FIELDS[path]]
    return json.dumps([path, *values], ensure_ascii=False, separators=(",", ":"))


def explain_command(models: list[str], *, text: str, output: str, language: str) -> None:
    """Write the page about models and a text to `output`.

    Raises:
        UsageError: none of the models is a language model.
        ToolkitError: a model cannot be loaded or compared, or the text is too short or too long.
    """
    library = Library(entries_of(models, Path("runs")))
    names = [entry.id for entry in library.entries.values() if entry.kind == "language"]
    if not names:
        fix = "name one, such as runs/tiny/pretrain"
        raise UsageError("no MODEL is a language model", where=", ".join(models), fix=fix)
    folder = Path(output).parent
    require_writable(folder)  # before the work
    recorder = Recorder(library)
    for name in names:
        recorder.ask("/api/models/open", {"model": name})
    questions = list(_questions(recorder, names, text))
    with Progress("recording", len(questions), "answer") as progress:
        for count, question in enumerate(questions, 1):
            recorder.ask(*question)
            progress.update(count)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(Path(output), page(library.to_json(), recorder.answers, text=text, language=language))


def _questions(recorder: Recorder, names: Sequence[str], text: str) -> Iterator[Question]:
    """Yield what the rooms ask about a text."""
    for name in names:
        request = {"model": name, "text": text, "chat": False, "appended": [], "at": None}
        length = len(recorder.ask("/api/next", request)["tokens"])
        yield from (("/api/next", {**request, "at": at}) for at in range(1, length + 1))
    sizes = range(1, len(names) + 1) if len(names) <= MAX_SUBSETS else (1, len(names))
    for size, against in itertools.product(sizes, ("first", "previous")):
        for chosen in itertools.combinations(names, size):
            yield ("/api/surprise", {"models": list(chosen), "text": text, "prompt": None, "end": False,
                                     "against": against})  # fmt: skip
    kept = {one["model"]: one["steps"] for one in recorder.ask("/api/attention/kept", None)["models"]}
    heads = 0
    for name in names:
        about = {"model": name, "step": None, "text": text}
        grid = recorder.ask("/api/attention", {**about, "first": False})
        layers, width = len(grid["heads"]), len(grid["heads"][0])
        yield from (("/api/attention", {**about, "first": True}), ("/api/attention/lens", about))
        heads += 2 * layers * width
        if heads <= MAX_HEADS or name == names[0]:
            for first, layer, head in itertools.product((False, True), range(layers), range(width)):
                yield ("/api/attention/head", {**about, "first": first, "layer": layer, "head": head})
        for step in kept.get(name, ()):
            at = {**about, "step": step["step"]}
            yield from (("/api/attention/step", at), ("/api/attention", {**at, "first": False}),
                        ("/api/attention/lens", at))  # fmt: skip


def page(models: Sequence[Mapping[str, Any]], answers: Mapping[str, Any], *, text: str, language: str) -> str:
    """Return a self-contained HTML page, which loads nothing and may not connect anywhere."""
    contents = {path: data.decode() for path, (data, _, _) in pages.contents().items()}
    styles = "\n".join(contents[path] for path in sorted(contents) if path.endswith(".css"))
    script = bundled(contents, "/js/explain.js")
    data = {
        "models": models, "answers": answers, "fields": FIELDS, "text": text, "language": language,
        "strings": {code: json.loads(contents[f"/i18n/{code}.json"]) for code in LANGUAGES},
    }  # fmt: skip
    embedded = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    policy = f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(styles)}'; img-src data:"
    return TEMPLATE.format(language=language, policy=policy, styles=styles, script=script, data=embedded)


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


TEMPLATE = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>toolkit explain</title>
<link rel="icon" href="data:,">
<style>{styles}</style>
</head>
<body>
<header class="bar" id="bar"></header>
<main id="main" tabindex="-1"></main>
<div id="notices" role="status" aria-live="polite"></div>
<script type="application/json" id="data">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""
