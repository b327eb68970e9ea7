"""The `ppo` stage: what it reads, what it leaves behind."""

from __future__ import annotations

import copy
import math
from functools import partial
from statistics import fmean
from typing import Any

from accelerate import Accelerator, DistributedType
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit import stats
from toolkit.data import sources
from toolkit.models.load import load_causal_lm, load_reward_model, save_model
from toolkit.ppo import state
from toolkit.ppo.actor_critic import ActorCritic, Critic, critic_from_policy, critic_from_reward_model
from toolkit.ppo.loop import Loop, Models, build_optimizer
from toolkit.recipe.errors import ToolkitError
from toolkit.recipe.schema import PpoRecipe
from toolkit.runs import checkpoint, environment, processes
from toolkit.runs.directory import Run
from toolkit.runs.progress import Progress
from toolkit.sampling import forbidden_bias
from toolkit.scoring import PLAIN_HEADS

SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
SAMPLES_TIMES = 4
"""How often answers are written to metrics.jsonl, the first rollout not counted."""


def run(recipe: PpoRecipe, run: Run) -> None:
    """Train the policy against the reward model; writes the model, metrics, and evaluation.json.

    Raises:
        ToolkitError: models or data that cannot be had, sizes that do not fit the model's context or the
            processes, and a training that collapsed.
    """
    loop = _prepare(recipe, run)
    found = checkpoint.latest(run)
    if found:
        loop.progression = state.read(found[1], loop.models)
        run.metrics.truncate(found[0])
    _train(loop, run)
    if run.is_main:
        save_model(loop.models.actor_critic.policy, loop.models.tokenizer, run.model_dir)
        run.write_json("evaluation.json", evaluation(loop))


def _train(loop: Loop, run: Run) -> None:
    recipe, settings = loop.recipe, loop.settings
    checkpoint_every = recipe.checkpoint_every_steps or math.ceil(loop.rollouts / 5)
    show_every = math.ceil(loop.rollouts / SAMPLES_TIMES)
    with Progress(run.name, settings.episodes, unit="episode") as progress:
        for step in range(loop.progression.step + 1, loop.rollouts + 1):
            numbers = loop.train_rollout()
            episodes = step * settings.rollout_examples
            if step in (1, loop.rollouts) or step % recipe.log_every_steps == 0:
                shown = {"samples": loop.progression.samples} if step == 1 or step % show_every == 0 else {}
                run.metrics.log(step, episodes=episodes, **numbers, **shown)
            progress.update(episodes, score=numbers["score"], kl=numbers["kl"])
            stop = processes.stop_requested()
            if stop or step == loop.rollouts or step % checkpoint_every == 0:
                write = partial(state.write, models=loop.models, progression=loop.progression)
                checkpoint.save(run, step, write, keep=1)
            if stop and step < loop.rollouts:
                raise KeyboardInterrupt
    processes.stop_at_once()


