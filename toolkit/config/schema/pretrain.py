"""Every setting of the pretrain stage."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from toolkit.config.schema.base import (
    Count,
    NonNegative,
    PlannedWork,
    Positive,
    Probability,
    SequenceLength,
    Settings,
    Size,
    StageRecipe,
)


class ModelSettings(Settings):
    """Shape of a model with random weights; the vocabulary comes from the tokenizer, padded to a multiple."""

    architecture: Literal["gpt2", "llama"] = "gpt2"
    """`gpt2`: learned positions, LayerNorm, GELU, biases. `llama`: rotary positions, RMSNorm, SwiGLU, no
    biases. Both tie the embedding to the head."""
    n_layer: Annotated[int, Field(gt=0, le=10_000)] = 4
    n_head: Annotated[int, Field(gt=0, le=100_000)] = 4
    n_kv_head: Count | None = None
    """llama: heads of keys and values, a divisor of `n_head` (grouped-query attention); default `n_head`."""
    n_embd: Annotated[int, Field(gt=0, le=1_000_000)] = 256
    n_inner: Annotated[int, Field(gt=0, le=10_000_000)] | None = None
    """llama: width between the matrices of an MLP; the default is 8/3 of `n_embd`, rounded up to a multiple
    of 16, with which a block has as many weights as GPT-2's."""
    n_positions: SequenceLength = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """gpt2: dropout probability during training."""
    activation: Literal["gelu_new", "gelu_pytorch_tanh", "relu"] = "gelu_pytorch_tanh"
    """gpt2: `gelu_pytorch_tanh` is GPT-2's function as one fused kernel."""
    position_init: Literal["normal", "sinusoidal"] = "normal"
    """gpt2: initial values of the position embeddings; with `sinusoidal` a small model learns to copy
    sooner."""
    attention_init: Literal["normal", "copy"] = "normal"
    """gpt2: with `copy`, attention starts by passing on what it attends to: a small model learns to copy
    sooner."""
    vocabulary_multiple: Annotated[int, Field(gt=0, le=1_000_000)] = 64
    """Rows of the embedding are padded to a multiple of this: GPT-2's 50257 trains 25 % faster as 50304."""

    @model_validator(mode="after")
    def heads_divide_width(self) -> ModelSettings:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if self.n_head % self.kv_heads:
            raise ValueError(f"n_kv_head {self.n_kv_head} does not divide n_head {self.n_head}")
        if self.architecture == "llama" and self.n_embd // self.n_head % 2:
            raise ValueError(
                f"n_embd {self.n_embd} gives heads of {self.n_embd // self.n_head}: rotary positions turn "
                "pairs of numbers, so the width of a head must be even"
            )
        return self

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_head or self.n_head

    @property
    def inner_width(self) -> int:
        """Width between the matrices of an MLP."""
        if self.architecture == "gpt2":
            return 4 * self.n_embd
        return self.n_inner or -(-8 * self.n_embd // 48) * 16


class OptimizerSettings(Settings):
    """`muon` takes the matrices of the blocks, AdamW the rest."""

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: Positive | None = None
    """Peak learning rate: of AdamW (default 1e-3), or of Muon for the matrices (default 0.02); the defaults
    are a tenth of these from a checkpoint."""
    adam_learning_rate: Positive | None = None
    """With muon: peak learning rate of AdamW for embeddings, norms and biases (default 3e-3)."""
    muon_steps: Annotated[int, Field(ge=1, le=10)] = 5
    """With muon: steps of its Newton-Schulz iteration; 3 learn as fast (LOG.md) and cost half on a CPU."""
    weight_decay: NonNegative = 0.1
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this global L2 norm."""
    fused: bool = True
    """AdamW as one kernel: 12 million weights take 8 ms a step on 2 cores, 40 ms one operation at a time."""

    @model_validator(mode="after")
    def adam_rate_only_with_muon(self) -> OptimizerSettings:
        for name in ("adam_learning_rate", "muon_steps"):
            if name in self.model_fields_set and self.name != "muon":
                raise ValueError(f"{name} has an effect only with name: muon")
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


class SpeedSettings(Settings):
    """Speed optimizations. They change results by rounding only; each can be disabled to measure it."""

    causal_attention: bool = True
    """Attend without a mask. The models' own mask loses the flash kernels under torch.compile. A checkpoint
    that attends in another way keeps its own attention, which is said."""
    loss_in_module: bool = True
    """Compute the loss inside the compiled module, where the logits can be fused."""
    head_block_tokens: Literal["auto"] | Size = "auto"
    """Positions whose logits are in memory at once, 0 for all; `auto` splits above 2^27 logits (0.5 GB), and
    never those of a checkpoint that scales, caps or shifts them."""
    logistic_gelu: Literal["auto"] | bool = "auto"
    """gelu_pytorch_tanh without a tanh: `auto` where a CPU compiles (4 % faster)."""
    keep_memory: bool = True
    """Keep freed memory in the process (CPU, Linux); without it a step takes 1.12 times as long."""
    prefetch_batches: Size = 2
    """Batches that a thread prefetches from the memory map."""
    background_saves: bool = True
    """Write checkpoints from a snapshot while training continues."""


class LengthSettings(Settings):
    """Shorter rows at first: attention costs less, and short-range context is learned first."""

    tokens: Count
    """Number of trained tokens up to which rows have this `sequence_length`."""
    sequence_length: SequenceLength
    """Length of these rows, a divisor of the full length. A step reads the same tokens with any length."""


class GuardSettings(Settings):
    """What happens when a loss or a gradient norm is not finite, or an outlier."""

    action: Literal["stop", "skip"] = "stop"
    """`skip` continues without the step; both record batch, random streams and state in `incidents/`."""
    z_score: Positive | None = None
    """Also trigger at this many standard deviations above the mean; a GPU then waits for each loss."""
    window: Annotated[int, Field(ge=10)] = 100
    """Steps of the mean and the standard deviation; there is no trigger before half of them."""
    max_skips: Count = 10
    """Maximum number of skipped steps; one more stops the run."""

    @model_validator(mode="after")
    def skips_only_when_skipping(self) -> GuardSettings:
        for name, needs in (("max_skips", self.action == "skip"), ("window", self.z_score is not None)):
            if name in self.model_fields_set and not needs:
                needed = "action: skip" if name == "max_skips" else "a z_score"
                raise ValueError(f"{name} has an effect only with {needed}")
        return self


class SampleSettings(Settings):
    """Text that is sampled during training."""

    prompts: list[str] | None = ["Once"]
    """Prompts to continue; null: the first words of a line of the held-out text, which suit any text."""
    max_new_tokens: SequenceLength = 60
    temperature: NonNegative = 0.8


class PretrainRecipe(StageRecipe):
    """A language model from random weights or from a checkpoint, on token shards, with Accelerate."""

    stage: Literal["pretrain"]
    tokens: str
    """A sealed corpus run."""
    model: ModelSettings | str = ModelSettings()
    """The shape of a model with random weights; or the checkpoint that training goes on from: a sealed run, a
    model folder, or `hub-id@revision`, of any causal language model of transformers."""
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    sequence_length: SequenceLength | None = None
    """Tokens of one training row; the default is n_positions. A checkpoint needs it; held-out text is then
    measured in windows of this length."""
    separate_documents: bool = False
    """Attend within each document of a row only, with positions from 0; a GPU loses its flash kernel."""
    batch_tokens: Annotated[int, Field(gt=0, le=1_000_000_000)] = 8192
    """Tokens per optimizer step, over all processes."""
    micro_batch_tokens: Annotated[int, Field(gt=0, le=1_000_000_000)] | None = None
    """Tokens per forward pass on one process; the default is all tokens of the process."""
    train_tokens: Count
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 with native hardware support (on a CPU without it, bf16 is 12x slower than fp32)."""
    compile: Literal["auto"] | bool = "auto"
    """torch.compile; `auto` compiles on a GPU only, a checkpoint if training's attention holds for it."""
    exact: bool = False
    """Bitwise the same weights on 1, 2, 4 ... processes: micro-batches are summed in a fixed tree."""
    shard_weights: Literal["auto"] | bool = "auto"
    """FSDP2: weights and optimizer state are sharded over processes; `auto` follows Accelerate's
    configuration. May change when a run resumes: checkpoints hold full weights."""
    speed: SpeedSettings = SpeedSettings()
    length_warmup: list[LengthSettings] = []
    """Lengths of the shorter rows at first, in rising order."""
    preflight: Literal["auto"] | bool = "auto"
    """Check the fast path before the first step; `auto` if the training is compiled, or goes on from a
    checkpoint."""
    guard: GuardSettings = GuardSettings()
    log_every_steps: Count = 10
    evaluate_every_tokens: Count | None = None
    """Interval of held-out evaluation, in tokens; the default is a tenth of the training."""
    evaluate_documents: Count = 200
    """Held-out documents for evaluation during training; at the end all are scored."""
    evaluate_tokens: Count = 32768
    """Maximum number of their tokens, because one document may be a whole book."""
    checkpoint_every_tokens: Count | None = None
    """Tokens between two checkpoints; the default is a fifth of the training."""
    keep_checkpoints: Count = 1
    """Number of newest checkpoints to keep."""
    keep_every_tokens: Count | None = None
    """Also keep one checkpoint per this number of tokens."""
    keep_weights_at_steps: Literal["log"] | None = None
    """`log`: keep weights and samples of steps 0, 1, 2, 5, 10, 20, 50 ... and of the last, in `steps/`."""
    time_limit_minutes: Positive | None = None
    """Save and stop (exit status 130) before this time, for the limit of a cluster queue."""
    samples: SampleSettings = SampleSettings()

    operational: ClassVar[frozenset[str]] = StageRecipe.operational | {
        "keep_checkpoints", "keep_every_tokens", "time_limit_minutes", "shard_weights"
    }  # fmt: skip

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return max(1, self.train_tokens // self.batch_tokens)

    def keeps_weights_at(self, step: int) -> bool:
        """Return whether the weights are kept after this number of steps; 0 means the initial weights."""
        if self.keep_weights_at_steps is None:
            return False
        return step == self.steps or str(step).rstrip("0") in ("", "1", "2", "5")

    def row_tokens(self, step: int | None = None) -> int:
        """Return the tokens of a full row, or of one at a step (from 0), shorter during `length_warmup`."""
        if step is not None:
            for entry in self.length_warmup:
                if step * self.batch_tokens < entry.tokens:
                    return entry.sequence_length
        return self.sequence_length or self.shape.n_positions

    @property
    def checkpoint(self) -> str | None:
        """The model that training goes on from; None: random weights."""
        return self.model if isinstance(self.model, str) else None

    @property
    def shape(self) -> ModelSettings:
        """The shape of a model with random weights; a checkpoint has its own."""
        assert isinstance(self.model, ModelSettings), f"{self.model} is a checkpoint"
        return self.model

    @property
    def dropout(self) -> float:
        """Dropout probability of a model with random weights; a checkpoint's is in its configuration."""
        return 0.0 if self.checkpoint else self.shape.dropout

    @property
    def has_fused_gelu(self) -> bool:
        """Whether the model is built with GPT-2's activation as one kernel."""
        settings = None if self.checkpoint else self.shape
        return settings is not None and (settings.architecture, settings.activation) == (
            "gpt2", "gelu_pytorch_tanh"
        )  # fmt: skip

    @property
    def window(self) -> int:
        """Tokens that the model sees at once where text is scored or written."""
        return self.row_tokens() if self.checkpoint else self.shape.n_positions

    def longest_sequence(self, positions: int) -> int:
        return self.row_tokens()

    def planned_work(self, positions: int) -> PlannedWork:
        return PlannedWork(self.train_tokens, note=f"{self.train_tokens // self.batch_tokens:,} steps")

    @model_validator(mode="after")
    def checkpoint_needs_a_length(self) -> PretrainRecipe:
        if self.checkpoint and self.sequence_length is None:
            raise ValueError("sequence_length is required with a checkpoint: the tokens of a training row")
        return self

    @model_validator(mode="after")
    def lengths_rise(self) -> PretrainRecipe:
        full = self.row_tokens()
        before = (0, 0)
        for entry in self.length_warmup:
            if full % entry.sequence_length or entry.sequence_length == full:
                raise ValueError(
                    f"length_warmup: {entry.sequence_length} is no smaller divisor of a row's {full} tokens"
                )
            if (entry.tokens, entry.sequence_length) <= before or entry.tokens <= before[0]:
                raise ValueError("length_warmup: tokens and sequence_length must rise from entry to entry")
            before = (entry.tokens, entry.sequence_length)
        return self

    @model_validator(mode="after")
    def exact_needs_a_tree(self) -> PretrainRecipe:
        if self.exact:
            if self.micro_batch_tokens is None:
                raise ValueError(
                    "exact needs micro_batch_tokens, because it sums the micro-batches in a fixed order"
                )
            parts, rest = divmod(self.batch_tokens, self.micro_batch_tokens)
            if rest or parts & (parts - 1):
                raise ValueError(
                    f"exact needs batch_tokens / micro_batch_tokens to be a power of two, "
                    f"not {self.batch_tokens} / {self.micro_batch_tokens}"
                )
            if self.threads is None:
                raise ValueError("exact needs threads, the same for any number of processes: threads: 1")
            if self.shard_weights is True:
                raise ValueError("exact keeps all weights on every process: shard_weights must be false")
        return self

    @model_validator(mode="after")
    def levers_fit(self) -> PretrainRecipe:
        if self.separate_documents and not self.speed.causal_attention:
            raise ValueError("separate_documents needs speed.causal_attention")
        if not self.speed.loss_in_module and self.compile is False:
            raise ValueError("speed.loss_in_module has an effect only with compile")
        if self.speed.logistic_gelu is True and not self.has_fused_gelu:
            raise ValueError(
                "speed.logistic_gelu has an effect only with architecture: gpt2 and activation: "
                "gelu_pytorch_tanh"
            )
        return self

    @model_validator(mode="after")
    def whole_rows(self) -> PretrainRecipe:
        length = self.row_tokens()
        if length > self.window:
            raise ValueError(f"sequence_length {length} is more than n_positions {self.window}")
        for name in ("batch_tokens", "micro_batch_tokens"):
            tokens = getattr(self, name)
            if tokens is not None and tokens % length:
                raise ValueError(f"{name} {tokens} is not a multiple of the {length} tokens of a row")
        return self
