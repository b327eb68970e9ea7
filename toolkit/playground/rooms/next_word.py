"""`/api/next`: the distribution of the next token; `/api/next/tree`: the same prompt many times."""

from __future__ import annotations

import base64
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from torch import nn

from toolkit.base.errors import UsageError
from toolkit.base.rng import derive
from toolkit.inference import next_token
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.logprobs import start_id
from toolkit.inference.opening import OpenModel
from toolkit.inference.restricted import REASONS, Restricted, draw, restricted
from toolkit.inference.sample_tree import SampleNode, SampleTree, grow
from toolkit.inference.token_text import ends_in_lone_space, token_text
from toolkit.inference.truth import chances_after
from toolkit.models.description import vocabulary
from toolkit.playground.limits import MAX_TEXT, MAX_TOKENS
from toolkit.playground.streaming import compute, stream

router = APIRouter()
WHOLE_VOCABULARY = 20_000
"""Entries up to which all log-probabilities are sent, so that the page itself applies the sliders: 320 kB."""
TOP = 200
"""Tokens that are sent with their text."""
REMEMBERED = 8
"""Distributions of a model that are kept, so that a moved slider does not run a large model again."""

_remembered: WeakKeyDictionary[nn.Module, OrderedDict[tuple[int, ...], np.ndarray]] = WeakKeyDictionary()


class DrawSettings(BaseModel):
    """How a token is drawn."""

    temperature: float = Field(default=1.0, ge=0, le=100)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)


class PromptRequest(BaseModel):
    """A text so far: what was typed, and the tokens that were chosen after it."""

    model: str
    text: str = Field(max_length=MAX_TEXT)
    chat: bool = False
    appended: list[Annotated[int, Field(ge=0)]] = Field(default=[], max_length=MAX_TOKENS)
    settings: DrawSettings = DrawSettings()
    seed: int = Field(default=0, ge=-(2**53), le=2**53)


class NextRequest(PromptRequest):
    """A position in a text: `at` tokens of it are context, all of them if it is null."""

    at: int | None = Field(default=None, ge=1)


class TreeRequest(PromptRequest):
    """The same prompt many times."""

    count: int = Field(default=100, ge=20, le=500)
    depth: int = Field(default=3, ge=2, le=4)


@router.post("/next")
async def next_word(request: Request, given: NextRequest) -> dict[str, Any]:
    """Return the distribution of the token at a position of a text, and what the sampler makes of it."""
    return await compute(request, given.model, lambda opened: _prediction(opened, given))


@router.post("/next/tree")
async def tree(request: Request, given: TreeRequest) -> StreamingResponse:
    """Stream the growing tree of continuations of a prompt: events `tree`."""

    def make(opened: OpenModel, cancelled: threading.Event) -> Iterator[dict[str, Any]]:
        ids = _ids(opened, given)
        if opened.context_length is not None:
            ids = ids[-max(1, opened.context_length - given.depth) :]
        settings = GenerationSettings(given.depth, **given.settings.model_dump(), seed=given.seed)
        for grown in grow(opened, ids, settings=settings, count=given.count, cancelled=cancelled):
            yield _tree_json(opened, grown, given.count)

    return stream(request, given.model, make)


def _ids(opened: OpenModel, given: PromptRequest) -> list[int]:
    ids = opened.prompt_ids(given.text, chat=given.chat) + given.appended
    if len(ids) > MAX_TOKENS:
        raise UsageError(f"the text has {len(ids)} tokens", where="text", fix=f"give at most {MAX_TOKENS}")
    if max(ids) >= vocabulary(opened.model):
        raise UsageError(f"the model has no token {max(ids)}", where="appended", fix="start again")
    return ids


