"""The preferences stage: models answer training prompts, an annotator compares their answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from toolkit import stats
from toolkit.base import files, ranks
from toolkit.base.console import tell
from toolkit.config.judge_kinds import kind as judge_kind
from toolkit.config.schema import PreferencesRecipe
from toolkit.data import vote_file
from toolkit.data.chat import sources
from toolkit.data.chat.report import ReadingReport
from toolkit.data.data_sources import as_sources, world_of
from toolkit.evaluate import context, judge_factory
from toolkit.evaluate.judges import AnyJudge
from toolkit.preferences.annotating import (
    TIE,
    ShownPair,
    Verdict,
    annotate,
    best_and_worst,
    pair_answers,
)
from toolkit.preferences.answering import Answer, Messages, read_answers, sample_answers
from toolkit.runs import layout
from toolkit.runs.evaluation import AnswerUtility, PreferencesEvaluation
from toolkit.runs.run import Run
from toolkit.runtime.devices import select

SAMPLES = 5
"""Preferences that are kept in evaluation.json."""


def run(recipe: PreferencesRecipe, run: Run) -> None:
    """Write preferences.jsonl, ties.jsonl, best.jsonl and evaluation.json.

    All processes sample answers; the main process has them compared.
    """
    if judge_kind(recipe.annotator.judge) == "votes":
        if run.is_main:
            _write_votes(recipe, run)
        return
    report = ReadingReport()
    rows = sources.prompts(recipe.data, part="train", seed=recipe.seed, report=report)
    report.print()
    prompts = [row["prompt"] for row in rows]
    run.decide("prompts", len(prompts))
    sample_answers(recipe, run, prompts)
    if ranks.world_size() > 1:
        from toolkit.runtime import rank_zero

        rank_zero.wait()
    if run.is_main:
        answers = read_answers(recipe, run, prompts)
        judge = open_judge(recipe, run)
        if recipe.compare == "best_with_worst":
            pairs = best_and_worst(prompts, answers, judge, seed=recipe.seed)
        else:
            pairs = pair_answers(prompts, answers, seed=recipe.seed)
        verdicts = annotate(pairs, judge, recipe.annotator, seed=recipe.seed)
        utility_of = _gold_scores(pairs, verdicts, recipe)
        rows = [
            preference_row(pair, verdict, utilities)
            for pair, verdict, utilities in zip(pairs, verdicts, utility_of, strict=True)
        ]
        write(
            recipe, run, prompts=prompts, answers=answers, pairs=pairs, verdicts=verdicts, rows=rows,
            data=report.as_json(),
        )  # fmt: skip


def open_judge(recipe: PreferencesRecipe, run: Run) -> AnyJudge:
    """Open the judge that the annotator asks.

    Raises:
        ToolkitError: gold for prompts of no world, or a model that cannot be loaded.
    """
    settings = recipe.annotator
    is_model = judge_kind(settings.judge) == "model"
    return judge_factory.open_judge(
        judge_factory.JudgeSettings(settings.judge, settings.judge_model, settings.judge_key_variable),
        world=world_of(recipe.data),
        seed=recipe.seed,
        reference=run.model_reference(settings.judge) if is_model else None,
        run_evaluation=None,
        log_path=run.path / context.JUDGEMENTS,
        device=select(recipe.device),
        where=", ".join(source.name for source in as_sources(recipe.data)),
    )


Scores = tuple[float, float]
"""Of the first and of the second answer of a pair."""


def _gold_scores(
    pairs: Sequence[ShownPair], verdicts: Sequence[Verdict], recipe: PreferencesRecipe
) -> list[Scores | None]:
    """Return the gold utilities of each pair; None where the world of the prompts is unknown."""
    if recipe.annotator.judge == "gold":
        return [verdict.scores for verdict in verdicts]
    world = world_of(recipe.data)
    if world is None:
        return [None] * len(pairs)
    return [
        (
            world.utility(list(pair.prompt), pair.first.text).total,
            world.utility(list(pair.prompt), pair.second.text).total,
        )
        for pair in pairs
    ]


def preference_row(pair: ShownPair, verdict: Verdict, utilities: Scores | None) -> dict[str, Any]:
    """Return a pair as TRL reads preferences, with models, scores and, in a world, the gold utilities.

    Of a tie and of a pair without a verdict, `chosen` is the answer that was shown first.
    """
    chosen, rejected, order = pair.first, pair.second, 1
    if verdict.value is not None and verdict.value < TIE:
        chosen, rejected, order = pair.second, pair.first, -1
    row: dict[str, Any] = {
        "prompt": [dict(turn) for turn in pair.prompt],
        "chosen": _turn(chosen.text),
        "rejected": _turn(rejected.text),
        "model_chosen": chosen.model,
        "model_rejected": rejected.model,
        "ended_chosen": chosen.ended,
        "ended_rejected": rejected.ended,
        "shown_first": "chosen" if order == 1 else "rejected",
    }
    if verdict.scores is not None:
        row["score_chosen"], row["score_rejected"] = verdict.scores[::order]
    if utilities is not None:
        row["utility_chosen"], row["utility_rejected"] = utilities[::order]
    if verdict.probability is not None:
        row["probability"] = verdict.probability if order == 1 else 1.0 - verdict.probability
    return row


def write(
    recipe: PreferencesRecipe,
    run: Run,
    *,
    prompts: Sequence[Messages],
    answers: Sequence[Sequence[Answer]],
    pairs: Sequence[ShownPair],
    verdicts: Sequence[Verdict],
    rows: Sequence[Mapping[str, Any]],
    data: Mapping[str, Any],
) -> None:
    """Write the files of the run.

    Args:
        data: counts of the rows that the prompts are from.
    """
    decided = [verdict.value not in (None, TIE) for verdict in verdicts]
    tied = [verdict.value == TIE for verdict in verdicts]
    preferences = [row for row, keep in zip(rows, decided, strict=True) if keep]
    _write_lines(run.path / layout.PREFERENCES, preferences)
    _write_lines(run.path / layout.TIES, [row for row, keep in zip(rows, tied, strict=True) if keep])
    _write_lines(run.path / layout.BEST, best_answers(prompts, answers, pairs, verdicts))
    equal = sum(pair.first.text == pair.second.text for pair in pairs)
    evaluation = PreferencesEvaluation(
        prompts=len(prompts),
        answers=sum(len(given) for given in answers),
        pairs=len(pairs),
        preferences=len(preferences),
        ties=sum(tied),
        equal_answers=equal,
        unjudged=sum(verdict.value is None for verdict in verdicts),
        cut_off=float(np.mean([not answer.ended for given in answers for answer in given])),
        models=_by_model(recipe, rows),
        samples=list(preferences[:SAMPLES]),
        seed=recipe.seed,
        data=dict(data),
    )
    evaluation = replace(evaluation, **_audit(preferences, recipe))
    run.write_json(layout.EVALUATION, evaluation.to_json())


def best_answers(
    prompts: Sequence[Messages],
    answers: Sequence[Sequence[Answer]],
    pairs: Sequence[ShownPair],
    verdicts: Sequence[Verdict],
) -> Iterable[dict[str, Any]]:
    """Yield each prompt with its best answer, for rejection sampling.

    The best has the highest score; with a judge of pairs, the most wins. The first of equals counts. An
    answer that was cut off is the best only if all were: a model that learns it does not learn to end.
    """
    per_prompt = len(pairs) // len(prompts)
    for number, (prompt, given) in enumerate(zip(prompts, answers, strict=True)):
        value: dict[str, float] = dict.fromkeys((answer.text for answer in given), -np.inf)
        for index in range(number * per_prompt, (number + 1) * per_prompt):
            pair, verdict = pairs[index], verdicts[index]
            wins = TIE if verdict.value is None else verdict.value
            scores = verdict.scores or (wins, 1.0 - wins)
            for answer, score in zip((pair.first, pair.second), scores, strict=True):
                value[answer.text] = max(value[answer.text], score)
        best = max(given, key=lambda answer: (answer.ended, value[answer.text]))
        yield {
            "prompt": [dict(turn) for turn in prompt],
            "completion": _turn(best.text),
            "model": best.model,
            "ended": best.ended,
        }


def _by_model(
    recipe: PreferencesRecipe, rows: Sequence[Mapping[str, Any]]
) -> dict[str, AnswerUtility] | None:
    """Return the mean utility of each model's answers; None where the world of the prompts is unknown."""
    if not rows or "utility_chosen" not in rows[0]:
        return None
    utilities: dict[str, list[float]] = {model: [] for model in recipe.models}
    for row in rows:
        for side in ("chosen", "rejected"):
            utilities[row[f"model_{side}"]].append(row[f"utility_{side}"])
    return {
        model: AnswerUtility(utility=stats.bootstrap_mean(np.array(values), seed=recipe.seed), n=len(values))
        for model, values in utilities.items()
    }


