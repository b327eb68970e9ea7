"""What a `judge` names: told by how it is written, before anything is loaded."""

from __future__ import annotations

from typing import Literal

Kind = Literal["gold", "endpoint", "votes", "model"]

VOTES = (".jsonl", ".sqlite", ".sqlite3", ".db")
"""Endings of files that hold people's votes."""


def kind(judge: str) -> Kind:
    """`gold`; a URL of an OpenAI-compatible endpoint; a file of votes; else a reward model."""
    if judge == "gold":
        return "gold"
    if judge.startswith(("http://", "https://")):
        return "endpoint"
    return "votes" if judge.lower().endswith(VOTES) else "model"
