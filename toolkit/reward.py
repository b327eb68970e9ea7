"""A Bradley-Terry reward model from preferences, with TRL's RewardTrainer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel
from trl import RewardConfig, RewardTrainer

from toolkit import stats
from toolkit.data import sources
from toolkit.data.pairs import HeldOutPairs, Pair, held_out_pairs, training_pairs, wins
from toolkit.fit import Measure, arguments, fit, lora, max_length, quiet
from toolkit.models.load import load_reward_model
from toolkit.recipe.schema import RewardRecipe
from toolkit.runs.directory import Run
from toolkit.runs.environment import device

MEASURED_WHILE_TRAINING = 100
"""Held-out pairs of the measurements during training; at the end all are measured."""


def run(recipe: RewardRecipe, run: Run) -> None:
    """Train a score head and the model below it; writes the model, metrics, and evaluation.json."""
    target = device(recipe.device)
    model, tokenizer = load_reward_model(
        run.model_reference(recipe.model), device=target, new_head_seed=recipe.seed
    )
    pad_id, length = tokenizer.pad_token_id, max_length(recipe, RewardConfig, model)
    train = sources.preferences(recipe.data, part="train", seed=recipe.seed)
    table, left_out = training_pairs(train, tokenizer, max_length=length, joined=True)
    held_out = held_out_pairs(
        sources.preferences(recipe.data, part="held_out", seed=recipe.seed), tokenizer, max_length=length
    )
    config, rows = arguments(RewardConfig, recipe, run, table=table, length=length)
    trainer = quiet(RewardTrainer)(
        model=model, args=config, train_dataset=rows, processing_class=tokenizer,
        peft_config=lora(recipe, model, "SEQ_CLS"),
    )  # fmt: skip
    fit(trainer, run, measure=_measure(held_out.pairs, pad_id))
    if run.is_main:
        trained, _ = load_reward_model((str(run.model_dir), None), device=target)
        numbers = held_out_numbers(trained, held_out, pad_id=pad_id, seed=recipe.seed)
        if held_out.pairs:  # PPO's score_scale: reward_model
            trained.config.score_mean, trained.config.score_std = numbers["score_mean"], numbers["score_std"]
            trained.config.save_pretrained(run.model_dir)
        run.write_json("evaluation.json", {
            **numbers,
            "base": recipe.model, "tokenizer": recipe.model,
            "examples": len(table), "steps": config.max_steps,
            "left_out": left_out, "held_out_left_out": held_out.left_out, "seed": recipe.seed,
        })  # fmt: skip


@torch.no_grad()
def scores(
    model: PreTrainedModel, rows: Sequence[list[int]], *, pad_id: int, batch_tokens: int = 16384
) -> np.ndarray:
    """Score whole conversations given as ids, (rows,) float64; read at the last token that is not padding."""
    result, start = np.zeros(len(rows)), 0
    by_length = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
    while start < len(rows):
        longest = len(rows[by_length[start]])
        batch = by_length[start : start + max(1, batch_tokens // longest)]
        ids = torch.full((len(batch), longest), pad_id)
        for place, row in enumerate(batch):
            ids[place, : len(rows[row])] = torch.tensor(rows[row])
        ids = ids.to(model.device)
        logits = model(input_ids=ids, attention_mask=(ids != pad_id).long(), use_cache=False).logits
        result[batch] = logits[:, 0].double().cpu().numpy()
        start += len(batch)
    return result


def pair_scores(
    model: PreTrainedModel, pairs: Sequence[Pair], *, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the chosen and of the rejected answers, (pairs,) each."""
    rows = [pair.prompt + pair.chosen for pair in pairs] + [pair.prompt + pair.rejected for pair in pairs]
    values = scores(model, rows, pad_id=pad_id)
    return values[: len(pairs)], values[len(pairs) :]


def held_out_numbers(model: PreTrainedModel, held_out: HeldOutPairs, *, pad_id: int, seed: int) -> dict:
    """Accuracy (a tie counts half), loss, and what the labels allow: nobody beats the annotator's noise."""
    if not held_out.pairs:
        return {"accuracy": None, "accuracy_interval": None, "n": 0, "bayes_accuracy": None}
    chosen, rejected = pair_scores(model, held_out.pairs, pad_id=pad_id)
    both = np.concatenate([chosen, rejected])
    return {
        **stats.bootstrap_share(wins(chosen - rejected), seed=seed).as_json("accuracy"),
        "n": len(held_out.pairs),
        "bayes_accuracy": held_out.bayes_accuracy(),
        **_gold_accuracy(chosen - rejected, held_out.utility_margin, seed),
        "held_out_loss": float(np.logaddexp(0, rejected - chosen).mean()),
        "margin": float(np.mean(chosen - rejected)),
        "score_mean": float(both.mean()),
        "score_std": float(both.std()),
    }


def _gold_accuracy(margins: np.ndarray, utility_margins: Sequence[float | None], seed: int) -> dict:
    """How often the reward model agrees with the true utility, which the noisy labels only follow."""
    known = [i for i, utility in enumerate(utility_margins) if utility]
    if not known:
        return {"gold_accuracy": None, "gold_accuracy_interval": None}
    signs = np.sign([utility_margins[i] for i in known])
    return stats.bootstrap_share(wins(margins[known] * signs), seed=seed).as_json("gold_accuracy")


def _measure(pairs: Sequence[Pair], pad_id: int) -> Measure | None:
    few = pairs[:MEASURED_WHILE_TRAINING]
    if not few:
        return None

    def measure(model: PreTrainedModel) -> dict[str, float]:
        chosen, rejected = pair_scores(model, few, pad_id=pad_id)
        return {
            "held_out_accuracy": float(wins(chosen - rejected).mean()),
            "held_out_loss": float(np.logaddexp(0, rejected - chosen).mean()),
        }

    return measure
