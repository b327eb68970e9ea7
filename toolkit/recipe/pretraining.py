"""Every setting of the pretrain stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from toolkit.recipe.settings import Count, NonNegative, Positive, Probability, Settings, Size, StageRecipe


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
