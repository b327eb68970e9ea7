"""`/api/next`: the distribution of the next token."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from toolkit.inference import next_token
from toolkit.inference.opening import OpenModel
from toolkit.inference.token_text import token_text
from toolkit.playground.limits import MAX_TEXT
from toolkit.playground.streaming import compute

router = APIRouter()
TOP = 200
"""Tokens that are sent; the rest of the vocabulary is one number."""


class NextRequest(BaseModel):
    """The text so far."""

    model: str
    text: str = Field(max_length=MAX_TEXT)
    chat: bool = False


@router.post("/next")
async def next_word(request: Request, given: NextRequest) -> dict[str, Any]:
    """Return the most probable next tokens at temperature 1, the entropy and the remaining probability."""
    return await compute(request, given.model, lambda opened: _distribution(opened, given))


def _distribution(opened: OpenModel, given: NextRequest) -> dict[str, Any]:
    ids = opened.prompt_ids(given.text, chat=given.chat)
    if opened.context_length is not None:
        ids = ids[-opened.context_length :]
    probabilities = next_token.distribution(opened, ids)
    top = np.argsort(-probabilities, kind="stable")[:TOP]
    positive = probabilities[probabilities > 0]
    return {
        "tokens": [
            {
                "id": int(token),
                "text": token_text(opened.tokenizer, int(token)),
                "p": float(probabilities[token]),
            }
            for token in top
        ],
        "rest": max(0.0, 1 - float(probabilities[top].sum())),
        "vocabulary": len(probabilities),
        "entropy_bits": float(-(positive * np.log2(positive)).sum()),
    }
