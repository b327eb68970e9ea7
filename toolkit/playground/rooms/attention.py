"""`/api/attention`: where the model looks, and its states layer by layer; also of kept steps."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from toolkit.base.errors import ToolkitError, UsageError
from toolkit.inference import attention
from toolkit.inference.logit_lens import logit_lens
from toolkit.inference.opening import OpenModel
from toolkit.inference.token_text import token_text
from toolkit.inference.word_states import word_states
from toolkit.models.description import text_config, vocabulary
from toolkit.playground.kept import KeptSteps
from toolkit.playground.limits import MAX_TEXT
from toolkit.playground.streaming import compute, computed, library

router = APIRouter()
T = TypeVar("T")
MAX_TOKENS = 128
"""Tokens of a text that are shown; a grid of 144 heads then has 2.4 million weights."""
LENS_LOGITS = 2**26
"""Logits of a lens, of all layers and tokens: of 150,000 entries and 12 layers those of 34 tokens."""
MAX_PIXELS = 500_000
"""Of all small pictures together, one byte each."""
TOP = 8
"""Next tokens that are sent of a kept step."""
SCORES = ("first", "previous", "same", "induction", "entropy_bits")


class TextRequest(BaseModel):
    """A text; with a step, the weights that a pretraining kept then."""

    model: str
    text: str = Field(max_length=MAX_TEXT)
    step: int | None = Field(default=None, ge=0)


class GridRequest(TextRequest):
    """A text, and whether its first position is shown."""

    first: bool = False


class HeadRequest(GridRequest):
    """A head of a layer, both counted from 0."""

    layer: int = Field(ge=0)
    head: int = Field(ge=0)


class StepRequest(TextRequest):
    """A text and a kept step."""

    step: int = Field(ge=0)


Sentence = Annotated[str, Field(min_length=1, max_length=500)]


class SensesRequest(BaseModel):
    """A word in sentences of two senses."""

    model: str
    word: str = Field(min_length=1, max_length=60)
    senses: tuple[
        Annotated[list[Sentence], Field(min_length=2, max_length=20)],
        Annotated[list[Sentence], Field(min_length=2, max_length=20)],
    ]


@router.get("/attention/kept")
def kept_steps(request: Request) -> dict[str, Any]:
    """Return the models that kept weights of some steps, and these steps."""
    entries = library(request).entries.values()
    found = {entry.id: _kept(request).steps(entry.id) for entry in entries if entry.kind == "language"}
    return {
        "models": [
            {"model": model, "steps": [{"step": step, "tokens": tokens} for step, tokens in steps.items()]}
            for model, steps in found.items()
            if steps
        ]
    }


@router.post("/attention")
async def grid(request: Request, given: GridRequest) -> dict[str, Any]:
    """Return a small picture and the scores of every head."""
    return await _compute(request, given, lambda opened: _grid(opened, given))


@router.post("/attention/head")
async def head(request: Request, given: HeadRequest) -> dict[str, Any]:
    """Return the weights of one head: of each position its weights on itself and those before it."""
    return await _compute(request, given, lambda opened: _head(opened, given))


@router.post("/attention/lens")
async def lens(request: Request, given: TextRequest) -> dict[str, Any]:
    """Return what the model would predict after each layer."""
    return await _compute(request, given, lambda opened: _lens(opened, given))


@router.post("/attention/senses")
async def senses(request: Request, given: SensesRequest) -> dict[str, Any]:
    """Return how similar a word's states are within two senses and across, layer by layer."""
    return await compute(request, given.model, lambda opened: _senses(opened, given))


@router.post("/attention/step")
async def step(request: Request, given: StepRequest) -> dict[str, Any]:
    """Return what a kept step knew of a text: bits per token, next tokens, and the scores of its heads."""
    return await _compute(request, given, lambda opened: _step(opened, given))


def _kept(request: Request) -> KeptSteps:
    kept: KeptSteps = request.app.state.kept
    return kept


async def _compute(request: Request, given: TextRequest, function: Callable[[OpenModel], T]) -> T:
    if given.step is None:
        return await compute(request, given.model, function)
    engine = await run_in_threadpool(_kept(request).engine, given.model, given.step)
    return await computed(request, engine, function)


def _ids(opened: OpenModel, text: str, most: int = MAX_TOKENS) -> tuple[list[int], dict[str, Any]]:
    """Return the ids of the beginning of a text, and what the browser shows of them."""
    ids = opened.text_ids(text)
    kept = ids[: min(most, opened.context_length or most)]
    if len(kept) < 3:
        raise ToolkitError("the text is too short", where="text", fix="write at least three tokens")
    return kept, {"tokens": [token_text(opened.tokenizer, token) for token in kept], "total": len(ids)}


