"""The `ppo` stage: trains a policy from a recipe and writes its model, metrics and evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from transformers import PreTrainedTokenizerBase

from toolkit import stats
from toolkit.base.errors import ToolkitError
from toolkit.config.schema import PpoRecipe
from toolkit.data.chat import sources
from toolkit.data.chat.report import ReadingReport
from toolkit.models import stop_tokens
from toolkit.models.loading import load_causal_lm
from toolkit.models.saving import ModelWriter
from toolkit.ppo import reward_loading, rewards, rloo_grpo, sampler, trainer_arguments
from toolkit.ppo.config import PPOConfig
from toolkit.ppo.early_stopping import EarlyStopping
from toolkit.ppo.episode import Episode
from toolkit.ppo.trainer import PPOTrainer
from toolkit.runs import layout
from toolkit.runs.evaluation import PpoEvaluation, Sample
from toolkit.runs.run import Run
from toolkit.runtime import devices
from toolkit.stages.adapters import lora, merges
from toolkit.stages.trainer_runner import fit

NUM_SAMPLE_ROWS = 4
"""Rows of samples in metrics.jsonl, the one of the first rollout not counted."""


def run(recipe: PpoRecipe, run: Run) -> None:
    """Train the policy against the rewards; writes the model, metrics, and evaluation.json.

    Raises:
        ToolkitError: models, functions or data cannot be loaded, sizes do not fit the model's context or the
            processes, or the training collapsed.
    """
    if recipe.algorithm != "ppo":
        rloo_grpo.run(recipe, run)
        return
    target = devices.select(recipe.device)
    config = _config(recipe, run)
    reference = run.model_reference(recipe.model)
    policy, tokenizer = load_causal_lm(reference, device=target)
    stop_tokens.stop_at_all_ends(policy, tokenizer)
    stop_tokens.record(run, policy, tokenizer)
    terms = reward_loading.of_recipe(recipe, run, device=target)
    report = ReadingReport()
    tokenizers = [tokenizer, *(term.tokenizer for term in terms if term.tokenizer is not None)]
    prompts = sources.prompts(
        recipe.data, part="train", seed=recipe.seed, report=report, tokenizers=tokenizers
    )
    judge = _judge_arguments(recipe, run, tokenizers, report=report)
    report.print()
    rows = sampler.prompt_rows(tokenizer, prompts, max_tokens=config.max_prompt_tokens)
    writer = ModelWriter(policy, tokenizer, reference=reference, rows=rows, merge=merges(recipe))
    trainer = PPOTrainer(
        policy,
        terms,
        config,
        prompts.select_columns("prompt"),
        processing_class=tokenizer,
        peft_config=lora(recipe, policy, "CAUSAL_LM"),
        **judge,
    )
    run.decide("rollouts", trainer.num_rollouts)
    run.decide("prompts", len(prompts))
    run.describe("micro_batch_examples", config.per_device_train_batch_size)
    initialised_from = "reward model" if trainer.critic_knows_scores else "policy"
    run.decide("critic", "shared" if config.critic == "shared" else initialised_from)
    outcomes = RolloutOutcomes(trainer, run)
    trainer.observers.append(outcomes)
    early_stopping = None
    if recipe.early_stopping is not None:
        early_stopping = EarlyStopping(trainer, run, recipe.early_stopping)
        trainer.observers.append(early_stopping)
        trainer.add_callback(early_stopping)
    fit(trainer, run, writer)
    if run.is_main:
        evaluation = outcomes.evaluation(recipe)
        if early_stopping is not None:
            evaluation = early_stopping.complete(evaluation)
        run.write_json(layout.EVALUATION, replace(evaluation, data=report.as_json()).to_json())


def _judge_arguments(
    recipe: PpoRecipe, run: Run, tokenizers: Sequence[PreTrainedTokenizerBase], *, report: ReadingReport
) -> dict[str, Any]:
    """Return the held-out prompts and the judge of early stopping, as PPOTrainer's arguments.

    Args:
        report: receives the counts of the held-out prompts.
    """
    if recipe.early_stopping is None:
        return {}
    device = devices.select(recipe.device)
    judge, judge_tokenizer = reward_loading.load(recipe.early_stopping.judge, recipe, run, device=device)
    counts = ReadingReport()
    held_out = sources.prompts(
        recipe.data, part="held_out", seed=recipe.seed, report=counts,
        tokenizers=[*tokenizers, *([judge_tokenizer] if judge_tokenizer is not None else [])],
    )  # fmt: skip
    report.add_held_out(counts)
    count = min(recipe.early_stopping.prompts, len(held_out))
    run.decide("held_out_prompts", count)
    judge = rewards.build(judge, judge_tokenizer, device=device)
    return {"eval_dataset": held_out.select(range(count)), "eval_reward_funcs": judge}


def _config(recipe: PpoRecipe, run: Run) -> PPOConfig:
    """Return the recipe's settings, and those that the toolkit decides."""
    settings = recipe.trainer.model_dump(exclude={"answers_per_prompt", "schedule"})
    try:
        return PPOConfig(**trainer_arguments.arguments(recipe, run), **settings)
    except ValueError as error:
        raise ToolkitError(str(error), where="trainer") from error


class RolloutOutcomes:
    """An observer that keeps the outcomes of the first and the last rollouts, and writes samples."""

    def __init__(self, trainer: PPOTrainer, run: Run):
        self.trainer, self.run = trainer, run

    def __call__(self, episodes: Sequence[Episode], number: int) -> None:
        trainer, kept = self.trainer, self.trainer.progression.kept
        row: dict[str, list[float]] = {
            "score": [episode.score for episode in episodes],
            "length": [float(len(episode.answer_ids)) for episode in episodes],
            "ended": [float(episode.ended) for episode in episodes],
            "kl": [episode.kl for episode in episodes],
        }
        kept.setdefault("reference", row)
        kept["last"] = [*kept.get("last", []), row][-max(1, trainer.num_rollouts // 10) :]
        if number == 1 or number % math.ceil(trainer.num_rollouts / NUM_SAMPLE_ROWS) == 0:
            self.run.metrics.log(trainer.state.global_step, samples=trainer.samples)
        kept["samples"] = trainer.samples

    def evaluation(self, recipe: PpoRecipe) -> PpoEvaluation:
        """Return means of the last tenth of the rollouts, and of the first, which the reference sampled."""
        progression, settings, seed = self.trainer.progression, recipe.trainer, recipe.seed
        reference = progression.kept["reference"]
        last = {
            name: [value for row in progression.kept["last"] for value in row[name]] for name in reference
        }
        return PpoEvaluation(
            score=stats.bootstrap_mean(last["score"], seed=seed),
            kl=stats.bootstrap_mean(last["kl"], seed=seed),
            length=fmean(last["length"]),
            ended=fmean(last["ended"]),
            n=len(last["score"]),
            seed=seed,
            reference={
                **stats.bootstrap_mean(reference["score"], seed=seed).as_json("score"),
                "length": fmean(reference["length"]),
                "ended": fmean(reference["ended"]),
                "n": len(reference["score"]),
            },
            kl_coefficient=progression.kl_coefficient,
            episodes=progression.rollouts * settings.rollout_examples,
            measured_on="training prompts; the last tenth of the rollouts, sampled while it still learned",
            settings=settings.model_dump(),
            samples=[Sample.from_json(sample) for sample in progression.kept["samples"]],
        )
