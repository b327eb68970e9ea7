"""The kinds of judges, determined from the name without loading anything."""

from __future__ import annotations

from typing import Literal

Kind = Literal["gold", "endpoint", "votes", "model"]

VOTES = (".jsonl", ".sqlite", ".sqlite3", ".db")
"""Suffixes of files with people's votes."""


def kind(judge: str) -> Kind:
    """Return the kind: `gold`, an endpoint (its URL), a file of people's votes, or a reward model."""
    if judge == "gold":
        return "gold"
    if judge.startswith(("http://", "https://")):
        return "endpoint"
    return "votes" if judge.lower().endswith(VOTES) else "model"