def _grid(opened: OpenModel, given: GridRequest) -> dict[str, Any]:
    ids, shown = _ids(opened, given.text)
    found = attention.attention(opened.model, ids)
    heads = sum(len(layer) for layer in found.weights)
    side = max(8, min(len(ids), math.isqrt(MAX_PIXELS // heads)))
    layers, chance = _scores(found, ids)
    for layer, weights in zip(layers, found.weights, strict=True):
        pictures = attention.pooled(_shown(weights, given.first), side)
        for one, picture in zip(layer, pictures, strict=True):
            one["picture"] = base64.b64encode(np.round(picture * 255).astype(np.uint8).tobytes()).decode()
    return {**shown, "layers": found.layers, "side": pictures.shape[-1], "heads": layers, "uniform": chance}


def _scores(found: attention.Attention, ids: list[int]) -> tuple[list[list[dict[str, Any]]], dict[str, Any]]:
    """Return the scores and the role of each head, by layer, and the scores of a head without preferences."""
    uniform = attention.head_scores(attention.uniform(len(ids)), ids)
    layers = []
    for weights in found.weights:
        scores = attention.head_scores(weights, ids)
        roles = attention.roles(scores, uniform)
        layers.append([{"role": role, **_score(scores, head)} for head, role in enumerate(roles)])
    return layers, _score(uniform, 0)


def _score(scores: attention.HeadScores, head: int) -> dict[str, float | None]:
    values = {name: getattr(scores, name) for name in SCORES}
    return {name: None if value is None else float(value[head]) for name, value in values.items()}


def _shown(weights: np.ndarray, first: bool) -> np.ndarray:
    return weights if first else np.nan_to_num(attention.without_first(weights))


def _head(opened: OpenModel, given: HeadRequest) -> dict[str, Any]:
    ids, shown = _ids(opened, given.text)
    layers = attention.attention(opened.model, ids).weights
    if given.layer >= len(layers) or given.head >= len(layers[given.layer]):
        raise UsageError("the model has no such head", where="head", fix="choose another head")
    weights = layers[given.layer][given.head]
    rows = weights if given.first else attention.without_first(weights)
    return {
        **shown,
        "rows": [[_number(value) for value in row[: place + 1]] for place, row in enumerate(rows)],
        "first": [_number(value) for value in weights[:, 0]],
    }


def _number(value: float) -> float | None:
    """Return a weight in six digits; null where nothing is left without the first position."""
    return None if np.isnan(value) else round(float(value), 6)


def _lens(opened: OpenModel, given: TextRequest) -> dict[str, Any]:
    layers = text_config(opened.model.config).num_hidden_layers + 1
    most = LENS_LOGITS // (layers * vocabulary(opened.model))
    ids, shown = _ids(opened, given.text, max(16, min(MAX_TOKENS, most)))
    found = logit_lens(opened.model, ids)
    rows = [
        [
            {"text": token_text(opened.tokenizer, int(token)), "p": float(p), "final": float(final)}
            for token, p, final in zip(*row, strict=True)
        ]
        for row in zip(found.tokens, found.probabilities, found.of_final, strict=True)
    ]
    return {**shown, "first": found.first, "rows": rows}


def _senses(opened: OpenModel, given: SensesRequest) -> dict[str, Any]:
    found = word_states(opened, given.word, given.senses)
    return {
        "first": found.first,
        "tokens": [[token_text(opened.tokenizer, token) for token in tokens] for tokens in found.tokens],
        "layers": [
            {**asdict(difference), "cosines": matrix.tolist()}
            for matrix, difference in zip(found.cosines, found.test.differences, strict=True)
        ],
        "p_value": found.test.p_value,
        "divisions": found.test.divisions,
        "exact": found.test.exact,
    }


def _step(opened: OpenModel, given: StepRequest) -> dict[str, Any]:
    ids, shown = _ids(opened, given.text)
    found = attention.attention(opened.model, ids)
    logs = torch.log_softmax(found.logits.cpu().double(), dim=-1)
    probabilities = logs[-1].exp()
    top = probabilities.topk(min(TOP, len(probabilities)))
    nats = -logs[:-1].gather(-1, torch.tensor(ids[1:])[:, None])
    layers, chance = _scores(found, ids)
    return {
        **shown,
        "bits_per_token": float(nats.mean()) / math.log(2),
        "heads": layers,
        "uniform": chance,
        "next": [
            {"text": token_text(opened.tokenizer, int(token)), "p": float(p)}
            for p, token in zip(top.values, top.indices, strict=True)
        ],
        "rest": max(0.0, 1 - float(top.values.sum())),
    }
