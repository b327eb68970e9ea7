"""Votes of people on pairs of answers, read from a file.

One vote has a prompt, two answers, and which is better:

    {"prompt": "Tell me ...", "answer_a": "Once ...", "answer_b": "There ...", "vote": "a", "voter": "kim"}

as lines of JSON, or as rows of a table `votes` in SQLite. `vote` is a, b or tie; `prompt` is a text or a list
of messages (as JSON in SQLite); `voter` may be missing. Several votes on a pair count as their mean.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import Any

from toolkit.base.errors import DataError
from toolkit.base.files import sha256_file
from toolkit.evaluate.pairwise import PairwiseJudge, Question

COLUMNS = ("prompt", "answer_a", "answer_b", "vote")
VALUES = {"a": 1.0, "tie": 0.5, "b": 0.0}


def votes_judge(path: Path) -> PairwiseJudge:
    """Return a judge that looks up votes; pairs without a vote get None.

    Raises:
        DataError: the file does not exist or has no votes, or a row is not a vote.
    """
    votes: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    voters, count = set(), 0
    for position, row in _rows(path):
        value = _vote(row, position)
        prompt, first, second = _prompt_key(row["prompt"]), row["answer_a"], row["answer_b"]
        votes[prompt, first, second].append(value)
        votes[prompt, second, first].append(1 - value)
        voters.add(row.get("voter"))
        count += 1
    if not count:
        raise DataError(
            "holds no votes", where=str(path), fix="write one object a line: see docs/EVALUATION.md"
        )

    def ask(questions: Sequence[Question]) -> list[float | None]:
        votes_by_question = [votes.get((_prompt_key(list(prompt)), *pair)) for prompt, *pair in questions]
        return [fmean(values) if values else None for values in votes_by_question]

    facts = {"votes": count, "voters": len(voters - {None}), "sha256": sha256_file(path)}
    return PairwiseJudge(path.name, ask, both_orders=False, is_people=True, facts=facts)


def _vote(row: Mapping[str, Any], position: str) -> float:
    missing = [name for name in COLUMNS if not row.get(name) and row.get(name) != ""]
    if missing:
        raise DataError(
            f"has no {', '.join(missing)}", where=position, fix=f"a vote has {', '.join(COLUMNS)}"
        )
    if not isinstance(row["answer_a"], str) or not isinstance(row["answer_b"], str):
        raise DataError("an answer is no text", where=position, fix="write both answers as texts")
    value = VALUES.get(str(row["vote"]).strip().lower())
    if value is None:
        raise DataError(f"vote is {row['vote']!r}", where=position, fix="write a, b or tie")
    return value


def _prompt_key(prompt: Any) -> str:
    """Return the same key for a prompt as text, as messages, and as messages in JSON (SQLite)."""
    if isinstance(prompt, str):
        try:
            parsed = json.loads(prompt)
        except ValueError:
            parsed = None
        prompt = parsed if isinstance(parsed, list) else [{"role": "user", "content": prompt}]
    turns = [(turn.get("role"), turn.get("content")) for turn in prompt if isinstance(turn, Mapping)]
    return json.dumps(turns)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not path.is_file():
        raise DataError("there is no such file of votes", where=str(path), fix="check the path")
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", _object(line, f"{path}:{number}")
        return
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
            base.row_factory = sqlite3.Row
            for number, row in enumerate(base.execute("SELECT * FROM votes"), 1):
                yield f"{path}, row {number} of votes", dict(row)
    except sqlite3.Error as error:
        raise DataError(f"cannot be read: {error}", where=str(path), fix="give a table `votes`") from error


def _object(line: str, position: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"is not JSON: {error}", where=position, fix="write one object a line") from error
    if not isinstance(row, dict):
        raise DataError("is not an object", where=position, fix="write one object a line")
    return row