def _audit(preferences: Sequence[Mapping[str, Any]], recipe: PreferencesRecipe) -> dict[str, Any]:
    """Return what the preferences go with: the gold utility, length, the order in which they were shown."""
    if not preferences:
        return {}

    def share(values: Sequence[float]) -> stats.Estimate:
        return stats.bootstrap_share(np.array(values), seed=recipe.seed)

    words = [[len(row[side][0]["content"].split()) for side in ("chosen", "rejected")] for row in preferences]
    audit: dict[str, Any] = {
        "longer_preferred": share([_wins(*pair) for pair in words]),
        "first_preferred": share([float(row["shown_first"] == "chosen") for row in preferences]),
    }
    if "utility_chosen" in preferences[0]:
        utilities = [(row["utility_chosen"], row["utility_rejected"]) for row in preferences]
        audit["agreement_with_utility"] = share([_wins(*pair) for pair in utilities])
        audit["utility_difference"] = fmean(chosen - rejected for chosen, rejected in utilities)
    if "probability" in preferences[0]:
        certain = [max(row["probability"], 1.0 - row["probability"]) for row in preferences]
        audit["bayes_accuracy"] = fmean(certain)
    return audit


def _wins(first: float, second: float) -> float:
    return TIE if first == second else float(first > second)


def _write_votes(recipe: PreferencesRecipe, run: Run) -> None:
    """Write the preferences that a file of votes holds; pairs with as many votes for each are ties."""
    path = Path(recipe.annotator.judge)
    counted, left_out = vote_file.by_pair(path)
    if left_out:
        tell(f"{path}: votes left out: {', '.join(f'{n} {reason}' for reason, n in left_out.items())}")
    rows, ties = [], []
    for (prompt, first, second), values in counted.items():
        mean = fmean(values)
        chosen, rejected = (first, second) if mean >= TIE else (second, first)
        row = {
            "prompt": json.loads(prompt),
            "chosen": _turn(chosen),
            "rejected": _turn(rejected),
            "votes": len(values),
        }
        (ties if mean == TIE else rows).append(row)
    _write_lines(run.path / layout.PREFERENCES, rows)
    _write_lines(run.path / layout.TIES, ties)
    best = ({"prompt": row["prompt"], "completion": row["chosen"]} for row in rows)
    _write_lines(run.path / layout.BEST, best)
    total = sum(len(values) for values in counted.values())
    evaluation = PreferencesEvaluation(
        votes=total,
        left_out=left_out,
        pairs=len(counted),
        preferences=len(rows),
        ties=len(ties),
        seed=recipe.seed,
    )
    run.write_json(layout.EVALUATION, evaluation.to_json())


def _turn(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    files.write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
