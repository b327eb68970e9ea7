"""RLOO and GRPO from the `ppo` stage, in TRL's trainers: the same prompts, rewards, sizes and records.

They have no critic: the advantage of an answer is its reward relative to those of the other answers to the
same prompt (Ahmadian et al., 2024, https://arxiv.org/abs/2402.14740; Shao et al., 2024,
https://arxiv.org/abs/2402.03300). RLOO subtracts beta * KL from the reward, as PPO does; GRPO adds beta * k3
to the loss, and divides advantages by their standard deviation, so that its beta has another unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

import numpy as np
import trl
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from toolkit import stats
from toolkit.base.errors import ToolkitError
from toolkit.base.ranks import world_size
from toolkit.config.process_counts import share_of
from toolkit.config.schema import PpoRecipe
from toolkit.config.schema.ppo import DEFAULT_ANSWERS_PER_PROMPT, PPO_ONLY_SETTINGS
from toolkit.data.chat import answer_end, fitting, sources
from toolkit.data.chat.report import ReadingReport
from toolkit.data.chat.rows import training_order
from toolkit.inference.decoding import decoding_mode
from toolkit.models import stop_tokens
from toolkit.models.loading import load_causal_lm
from toolkit.models.saving import ModelWriter
from toolkit.models.stop_tokens import StopTokens, stop_at_all_ends
from toolkit.ppo import reward_loading, rewards, sampler, trainer_arguments
from toolkit.ppo.advantages import ScoreScale, set_rewards
from toolkit.ppo.config import ADAM_EPSILON, divisor, require_room
from toolkit.ppo.episode import Episode, gather, mean_outcome
from toolkit.ppo.trainer_base import DeferredRequests
from toolkit.runs import layout, metrics
from toolkit.runs.evaluation import PpoEvaluation
from toolkit.runs.run import Run
from toolkit.runtime import devices
from toolkit.runtime.upstream_private import metric_values, micro_steps
from toolkit.stages.adapters import lora, merges
from toolkit.stages.trainer_runner import checkpointing_key, fit, quiet

SAME_NAME = ("temperature", "top_k", "top_p", "learning_rate", "max_grad_norm")
CLASSES = {"rloo": (trl.RLOOConfig, trl.RLOOTrainer), "grpo": (trl.GRPOConfig, trl.GRPOTrainer)}


def run(recipe: PpoRecipe, run: Run) -> None:
    """Train the policy against the rewards; writes the model, metrics, and evaluation.json.

    Raises:
        ToolkitError: models, functions or data cannot be loaded, or sizes do not fit each other.
    """
    target = devices.select(recipe.device)
    settings = recipe.trainer
    reference = run.model_reference(recipe.model)
    policy, tokenizer = load_causal_lm(reference, device=target)
    _require_padding(policy, recipe)
    max_prompt_tokens = settings.max_prompt_tokens
    require_room(policy, max_prompt_tokens=max_prompt_tokens, max_new_tokens=settings.max_new_tokens)
    stops = stop_at_all_ends(policy, tokenizer)
    stop_tokens.record(run, policy, tokenizer)
    unsampled = {tokenizer.pad_token_id}.difference(stops.ids)
    config = _config(recipe, run, policy, unsampled=unsampled)
    report = ReadingReport()
    rows = sources.prompts(recipe.data, part="train", seed=recipe.seed, report=report)
    report.print()
    run.decide("prompts", len(rows))
    rollouts = run.decide("rollouts", settings.episodes // settings.rollout_examples)
    order = training_order(
        np.zeros(len(rows)),
        steps=rollouts,
        batch=settings.rollout_examples // config.num_generations,
        seed=recipe.seed,
    )
    rows = Dataset.from_list(
        [{"prompt": fitting.shorten(tokenizer, row["prompt"], max_tokens=max_prompt_tokens)} for row in rows]
    ).select(order)
    terms = reward_loading.of_recipe(recipe, run, device=target)
    writer = ModelWriter(
        policy, tokenizer, reference=reference,
        rows=sampler.prompt_rows(tokenizer, rows, max_tokens=max_prompt_tokens), merge=merges(recipe),
    )  # fmt: skip
    trainer = _trainer_class(CLASSES[recipe.algorithm][1])(
        model=policy,
        reward_funcs=_reward(recipe, run, terms, tokenizer, stops),
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora(recipe, policy, "CAUSAL_LM"),
    )
    if trainer.ref_model is not None:  # TRL loads it again, without a revision, in its own dtype
        trainer.ref_model.to(policy.dtype).load_state_dict(policy.state_dict())
    for model in (policy, trainer.ref_model):
        if model is not None:
            model.register_forward_pre_hook(_with_positions, with_kwargs=True)
    run.describe("micro_batch_examples", config.per_device_train_batch_size)
    fit(trainer, run, writer)
    if run.is_main:
        rows = metrics.read(run.path / layout.METRICS)
        measured = evaluation(recipe, rows, run.decisions.first_rollout)
        run.write_json(layout.EVALUATION, replace(measured, data=report.as_json()).to_json())


def _require_padding(policy: PreTrainedModel, recipe: PpoRecipe) -> None:
    """Refuse a model that TRL would sample and score otherwise than it is: with padding on the left."""
    if not decoding_mode(policy).padded:
        raise ToolkitError(
            f"{recipe.algorithm} pads prompts on the left, and a {type(policy).__name__} computes something "
            "else with padding, or with a cache",
            where="algorithm", fix="set algorithm: ppo, which samples each length by itself",
        )  # fmt: skip


def _config(
    recipe: PpoRecipe, run: Run, policy: PreTrainedModel, *, unsampled: set[int]
) -> trl.RLOOConfig | trl.GRPOConfig:
    """Return TRL's configuration: the recipe's settings, and those that the toolkit decides.

    Args:
        unsampled: tokens that are never sampled, besides those that the policy's own configuration names.
    """
    settings = recipe.trainer
    arguments = trainer_arguments.arguments(recipe, run)
    share = share_of(settings.rollout_examples, settings.minibatches, processes=world_size())
    micro = divisor(share, at_most=arguments["per_device_train_batch_size"])
    suppressed = [*(getattr(policy.generation_config, "suppress_tokens", None) or []), *unsampled]
    config_class = CLASSES[recipe.algorithm][0]
    arguments |= {
        "max_steps": settings.episodes // settings.rollout_examples * settings.epochs * settings.minibatches,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": share // micro,
        "steps_per_generation": share // micro * settings.minibatches,
        "num_generations": settings.answers_per_prompt or DEFAULT_ANSWERS_PER_PROMPT,
        "num_iterations": settings.epochs,
        "shuffle_dataset": False,  # training_order has shuffled
        "max_completion_length": settings.max_new_tokens,
        "generation_kwargs": {"suppress_tokens": suppressed} if suppressed else None,
        "beta": settings.kl_coefficient,
        "epsilon": settings.clip_range,
        "adam_epsilon": ADAM_EPSILON,
        "disable_dropout": True,  # else the ratio of the first step is not 1
        checkpointing_key(config_class): False,
    }
    same_name = {name: getattr(settings, name) for name in SAME_NAME}
    return config_class(**arguments, **same_name)


def _reward(
    recipe: PpoRecipe,
    run: Run,
    terms: Sequence[rewards.Reward],
    tokenizer: PreTrainedTokenizerBase,
    stops: StopTokens,
) -> Callable[..., list[float]]:
    """Return the reward function for TRL: PPO's reward, the normalised score less the missing-end penalty."""
    settings = recipe.trainer
    scale: ScoreScale | None = None

    def reward(prompts, completion_ids, log_metric, **others) -> list[float]:
        own = []
        for index, (prompt, ids) in enumerate(zip(prompts, completion_ids, strict=True)):
            ended = bool(ids) and ids[-1] in stops.ids
            text = sampler.answer_text(tokenizer, ids[:-1] if ended else ids)
            asked = fitting.prompt_ids(tokenizer, prompt)
            unfinished = answer_end.is_unfinished(tokenizer, asked, text)
            own.append(Episode(index, prompt, [], ids, ended, text, unfinished))
        rewards.score(terms, own)
        nonlocal scale
        if scale is None:
            first = _first_rollout(own, run)
            scale = ScoreScale(**first["scale"]) if settings.normalize_scores else ScoreScale()
        set_rewards(own, scale, missing_end_penalty=settings.missing_end_penalty)
        for name, value in mean_outcome(own).items():
            log_metric(name, value)
        return [episode.reward for episode in own]

    return reward


