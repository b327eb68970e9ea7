"""Every setting of every stage, on one page.

Sizes of batches count tokens or examples per optimizer step over ALL processes, so that a recipe says
the same thing on one CPU and on 64 GPUs. Paths that start with `runs/` are below `--runs-dir`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0)]
Size = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Settings(BaseModel):
    """Strict and frozen: no unknown key, no coercion from another type, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class HeldOut(Settings):
    """Which part of a source is never trained on; give exactly one key."""

    last_characters: Fraction | None = None
    """The last share of the characters of the whole text, for one long text."""
    documents: Fraction | None = None
    """The share of documents, chosen by a hash of the text (of the first prompt, for conversations)."""

    @model_validator(mode="after")
    def exactly_one(self) -> HeldOut:
        if (self.last_characters is None) == (self.documents is None):
            raise ValueError("give exactly one of last_characters and documents")
        return self


class DataSource(Settings):
    """Where text, conversations or preferences come from."""

    name: str
    """`storyworld`, a local path or glob (.txt .jsonl .jsonl.gz .parquet), or `hub-id[@revision]`."""
    config: str | None = None
    """Storyworld: stories, conversations, preferences, prompts. Hub: the dataset's configuration."""
    split: str | None = None
    """The split of a hub dataset; `all` joins every split in order. Local files have only `all`."""
    field: str | None = None
    """The column that holds the text (default `text`) or the conversation (default by its name)."""
    weight: Positive = 1.0
    """Share in a mixture, relative to the other sources."""
    examples: Count | None = None
    """Documents or examples to train on; all where not given (storyworld needs it)."""
    held_out: HeldOut | None = None
    """What is kept apart for measuring; default one tenth of the documents."""
    held_out_examples: Count | None = None
    """At most so many held-out documents or examples are measured on (storyworld: so many are made)."""
    flawed_share: Probability | None = None
    """Storyworld only: the share of answers that have a flaw on purpose."""
    temperature: Positive | None = None
    """Storyworld only: the temperature of the noisy annotator, in units of the utility."""


Data = DataSource | Annotated[list[DataSource], Field(min_length=1)]


class StageRecipe(Settings):
    """What every stage has."""

    stage: str
    run: str | None = None
    """Place of the run below the runs directory; default the recipe's own place, `tiny/dpo`."""
    seed: Size = 0
    """The root of every random stream of the stage."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`cuda` fails where there is no GPU; `auto` takes what the machine has."""
    threads: Count | None = None
    """CPU threads of each process; default the cores divided by the local processes."""


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


class ModelSettings(Settings):
    """Shape of a GPT-2; the vocabulary comes from the tokenizer, padded to a multiple of 64."""

    architecture: Literal["gpt2"] = "gpt2"
    n_layer: Count = 4
    n_head: Count = 4
    n_embd: Count = 256
    n_positions: Count = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    activation: Literal["gelu_new", "gelu_pytorch_tanh", "relu"] = "gelu_pytorch_tanh"
    """`gelu_pytorch_tanh` is GPT-2's function as one fused kernel."""
    position_init: Literal["normal", "sinusoidal"] = "normal"
    """Where the learned position embeddings start; from `sinusoidal` a small model sooner learns to copy."""

    @model_validator(mode="after")
    def heads_divide_width(self) -> ModelSettings:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        return self


