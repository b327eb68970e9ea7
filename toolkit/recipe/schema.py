"""Every setting of every stage; those of pretraining, the longest, are in pretraining.py.

Sizes of batches count tokens or examples per optimizer step over ALL processes, so that a recipe says
the same thing on one CPU and on 64 GPUs. Paths that start with `runs/` are below `--runs-dir`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from toolkit.recipe.pretraining import (  # noqa: F401 - every recipe can be had from here
    GuardSettings,
    LengthSettings,
    ModelSettings,
    OptimizerSettings,
    PretrainRecipe,
    SampleSettings,
    ScheduleSettings,
    SpeedSettings,
)
from toolkit.recipe.settings import (  # noqa: F401
    Count,
    Data,
    DataSource,
    Fraction,
    HeldOut,
    NonNegative,
    Positive,
    Probability,
    Settings,
    Size,
    StageRecipe,
)


class TokenizerRecipe(StageRecipe):
    """Byte-level BPE, learned from text."""

    stage: Literal["tokenizer"]
    data: Data
    vocab_size: Annotated[int, Field(ge=262, le=2**20)] = 4096
    """Entries, special tokens included (256 bytes and the special tokens are always there)."""
    min_frequency: Count = 2
    """A pair is merged only if it occurs at least so often."""
    max_characters: Count = 50_000_000
    """Learn from at most so many characters: memory stays bounded."""


class CorpusRecipe(StageRecipe):
    """Text to memory-mapped token shards, with a train and a held-out part."""

    stage: Literal["corpus"]
    tokenizer: str
    data: Data
    shard_tokens: Count = 100_000_000
    """Tokens in one shard file."""
    workers: Count | None = None
    """Processes that tokenize; default the number of cores. The shards do not depend on it."""


class LoraSettings(Settings):
    """Train low-rank adapters instead of all weights (Hu et al., 2021); merged when the run is sealed."""

    r: Count = 8
    alpha: Positive = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: list[str] = ["c_attn", "c_proj", "c_fc"]


class TrainerRecipe(StageRecipe):
    """What the stages on TRL's trainers share."""

    model: str
    """A sealed run, a model folder, or `hub-id@revision`."""
    data: Data
    batch_examples: Count = 16
    """Examples of one optimizer step, over all processes."""
    micro_batch_examples: Count | None = None
    """Examples of one forward pass on one process; default the whole share of the process."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    lora: LoraSettings | None = None
    log_every_steps: Count = 10
    checkpoint_every_steps: Count | None = None
    """Default a fifth of the training."""
    trainer: dict[str, Any] = {}
    """Settings of TRL's own configuration class, checked by name and type."""


class SftRecipe(TrainerRecipe):
    """Supervised fine-tuning on conversations (trainer: trl.SFTConfig)."""

    stage: Literal["sft"]


class RewardRecipe(TrainerRecipe):
    """A Bradley-Terry reward model from preferences (trainer: trl.RewardConfig)."""

    stage: Literal["reward"]


class DpoRecipe(TrainerRecipe):
    """Direct preference optimization (trainer: trl.DPOConfig)."""

    stage: Literal["dpo"]