def _prepare(recipe: PpoRecipe, run: Run) -> Loop:
    device = environment.device(recipe.device)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    environment.require_agreement(accelerator.num_processes)
    if accelerator.distributed_type not in SUPPORTED:
        raise ToolkitError(
            f"ppo keeps all weights on every process; {accelerator.distributed_type.value} does not",
            where=run.name,
            fix="use distributed_type: MULTI_GPU in the accelerate configuration",
        )
    _check_shares(recipe, accelerator.num_processes)
    policy, tokenizer = load_causal_lm(run.model_reference(recipe.model), device=device)
    reference = run.model_reference(recipe.reward_model)
    reward_model, reward_tokenizer = load_reward_model(reference, device=device)
    _check_context(recipe, policy)
    prompts = sources.prompts(recipe.data, part="train", seed=recipe.seed)["prompt"]
    critic, from_reward_model = _critic(policy, tokenizer, reward_model, reward_tokenizer)
    forbidden = forbidden_bias(policy, pad_id=tokenizer.pad_token_id, end_id=tokenizer.eos_token_id)
    actor_critic = ActorCritic(policy, critic, forbidden=forbidden, temperature=recipe.trainer.temperature)
    actor_critic.to(device)
    wrapped, optimizer = accelerator.prepare(actor_critic, build_optimizer(actor_critic, recipe.trainer))
    models = Models(
        actor_critic=actor_critic,
        wrapped=wrapped,
        optimizer=optimizer,
        reference=copy.deepcopy(policy).requires_grad_(False),
        tokenizer=tokenizer,
        reward_model=reward_model,
        reward_tokenizer=reward_tokenizer,
        critic_knows_scores=from_reward_model,
    )
    bf16 = run.record("precision", environment.precision(recipe.precision, device)) == "bf16"
    loop = Loop(recipe, models, prompts, accelerator=accelerator, bf16=bf16)
    run.record("rollouts", loop.rollouts)
    run.record("prompts", len(prompts))
    run.record("micro_batch_examples", loop.micro_size, keep=False)
    run.record("critic", "reward model" if from_reward_model else "policy")
    return loop


def _critic(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reward_model: PreTrainedModel,
    reward_tokenizer: PreTrainedTokenizerBase,
) -> tuple[Critic, bool]:
    """The critic, and whether it began as the reward model: only where that reads the policy's tokens."""
    same_tokens = tokenizer.get_vocab() == reward_tokenizer.get_vocab()
    room = reward_model.config.max_position_embeddings >= policy.config.max_position_embeddings
    known = hasattr(reward_model, "score") and reward_model.config.model_type in PLAIN_HEADS
    if same_tokens and room and known:
        return critic_from_reward_model(reward_model), True
    return critic_from_policy(policy), False


def _check_shares(recipe: PpoRecipe, processes: int) -> None:
    """Refuse minibatches that the processes cannot share equally."""
    settings = recipe.trainer
    parts = settings.minibatches * processes
    if settings.rollout_examples % parts:
        raise ToolkitError(
            f"{settings.rollout_examples} answers cannot be shared equally by {settings.minibatches} "
            f"minibatches on {processes} process(es)",
            where="trainer.rollout_examples",
            fix=f"take a multiple of {parts}",
        )


def _check_context(recipe: PpoRecipe, policy: PreTrainedModel) -> None:
    settings, context = recipe.trainer, policy.config.max_position_embeddings
    needed = settings.max_prompt_tokens + settings.max_new_tokens
    if needed > context:
        raise ToolkitError(
            f"{settings.max_prompt_tokens} prompt tokens and {settings.max_new_tokens} new ones exceed the "
            f"policy's context of {context}",
            where="trainer.max_new_tokens",
            fix=f"lower max_prompt_tokens or max_new_tokens by {needed - context}",
        )


def evaluation(loop: Loop) -> dict[str, Any]:
    """The last tenth of the rollouts beside the first, which the reference sampled: public keys of JSON."""
    state, settings, seed = loop.progression, loop.settings, loop.recipe.seed
    return {
        **stats.bootstrap_mean(state.last["score"], seed=seed).as_json("score"),
        **stats.bootstrap_mean(state.last["kl"], seed=seed).as_json("kl"),
        "length": fmean(state.last["length"]),
        "ended": fmean(state.last["ended"]),
        "n": len(state.last["score"]),
        "seed": seed,
        "reference": {
            **stats.bootstrap_mean(state.reference["score"], seed=seed).as_json("score"),
            "length": fmean(state.reference["length"]),
            "ended": fmean(state.reference["ended"]),
            "n": len(state.reference["score"]),
        },
        "kl_coefficient": state.kl_coefficient,
        "episodes": settings.episodes,
        "measured_on": "training prompts; the last tenth of the rollouts, sampled while it still learned",
        "settings": settings.model_dump(),
        "samples": state.samples,
    }
