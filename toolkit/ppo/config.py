"""Every argument of `PPOTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from toolkit.base.errors import ToolkitError
from toolkit.config.process_counts import share_of
from toolkit.models.context_length import context_length

ADAM_EPSILON = 1e-5


@dataclass
class PPOConfig(TrainingArguments):
    """Arguments of transformers' Trainer, and those of PPO, named as in a recipe's `trainer`.

    docs/PPO.md explains the defaults; most follow Huang et al., 2024, "The N+ implementation
    details of RLHF with PPO" (https://arxiv.org/abs/2403.17031). One rollout samples `rollout_examples`
    answers over all processes, and is followed by `epochs` * `minibatches` optimizer steps.

    `per_device_train_batch_size` is the number of answers of one forward pass; `gradient_accumulation_steps`
    follows from it. The training ends after `episodes` answers, or after `max_steps` optimizer steps, or
    after `num_train_epochs` passes over the prompts: the first of these that is set.

    Raises:
        ValueError: sizes do not divide each other, or a setting is out of its range.
    """

    learning_rate: float = field(default=3e-5, metadata={"help": "Of the policy."})
    adam_epsilon: float = field(default=ADAM_EPSILON, metadata={"help": "Huang et al., detail 1 of PPO."})
    logging_steps: float = field(default=1, metadata={"help": "Numbers are means since the last log."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "All are used."})
    value_learning_rate: float | None = field(default=None, metadata={"help": "Default the policy's."})
    episodes: int | None = field(default=None, metadata={"help": "Answers of the whole training."})
    rollout_examples: int = field(default=64, metadata={"help": "Answers of one rollout, all processes."})
    epochs: int = field(default=4, metadata={"help": "Passes over the answers of one rollout."})
    minibatches: int = field(default=1, metadata={"help": "Optimizer steps in one pass."})
    kl_coefficient: float = field(default=0.05, metadata={"help": "beta, of the KL to the reference."})
    kl_in: str = field(default="reward", metadata={"help": "`reward` (k1) or `loss` (k3)."})
    kl_target: float | None = field(default=None, metadata={"help": "Adapt beta to this KL an answer."})
    gamma: float = field(default=1.0, metadata={"help": "Discount of later rewards."})
    gae_lambda: float = field(default=0.95, metadata={"help": "Between bias (0) and variance (1)."})
    clip_range: float = field(default=0.2, metadata={"help": "Of the ratio of probabilities."})
    value_clip_range: float = field(default=0.2, metadata={"help": "Of the critic's values."})
    value_coefficient: float = field(default=0.1, metadata={"help": "Weight of the critic's loss."})
    entropy_coefficient: float = field(default=0.0, metadata={"help": "Weight of an entropy bonus."})
    target_kl: float | None = field(default=None, metadata={"help": "Skip the rest of a rollout above."})
    whiten_advantages: bool = field(default=True, metadata={"help": "Mean 0, variance 1."})
    whiten_rewards: bool = field(default=False, metadata={"help": "Variance 1, the mean kept."})
    normalize_scores: bool = field(default=True, metadata={"help": "By the first rollout's mean and std."})
    score_scale: str = field(default="first_rollout", metadata={"help": "Or `reward_model`: its config's."})
    missing_end_penalty: float = field(default=1.0, metadata={"help": "Of an answer without its end."})
    truncation: str = field(default="terminal", metadata={"help": "`terminal` or `bootstrap`."})
    guard: str = field(default="stop", metadata={"help": "On a collapse `stop` or `warn`; or `off`."})
    critic: str = field(default="separate", metadata={"help": "`separate` or `shared` (a value head)."})
    reward_weights: list[float] | None = field(default=None, metadata={"help": "Of each reward; default 1."})
    max_prompt_tokens: int = field(default=128, metadata={"help": "Longer ones lose their beginning."})
    max_new_tokens: int = field(default=96, metadata={"help": "Of an answer, its end included."})
    temperature: float = field(default=1.0, metadata={"help": "Of sampling, policy and reference."})
    top_k: int = field(default=0, metadata={"help": "0: all tokens. Of sampling only."})
    top_p: float = field(default=1.0, metadata={"help": "1: all tokens. Of sampling only."})

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {"kl_in": ("reward", "loss"), "truncation": ("terminal", "bootstrap"),
                   "critic": ("separate", "shared"), "guard": ("stop", "warn", "off"),
                   "score_scale": ("first_rollout", "reward_model")}  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; give {' or '.join(allowed)}")
        ranges = {
            "temperature": self.temperature > 0,
            "top_p": 0 < self.top_p <= 1,
            "gamma": 0 <= self.gamma <= 1,
            "gae_lambda": 0 <= self.gae_lambda <= 1,
            "kl_coefficient": self.kl_coefficient >= 0,
            "epochs": self.epochs >= 1,
            "minibatches": self.minibatches >= 1,
        }
        for name, holds in ranges.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)}, out of its range")
        self._set_sizes()

    def _set_sizes(self) -> None:
        share = share_of(self.rollout_examples, self.minibatches, processes=self.world_size)
        size = divisor(share, at_most=self.per_device_train_batch_size)
        self.per_device_train_batch_size = size
        self.gradient_accumulation_steps = share // size
        if self.episodes is not None and self.episodes % self.rollout_examples:
            raise ValueError(
                f"episodes {self.episodes} is not a multiple of rollout_examples {self.rollout_examples}"
            )

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps on one rollout."""
        return self.epochs * self.minibatches

    def num_rollouts(self, prompts: int) -> int:
        """Return the rollouts of the whole training on a dataset of `prompts` rows, rounded up."""
        if self.episodes is not None:
            return self.episodes // self.rollout_examples
        if self.max_steps > 0:
            return -(-self.max_steps // self.steps_per_rollout)
        return max(1, -(-int(self.num_train_epochs * prompts) // self.rollout_examples))


def divisor(share: int, *, at_most: int) -> int:
    """Return the largest divisor of `share` that is at most `at_most`."""
    size = min(at_most, share)
    while share % size:
        size -= 1
    return size


def require_usable(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase | None,
    dataset: Dataset | None,
    args: PPOConfig,
) -> None:
    """Raise ToolkitError for models, data and sizes with which training would fail later, or silently."""
    if tokenizer is None:
        raise ToolkitError("the policy needs its tokenizer", where="processing_class",
                           fix="pass it, or pass `model` as a folder")  # fmt: skip
    if dataset is None or not hasattr(dataset, "__len__") or not len(dataset):
        raise ToolkitError("has no length", where="train_dataset",
                           fix="pass a datasets.Dataset with a column `prompt`, not a stream")  # fmt: skip
    if "prompt" not in dataset[0]:
        raise ToolkitError(f"has no column `prompt` but {', '.join(dataset[0])}", where="train_dataset",
                           fix="rename the column")  # fmt: skip
    require_room(model, max_prompt_tokens=args.max_prompt_tokens, max_new_tokens=args.max_new_tokens)


def require_room(model: PreTrainedModel | PeftModel, *, max_prompt_tokens: int, max_new_tokens: int) -> None:
    """Raise ToolkitError if the longest prompt and answer together exceed the model's context."""
    context = context_length(model)
    needed = max_prompt_tokens + max_new_tokens
    if context is not None and needed > context:
        raise ToolkitError(
            f"{max_prompt_tokens} prompt tokens and {max_new_tokens} new ones exceed the policy's "
            f"context of {context}", where="max_new_tokens",
            fix=f"lower max_prompt_tokens or max_new_tokens by {needed - context}",
        )  # fmt: skip