class PpoTrainerSettings(Settings):
    """Proximal policy optimization from human feedback; defaults after Huang et al. (2024), N+ details."""

    learning_rate: Positive = 3e-5
    value_learning_rate: Positive | None = None
    """Default the policy's."""
    episodes: Count = 2048
    """Answers sampled in the whole training."""
    rollout_examples: Count = 64
    """Answers sampled between two phases of optimization, over all processes."""
    epochs: Count = 4
    """Passes over the answers of one rollout."""
    minibatches: Count = 1
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
    """Subtracted from the (normalized) score of an answer that did not end with end-of-text."""
    truncation: Literal["terminal", "bootstrap"] = "terminal"
    """An answer cut off at max_new_tokens is over, or is worth what the critic expects after it."""
    critic: Literal["separate", "shared"] = "separate"
    """A transformer of its own, or one layer on the policy's: less memory and time, values that are worse."""
    guard: Literal["stop", "warn", "off"] = "stop"
    """Say when the score rises while answers degenerate (repetition, likeness, length, KL), and on a collapse
    stop, or only say so."""
    answers_per_prompt: Annotated[int, Field(ge=2)] | None = None
    """rloo and grpo only, where it is 4 if nothing is said; ppo samples one."""
    max_prompt_tokens: Count = 128
    max_new_tokens: Count = 96
    temperature: Positive = 1.0
    """Sampling divides the logits by it; policy and reference log-probabilities do the same."""
    top_k: int = Field(0, ge=0)
    """Sample only from the k most probable tokens (0: all). Ratios and KL read the whole distribution."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample only from the fewest tokens with this probability together. As top_k."""
    target_kl: Positive | None = None
    """Skip what is left of a rollout's optimization once KL(old || new), nats a token, is above this."""
    schedule: Literal["linear", "constant"] = "linear"
    """Of the learning rates, over the whole training."""

    @model_validator(mode="after")
    def whole_rollouts(self) -> PpoTrainerSettings:
        for whole, part in (("episodes", "rollout_examples"), ("rollout_examples", "minibatches")):
            if getattr(self, whole) % getattr(self, part):
                text = f"{whole} {getattr(self, whole)} is not a multiple of {part} {getattr(self, part)}"
                raise ValueError(text)
        return self


class RewardSettings(Settings):
    """One more reward, added to the reward model's score."""

    reward_model: str | None = None
    """`gold`, a sealed reward run, a folder, or a hub id; or else:"""
    function: str | None = None
    """FILE.py:NAME of `(prompts, completions, completion_ids, **columns) -> list[float]`."""
    weight: float = 1.0
    """What its values are multiplied by."""

    @model_validator(mode="after")
    def one_reward(self) -> RewardSettings:
        if (self.reward_model is None) == (self.function is None):
            raise ValueError("give exactly one of reward_model and function")
        return self


class EarlyStoppingSettings(Settings):
    """Ask a held-out judge between rollouts, and stop once its scores turn down: what the reward model pays
    for and what is better part ways in a long training (Gao et al., 2023)."""

    judge: str
    """`gold` (storyworld's utility), or a sealed reward run, a folder, a hub id: not what is trained on."""
    every_rollouts: Count = 2
    """Rollouts between two looks."""
    prompts: Count = 64
    """Held-out prompts, the same in each look."""
    patience: Count | None = 3
    """Stop after so many looks without a new best, and keep the weights of the best; null: only look."""


