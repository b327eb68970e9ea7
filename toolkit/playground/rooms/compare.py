"""`/api/compare`: pairs of answers that people compare blindly, their votes, and statistics of the votes.

No answer names a model before the vote on its pair, except where it was asked for by name.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import AfterValidator, BaseModel, Field

from toolkit.base.errors import UsageError
from toolkit.data import vote_file
from toolkit.evaluate import vote_statistics
from toolkit.playground import prompts
from toolkit.playground.answers_ahead import Producer
from toolkit.playground.contest import SHUFFLED, AnswerPair, BlindContest, ContestSettings, Message, Showing
from toolkit.playground.feedback import VoteLog
from toolkit.playground.library import Library
from toolkit.playground.limits import MAX_MODELS, MAX_TEXT
from toolkit.playground.streaming import library

router = APIRouter()
MAX_CONTESTS = 64
POLL_SECONDS = 0.03
"""How often a request looks for a pair that is being made."""


def _named(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text.strip()


Name = Annotated[str, Field(max_length=80), AfterValidator(_named)]


class CompareRequest(BaseModel):
    """A comparison, and who asks; what is equal in all but the voter is one comparison."""

    voter: Name
    models: list[str] = Field(min_length=1, max_length=MAX_MODELS)
    prompt: str | None = Field(default=None, max_length=MAX_TEXT)
    max_new_tokens: int = Field(default=200, ge=1, le=4096)
    temperature: float | None = Field(default=None, ge=0, le=100)
    annotators: int = Field(default=1, ge=1, le=100)
    repeats: float = Field(default=0.1, ge=0, le=0.5)
    checks: float = Field(default=0.05, ge=0, le=0.5)
    reveal: bool = False

    def settings(self) -> ContestSettings:
        """Return what is compared."""
        models = tuple(dict.fromkeys(self.models))
        prompt = None if self.prompt is None or not self.prompt.strip() else self.prompt
        return ContestSettings(models, prompt, self.max_new_tokens, self.temperature, self.annotators,
                               self.repeats, self.checks, self.reveal)  # fmt: skip


class VoteRequest(CompareRequest):
    """A vote on a pair."""

    item: str = Field(max_length=64)
    vote: Literal["left", "right", "tie", "bad"]


class SkipRequest(CompareRequest):
    """A pair that is not voted on."""

    item: str = Field(max_length=64)


class StatisticsRequest(BaseModel):
    """Of the votes between these models; of all votes without any."""

    models: list[str] = Field(default=[], max_length=MAX_MODELS)


class Comparisons:
    """All comparisons of a server, and its file of votes."""

    def __init__(self, models: Library, feedback: Path, prompt_file: str | None, seed: int):
        self._models, self._feedback, self._prompt_file, self._seed = models, feedback, prompt_file, seed
        self._lock = threading.Lock()
        self._contests: OrderedDict[ContestSettings, tuple[BlindContest, Producer]] = OrderedDict()
        self._prompts: dict[str, list[list[Message]]] = {}
        self._worlds: dict[tuple[str, ...], str | None] = {}
        self._statistics: tuple[Any, dict[str, Any]] = (None, {})
        self._statistics_lock = threading.Lock()
        self._log: VoteLog | None = None
        self._log_lock = threading.Lock()
        models.closing.append(self.close)

    def close(self) -> None:
        """Make no more pairs, and close the file of votes."""
        with self._lock:
            for _, producer in self._contests.values():
                producer.close()
        with self._log_lock:
            if self._log is not None:
                self._log.close()

    @property
    def log(self) -> VoteLog:
        """The file of votes, which is created when it is first asked for; the same for all threads.

        Raises:
            ToolkitError: it cannot be written.
        """
        with self._log_lock:
            if self._log is None:
                self._log = VoteLog(self._feedback)
            return self._log

    def contest(self, settings: ContestSettings) -> tuple[BlindContest, Producer]:
        """Return the contest of these settings and what makes its pairs.

        Raises:
            UsageError: there is no such model.
            ToolkitError: the file of votes cannot be written.
        """
        for name in settings.models:
            self._models.entry(name)
        with self._lock:
            found = self._contests.get(settings)
            if found is None:
                start = self.log.count()
                name = "/".join(map(str, (*astuple(settings), start)))
                contest = BlindContest(settings, seed=self._seed, name=name)
                producer = Producer(
                    contest,
                    self._models,
                    lambda: self.prompts(settings),
                    unfinished=lambda: self.unfinished(settings),
                    start=start,
                )
                found = self._contests[settings] = (contest, producer)
                while len(self._contests) > MAX_CONTESTS:
                    self._contests.popitem(last=False)
            self._contests.move_to_end(settings)
            return found

    def prompts(self, settings: ContestSettings) -> Sequence[list[Message]]:
        """Return the prompts of a contest.

        Raises:
            UsageError: there are none.
            DataError: the file of prompts cannot be read.
        """
        if settings.prompt is not None:
            return [[{"role": "user", "content": settings.prompt}]]
        source = self.source(settings.models)
        if source is None:
            raise UsageError(
                "there are no prompts for these models", where="prompt",
                fix="type a prompt, or start the playground with --prompts FILE",
            )  # fmt: skip
        kind, name = source
        if name not in self._prompts:
            self._prompts[name] = prompts.read_file(name) if kind == "file" else prompts.of_world(name)
        return self._prompts[name]

    def unfinished(self, settings: ContestSettings) -> list[AnswerPair]:
        """Return the pairs of the file on which fewer people voted than are asked, of before a restart."""
        if settings.annotators == 1:
            return []
        prompts = {vote_file.prompt_key(prompt) for prompt in self.prompts(settings)}
        voters: dict[tuple[str, tuple[str, str], tuple[str, str]], set[str]] = {}
        for _, row in vote_file.read_rows(self.log.path):
            prompt, models = vote_file.prompt_key(row["prompt"]), json.loads(row["models"] or "[]")
            is_compared = len(set(models)) == min(2, len(settings.models)) and set(models) <= {
                *settings.models
            }
            if row["kind"] == "normal" and prompt in prompts and is_compared:
                key = (prompt, (models[0], models[1]), (row["answer_a"], row["answer_b"]))
                voters.setdefault(key, set()).add(row["voter"])
        return [
            AnswerPair(-1 - index, json.loads(prompt), models, answers, voted=names)
            for index, ((prompt, models, answers), names) in enumerate(voters.items())
            if len(names) < settings.annotators
        ]

    def source(self, models: Sequence[str]) -> tuple[Literal["file", "world"], str] | None:
        """Return where prompts come from that nobody types; None if there are none."""
        if self._prompt_file is not None:
            return "file", self._prompt_file
        key = tuple(models)
        if key not in self._worlds:  # it reads the manifests of all ancestors
            references = [self._models.entry(name).reference for name in models]
            self._worlds[key] = prompts.world_of_models(references)
        world = self._worlds[key]
        return None if world is None else ("world", world)

    def statistics(self, models: Sequence[str]) -> dict[str, Any]:
        """Return the statistics of the votes that are in the file now."""
        with self._statistics_lock:  # of 5,000 votes 0.2 to 0.7 s: once for all who look at them
            rows = self.log.count()
            key = (rows, tuple(sorted(models)))
            if self._statistics[0] != key:
                votes = vote_statistics.read(self.log.path)
                if models:
                    known = {*models, SHUFFLED}
                    votes = [vote for vote in votes if vote.models and known.issuperset(vote.models)]
                self._statistics = (key, {**vote_statistics.statistics(votes), "rows": rows})
            return self._statistics[1]


def comparisons(request: Request) -> Comparisons:
    """Return the comparisons of the server."""
    found: Comparisons = request.app.state.comparisons
    return found


@router.post("/compare/setup")
def setup(request: Request, given: StatisticsRequest) -> dict[str, Any]:
    """Return where the prompts come from, and the commands that train on the votes."""
    found = comparisons(request)
    source = found.source(given.models)
    feedback = str(request.app.state.settings.feedback)
    named = given.models[0] if given.models else "MODEL"
    return {
        "prompts": None if source is None else {"kind": source[0], "name": source[1]},
        "feedback": feedback,
        "commands": commands(feedback, library(request).entry(named).reference if given.models else named),
    }


def commands(feedback: str, model: str) -> dict[str, str]:
    """Return the commands that look at votes, export them, and train on them."""
    file = shlex.quote(feedback)
    return {
        "summary": f"toolkit feedback {file}",
        "export": f"toolkit feedback export {file} --output pairs.jsonl",
        "train": f"toolkit run recipes/feedback/dpo.yaml model={shlex.quote(model)} data.name={file}",
    }


@router.post("/compare/next")
async def next_pair(request: Request, given: CompareRequest) -> dict[str, Any]:
    """Return the pair that a voter is to compare; waits until there is one."""
    contest, producer = await run_in_threadpool(comparisons(request).contest, given.settings())
    showing = contest.next(given.voter)
    if showing is not None:
        producer.wake()
    else:
        producer.wait(1)
        producer.wake()
        try:
            while showing is None:
                await asyncio.sleep(POLL_SECONDS)
                if await request.is_disconnected():
                    return {}
                showing = contest.next(given.voter)
                if showing is None:
                    error = producer.take_error()
                    if error is not None:
                        raise error
                    producer.wake()
        finally:
            producer.wait(-1)
    return item_json(showing) | contest.progress(given.voter)


@router.post("/compare/vote")
async def vote(request: Request, given: VoteRequest) -> dict[str, Any]:
    """Record a vote; when this answers, the vote is on the disk."""
    found = comparisons(request)
    contest, producer = await run_in_threadpool(found.contest, given.settings())
    showing = await run_in_threadpool(contest.vote, found.log, given.voter, given.item, given.vote)
    producer.wake()
    models = None
    if given.reveal:
        models = dict(
            zip(("left", "right"), [showing.pair.models[side] for side in showing.sides()], strict=True)
        )
    return {"id": showing.vote_id, "models": models, **contest.progress(given.voter)}


@router.post("/compare/skip")
async def skip(request: Request, given: SkipRequest) -> dict[str, Any]:
    """Show another pair next."""
    contest, _ = await run_in_threadpool(comparisons(request).contest, given.settings())
    await run_in_threadpool(contest.skip, given.voter, given.item)
    return contest.progress(given.voter)


@router.post("/compare/undo")
async def undo(request: Request, given: CompareRequest) -> dict[str, Any]:
    """Take back the last vote of a voter."""
    found = comparisons(request)
    contest, _ = await run_in_threadpool(found.contest, given.settings())
    showing = await run_in_threadpool(contest.undo, found.log, given.voter)
    return {"undone": showing is not None, **contest.progress(given.voter)}


@router.post("/compare/statistics")
def statistics(request: Request, given: StatisticsRequest) -> dict[str, Any]:
    """Return the statistics of the votes."""
    return comparisons(request).statistics(given.models)


def item_json(showing: Showing) -> dict[str, Any]:
    """Return a pair as the browser sees it: nothing of it tells a model, a repetition or a check."""
    sides = showing.sides()
    return {
        "item": showing.id,
        "prompt": [{"role": turn["role"], "content": turn["content"]} for turn in showing.pair.prompt],
        "answers": [
            {"text": showing.pair.answers[side], "ended": showing.pair.ended[side]} for side in sides
        ],
    }
