"""A real server on 127.0.0.1 with a tiny model, and a real browser.

Browser tests need Chromium or Chrome; accessibility tests need axe-core (CONTRIBUTING.md). Where one is
missing they are skipped.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from tools.check_page import axe_core, browser

SECONDS = 60


@dataclass(frozen=True)
class Server:
    """A running playground.

    Attributes:
        port: on 127.0.0.1.
        folder: that holds its runs and its votes.
    """

    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the answer to one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"content-type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def get(self, path: str) -> Any:
        status, _, body = self.request("GET", path)
        assert status == 200, body
        return json.loads(body)

    def post(self, path: str, body: Any) -> Any:
        status, _, answer = self.request("POST", path, body)
        assert status == 200, answer
        return json.loads(answer)

    def refused(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        """Return status and error of a request that fails."""
        status, _, answer = self.request("POST", path, body)
        assert status >= 400, answer
        return status, json.loads(answer)["error"]

    def events(self, path: str, body: Any) -> list[dict[str, Any]]:
        """Return all events of a stream."""
        status, _, answer = self.request("POST", path, body)
        assert status == 200, answer
        return [json.loads(line) for line in answer.decode().splitlines()]


@contextlib.contextmanager
def serving(
    models: list[str], folder: Path, *, prompts: str | None = None, **access: Any
) -> Iterator[Server]:
    """Serve models in a thread, on a free port. `models` are folders; empty: the runs below `folder`."""
    from toolkit.playground.app import Playground, ServerSettings
    from toolkit.playground.library import Library, entries_of
    from toolkit.playground.security import Access, Guard
    from toolkit.playground.serve import listen

    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    library = Library(entries_of(models, folder))
    playground = Playground(library, ServerSettings(folder, folder / "feedback.sqlite", prompts))
    app = Guard(playground, Access(frozenset({f"127.0.0.1:{port}"}), **access))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Server(port, folder)
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        library.close()


@pytest.fixture(scope="session")
def model_folder(tiny_model, tiny_tokenizer, tmp_path_factory) -> Path:
    """Return the folder of an untrained GPT-2 with a byte tokenizer, a chat template and 64 positions."""
    folder = tmp_path_factory.mktemp("models") / "model"
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(model_folder, tmp_path_factory) -> Iterator[Server]:
    """Serve one tiny model, whose id is its path."""
    with serving([str(model_folder)], tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def chromium():
    """Return a browser; its pages are closed by the fixture `page`."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if browser() is None:
        pytest.skip("neither Chromium nor Chrome is installed")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=browser(), args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(chromium):
    """Return an empty page, 1280 by 900; errors of its scripts fail the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    yield opened
    context.close()
    assert errors == []


@pytest.fixture(scope="session")
def axe() -> str:
    """Return axe-core as a script; a strict Content-Security-Policy lets a page evaluate it, not load it."""
    path = axe_core()
    if path is None:
        pytest.skip("axe-core is not installed (CONTRIBUTING.md)")
    return path.read_text(encoding="utf-8")


def faults(page: Any, axe: str | None = None) -> list[str]:
    """Return what is wrong with a shown page: what axe-core finds, and parts that are off the screen."""
    found = page.evaluate("""() => {
      const width = document.documentElement.clientWidth, wide = [];
      if (document.documentElement.scrollWidth > width) {
        wide.push(`the page is ${document.documentElement.scrollWidth} pixels wide`);
        for (const element of document.querySelectorAll("main *"))
          if (element.getBoundingClientRect().right > width + 1) wide.push(element.outerHTML.slice(0, 120));
      }
      return wide;
    }""")
    if axe is not None:
        page.evaluate(axe)
        found += page.evaluate("""async () => {
          const result = await axe.run(document, {resultTypes: ["violations"]});
          return result.violations.flatMap(fault => fault.nodes.map(
            node => `${fault.id}: ${fault.help}: ${node.html.slice(0, 160)}`));
        }""")
    return found
