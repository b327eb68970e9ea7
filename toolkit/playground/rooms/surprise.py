"""`/api/surprise`: how surprising each token of a text is, for one model or several."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from toolkit.base.errors import UsageError
from toolkit.inference.opening import OpenModel
from toolkit.inference.surprise import Reading, Surprise, parts_of, require_comparable, surprise, totals
from toolkit.inference.token_text import token_text
from toolkit.inference.truth import truth_about
from toolkit.models.description import vocabulary
from toolkit.playground.limits import MAX_MODELS, MAX_TEXT, MAX_TOKENS
from toolkit.playground.streaming import compute, engine, library, stream_events

router = APIRouter()
COMPARISONS = 2
"""Comparisons at a time; each keeps up to 2 * `MAX_ENTRIES` log-probabilities."""


class SurpriseRequest(BaseModel):
    """A text, and the models that read it.

    `prompt`: read the text as the answer to it, in the chat template. `end`: score the end of the text, too,
    as `toolkit evaluate` does. `against`: the model from which the divergence of each other is measured.
    """

    models: list[str] = Field(min_length=1, max_length=MAX_MODELS)
    text: str = Field(min_length=1, max_length=MAX_TEXT)
    prompt: str | None = Field(default=None, max_length=MAX_TEXT)
    end: bool = False
    against: Literal["first", "previous"] = "first"


@router.post("/surprise")
async def surprise_of_text(request: Request, given: SurpriseRequest) -> StreamingResponse:
    """Stream the events `progress` and `done`."""
    return stream_events(_events(request, given))


async def _events(request: Request, given: SurpriseRequest) -> AsyncGenerator[dict[str, Any]]:
    names = list(dict.fromkeys(given.models))
    opened: list[OpenModel] = []
    for name in names:
        if library(request).state(name) in ("closed", "loading"):
            yield {"event": "loading", "model": name}
        opened.append((await engine(request, name)).opened)
        await run_in_threadpool(require_comparable, opened[0], opened[-1], names=(names[0], name))
    reading = await compute(
        request,
        names[0],
        partial(Reading.of, text=given.text, prompt=given.prompt, score_end=given.end),
    )
    if reading.tokens > MAX_TOKENS:
        raise UsageError(
            f"the text has {reading.tokens} tokens", where="text", fix=f"give at most {MAX_TOKENS}"
        )
    comparing = len(names) > 1
    parts = (
        parts_of(reading, vocabulary(opened[0].model)) if comparing else [(reading.start, len(reading.ids))]
    )
    found: dict[str, list[Surprise]] = {name: [] for name in names}
    slots: asyncio.Semaphore = request.app.state.surprise_slots
    async with slots:
        for start, stop in parts:
            reference = None
            for number, name in enumerate(names):
                yield {
                    "event": "progress",
                    "model": name,
                    "done": start - reading.start,
                    "of": reading.tokens,
                }
                keep = number < len(names) - 1 and (number == 0 or given.against == "previous")
                one, kept = await compute(
                    request,
                    name,
                    partial(
                        surprise, reading=reading, start=start, stop=stop, reference=reference, keep=keep
                    ),
                )
                found[name].append(one)
                reference = kept if keep else reference
    joined = {name: Surprise.joined(items) for name, items in found.items()}
    yield await compute(request, names[0], lambda first: _answer(first, reading, joined, given.prompt))


def _answer(
    opened: OpenModel, reading: Reading, found: dict[str, Surprise], prompt: str | None
) -> dict[str, Any]:
    truth = None if prompt is not None else truth_about(opened.tokenizer, reading.text, ended=reading.ended)
    truths = None
    if truth is not None:  # of the text and its end; a first token without context is not scored
        bits = np.array([token.surprise for token in truth[len(truth) - reading.tokens :]]) / math.log(2)
        sums = asdict(totals(opened, reading, bits))
        truths = {**{f"total_{key}": value for key, value in sums.items()}, "bits": _rounded(bits)}
    texts: dict[int, str] = {}

    def text(token: int) -> str:
        return texts.setdefault(token, token_text(opened.tokenizer, token))

    return {
        "event": "done",
        "context": [text(token) for token in reading.ids[: reading.start]],
        "tokens": [text(token) for token in reading.ids[reading.start :]],
        "ended": reading.ended,
        "models": [
            {
                "model": name,
                "bits": _rounded(one.bits),
                "ranks": one.ranks.tolist(),
                "entropies": _rounded(one.entropies),
                "best": [text(int(token)) for token in one.best],
                "best_bits": _rounded(one.best_bits),
                "divergences": None if one.divergences is None else _rounded(one.divergences),
                **{f"total_{key}": value for key, value in asdict(totals(opened, reading, one.bits)).items()},
            }
            for name, one in found.items()
        ],
        "truth": truths,
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]
