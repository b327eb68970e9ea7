"""Direct preference optimization (Rafailov et al., 2023) with TRL's DPOTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from safetensors.torch import load_model as load_model_weights
from safetensors.torch import save_model as save_model_weights
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from toolkit import stats
from toolkit.base.rng import derive
from toolkit.config.registry import STAGES
from toolkit.config.schema import DpoRecipe
from toolkit.data.chat import answer_end, fitting, sources
from toolkit.data.chat.pairs import CONTEXTS, HeldOutPairs, Pair, held_out_pairs, training_pairs, wins
from toolkit.data.chat.report import ReadingReport
from toolkit.inference.illustrations import attempt
from toolkit.inference.logprobs import answer_logprobs
from toolkit.inference.sampling import generate
from toolkit.models import stop_tokens
from toolkit.models.context_length import default_length
from toolkit.models.kernels import fastest_attention
from toolkit.models.loading import load_causal_lm
from toolkit.models.saving import ModelWriter
from toolkit.models.stop_tokens import StopTokens
from toolkit.runs import layout
from toolkit.runs.evaluation import DpoEvaluation, ImplicitRewardMetrics, PolicyDistance, Sample
from toolkit.runs.run import Run
from toolkit.runtime.devices import select
from toolkit.runtime.upstream_private import TrainerHooks
from toolkit.stages.adapters import lora, merges, quantization
from toolkit.stages.trainer_checks import require_supported
from toolkit.stages.trainer_runner import Measure, arguments, fit, max_length, probe_rows, quiet

MEASURED_WHILE_TRAINING = STAGES["dpo"].held_out_while_training
"""Held-out pairs to measure during training; after it all of them are measured."""

SAMPLED_FOR_KL = 64
"""Held-out prompts that the policy answers for the estimate of its KL divergence from the reference."""

SAMPLES = 5
"""Answers to them that are kept in evaluation.json."""


REFERENCE_WEIGHTS = "reference.safetensors"
"""File of a checkpoint with the weights of a reference that changes (`sync_ref_model`)."""


class SyncedReferenceTrainer(TrainerHooks, DPOTrainer):
    """TRL's trainer whose checkpoints hold the reference, too, which `sync_ref_model` changes."""

    def write_model(self, folder: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super().write_model(folder, state_dict)
        if not self.args.should_save:
            return
        reference = self.accelerator.unwrap_model(self.ref_model)
        save_model_weights(reference, str(Path(folder or self.args.output_dir) / REFERENCE_WEIGHTS))

    def load_checkpoint(self, folder: str, model: nn.Module | None = None) -> None:
        super().load_checkpoint(folder, model)
        reference = self.accelerator.unwrap_model(self.ref_model)
        load_model_weights(reference, Path(folder) / REFERENCE_WEIGHTS)


def run(recipe: DpoRecipe, run: Run) -> None:
    """Train `recipe.model`, which is also the reference; writes the model, metrics and evaluation.json."""
    target = select(recipe.device)
    reference_path = run.model_reference(recipe.model)
    load = partial(load_causal_lm, device=target, quantization=quantization(recipe, run, target))
    model, tokenizer = load(reference_path)
    reference, _ = load(reference_path)
    stop_tokens.stop_at_all_ends(model, tokenizer)
    stop_tokens.record(run, model, tokenizer)
    length = max_length(recipe, DPOConfig, model)
    require_supported(recipe, model, length=length)
    report = ReadingReport()
    train = sources.preferences(
        recipe.data, part="train", seed=recipe.seed, report=report, tokenizers=[tokenizer]
    )
    table, report.lengths = training_pairs(train, tokenizer, max_length=length)
    held_out = held_out_pairs(
        sources.measured_while_training(
            sources.preferences, recipe.data, seed=recipe.seed, tokenizer=tokenizer, report=report
        ),
        tokenizer, max_length=length,
    )  # fmt: skip
    report.held_out_lengths = held_out.lengths
    report.print()
    config, rows = arguments(DPOConfig, recipe, run, table=table, length=length)
    adapters = lora(recipe, model, "CAUSAL_LM")
    writer = ModelWriter(
        model,
        tokenizer,
        reference=reference_path,
        rows=probe_rows(held_out.rows(), rows),
        merge=merges(recipe),
    )
    trainer = quiet(SyncedReferenceTrainer if config.sync_ref_model else DPOTrainer)(
        model=model, ref_model=None if adapters else reference, args=config, processing_class=tokenizer,
        train_dataset=rows, peft_config=adapters, data_collator=_collator(rows, config, tokenizer),
    )  # fmt: skip
    with fastest_attention([reference], device_type=target.type, bf16=config.bf16):  # as `fit` trains
        measure = _measure(held_out.pairs, reference, config.beta, run_name=run.name)
    trained = fit(trainer, run, writer, measure=measure)
    if trained is not None:
        reference, _ = load(reference_path)
        measured = held_out_metrics(
            trained, reference, held_out, beta=config.beta, seed=recipe.seed, run_name=run.name
        )
        missing: dict[str, str] = {}
        sampled = attempt(
            lambda: distance(trained, reference, tokenizer, held_out, seed=recipe.seed, run_name=run.name),
            keys=["kl", "samples"], run=run.name, missing=missing,
        )  # fmt: skip
        evaluation = DpoEvaluation.combined(
            measured,
            sampled or PolicyDistance(nulls=frozenset({"kl", "kl_interval", "samples"})),
            base=recipe.model, beta=config.beta, examples=len(table), steps=config.max_steps,
            left_out=report.lengths.left_out, held_out_left_out=held_out.lengths.left_out, seed=recipe.seed,
            data=report.as_json(), not_measured=missing or None,
        )  # fmt: skip
        run.write_json(layout.EVALUATION, evaluation.to_json())


@dataclass
class AnswerCollator(DataCollatorForPreference):
    """TRL's collator without loss on `Pair.contexts`; TRL scores every turn after the prompt."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = super().torch_call(examples)
        rows = [(example, name) for name in CONTEXTS for example in examples]
        for mask, (example, name) in zip(batch["completion_mask"], rows, strict=True):
            for position in example.get(name, []):
                mask[len(example["prompt_ids"]) + position] = 0
        return batch


def _collator(
    rows: datasets.Dataset, config: DPOConfig, tokenizer: PreTrainedTokenizerBase
) -> AnswerCollator | None:
    """Return the collator of rows with `Pair.contexts`, None for TRL's own."""
    if not set(CONTEXTS) & set(rows.column_names):
        return None
    config.remove_unused_columns = False
    return AnswerCollator(
        pad_token_id=tokenizer.pad_token_id, max_length=config.max_length,
        truncation_mode=config.truncation_mode, pad_to_multiple_of=config.pad_to_multiple_of,
    )  # fmt: skip


def pair_logprobs(
    model: PreTrainedModel, pairs: Sequence[Pair], *, shown_as: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return log p of the chosen and of the rejected answers, end-of-text included, (pairs,) each.

    Of several answers of a conversation, it is the sum of all of them, each given what comes before it.

    Args:
        shown_as: as in `answer_logprobs`.
    """
    prompts = [pair.prompt for pair in pairs] * 2
    answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    contexts = [pair.contexts[side] for side in (0, 1) for pair in pairs]
    logprobs = answer_logprobs(model, prompts, answers, shown_as=shown_as)
    scored = [
        np.delete(values, context) if context else values
        for values, context in zip(logprobs, contexts, strict=True)
    ]
    sums = np.array([values.sum(dtype=np.float64) for values in scored])
    return sums[: len(pairs)], sums[len(pairs) :]


def held_out_metrics(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    held_out: HeldOutPairs,
    *,
    beta: float,
    seed: int,
    run_name: str,
) -> ImplicitRewardMetrics:
    """Return accuracy and margin of the implicit reward beta * log(p / p_reference) (equation 6)."""
    if not held_out.pairs:
        return ImplicitRewardMetrics(
            n=0, nulls=frozenset({"accuracy", "accuracy_interval", "bayes_accuracy"})
        )
    policy, fixed = (
        pair_logprobs(scorer, held_out.pairs, shown_as=f"{run_name}: held-out pairs, {name}")
        for scorer, name in ((model, "model"), (reference, "reference"))
    )
    chosen, rejected = (own - start for own, start in zip(policy, fixed, strict=True))
    margins = beta * (chosen - rejected)
    return ImplicitRewardMetrics(
        accuracy=stats.bootstrap_share(wins(margins), seed=seed),
        margin=stats.bootstrap_mean(margins, seed=seed),
        n=len(held_out.pairs),
        bayes_accuracy=held_out.bayes_accuracy(),
        held_out_loss=float(np.logaddexp(0, -margins).mean()),
        log_ratio_chosen=float(chosen.mean()),
        log_ratio_rejected=float(rejected.mean()),
        nulls=frozenset({"bayes_accuracy"}),
    )


def distance(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    held_out: HeldOutPairs,
    *,
    seed: int,
    run_name: str,
) -> PolicyDistance:
    """Return KL(policy || reference) per answer in nats, estimated on answers sampled from the policy.

    The estimator is the mean of log p - log p_reference over whole answers (k1). It is unbiased and may
    therefore be slightly negative if the two models are similar.
    """
    context = default_length(model)
    found = fitting.prompts_that_fit(
        tokenizer, held_out.messages, max_tokens=context // 2, count=SAMPLED_FOR_KL
    )
    messages, prompts = [prompt for prompt, _ in found], [ids for _, ids in found]
    if not found:
        return PolicyDistance(samples=[], nulls=frozenset({"kl", "kl_interval"}))
    ends = StopTokens.of(model, tokenizer).ids
    answers = generate(
        model, prompts, seed=derive(seed, "samples"), end_id=ends, pad_id=tokenizer.pad_token_id,
        max_new_tokens=min(128, context - max(len(prompt) for prompt in prompts)), temperature=1.0,
        shown_as=f"{run_name}: answers to held-out prompts",
    )  # fmt: skip
    whole = answers.ids_with_stops()
    policy_logprobs, reference_logprobs = (
        answer_logprobs(scorer, prompts, whole, shown_as=f"{run_name}: KL, {name}")
        for scorer, name in ((model, "model"), (reference, "reference"))
    )
    nats = [
        float(np.sum(policy - fixed, dtype=np.float64))
        for policy, fixed in zip(policy_logprobs, reference_logprobs, strict=True)
    ]
    return PolicyDistance(
        kl=stats.bootstrap_mean(nats, seed=seed),
        kl_n=len(nats),
        mean_length=float(np.mean([len(ids) for ids in answers.ids])),
        ended=float(np.mean(answers.ended)),
        samples=[
            Sample(
                prompt=messages[i][-1]["content"],
                answer=answer_end.decode_answer(tokenizer, answers.ids[i]),
                ended=answers.ended[i],
            )
            for i in range(min(SAMPLES, len(messages)))
        ],
    )


def _measure(
    pairs: Sequence[Pair], reference: PreTrainedModel, beta: float, *, run_name: str
) -> Measure | None:
    """Return what measures a policy during training; it is computed like the reference, to the last bit.

    Two kernels that differ by rounding would make the untrained policy prefer one answer of most pairs.
    """
    subset = pairs[:MEASURED_WHILE_TRAINING]
    if not subset:
        return None
    reference_chosen, reference_rejected = pair_logprobs(
        reference, subset, shown_as=f"{run_name}: held-out pairs, reference"
    )

    def measure(model: PreTrainedModel) -> dict[str, float]:
        chosen, rejected = pair_logprobs(model, subset)
        margins = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
        return {
            "held_out_accuracy": float(wins(margins).mean()),
            "held_out_margin": float(margins.mean()),
            "held_out_loss": float(np.logaddexp(0, -margins).mean()),
        }

    return measure
