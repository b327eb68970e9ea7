"""How soon the playground's page is there, its model ready, and the first token of an answer shown.

    make demo && python benchmarks/playground.py runs/tiny/sft
    python benchmarks/playground.py MODEL --starts 5 --answers 30

All numbers are from the same starts of the server. "Imported" is the moment at which its loader has
imported torch and the classes of transformers that load a model. The model's own time to its first token is
measured in this process, before and after the answers of the server. The output is a Markdown table.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commands import header

from toolkit.runtime import waiting

SERVER = """
import sys, time
from toolkit.playground import serve

def imported():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
    print(time.time(), flush=True)

def warm(playground, own=serve.Playground.warm):
    playground._library.loader.submit(imported)
    return own(playground)

serve.Playground.warm = warm
from toolkit.cli.main import main
sys.exit(main(["playground", sys.argv[1], "--port", "0", "--feedback", sys.argv[2]]))
"""
QUESTION = "Tell me a story about a fox who finds a key."


class Started:
    """A server that was just started; times are in seconds since then."""

    def __init__(self, model: str, feedback: str):
        self.model, self.start = model, time.time()
        command = [sys.executable, "-c", SERVER, model, feedback]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = self._line()
        self.port = int(self.address.rstrip("/").rpartition(":")[2])

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise SystemExit("the server ended")
        return line

    def request(self, path: str, body: object = None) -> bytes:
        """Return the answer to a request; the models are asked for by name."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        data = None if body is None else json.dumps(body)
        headers = {"content-type": "application/json"}
        connection.request("GET" if body is None else "POST", path, data, headers)
        answer = connection.getresponse()
        found = answer.read()
        connection.close()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status}: {found!r}")
        return found

    def page_and_model(self) -> tuple[float, float, float]:
        """Return when the page was served, when the libraries were imported, and when the model was ready."""
        self.request("/")
        served = time.time() - self.start
        self.request("/api/models/open", {"model": self.model})
        ready = time.time() - self.start
        return served, float(self._line()) - self.start, ready

    def first_token(self, seed: int) -> float:
        """Return the seconds from a question to the first token of its answer."""
        body = {"model": self.model, "messages": [{"role": "user", "content": QUESTION}],
                "sampling": {"max_new_tokens": 20, "seed": seed}}  # fmt: skip
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        begin = time.perf_counter()
        connection.request("POST", "/api/chat", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        while b'"token"' not in answer.readline():
            pass
        found = time.perf_counter() - begin
        answer.read()
        connection.close()
        return found


@contextmanager
def started(model: str) -> Iterator[Started]:
    """Start a server, and end it."""
    with tempfile.TemporaryDirectory() as folder:
        server = Started(model, str(Path(folder) / "feedback.sqlite"))
        try:
            yield server
        finally:
            server.process.terminate()
            server.process.wait()


def own_first_tokens(model: str, count: int) -> list[float]:
    """Return the seconds that the model itself takes from a conversation to its first token."""
    from toolkit.inference.engine import answer
    from toolkit.inference.generation import GenerationSettings
    from toolkit.inference.opening import open_model
    from toolkit.inference.prompts import conversation_ids

    opened, found = open_model(model), []
    for seed in range(count):
        begin = time.perf_counter()
        ids = conversation_ids(opened, [{"role": "user", "content": QUESTION}])
        next(answer(opened, ids, settings=GenerationSettings(max_new_tokens=20, seed=seed)))
        found.append(time.perf_counter() - begin)
    return found[1:]  # the first one warms up


def shown_in_browser(server: Started, count: int) -> list[float]:
    """Return the seconds from the Enter key to the first token on the page; empty without a browser."""
    try:
        from playwright.sync_api import sync_playwright

        from tools.check_page import browser
    except ImportError:
        return []
    if browser() is None:
        return []
    with sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=browser(), args=["--no-sandbox"]).new_page()
        page.goto(f"{server.address}#/chat?max=20")
        page.wait_for_selector(".composer")
        page.evaluate("""() => {
          const area = document.querySelector(".composer textarea"), times = window.times = [];
          let begin = 0;
          area.addEventListener("keydown", () => { begin = performance.now(); }, { capture: true });
          new MutationObserver(() => {
            if (begin && document.querySelector(".turn:last-child .said")?.textContent) {
              times.push(performance.now() - begin);
              begin = 0;
            }
          }).observe(document.querySelector(".turns"), { childList: true, subtree: true });
        }""")
        for _ in range(count):
            page.fill(".composer textarea", QUESTION)
            page.press(".composer textarea", "Enter")
            page.wait_for_selector(".answer[aria-busy=false]")
            page.wait_for_selector(".answer[aria-busy=true]", state="detached")
            page.get_by_role("button", name="Clear").click()
        found = [value / 1000 for value in page.evaluate("window.times")]
        page.context.browser.close()
    return found[1:]


def row(name: str, values: list[float], unit: float = 1.0) -> str:
    """Return a row of the table: what, median, slowest, n."""
    middle, slowest = statistics.median(values) / unit, max(values) / unit
    return f"| {name} | {middle:.2f} | {slowest:.2f} | {len(values)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a chat model: a run, a folder or a Hub id")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--answers", type=int, default=30)
    options = parser.parse_args()
    waiting.spin_briefly()  # as the command line does
    starts, tokens, shown = [], [], []
    own = own_first_tokens(options.model, options.answers // 2)
    for _ in range(options.starts):
        with started(options.model) as server:
            starts.append(server.page_and_model())
            if not tokens:
                tokens = [server.first_token(seed) for seed in range(options.answers)][1:]
                shown = shown_in_browser(server, options.answers)
    own += own_first_tokens(options.model, options.answers // 2)
    served, imported, ready = (list(values) for values in zip(*starts, strict=True))
    after = [end - begin for begin, end in zip(imported, ready, strict=True)]
    print(header("", "median", "slowest", "n"))
    print(row("page served, s after the start of the process", served))
    print(row("torch and transformers imported, s", imported))
    print(row("model ready, s after that", after))
    print(row("first token: the model's own time, ms", own, 1e-3))
    print(row("first token over HTTP, ms", tokens, 1e-3))
    if shown:
        print(row("first token on the page after the Enter key, ms", shown, 1e-3))


if __name__ == "__main__":
    main()
