"""Open the judge named in a recipe or on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from toolkit.base import files
from toolkit.config.judge_kinds import kind
from toolkit.config.schema import Data
from toolkit.data.data_sources import Part
from toolkit.evaluate import endpoint, judges, votes
from toolkit.evaluate.judge_log import JudgementLog
from toolkit.evaluate.judges import AnyJudge
from toolkit.models.loading import Dtype
from toolkit.runs import layout, seal
from toolkit.runs.evaluation import RewardEvaluation
from toolkit.runs.hub import Reference
from toolkit.storyworld import World


@dataclass(frozen=True)
class JudgeSettings:
    """Settings of a judge.

    Attributes:
        judge: `gold`, a reward model, a file of votes, or the URL of an endpoint.
        model: name of the model at the endpoint.
        key_variable: the environment variable that holds the endpoint's key.
        data: preferences that measure the judge's accuracy.
        part: the part of `data` that is used.
        stop_early: stop asking an endpoint once the win rate's interval excludes 50%.
    """

    judge: str
    model: str | None = None
    key_variable: str = "JUDGE_API_KEY"
    data: Data | None = None
    part: Part = "held_out"
    stop_early: bool = False


def open_judge(
    settings: JudgeSettings,
    *,
    world: World | None,
    seed: int,
    reference: Reference | None,
    run_evaluation: RewardEvaluation | None,
    log_path: Path,
    device: torch.device | str,
    dtype: Dtype = torch.float32,
    where: str,
) -> AnyJudge:
    """Return the judge: gold, votes, an endpoint, or a reward model.

    Args:
        world: the world of the prompts; None for other prompts.
        seed: of intervals.
        reference: the reward model.
        run_evaluation: evaluation.json of the reward run.
        log_path: file of the judgements of an endpoint.
        dtype: of the weights of a reward model.
        where: the data that an error about the judge names.

    Raises:
        ToolkitError: the judge cannot be opened, or cannot judge answers to these prompts.
    """
    judge_kind = kind(settings.judge)
    if judge_kind == "gold":
        return judges.gold_judge_of(world, where)
    if judge_kind == "votes":
        return votes.votes_judge(Path(settings.judge))
    if judge_kind == "endpoint":
        judge = endpoint.endpoint_judge(
            endpoint.Endpoint(settings.judge, settings.model or "", settings.key_variable),
            JudgementLog(log_path),
            stop_early=settings.stop_early,
        )
        if settings.data is None:
            return judge
        return judges.checked(judge, settings.data, part=settings.part, seed=seed)
    return judges.reward_judge(
        settings.judge,
        reference,
        device=device,
        dtype=dtype,
        data=settings.data,
        part=settings.part,
        run_evaluation=run_evaluation,
        seed=seed,
    )


def read_run_evaluation(folder: Path) -> RewardEvaluation | None:
    """Return evaluation.json of the reward run that contains a model folder; None outside a run."""
    run_folder = seal.run_of(folder)
    path = run_folder / layout.EVALUATION if run_folder else None
    return RewardEvaluation.from_json(files.read_json(path)) if path and path.is_file() else None
