"""Votes as preferences in TRL's format, and what is not a preference in a file beside it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.base import files
from toolkit.data import vote_file


def export(path: Path, output: Path) -> dict[str, Any]:
    """Write the pairs with a preferred answer, and all votes of each pair beside them.

    `output` gets a line `{"prompt", "chosen", "rejected"}` for each pair, which are messages as in TRL. The
    file `side_file(output)` gets a line for every pair, those without a preferred answer too, with its votes.

    Returns:
        Numbers: `pairs`, `preferences`, `ties`, `bad` (pairs), `votes`, and `left_out` (votes, by reason).

    Raises:
        DataError: see `vote_file.read_votes`.
    """
    votes, left_out = vote_file.read_votes(path)
    given: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for _, row in vote_file.read_rows(path):
        if (row.get("kind") or "normal") == "normal":
            prompt = vote_file.prompt_key(row["prompt"])
            pair = (prompt, row["answer_a"], row["answer_b"])
            turned = (prompt, row["answer_b"], row["answer_a"])
            given[turned if turned in given else pair].append(row)
    counts: Counter[str] = Counter()
    preferences, beside = [], []
    for (prompt, first, second), rows in given.items():
        values = [_value(row, first) for row in rows]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if known else None
        outcome = "bad" if mean is None else "ties" if mean == vote_file.TIE else "preferences"
        counts[outcome] += 1
        messages = json.loads(prompt)
        if mean is not None and mean != vote_file.TIE:
            chosen, rejected = (first, second) if mean > vote_file.TIE else (second, first)
            preferences.append({"prompt": messages, "chosen": _turn(chosen), "rejected": _turn(rejected)})
        beside.append({
            "prompt": messages, "answer_a": first, "answer_b": second,
            "outcome": {"preferences": "preference", "ties": "tie"}.get(outcome, outcome), "share_a": mean,
            "votes": [_vote(row, first) for row in rows],
        })  # fmt: skip
    _write(output, preferences)
    _write(side_file(output), beside)
    return {
        "pairs": len(given), **{name: counts[name] for name in ("preferences", "ties", "bad")},
        "votes": len(votes), "left_out": left_out,
    }  # fmt: skip


def side_file(output: Path) -> Path:
    """Return the file with the votes: `pairs.votes.jsonl` beside `pairs.jsonl`."""
    return output.with_name(f"{output.stem}.votes{output.suffix}")


def _value(row: Mapping[str, Any], first: str) -> float | None:
    value = vote_file.VALUES[str(row["vote"]).strip().lower()]
    return value if value is None or row["answer_a"] == first else 1 - value


def _vote(row: Mapping[str, Any], first: str) -> dict[str, Any]:
    """Return a vote as the side file has it: its `vote` is on the answers in the order of the pair."""
    vote, is_turned = str(row["vote"]).strip().lower(), row["answer_a"] != first
    models = row.get("models")
    models = json.loads(models) if isinstance(models, str) else models
    if is_turned:
        vote, models = {"a": "b", "b": "a"}.get(vote, vote), models[::-1] if models else models
    known = {"id": row.get("id"), "time": row.get("time"), "voter": row.get("voter"), "models": models}
    return {"vote": vote, **{name: value for name, value in known.items() if value is not None}}


def _turn(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    files.write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