def _prediction(opened: OpenModel, given: NextRequest) -> dict[str, Any]:
    ids = _ids(opened, given)
    at = len(ids) if given.at is None else min(given.at, len(ids))
    logprobs = _logprobs(opened, ids[:at])
    allowed = next_token.allowed(opened)
    order = np.argsort(-np.where(allowed, logprobs, -np.inf), kind="stable")[: int(allowed.sum())]
    actual = ids[at] if at < len(ids) else None
    uniform = np.random.default_rng(derive(given.seed, "next", at)).random()
    typed = len(ids) - len(given.appended)
    begins = int(start_id(opened.model, opened.tokenizer) is not None)
    truth = None if given.chat else chances_after(opened.tokenizer, ids[begins:at])
    whole = len(logprobs) <= WHOLE_VOCABULARY
    drawn = restricted(logprobs, allowed=allowed, **given.settings.model_dump())
    return {
        "tokens": [token_text(opened.tokenizer, token) for token in ids],
        "typed": typed,
        "at": at,
        "context": opened.context_length,
        "lone_space": not given.chat
        and not given.appended
        and ends_in_lone_space(opened.tokenizer, given.text),
        "vocabulary": len(logprobs),
        "entropy_bits": next_token.entropy_bits(np.exp(logprobs)),
        "uniform": float(uniform),
        "candidates": [
            {
                "id": int(token),
                "text": token_text(opened.tokenizer, int(token)),
                "p": math.exp(logprobs[token]),
                "ends": int(token) in opened.stop_tokens.ids,
            }
            for token in order[:TOP]
        ],
        "actual": None if actual is None else _actual(opened, logprobs, order, actual),
        "truth": None if truth is None else _truth(truth, order[:TOP]),
        "order": _packed(order.astype("<i4")) if whole else None,
        "logprobs": _packed(logprobs[order].astype("<f8")) if whole else None,
        "drawn": _drawn(opened, drawn, order, uniform),
    }


def _logprobs(opened: OpenModel, ids: list[int]) -> np.ndarray:
    """Return log-probabilities of the next token, (vocabulary,) float64; the oldest tokens may not fit."""
    if opened.context_length is not None:
        ids = ids[-opened.context_length :]
    found, key = _remembered.setdefault(opened.model, OrderedDict()), tuple(ids)
    if key not in found:
        with np.errstate(divide="ignore"):
            found[key] = np.log(next_token.distribution(opened, ids))
        if len(found) > REMEMBERED:
            found.popitem(last=False)
    return found[key]


def _actual(opened: OpenModel, logprobs: np.ndarray, order: np.ndarray, token: int) -> dict[str, Any]:
    places = np.flatnonzero(order == token)  # a padding token has none
    return {
        "id": token,
        "text": token_text(opened.tokenizer, token),
        "p": math.exp(logprobs[token]),
        "rank": int(places[0]) + 1 if len(places) else None,
    }


def _truth(chances: Mapping[int, float], listed: np.ndarray) -> dict[str, Any]:
    of_listed = [chances.get(int(token), 0.0) for token in listed]
    return {
        "p": of_listed,
        "rest": max(0.0, 1.0 - sum(of_listed)),
        "entropy_bits": next_token.entropy_bits(np.array(list(chances.values()))),
    }


def _drawn(opened: OpenModel, drawn: Restricted, order: np.ndarray, uniform: float) -> dict[str, Any]:
    """Return what the sampler draws from, in the order of the candidates; `static/js/distribution.js` too."""
    chosen, top = draw(drawn.probabilities, order=order, uniform=uniform), order[:TOP]
    return {
        "softened": drawn.softened[top].tolist(),
        "p": drawn.probabilities[top].tolist(),
        "removed": [REASONS[reason] for reason in drawn.removed[top]],
        "rest": max(0.0, 1.0 - float(drawn.probabilities[top].sum())),
        "kept": int((drawn.removed[order] == 0).sum()),
        "entropy_bits": drawn.entropy_bits,
        "choice": {**asdict(chosen), "text": token_text(opened.tokenizer, chosen.token)},
    }


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _tree_json(opened: OpenModel, grown: SampleTree, wanted: int) -> dict[str, Any]:
    def node(one: SampleNode) -> dict[str, Any]:
        return {
            "text": None if one.token is None else token_text(opened.tokenizer, one.token),
            "ends": one.token in opened.stop_tokens.ids,
            "count": one.count,
            "p": one.probability,
            "fit": None if one.fit is None else asdict(one.fit),
            "children": [node(child) for child in one.children],
        }

    return {
        "event": "tree",
        "done": grown.root.count,
        "of": wanted,
        "root": node(grown.root),
        "fit": None if grown.fit is None else asdict(grown.fit),
    }
