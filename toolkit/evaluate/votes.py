"""Votes of people on pairs of answers, read from a file.

A vote is a line of JSON, or a row of a table `votes` in SQLite (`SCHEMA`):

    {"prompt": "Tell me ...", "answer_a": "Once ...", "answer_b": "There ...", "vote": "a", "voter": "kim"}

prompt: a text or a list of messages (as JSON in SQLite). vote: a, b, tie, or bad (neither answer is
acceptable). voter: who voted; may be missing. Optional: id, time, models (of answers a and b), shown (`ab`
or `ba`: which answer was shown first), kind (normal; repeat: the same pair again; attention: a check of the
voter), and undone_by (the id of the vote that replaced this one). Only normal votes that are not undone
count. Several votes on a pair count as their mean; bad counts as a tie in win rates and is left out of
preferences.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from toolkit.base.errors import DataError, UsageError
from toolkit.base.files import sha256_file
from toolkit.evaluate.pairwise import PairwiseJudge, Question

SCHEMA = """CREATE TABLE IF NOT EXISTS votes (
    id TEXT PRIMARY KEY, time TEXT, prompt TEXT NOT NULL, answer_a TEXT NOT NULL, answer_b TEXT NOT NULL,
    vote TEXT NOT NULL CHECK (vote IN ('a', 'b', 'tie', 'bad')), voter TEXT, models TEXT,
    shown TEXT CHECK (shown IN ('ab', 'ba')),
    kind TEXT NOT NULL DEFAULT 'normal' CHECK (kind IN ('normal', 'repeat', 'attention')),
    undone_by TEXT REFERENCES votes (id)
)"""
"""The table of votes in SQLite; a line of JSON has the same names."""
COLUMNS = ("prompt", "answer_a", "answer_b", "vote")
VALUES = {"a": 1.0, "tie": 0.5, "b": 0.0, "bad": None}
KINDS = ("normal", "repeat", "attention")


@dataclass(frozen=True)
class Vote:
    """A vote that counts.

    Attributes:
        prompt: the messages as JSON, the same for a prompt as text and as messages.
        answer_a, answer_b: the answers.
        value: 1 for a, 0 for b, 0.5 for a tie, None for bad.
        voter: who voted, if known.
    """

    prompt: str
    answer_a: str
    answer_b: str
    value: float | None
    voter: str | None = None


def read_votes(path: Path) -> tuple[list[Vote], dict[str, int]]:
    """Return the votes of a file that count, and {reason: number} of the others.

    A vote counts if its kind is normal and it is not undone.

    Raises:
        DataError: the file does not exist or has no votes that count, or a row is not a vote.
    """
    votes: list[Vote] = []
    left_out: Counter[str] = Counter()
    for position, row in _rows(path):
        vote, kind = _vote(row, position), row.get("kind") or "normal"
        if kind not in KINDS:
            raise DataError(
                f"kind is {kind!r}", where=position, fix=f"write {', '.join(KINDS)}, or leave it out"
            )
        if row.get("undone_by"):
            left_out["undone"] += 1
        elif kind != "normal":
            left_out[kind] += 1
        else:
            votes.append(vote)
    if not votes:
        count = left_out.total()
        raise DataError(
            f"has {count} votes, of which none counts" if count else "holds no votes",
            where=str(path),
            fix="write one object a line: see docs/EVALUATION.md",
        )
    return votes, dict(left_out)


def by_pair(path: Path) -> tuple[dict[tuple[str, str, str], list[float]], dict[str, int]]:
    """Return {(prompt, answer, other answer): values of the votes on the pair}, and what was left out.

    The answers of a pair are in the order of its first vote; a value is 1 where the first answer is
    preferred. Bad votes are left out, as well as those that do not count.

    Raises:
        DataError: as `read_votes`.
    """
    votes, left_out = read_votes(path)
    values: dict[tuple[str, str, str], list[float]] = {}
    for vote in votes:
        if vote.value is None:
            left_out["bad"] = left_out.get("bad", 0) + 1
            continue
        key, turned = (vote.prompt, vote.answer_a, vote.answer_b), (vote.prompt, vote.answer_b, vote.answer_a)
        if turned in values:
            values[turned].append(1 - vote.value)
        else:
            values.setdefault(key, []).append(vote.value)
    return values, left_out


def require_prompts(path: Path, prompts: Iterable[Sequence[Mapping[str, Any]]]) -> None:
    """Refuse votes on other prompts before models answer these.

    Raises:
        UsageError: no vote that counts is on one of the prompts.
        DataError: as `read_votes`.
    """
    votes, _ = read_votes(path)
    if {vote.prompt for vote in votes}.isdisjoint(_prompt_key(list(prompt)) for prompt in prompts):
        raise UsageError(
            f"none of its {len(votes)} votes is on one of the prompts", where=str(path),
            fix="give the data that the votes were collected on; answers.jsonl of that run has its prompts",
        )  # fmt: skip


def votes_judge(path: Path) -> PairwiseJudge:
    """Return a judge that looks up votes; pairs without a vote get None.

    Raises:
        DataError: as `read_votes`.
    """
    votes, left_out = read_votes(path)
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for vote in votes:
        value = 0.5 if vote.value is None else vote.value
        values[vote.prompt, vote.answer_a, vote.answer_b].append(value)
        values[vote.prompt, vote.answer_b, vote.answer_a].append(1 - value)

    def ask(questions: Sequence[Question]) -> list[float | None]:
        by_question = [values.get((_prompt_key(list(prompt)), *pair)) for prompt, *pair in questions]
        return [fmean(given) if given else None for given in by_question]

    voters = {vote.voter for vote in votes} - {None}
    facts: dict[str, Any] = {"votes": len(votes), "voters": len(voters), "sha256": sha256_file(path)}
    if left_out:
        facts["left_out"] = left_out
    return PairwiseJudge(path.name, ask, both_orders=False, is_people=True, facts=facts)


def _vote(row: Mapping[str, Any], position: str) -> Vote:
    missing = [name for name in COLUMNS if not row.get(name) and row.get(name) != ""]
    if missing:
        raise DataError(
            f"has no {', '.join(missing)}", where=position, fix=f"a vote has {', '.join(COLUMNS)}"
        )
    if not isinstance(row["answer_a"], str) or not isinstance(row["answer_b"], str):
        raise DataError("an answer is no text", where=position, fix="write both answers as texts")
    name = str(row["vote"]).strip().lower()
    if name not in VALUES:
        raise DataError(f"vote is {row['vote']!r}", where=position, fix="write a, b, tie or bad")
    return Vote(_prompt_key(row["prompt"]), row["answer_a"], row["answer_b"], VALUES[name], row.get("voter"))


def _prompt_key(prompt: Any) -> str:
    """Return the messages of a prompt as JSON, the same for text, messages, and messages in JSON (SQLite)."""
    if isinstance(prompt, str):
        try:
            parsed = json.loads(prompt)
        except ValueError:
            parsed = None
        prompt = parsed if isinstance(parsed, list) else [{"role": "user", "content": prompt}]
    turns = [
        {"role": turn.get("role"), "content": turn.get("content")}
        for turn in prompt
        if isinstance(turn, Mapping)
    ]
    return json.dumps(turns, ensure_ascii=False)


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
