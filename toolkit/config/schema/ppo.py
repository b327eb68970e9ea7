"""The ppo stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from toolkit.config.schema.base import (
    BatchSize,
    Count,
    DataSources,
    NonNegative,
    PlannedWork,
    Positive,
    Probability,
    SequenceLength,
    Settings,
    StageRecipe,
)
from toolkit.config.schema.trainers import LoraSettings

DEFAULT_ANSWERS_PER_PROMPT = 4
"""Default of `trainer.answers_per_prompt` for rloo and grpo."""
PPO_ONLY_SETTINGS = (
    "value_learning_rate", "kl_in", "kl_target", "gamma", "gae_lambda", "value_clip_range",
    "value_coefficient", "entropy_coefficient", "whiten_advantages", "whiten_rewards", "truncation", "guard",
    "critic", "target_kl", "score_scale",
)  # fmt: skip
"""Settings of `trainer` that have no effect with rloo and grpo."""


class PpoTrainerSettings(Settings):
    """Proximal policy optimization from human feedback; defaults after Huang et al. (2024), N+ details."""

    learning_rate: Positive = 3e-5
    value_learning_rate: Positive | None = None
    """Learning rate of the critic; the default is the policy's."""
    episodes: Count = 2048
    """Answers sampled in the whole training."""
    rollout_examples: BatchSize = 64
    """Answers sampled between two phases of optimization, over all processes."""
    epochs: Count = 4
    """Passes over the answers of one rollout."""
    minibatches: BatchSize = 1
    """Optimizer steps in one pass."""
    kl_coefficient: NonNegative = 0.05
    """beta: reward = score - beta * KL, spread over the tokens (k1 estimator)."""
    kl_in: Literal["reward", "loss"] = "reward"
    """`reward`: k1 on each token, whose optimum is pi_ref exp(reward / beta); `loss`: beta * k3 beside the
    policy's loss, with less variance and another optimum."""
    kl_target: Positive | None = None
    """Adapt the coefficient towards this KL per answer, in nats (Ziegler et al., 2019, section 2.2)."""
    gamma: Probability = 1.0
    gae_lambda: Probability = 0.95
    clip_range: Positive = 0.2
    value_clip_range: Positive = 0.2
    value_coefficient: NonNegative = 0.1
    """Weight of the critic's loss, which shares one gradient norm limit with the policy's."""
    entropy_coefficient: NonNegative = 0.0
    max_grad_norm: Positive = 1.0
    whiten_advantages: bool = True
    whiten_rewards: bool = False
    """Rewards of the tokens get variance 1 over a rollout and keep their mean; beta then loses its unit."""
    normalize_scores: bool = True
    """Scores are shifted and scaled, so that beta and the penalty of no end have a unit."""
    score_scale: Literal["first_rollout", "reward_model"] = "first_rollout"
    """By mean and standard deviation of the reference's answers in the first rollout, or by those of held-out
    preferences, which a reward run keeps in its model's config."""
    missing_end_penalty: NonNegative = 1.0
    """Subtracted from the (normalized) score of an answer that did not end with a stop token."""
    truncation: Literal["terminal", "bootstrap"] = "terminal"
    """Cut-off answers: `terminal` treats them as finished; `bootstrap` adds the critic's value of the
    rest."""
    critic: Literal["separate", "shared"] = "separate"
    """`separate`: its own transformer. `shared`: one layer on the policy; less memory and time, less accurate
    values."""
    guard: Literal["stop", "warn", "off"] = "stop"
    """What happens when answers degenerate (repetition, likeness, length, KL) while the score rises: `warn`
    only warns; `stop` also ends the run on a collapse."""
    answers_per_prompt: Annotated[int, Field(ge=2, le=10_000)] | None = None
    """Answers per prompt for rloo and grpo (default 4); ppo samples one."""
    max_prompt_tokens: SequenceLength = 128
    max_new_tokens: SequenceLength = 96
    temperature: Positive = 1.0
    """Divides the logits for sampling and for the log-probabilities of policy and reference."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample only from the k most probable tokens (0: all). Ratios and KL use the whole distribution."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample only from the smallest set of tokens with this total probability (1: all). Ratios and KL use the
    whole distribution."""
    target_kl: Positive | None = None
    """Skip the rest of a rollout's updates once KL(old || new), in nats per token, exceeds this."""
    schedule: Literal["linear", "constant"] = "linear"
    """Learning-rate schedule over the whole training."""

    @model_validator(mode="after")
    def whole_rollouts(self) -> PpoTrainerSettings:
        for whole, part in (("episodes", "rollout_examples"), ("rollout_examples", "minibatches")):
            if getattr(self, whole) % getattr(self, part):
                count, unit = getattr(self, whole), getattr(self, part)
                near = max(1, round(count / unit)) * unit
                raise ValueError(f"{whole} {count} is not a multiple of {part} {unit}; {near} is one")
        return self