class OptimizerSettings(Settings):
    """`muon` takes the matrices of the blocks, AdamW the rest."""

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: Positive | None = None
    """Peak learning rate: of AdamW (default 1e-3), or of Muon for the matrices (default 0.02)."""
    adam_learning_rate: Positive | None = None
    """With muon: peak learning rate of AdamW for embeddings, norms and biases (default 3e-3)."""
    weight_decay: NonNegative = 0.1
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this global L2 norm."""

    @model_validator(mode="after")
    def adam_rate_only_with_muon(self) -> OptimizerSettings:
        if self.adam_learning_rate is not None and self.name != "muon":
            raise ValueError("adam_learning_rate has an effect only with name: muon")
        return self


class ScheduleSettings(Settings):
    """Learning rate over tokens: warm-up, then decay to `final_fraction` of the peak."""

    name: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    warmup_tokens: Size = 0
    decay_tokens: Count | None = None
    """wsd only: length of the linear decay at the end (default a fifth of the training)."""
    final_fraction: Probability = 0.0

    @model_validator(mode="after")
    def decay_only_with_wsd(self) -> ScheduleSettings:
        if self.decay_tokens is not None and self.name != "wsd":
            raise ValueError("decay_tokens has an effect only with name: wsd")
        return self


class SampleSettings(Settings):
    """Text that the model writes while it learns."""

    prompts: list[str] = ["Once"]
    max_new_tokens: Count = 60
    temperature: NonNegative = 0.8


class PretrainRecipe(StageRecipe):
    """A GPT-2 from random weights, on token shards, with Accelerate."""

    stage: Literal["pretrain"]
    tokens: str
    """A sealed corpus run."""
    model: ModelSettings = ModelSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    sequence_length: Count | None = None
    """Tokens of one training row; default n_positions."""
    separate_documents: bool = False
    """Each document in a row starts at position 0 and sees only itself; a GPU loses its flash kernel."""
    batch_tokens: Count = 8192
    """Tokens of one optimizer step, over all processes."""
    micro_batch_tokens: Count | None = None
    """Tokens of one forward pass on one process; default the whole share of the process."""
    train_tokens: Count
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 where the machine computes it natively (12x slower than fp32 on a CPU without)."""
    compile: Literal["auto"] | bool = "auto"
    """torch.compile; `auto` compiles on a GPU only."""
    log_every_steps: Count = 10
    evaluate_every_tokens: Count | None = None
    """Held-out bits per byte during training; default a tenth of the training."""
    evaluate_documents: Count = 200
    """Held-out documents for the measurements during training; at the end all are scored."""
    checkpoint_every_tokens: Count | None = None
    """Default a fifth of the training."""
    keep_checkpoints: Count = 1
    samples: SampleSettings = SampleSettings()

    @model_validator(mode="after")
    def whole_rows(self) -> PretrainRecipe:
        length = self.sequence_length or self.model.n_positions
        if length > self.model.n_positions:
            raise ValueError(f"sequence_length {length} is more than n_positions {self.model.n_positions}")
        for name in ("batch_tokens", "micro_batch_tokens"):
            tokens = getattr(self, name)
            if tokens is not None and tokens % length:
                raise ValueError(f"{name} {tokens} is not a multiple of the {length} tokens of a row")
        return self


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
    normalize_scores: bool = True
    """Scores are shifted and scaled by the mean and standard deviation of the reference's answers."""
    missing_end_penalty: NonNegative = 1.0
    """Subtracted from the (normalized) score of an answer that did not end with end-of-text."""
    max_prompt_tokens: Count = 128
    max_new_tokens: Count = 96
    temperature: Positive = 1.0
    """Sampling divides the logits by it; policy and reference log-probabilities do the same."""
    schedule: Literal["linear", "constant"] = "linear"
    """Of the learning rates, over the whole training."""

    @model_validator(mode="after")
    def whole_rollouts(self) -> PpoTrainerSettings:
        for whole, part in (("episodes", "rollout_examples"), ("rollout_examples", "minibatches")):
            if getattr(self, whole) % getattr(self, part):
                text = f"{whole} {getattr(self, whole)} is not a multiple of {part} {getattr(self, part)}"
                raise ValueError(text)
        return self


class PpoRecipe(StageRecipe):
    """PPO against a trained reward model."""

    stage: Literal["ppo"]
    model: str
    """The policy to start from, and the reference."""
    reward_model: str
    """A sealed reward run, a folder, or a hub id."""
    data: Data
    """Prompts: any source of conversations or preferences; only its prompts are read."""
    micro_batch_examples: Count | None = None
    """Answers of one forward pass on one process; default the minibatch's share (on a CPU at most 16)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    log_every_steps: Count = 1
    checkpoint_every_steps: Count | None = None
    """In rollouts; default a fifth of the training."""
    trainer: PpoTrainerSettings = PpoTrainerSettings()


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

    @model_validator(mode="after")
    def one_source(self) -> PerplexitySettings:
        if (self.tokens is None) == (self.data is None):
            raise ValueError("give exactly one of tokens and data")
        return self


class WinRateSettings(Settings):
    """Win rate against a baseline on prompts that were never trained on."""

    baseline: str
    judge: str = "gold"
    """`gold` (storyworld's utility), or a sealed reward run, a folder, a hub id."""
    judge_data: Data | None = None
    """Preferences to check a reward-model judge on: where its accuracy's interval includes one half the
    answer is `no verdict`. Not needed for `gold`; where not given the reward run's own accuracy is read."""
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
