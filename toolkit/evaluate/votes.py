"""People's votes as a judge; `toolkit.data.vote_file` reads them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from toolkit.base.errors import UsageError
from toolkit.data import files
from toolkit.data.vote_file import TIE, prompt_key, read_votes
from toolkit.evaluate.pairwise import PairwiseJudge, Question


def require_prompts(path: Path, prompts: Iterable[Sequence[Mapping[str, Any]]]) -> None:
    """Refuse votes on other prompts before models answer these.

    Raises:
        UsageError: no vote that counts is on one of the prompts.
        DataError: as `read_votes`.
    """
    votes, _ = read_votes(path)
    if {vote.prompt for vote in votes}.isdisjoint(prompt_key(list(prompt)) for prompt in prompts):
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
        value = TIE if vote.value is None else vote.value
        values[vote.prompt, vote.answer_a, vote.answer_b].append(value)
        values[vote.prompt, vote.answer_b, vote.answer_a].append(1 - value)

    def ask(questions: Sequence[Question]) -> list[float | None]:
        by_question = [
            values.get((prompt_key(list(prompt)), first, second)) for prompt, first, second in questions
        ]
        return [fmean(given) if given else None for given in by_question]

    voters = {vote.voter for vote in votes} - {None}
    facts: dict[str, Any] = {"votes": len(votes), "voters": len(voters), "sha256": files.sha256_of(path)}
    if left_out:
        facts["left_out"] = left_out
    return PairwiseJudge(path.name, ask, both_orders=False, is_people=True, facts=facts)
