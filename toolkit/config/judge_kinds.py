"""The kinds of judges, determined from the name without loading anything."""

from __future__ import annotations

from typing import Literal

from toolkit.config import data_formats

Kind = Literal["gold", "endpoint", "votes", "model"]


def kind(judge: str) -> Kind:
    """Return the kind: `gold`, an endpoint (its URL), a file of people's votes, or a reward model."""
    if judge == "gold":
        return "gold"
    if judge.startswith(("http://", "https://")):
        return "endpoint"
    is_votes = judge.lower().endswith(".jsonl") or data_formats.is_votes(judge)
    return "votes" if is_votes else "model"
