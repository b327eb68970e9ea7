"""A language model behind an OpenAI-compatible endpoint as judge: `POST URL/chat/completions`.

Prompt and answers are sent only to the URL that the user gives. The key comes from an environment variable
and is never written to a file.
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
from toolkit.evaluate.judge_log import JudgementLog, question_key
from toolkit.evaluate.pairwise import PairwiseJudge, Question

SYSTEM = (
    "You compare two answers to the same prompt. Say which one is better: more helpful, more correct, "
    "better written. Neither their length nor their order matters. Reply with one letter: A, B, or T (a tie)."
)
TEMPLATE = "[Prompt]\n{prompt}\n\n[Answer A]\n{first}\n\n[Answer B]\n{second}\n\nWhich is better? A, B or T:"
VERDICTS = {"A": 1.0, "T": 0.5, "TIE": 0.5, "B": 0.0}
TRIES = 5
BACKOFF_SECONDS = 1.0
"""Wait before the second try; it doubles with each further try."""
TIMEOUT_SECONDS = 60.0
PARALLEL_REQUESTS = 8
MAX_UNPARSED_SHARE = 0.1
"""Maximum share of questions without a verdict; above it the model is not used as a judge."""
MIN_REPLIES = 20
"""Questions before the share is checked."""
RETRIED = {408, 425, 429, 500, 502, 503, 504, 529}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, so that the key is sent only to the host that the user gives."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True)
class Endpoint:
    """An endpoint's URL, the name of its model, and the environment variable that holds the key."""

    url: str
    model: str
    key_variable: str = "JUDGE_API_KEY"

    @property
    def identity(self) -> list[str]:
        """The parts of `question_key` that are the same for all questions to this endpoint."""
        return [self.url.rstrip("/"), self.model, SYSTEM, TEMPLATE]


def endpoint_judge(endpoint: Endpoint, log: JudgementLog, *, stop_early: bool = False) -> PairwiseJudge:
    """Return a judge that sees both orders; it asks only questions that the log does not answer."""

    def ask(questions: Sequence[Question]) -> list[float | None]:
        return _ask_all(endpoint, log, questions)

    facts = {"model": endpoint.model, "url": endpoint.url, "system": SYSTEM, "template": TEMPLATE}
    return PairwiseJudge(f"{endpoint.model} at {endpoint.url}", ask, stop_early=stop_early, facts=facts)


def _ask_all(endpoint: Endpoint, log: JudgementLog, questions: Sequence[Question]) -> list[float | None]:
    """Ask the questions that the log does not answer, in parallel.

    Raises:
        ToolkitError: the endpoint does not answer, refuses, or its replies cannot be parsed; the log keeps
            the verdicts so far.
    """
    keys = [
        question_key(endpoint.identity, [dict(turn) for turn in prompt], *pair) for prompt, *pair in questions
    ]
    open_questions = {key: index for index, key in enumerate(keys) if key not in log}
    unparsed = 0
    pool = ThreadPoolExecutor(PARALLEL_REQUESTS)
    try:
        with Progress(f"{endpoint.model}: judged", len(open_questions), "pair") as progress:
            futures = [
                pool.submit(_judge, endpoint, log, key, questions[index])
                for key, index in open_questions.items()
            ]
            for done, future in enumerate(as_completed(futures), 1):
                verdict, reply = future.result()
                unparsed += verdict is None
                _require_verdicts(endpoint, unparsed, done, reply)
                progress.update(done)
    except BaseException as error:
        # Running requests end and are logged; the others are cancelled, so that none starts after the error.
        pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        raise
    pool.shutdown()
    return [log[key] for key in keys]


def _require_verdicts(endpoint: Endpoint, unparsed: int, asked: int, reply: str) -> None:
    """Raise an error if too many questions got no verdict."""
    if asked >= MIN_REPLIES and unparsed > MAX_UNPARSED_SHARE * asked:
        raise ToolkitError(
            f"named neither A, B nor T in {unparsed} of {asked} replies, such as {reply[:60]!r}",
            where=f"{endpoint.model} at {endpoint.url}", fix="take a model that follows instructions",
        )  # fmt: skip


def _judge(endpoint: Endpoint, log: JudgementLog, key: str, question: Question) -> tuple[float | None, str]:
    """Ask one question and log the verdict immediately."""
    verdict, reply = _verdict(endpoint, question)
    log.add(key, verdict, reply=reply)
    return verdict, reply


def _verdict(endpoint: Endpoint, question: Question) -> tuple[float | None, str]:
    """Return the verdict on a pair and the reply's text; ask again once if it cannot be parsed."""
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
    """Return the text of a completion at temperature 0; try again while the server is busy or unreachable."""
    body = {"model": endpoint.model, "messages": messages, "temperature": 0, "max_tokens": 16}
    for attempt in range(TRIES):
        if attempt:
            time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
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
        excerpt = answer[:100].decode(errors="replace")
        raise _failed(
            endpoint, f"answers no completion: {excerpt!r}", "name the URL up to /v1 of a compatible server"
        ) from error


def _failed(endpoint: Endpoint, message: str, fix: str) -> ToolkitError:
    return ToolkitError(message, where=f"{endpoint.model} at {endpoint.url}", fix=fix)