class PpoRecipe(StageRecipe):
    """PPO against a trained reward model; or RLOO, GRPO."""

    stage: Literal["ppo"]
    algorithm: Literal["ppo", "rloo", "grpo"] = "ppo"
    """`rloo` (Ahmadian et al., 2024) and `grpo` (Shao et al., 2024) have no critic: they compare
    `trainer.answers_per_prompt` answers to the same prompt, in TRL's trainers."""
    preset: Literal["standard", "fast"] = "standard"
    """`fast`: the critic is one layer on the policy (trainer.critic: shared)."""
    model: str
    """The policy to start from, and the reference."""
    reward_model: str
    """`gold` (storyworld's utility), a sealed reward run, a folder, or a hub id."""
    rewards: list[RewardSettings] = []
    data: Data
    """Prompts: any source of conversations or preferences; only its prompts are read."""
    early_stopping: EarlyStoppingSettings | None = None
    micro_batch_examples: Count | None = None
    """Answers of one forward pass on one process; default the minibatch's share (on a CPU at most 16,
    in bf16 32)."""
    lora: LoraSettings | None = None
    """Train adapters only; the reference is then the same model without them."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    log_every_steps: Count = 1
    """In rollouts."""
    checkpoint_every_steps: Count | None = None
    """In rollouts; default a fifth of the training."""
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


class PerplexitySettings(Settings):
    """Perplexity of every model on held-out text: each token is scored exactly once."""

    tokens: str | None = None
    """A sealed corpus run: its held-out part is scored, with its own tokenizer."""
    data: Data | None = None
    """Or any text source; every model tokenizes the text itself."""
    window: Count | None = None
    """Tokens a model sees at once; default its n_positions."""
    stride: Count | None = None
    """Tokens the window moves on; default half a window."""
    prefix: Literal["auto", "bos", "end", "none"] = "auto"
    """What stands before a document: the tokenizer's beginning-of-text, end-of-text, or nothing (then the
    first token is not scored). `auto`: end-of-text where the model's configuration says that documents begin
    with it, else beginning-of-text, else end-of-text."""
    score_end: bool = True
    """Score end-of-text as the last token of a document; it has no bytes."""
    packed: bool = False
    """Read all documents as one text with end-of-text between them, not each alone."""

    @model_validator(mode="after")
    def one_source(self) -> PerplexitySettings:
        if (self.tokens is None) == (self.data is None):
            raise ValueError("give exactly one of tokens and data")
        return self


class BestOfSettings(Settings):
    """Let the baseline answer several times, and a reward model choose: what alignment has to beat."""

    reward_model: str
    """A sealed reward run, a folder, or a hub id."""
    counts: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] = [2, 4]
    """Answers to choose from; each is reported as a model of its own, `best of 2`."""


class WinRateSettings(Settings):
    """Win rate against a baseline on prompts that were never trained on."""

    baseline: str
    judge: str = "gold"
    """`gold` (storyworld's utility); a sealed reward run, a folder, a hub id; a file of people's votes
    (.jsonl, .sqlite, .db); or the URL of an OpenAI-compatible endpoint, up to /v1."""
    judge_model: str | None = None
    """The model that an endpoint is asked for."""
    judge_key_variable: str = "JUDGE_API_KEY"
    """The environment variable that holds an endpoint's key."""
    stop_early: bool = False
    """Ask an endpoint about prompt after prompt only until one half is excluded; intervals are then those
    that hold at any time."""
    judge_data: Data | None = None
    """Preferences to check a reward model or an endpoint on: where its accuracy's interval includes one half
    the answer is `no verdict`. Where not given the reward run's own accuracy is read."""
    samples_per_prompt: Count = 1
    """Answers of each model to each prompt. Intervals stay over prompts: answers to one prompt are alike."""
    best_of: BestOfSettings | None = None
    max_prompt_tokens: Count = 256
    max_new_tokens: Count = 96
    temperature: NonNegative = 1.0
    """Of sampling; 0 takes the most probable token."""
    batch_examples: Count = 64
    bootstrap_samples: Annotated[int, Field(ge=100)] = 2000


class EvaluateRecipe(StageRecipe):
    """Perplexity and win rate of several models at once."""

    stage: Literal["evaluate"]
    models: Annotated[list[str], Field(min_length=1)]
    """Runs, folders or hub ids; reported under their last name."""
    data: Data | None = None
    """The win rate's prompts: the held-out ones of conversations, preferences or prompts."""
    perplexity: PerplexitySettings | None = None
    win_rate: WinRateSettings | None = None
    samples: list[str] = []
    """Prompts that every model answers, shown in the summary."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the models' weights; log-probabilities are fp32 always."""

    @model_validator(mode="after")
    def something_to_measure(self) -> EvaluateRecipe:
        if self.perplexity is None and self.win_rate is None and not self.samples:
            raise ValueError("nothing to measure: give perplexity, win_rate or samples")
        if (self.win_rate is None) != (self.data is None):
            raise ValueError("data has the prompts of win_rate: give both or neither")
        if self.win_rate is not None and self.win_rate.baseline not in self.models:
            raise ValueError(f"baseline {self.win_rate.baseline!r} is not one of models")
        return self


Recipe = Annotated[
    TokenizerRecipe | CorpusRecipe | PretrainRecipe | SftRecipe | RewardRecipe | DpoRecipe | PpoRecipe
    | EvaluateRecipe,
    Field(discriminator="stage"),
]  # fmt: skip
