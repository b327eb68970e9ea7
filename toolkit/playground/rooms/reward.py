"""`/api/reward`: what a reward model prefers, and what a training on its score would exploit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from toolkit.base.errors import UsageError
from toolkit.inference import reward_probe
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.opening import OpenModel
from toolkit.playground.streaming import compute, library, stream
from toolkit.playground.worlds import world_of
from toolkit.stats import Estimate
from toolkit.storyworld import World

router = APIRouter()
MAX_ANSWER = 20_000
MAX_PROMPT = 20_000
MAX_SAMPLES = 256
MAX_NEW_TOKENS = 512
EXAMPLES = 6
ROWS_READ = 40
"""Rows of the storyworld in which the examples are found: conversations of one question only."""
Text = Annotated[str, Field(max_length=MAX_ANSWER)]


class RewardRequest(BaseModel):
    """A reward model by its id."""

    model: str = Field(max_length=400)


class AnswerRequest(RewardRequest):
    """An answer to a prompt."""

    prompt: str = Field(max_length=MAX_PROMPT)
    answer: Text


class ScoreRequest(AnswerRequest):
    """An answer whose words are changed one by one."""

    change: Literal["delete", "swap", "replace"] = "delete"
    word: str = Field(default="", max_length=100)


class SampleRequest(RewardRequest):
    """A prompt that a language model answers several times."""

    prompt: str = Field(max_length=MAX_PROMPT)
    count: int = Field(default=32, ge=1, le=MAX_SAMPLES)
    temperature: float = Field(default=1.0, ge=0, le=10)
    max_new_tokens: int = Field(default=96, ge=1, le=MAX_NEW_TOKENS)
    seed: int = 0


class SampledAnswer(BaseModel):
    """An answer that `/api/reward/sample` returned."""

    text: Text
    ended: bool
    logprob: float = Field(le=1e-3, allow_inf_nan=False)


class JudgeRequest(RewardRequest):
    """Sampled answers that the reward model scores and a judge compares.

    `judge` is `gold` (the true utility of the storyworld), `logprob` (of the model that sampled the answers),
    or the id of another reward model.
    """

    prompt: str = Field(max_length=MAX_PROMPT)
    judge: str = Field(max_length=400)
    samples: list[SampledAnswer] = Field(min_length=2, max_length=MAX_SAMPLES)


@router.post("/reward/open")
async def open_reward(request: Request, given: RewardRequest) -> dict[str, Any]:
    """Load a reward model; return its scale, its possible judges, and examples of its world."""
    models = library(request)
    entry = models.entry(given.model, "reward")
    found = await compute(request, given.model, _scale, kind="reward")
    world = await run_in_threadpool(world_of, entry.reference)
    others = [
        name for name, other in models.entries.items() if other.kind == "reward" and name != given.model
    ]
    return {
        **found,
        "world": None if world is None else world.name,
        "judges": [*(["gold"] if world else []), *others, "logprob"],
        "examples": [] if world is None else await run_in_threadpool(_examples, world),
    }


def _scale(opened: OpenModel) -> dict[str, Any]:
    """Return what the reward run recorded of its scores on held-out answers, and the context."""
    mean, std = (getattr(opened.model.config, name, None) for name in ("score_mean", "score_std"))
    known = isinstance(mean, int | float) and isinstance(std, int | float) and std > 0
    return {"mean": mean if known else None, "std": std if known else None, "context": opened.context_length}


def _examples(world: World) -> list[dict[str, str]]:
    """Return held-out prompts of a world with a better and a worse answer."""
    rows = world.rows("preferences", 0, "held_out", ROWS_READ)
    single = [
        row for row in rows if len(row["prompt"]) == 1 and row["utility_chosen"] > row["utility_rejected"]
    ]
    return [
        {
            "prompt": row["prompt"][0]["content"],
            "better": row["chosen"][0]["content"],
            "worse": row["rejected"][0]["content"],
        }
        for row in single[:EXAMPLES]
    ]


@router.post("/reward/score")
async def score(request: Request, given: ScoreRequest) -> dict[str, Any]:
    """Return the score of an answer, and what each word adds to it."""

    def run(opened: OpenModel) -> dict[str, Any]:
        found = reward_probe.probe(opened, given.prompt, given.answer, change=given.change, word=given.word)
        return {
            "score": found.score,
            "unended": found.unended,
            "tokens": reward_probe.token_count(opened, given.prompt, given.answer),
            "cut": reward_probe.is_cut(opened, given.prompt, given.answer),
            "words": [{**asdict(one.word), "score": one.score, "effect": one.effect} for one in found.words],
        }

    return await compute(request, given.model, run, kind="reward")


@router.post("/reward/lengths")
async def lengths(request: Request, given: AnswerRequest) -> dict[str, Any]:
    """Return the scores of an answer that is cut after each word, and repeated."""
    taste = partial(reward_probe.length_taste, prompt=given.prompt, answer=given.answer)
    return asdict(await compute(request, given.model, taste, kind="reward"))


@router.post("/reward/sample")
async def sample(request: Request, given: SampleRequest) -> StreamingResponse:
    """Stream the event `samples` with some more answers each, until there are `count`."""

    def make(opened: OpenModel, cancelled: threading.Event) -> Iterator[dict[str, Any]]:
        settings = GenerationSettings(
            max_new_tokens=given.max_new_tokens,
            temperature=given.temperature,
            top_k=0,
            top_p=1.0,
            seed=given.seed,
        )
        found = reward_probe.sample_answers(
            opened, given.prompt, count=given.count, settings=settings, cancelled=cancelled
        )
        for samples in found:
            yield {"event": "samples", "samples": [asdict(one) for one in samples]}

    return stream(request, given.model, make)


@router.post("/reward/judge")
async def judge(request: Request, given: JudgeRequest) -> dict[str, Any]:
    """Return the score and the judge's value of every sample, and what choosing by the score costs."""
    texts, ended = [one.text for one in given.samples], [one.ended for one in given.samples]

    def scores(opened: OpenModel) -> np.ndarray:
        return reward_probe.scores(opened, given.prompt, texts, ended)

    by_score = await compute(request, given.model, scores, kind="reward")
    values = await _values(request, given, texts, scores)
    counts = [reward_probe.word_count(text) for text in texts]
    found = await run_in_threadpool(
        reward_probe.favourites, by_score.tolist(), values.tolist(), counts, seed=0
    )
    return {
        "samples": [
            {"score": float(one), "value": float(value), "words": count}
            for one, value, count in zip(by_score, values, counts, strict=True)
        ],
        "best": found.best,
        "judged_best": found.judged_best,
        "length": _estimate(found.length),
        "judge": _estimate(found.judge),
        "judge_length": _estimate(found.judge_length),
        "best_of": found.best_of,
    }


async def _values(
    request: Request, given: JudgeRequest, texts: list[str], scores: Callable[[OpenModel], np.ndarray]
) -> np.ndarray:
    """Return the judge's value of each sample, (samples,); `scores` are those of another reward model."""
    if given.judge == "logprob":
        return np.array([one.logprob for one in given.samples])
    if given.judge != "gold":
        return await compute(request, given.judge, scores, kind="reward")
    world = await run_in_threadpool(world_of, library(request).entry(given.model, "reward").reference)
    if world is None:
        raise UsageError(
            "this model was not trained on the storyworld", where="judge", fix="choose another judge"
        )
    prompt = [{"role": "user", "content": given.prompt}]
    return await run_in_threadpool(lambda: np.array([world.utility(prompt, text).total for text in texts]))


def _estimate(found: Estimate) -> dict[str, float | None]:
    """Return an estimate as JSON; null where it does not exist."""
    value, low, high = (
        float(number) if np.isfinite(number) else None for number in (found.estimate, found.low, found.high)
    )
    return {"value": value, "low": low, "high": high}
