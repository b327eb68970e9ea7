"""Training a Bradley-Terry reward model on preferences with TRL's RewardTrainer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel
from trl import RewardConfig, RewardTrainer

from toolkit.config.registry import STAGES
from toolkit.config.schema import RewardRecipe
from toolkit.data.chat import sources
from toolkit.data.chat.pairs import Pair, held_out_pairs, training_pairs, wins
from toolkit.data.chat.report import ReadingReport
from toolkit.models.loading import load_reward_model
from toolkit.models.saving import ModelWriter
from toolkit.models.stop_tokens import record_date
from toolkit.runs import layout
from toolkit.runs.evaluation import RewardEvaluation
from toolkit.runs.run import Run
from toolkit.runtime.devices import select
from toolkit.stages import reward_quality
from toolkit.stages.adapters import lora, merges, quantization
from toolkit.stages.trainer_checks import require_supported
from toolkit.stages.trainer_runner import Measure, arguments, fit, max_length, probe_rows, quiet

MEASURED_WHILE_TRAINING = STAGES["reward"].held_out_while_training
"""Held-out pairs to measure during training; after it all of them are measured."""


def run(recipe: RewardRecipe, run: Run) -> None:
    """Train a model with a score head; writes the model, metrics and evaluation.json."""
    target = select(recipe.device)
    reference = run.model_reference(recipe.model)
    quantized = quantization(recipe, run, target)
    model, tokenizer = load_reward_model(
        reference, device=target, new_head_seed=recipe.seed, quantization=quantized
    )
    record_date(run, tokenizer)
    pad_id, length = tokenizer.pad_token_id, max_length(recipe, RewardConfig, model)
    require_supported(recipe, model, length=length)
    report = ReadingReport()
    train = sources.preferences(
        recipe.data, part="train", seed=recipe.seed, report=report, tokenizers=[tokenizer]
    )
    table, report.lengths = training_pairs(train, tokenizer, max_length=length, joined=True)
    held_out = held_out_pairs(
        sources.measured_while_training(
            sources.preferences, recipe.data, seed=recipe.seed, tokenizer=tokenizer, report=report
        ),
        tokenizer, max_length=length,
    )  # fmt: skip
    report.held_out_lengths = held_out.lengths
    report.print()
    config, rows = arguments(RewardConfig, recipe, run, table=table, length=length)
    writer = ModelWriter(
        model,
        tokenizer,
        reference=reference,
        rows=probe_rows(held_out.rows(), rows),
        load=load_reward_model,
        merge=merges(recipe),
    )
    trainer = quiet(RewardTrainer)(
        model=model, args=config, train_dataset=rows, processing_class=tokenizer,
        peft_config=lora(recipe, model, "SEQ_CLS"),
    )  # fmt: skip
    trained = fit(trainer, run, writer, measure=_measure(held_out.pairs, pad_id))
    if trained is not None:
        metrics = reward_quality.measure(
            trained, held_out, pad_id=pad_id, seed=recipe.seed, shown_as=f"{run.name}: held-out pairs"
        )
        if held_out.pairs:  # for score_scale: reward_model of PPO
            writer.add_to_config(run.model_dir, score_mean=metrics.score_mean, score_std=metrics.score_std)
        evaluation = RewardEvaluation.combined(
            metrics, base=recipe.model, tokenizer=recipe.model, examples=len(table), steps=config.max_steps,
            left_out=report.lengths.left_out, held_out_left_out=held_out.lengths.left_out, seed=recipe.seed,
            data=report.as_json(),
        )  # fmt: skip
        run.write_json(layout.EVALUATION, evaluation.to_json())


def _measure(pairs: Sequence[Pair], pad_id: int) -> Measure | None:
    subset = pairs[:MEASURED_WHILE_TRAINING]
    if not subset:
        return None

    def measure(model: PreTrainedModel) -> dict[str, float]:
        chosen, rejected = reward_quality.pair_scores(model, subset, pad_id=pad_id)
        return {
            "held_out_accuracy": float(wins(chosen - rejected).mean()),
            "held_out_loss": float(np.logaddexp(0, rejected - chosen).mean()),
        }

    return measure
