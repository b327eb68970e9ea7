"""Whoever is named as the judge, of a recipe and of the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from toolkit.config.judge_kinds import kind
from toolkit.config.schema import Data
from toolkit.data.data_sources import Part
from toolkit.evaluate import endpoint, judges, votes
from toolkit.evaluate.judge_log import Journal
from toolkit.evaluate.judges import AnyJudge
from toolkit.evaluate.win_rate import Contest
from toolkit.models.loading import Reference
from toolkit.runs import layout, seal


@dataclass(frozen=True)
class Named:
    """What the user says of a judge: its name; of an endpoint the model, the variable with the key, and
    whether to stop early; the preferences that it is checked on, and which part of them."""

    judge: str
    model: str | None = None
    key_variable: str = "JUDGE_API_KEY"
    data: Data | None = None
    part: Part = "held_out"
    stop_early: bool = False


def open_judge(
    named: Named,
    contest: Contest,
    *,
    reference: Reference | None,
    known: dict[str, object] | None,
    journal: Path,
    device: torch.device | str,
    where: str,
) -> AnyJudge:
    """Load, or read, or get ready to ask.

    Args:
        reference: where a reward model lies.
        known: evaluation.json of its run.
        journal: where the judgements of an endpoint are kept.
        where: what an error about the judge names.

    Raises:
        ToolkitError: a judge that cannot be had, or that knows nothing of these prompts.
    """
    sort = kind(named.judge)
    if sort == "gold":
        judges.require_known_world(contest.known_world, where)
        return judges.gold_judge()
    if sort == "votes":
        return votes.votes_judge(Path(named.judge))
    if sort == "endpoint":
        place = endpoint.Endpoint(named.judge, named.model or "", named.key_variable)
        judge = endpoint.endpoint_judge(place, Journal(journal), stop_early=named.stop_early)
        return (
            judge
            if named.data is None
            else judges.checked(judge, named.data, part=named.part, seed=contest.seed)
        )
    return judges.reward_judge(
        named.judge,
        reference,
        device=device,
        data=named.data,
        part=named.part,
        run_evaluation=known,
        seed=contest.seed,
    )


def known_accuracy(folder: Path) -> dict[str, object] | None:
    """evaluation.json of the reward run that a model lies in, None outside of a run."""
    place = seal.run_of(folder)
    path = place / layout.EVALUATION if place else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else None