class RewardSettings(Settings):
    """One more reward, added to the reward model's score."""

    reward_model: str | None = None
    """`gold`, a sealed reward run, a folder or a Hub id. Alternative: `function`."""
    function: str | None = None
    """FILE.py:NAME of `(prompts, completions, completion_ids, **columns) -> list[float]`."""
    weight: float = 1.0
    """Factor for its values."""

    @model_validator(mode="after")
    def one_reward(self) -> RewardSettings:
        if (self.reward_model is None) == (self.function is None):
            raise ValueError("give exactly one of reward_model and function")
        return self


class EarlyStoppingSettings(Settings):
    """Ask a held-out judge between rollouts and stop when its scores fall: the reward model is then
    over-optimised (Gao et al., 2023)."""

    judge: str
    """`gold` (storyworld's utility), a sealed reward run, a folder or a Hub id; not the reward that is
    trained on."""
    every_rollouts: Count = 2
    """Rollouts between two evaluations by the judge."""
    prompts: Count = 64
    """Held-out prompts, the same in each evaluation."""
    patience: Count | None = 3
    """Stop after this many evaluations without a new best and keep the best weights; null: never stop."""


class PpoRecipe(StageRecipe):
    """PPO against a trained reward model; or RLOO, GRPO."""

    stage: Literal["ppo"]
    algorithm: Literal["ppo", "rloo", "grpo"] = "ppo"
    """`rloo` (Ahmadian et al., 2024) and `grpo` (Shao et al., 2024) have no critic: they compare
    `trainer.answers_per_prompt` answers to the same prompt, in TRL's trainers."""
    preset: Literal["standard", "fast"] = "standard"
    """`fast`: the critic is one layer on the policy (trainer.critic: shared)."""
    model: str
    """The initial policy, which is also the reference."""
    reward_model: str
    """`gold` (storyworld's utility), a sealed reward run, a folder, or a hub id."""
    rewards: list[RewardSettings] = []
    data: DataSources
    """Prompts: any source of conversations or preferences; only its prompts are read."""
    early_stopping: EarlyStoppingSettings | None = None
    micro_batch_examples: BatchSize | None = None
    """Answers in one forward pass on one process. The default is the process's share of the minibatch (on a
    CPU at most 16, in bf16 at most 32)."""
    lora: LoraSettings | None = None
    """Train adapters only; the reference is then the same model without them."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    log_every_steps: Count = 1
    """Rollouts between two log entries."""
    checkpoint_every_steps: Count | None = None
    """Rollouts between two checkpoints; the default is a fifth of the training."""
    trainer: PpoTrainerSettings = PpoTrainerSettings()

    @model_validator(mode="before")
    @classmethod
    def fast_means(cls, values: Any) -> Any:
        wanted = isinstance(values, dict) and values.get("preset") == "fast"
        if wanted and values.get("algorithm", "ppo") == "ppo":
            trainer = values.get("trainer") or {}
            if isinstance(trainer, dict):
                return {**values, "trainer": {"critic": "shared", **trainer}}
        return values

    def longest_sequence(self, positions: int) -> int:
        return self.trainer.max_prompt_tokens + self.trainer.max_new_tokens

    def planned_work(self, positions: int) -> PlannedWork:
        tokens = self.trainer.episodes * self.longest_sequence(positions)
        # Sampling, old policy, reference, value and reward: 5 forward passes; then policy and value train.
        passes = 5 / 3 + 2 * self.trainer.epochs
        return PlannedWork(tokens, passes, "at most; sampling is slower than its operations")
