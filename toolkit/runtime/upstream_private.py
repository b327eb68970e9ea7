"""The private names of transformers, TRL, torch and Python that the toolkit needs; no other module uses any.

Subclasses of Trainer override the public methods of `TrainerHooks` instead of Trainer's private ones.
`tests/runtime/test_upstream_private.py` fails if a release of these libraries drops or changes a name. This
module imports torch and TRL inside functions, because modules that start without them import it too.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, Trainer


def attention_implementation(model: PreTrainedModel) -> str:
    """Return the name that `model.set_attn_implementation` has set."""
    return model.config._attn_implementation


def block_classes(model: PreTrainedModel) -> set[str]:
    """Return the names of the classes of a model's blocks, which no device map divides."""
    return set(model._no_split_modules or ())


def run_exit_functions() -> None:
    """Run what was registered with `atexit`, before an `os._exit`, which does not."""
    atexit._run_exitfuncs()


def graph_break_error() -> type[Exception]:
    """Return the exception that `torch.compile(fullgraph=True)` raises at a graph break."""
    import torch._dynamo.exc

    return torch._dynamo.exc.Unsupported


@contextmanager
def scored_positions_only() -> Iterator[None]:
    """Let TRL's head skip the positions without a loss on a CPU, as it does on devices with Triton.

    TRL computes all positions elsewhere, because a compiler would meet a new shape with each batch. The
    toolkit does not compile these trainings; skipping takes 14 % off a step of sft and 25 % off one of dpo.
    """
    import trl.trainer.utils

    original = trl.trainer.utils._use_triton
    trl.trainer.utils._use_triton = lambda device: device.type == "cpu" or original(device)
    try:
        yield
    finally:
        trl.trainer.utils._use_triton = original


def micro_steps(trainer: Trainer) -> int:
    """Return the micro-batches that a GRPOTrainer or RLOOTrainer has trained on."""
    return trainer._step


def metric_values(trainer: Trainer) -> dict[str, list[float]]:
    """Return the values, open to changes, that a GRPOTrainer or RLOOTrainer averages in its next log."""
    return trainer._metrics["train"]


def continue_token_count(trainer: Trainer) -> None:
    """Let a TRL trainer count tokens from its last log on; TRL begins at 0 when it resumes."""
    counts = [row["num_tokens"] for row in trainer.state.log_history if "num_tokens" in row]
    if counts and hasattr(trainer, "_total_train_tokens"):
        trainer._total_train_tokens = int(counts[-1])


class TokenizedRows:
    """Mixin before a TRL trainer class: it takes tokenized rows, sends no telemetry, misses no tied weight
    when it resumes.

    Otherwise DPOTrainer renders and tokenizes text again, and SFTTrainer makes three passes of `datasets.map`
    over rows that need none.
    """

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _send_telemetry(self) -> None:
        pass

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Leave tied weights out of the keys that a checkpoint lacks: a file has them once."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        missing = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))


class TrainerHooks:
    """Mixin before transformers.Trainer: public names for its private methods.

    Override a public method and call it on `super()` for what Trainer does.
    """

    def log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Do what `self.control` asks for; called after each optimizer step and at the end of an epoch."""
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def clip_gradient_norm(self, model: nn.Module) -> torch.Tensor:
        """Clip the gradients in place and return their norm before; called before each optimizer step."""
        return super()._clip_grad_norm(model)

    def write_model(self, folder: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write the model files of a checkpoint; `folder` defaults to `args.output_dir`."""
        super()._save(folder, state_dict)

    def write_optimizer(self, folder: str) -> None:
        """Write optimizer and scheduler into a checkpoint."""
        super()._save_optimizer_and_scheduler(folder)

    def load_best_model(self) -> None:
        """Load the weights of `state.best_model_checkpoint`; called at the end of training."""
        super()._load_best_model()

    def load_checkpoint(self, folder: str, model: nn.Module | None = None) -> None:
        """Load the weights of the checkpoint that training resumes from."""
        super()._load_from_checkpoint(folder, model)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self.log_save_evaluate(*args, **kwargs)

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        return self.clip_gradient_norm(model)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self.write_model(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        self.write_optimizer(output_dir)

    def _load_best_model(self) -> None:
        self.load_best_model()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.load_checkpoint(resume_from_checkpoint, model)