def _first_rollout(own: Sequence[Episode], run: Run) -> dict[str, Any]:
    """Return the outcome and score scale of the reference's answers; a resumed run has recorded them."""
    recorded = run.decisions.first_rollout
    if recorded is not None:
        return recorded
    episodes = gather(own)
    scale = asdict(ScoreScale.of([episode.score for episode in episodes]))
    return run.decide("first_rollout", {**mean_outcome(episodes), "scale": scale})


def _with_positions(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Add the position ids of left-padded rows, as `generate` does.

    TRL 1.16 passes none, and GPT-2 then counts the padding: after four rollouts of storyworld, the KL was
    -4.4 nats per answer, although a KL is never negative.
    """
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.dim() == 2 and kwargs.get("position_ids") is None:
        kwargs = {**kwargs, "position_ids": (mask.long().cumsum(dim=-1) - 1).clamp(min=0)}
    return args, kwargs


def _trainer_class(base: type[Trainer]) -> type[Trainer]:
    """Return a TRL trainer that logs, saves and stops between rollouts only, with PPO's names of metrics."""

    class GroupTrainer(DeferredRequests, quiet(base)):
        def log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
            in_rollout = self.args.num_iterations * self.args.steps_per_generation
            if micro_steps(self) % in_rollout:
                self.defer_requests()
                return
            self.restore_requests()
            super().log_save_evaluate(*args, **kwargs)

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            metrics = metric_values(self)
            if "clip_ratio/region_mean" in metrics:
                metrics["clip_fraction"] = metrics.pop("clip_ratio/region_mean")
            if metrics.get("kl") and metrics.get("length"):
                # TRL's KL is the mean over tokens; PPO's is the sum over an answer
                token_kl = np.array(metrics["kl"]).reshape(len(metrics["length"]), -1).mean(axis=1)
                metrics["kl"] = (token_kl * metrics["length"]).tolist()  # (rollouts,)
            super().log(logs, start_time)

    return GroupTrainer


def evaluation(
    recipe: PpoRecipe, rows: Sequence[Mapping[str, Any]], first: Mapping[str, Any]
) -> PpoEvaluation:
    """Return means of the last tenth of the rollouts, from their rows of the metrics, and of the first."""
    rows = [row for row in rows if "score" in row]
    last = rows[-max(1, len(rows) // 10) :]
    before = rows[-len(last) - 1]["step"] if len(rows) > len(last) else 0
    steps = recipe.trainer.epochs * recipe.trainer.minibatches  # of one rollout
    rollouts = (last[-1]["step"] - before) // steps
    score = stats.bootstrap_mean([row["score"] for row in last], seed=recipe.seed)
    kl = fmean(row["kl"] for row in last) if "kl" in last[0] else math.nan
    return PpoEvaluation(
        score=score,
        kl=stats.Estimate(kl, math.nan, math.nan, n=0),
        length=fmean(row["length"] for row in last),
        ended=fmean(row["ended"] for row in last),
        n=rollouts * recipe.trainer.rollout_examples,
        seed=recipe.seed,
        reference={name: first[name] for name in ("score", "length", "ended")},
        algorithm=recipe.algorithm,
        episodes=recipe.trainer.episodes,
        measured_on="training prompts; the last tenth of the rollouts, sampled while it still learned",
        settings=recipe.trainer.model_dump(exclude=set(PPO_ONLY_SETTINGS)),
        bare=frozenset({"kl"}),
    )
