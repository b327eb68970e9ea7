"""A language model behind an OpenAI-compatible endpoint as judge: `POST URL/chat/completions`.

Nothing is sent but to the URL that the user has named: the prompt and both answers. The key comes from an
environment variable and is written nowhere.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from toolkit.base.errors import ToolkitError
from toolkit.base.progress import Progress
from toolkit.evaluate.judge_log import Journal, key_of
from toolkit.evaluate.pairwise import PairwiseJudge, Question

SYSTEM = (
    "You compare two answers to the same prompt. Say which one is better: more helpful, more correct, "
    "better written. Neither their length nor their order matters. Reply with one letter: A, B, or T (a tie)."
)
TEMPLATE = "[Prompt]\n{prompt}\n\n[Answer A]\n{first}\n\n[Answer B]\n{second}\n\nWhich is better? A, B or T:"
VERDICTS = {"A": 1.0, "T": 0.5, "TIE": 0.5, "B": 0.0}
TRIES = 5
BACKOFF_SECONDS = 1.0
"""Before the second try; twice as long before each further one."""
TIMEOUT_SECONDS = 60.0
AT_ONCE = 8
NONSENSE_SHARE = 0.1
"""Replies that name no answer, twice; above this share it is no judge."""
ENOUGH_REPLIES = 20
RETRIED = {408, 425, 429, 500, 502, 503, 504, 529}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to the host that was named, and nowhere else."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True)
class Endpoint:
    """Where it is, which model it is asked for, and the environment variable that holds the key."""

    url: str
    model: str
    key_variable: str = "JUDGE_API_KEY"

    @property
    def identity(self) -> list[str]:
        """What its judgements depend on."""
        return [self.url.rstrip("/"), self.model, SYSTEM, TEMPLATE]


def endpoint_judge(endpoint: Endpoint, journal: Journal, *, stop_early: bool = False) -> PairwiseJudge:
    """A judge that sees both orders, and asks nothing that the journal knows."""

    def ask(questions: Sequence[Question]) -> list[float | None]:
        return _ask_all(endpoint, journal, questions)

    facts = {"model": endpoint.model, "url": endpoint.url, "system": SYSTEM, "template": TEMPLATE}
    return PairwiseJudge(f"{endpoint.model} at {endpoint.url}", ask, stop_early=stop_early, facts=facts)


def _ask_all(endpoint: Endpoint, journal: Journal, questions: Sequence[Question]) -> list[float | None]:
    """Ask what is not known yet, several at once.

    Raises:
        ToolkitError: the endpoint does not answer, refuses, or answers nonsense; the journal keeps the rest.
    """
    keys = [key_of(endpoint.identity, [dict(turn) for turn in prompt], *pair) for prompt, *pair in questions]
    left = {key: place for place, key in enumerate(keys) if key not in journal}
    nonsense = 0
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        with Progress(f"{endpoint.model}: judged", len(left), "pair") as progress:
            work = [
                pool.submit(_judge, endpoint, journal, key, questions[place]) for key, place in left.items()
            ]
            for done, future in enumerate(as_completed(work), 1):
                verdict, reply = future.result()
                nonsense += verdict is None
                _require_sense(endpoint, nonsense, done, reply)
                progress.update(done)
    except BaseException as error:
        # what is under way is still kept, and nothing goes on asking after an error is told
        pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        raise
    pool.shutdown()
    return [journal[key] for key in keys]


def _require_sense(endpoint: Endpoint, nonsense: int, asked: int, reply: str) -> None:
    if asked >= ENOUGH_REPLIES and nonsense > NONSENSE_SHARE * asked:
        raise ToolkitError(
            f"named neither A, B nor T in {nonsense} of {asked} replies, such as {reply[:60]!r}",
            where=f"{endpoint.model} at {endpoint.url}", fix="take a model that follows instructions",
        )  # fmt: skip


def _judge(endpoint: Endpoint, journal: Journal, key: str, question: Question) -> tuple[float | None, str]:
    """Ask, and keep what was said before anything else can go wrong."""
    verdict, reply = _verdict(endpoint, question)
    journal.add(key, verdict, reply=reply)
    return verdict, reply


def _verdict(endpoint: Endpoint, question: Question) -> tuple[float | None, str]:
    """What it says of one pair, and in which words; asked once more where they are nonsense."""
    prompt, first, second = question
    text = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)
    text = prompt[0]["content"] if len(prompt) == 1 else text
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": TEMPLATE.format(prompt=text, first=first, second=second)},
    ]
    reply = ""
    for _ in range(2):
        reply = _complete(endpoint, messages)
        match = re.fullmatch(r"\W*(a|b|t|tie)\W*", reply, flags=re.IGNORECASE)
        if match:
            return VERDICTS[match.group(1).upper()], reply
    return None, reply


def _complete(endpoint: Endpoint, messages: list[dict[str, str]]) -> str:
    """The text of a completion at temperature 0; tries again while the server is busy or away."""
    body = {"model": endpoint.model, "messages": messages, "temperature": 0, "max_tokens": 16}
    for turn in range(TRIES):
        if turn:
            time.sleep(BACKOFF_SECONDS * 2 ** (turn - 1))
        try:
            return _text_of(_post(endpoint, body), endpoint)
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code}: {error.read(300).decode(errors='replace').strip()}"
            if error.code not in RETRIED:
                raise _failed(endpoint, f"refuses: {reason}", "check URL, model and key") from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
    raise _failed(
        endpoint,
        f"does not answer, {TRIES} times: {reason}",
        "what was judged is kept; give the same command again once it answers",
    )


def _post(endpoint: Endpoint, body: dict[str, Any]) -> bytes:
    headers = {"Content-Type": "application/json"}
    key = os.environ.get(endpoint.key_variable)
    if key:
        headers["Authorization"] = f"Bearer {key}"
    url = f"{endpoint.url.rstrip('/')}/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as response:
        return response.read()


def _text_of(answer: bytes, endpoint: Endpoint) -> str:
    try:
        return str(json.loads(answer)["choices"][0]["message"]["content"] or "")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        shown = answer[:100].decode(errors="replace")
        raise _failed(
            endpoint, f"answers no completion: {shown!r}", "name the URL up to /v1 of a compatible server"
        ) from error


def _failed(endpoint: Endpoint, what: str, fix: str) -> ToolkitError:
    return ToolkitError(what, where=f"{endpoint.model} at {endpoint.url}", fix=fix)
