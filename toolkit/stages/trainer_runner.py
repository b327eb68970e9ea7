"""Running a TRL trainer: arguments from a recipe, resumption, metrics, checkpoints and the saved model.

transformers' Trainer resumes from incompletely written checkpoints, replaces a NaN loss with the mean of the
previous ones, and prints its logs. Here only sealed checkpoints are used, a loss that is not finite stops the
run, and progress is shown as one bar.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import torch.distributed
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from toolkit.base import ranks
from toolkit.base.errors import ModelError, RunError, ToolkitError
from toolkit.base.progress import Progress
from toolkit.base.rng import derive
from toolkit.config import trl_checks, trl_schedules
from toolkit.config.cross_checks import MOST_EXAMPLES
from toolkit.config.process_counts import split_batch
from toolkit.config.schema import TrainerRecipe
from toolkit.config.yaml_source import dotted
from toolkit.data.chat.rows import RowTable, training_order
from toolkit.models import adapters, checkpoint_folder, four_bit
from toolkit.models.context_length import DEFAULT_CONTEXT_LENGTH, context_length
from toolkit.models.kernels import fastest_attention
from toolkit.models.saving import ModelWriter
from toolkit.models.soundness import PROBE_ROWS, require_finite_weights
from toolkit.runs import checkpoint
from toolkit.runs.hub import Reference
from toolkit.runs.run import Run
from toolkit.runtime import signals
from toolkit.runtime.agreement import Agreement
from toolkit.runtime.devices import precision, require_as_recorded, select, trainer_arguments
from toolkit.runtime.upstream_private import TokenizedRows, continue_token_count, scored_positions_only
from toolkit.stages.adapters import sort_modules

Measure = Callable[[PreTrainedModel], Mapping[str, float]]
"""Returns metrics of a model on held-out examples: deterministic, and equal on every process."""

OURS = frozenset(
    {"max_steps", "num_train_epochs", "max_length", "train_sampling_strategy", "assistant_only_loss"}
)
"""Keys of `trainer:` that the toolkit implements itself."""

WITHOUT_EFFECT = frozenset(
    {"packing", "packing_strategy", "padding_free", "truncation_mode", "dataloader_drop_last"}
)
"""Keys without effect, because rows are tokenized here, one conversation each, in whole batches.
With packed or padding-free rows, GPT-2 would also attend to the previous conversation."""

MEASUREMENTS = 5
"""Measurements on held-out examples during training, not counting the one before the first step."""

DIVERGED = "lower trainer.learning_rate, or check the data; earlier checkpoints are intact"
"""What to do about numbers that are not finite."""

NOT_METRICS = frozenset({"epoch", "num_tokens", "step"})
"""Values that Trainer logs in addition to metrics."""


def num_steps(recipe: TrainerRecipe, config_class: type[TrainingArguments], *, examples: int) -> int:
    """Return the number of optimizer steps; epochs are rounded up to whole batches."""
    steps = recipe.trainer.get("max_steps", -1)
    epochs = recipe.trainer.get("num_train_epochs")
    if steps > 0 and epochs is not None:
        raise ToolkitError("trainer.max_steps and trainer.num_train_epochs are mutually exclusive",
                           fix="give one of them")  # fmt: skip
    if steps > 0:
        return steps
    if epochs is None:
        epochs = config_class.__dataclass_fields__["num_train_epochs"].default
    return max(1, math.ceil(epochs * examples / recipe.batch_examples))


def max_length(recipe: TrainerRecipe, config_class: type[TrainingArguments], model: PreTrainedModel) -> int:
    """Return the maximum tokens of a row: `trainer.max_length` or TRL's default, at most the model's context.

    Raises:
        ToolkitError: `trainer.max_length` exceeds the model's context.
    """
    default = config_class.__dataclass_fields__["max_length"].default
    limit = context_length(model)
    given = recipe.trainer.get("max_length")
    if "max_length" in recipe.trainer and given is None:
        default = None
    if given and limit and given > limit:
        raise ToolkitError(f"trainer.max_length {given} is more than the model's {limit} positions",
                           fix=f"use at most {limit}")  # fmt: skip
    bounds = [bound for bound in (given or default, limit) if bound]
    return min(bounds) if bounds else DEFAULT_CONTEXT_LENGTH


def arguments(
    config_class: type[TrainingArguments], recipe: TrainerRecipe, run: Run, *, table: RowTable, length: int
) -> tuple[TrainingArguments, datasets.Dataset]:
    """Build TRL's configuration, and the dataset in training order.

    The configuration combines the recipe's settings, upstream's defaults and the values that the toolkit
    sets; the effective values are recorded in the run. Under a launcher, constructing it starts
    torch.distributed.

    Args:
        table: the tokenized examples.
        length: maximum tokens of a row, from `max_length`.
    """
    micro, accumulation = split_batch(recipe, processes=ranks.world_size())
    steps = num_steps(recipe, config_class, examples=len(table))
    _require_fitting(recipe, steps)
    order = training_order(
        table.lengths(), steps=steps, batch=recipe.batch_examples, seed=recipe.seed,
        strategy=recipe.trainer.get("train_sampling_strategy", "random"),
    )  # fmt: skip
    target = select(recipe.device)
    bf16 = run.decide("precision", precision(recipe.precision, target)) == "bf16"
    owned = {
        "output_dir": str(staging(run)),
        "seed": derive(recipe.seed, recipe.stage, "trainer") % 2**32,  # numpy accepts 32 bits
        "max_steps": steps,
        "max_length": length,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "train_sampling_strategy": "sequential",  # the rows are shuffled already
        "save_steps": recipe.checkpoint_every_steps or max(1, math.ceil(steps / 5)),
        "logging_steps": recipe.log_every_steps,
        **trainer_arguments(target, bf16=bf16),
    }
    settings = {key: trl_checks.as_declared(recipe.stage, key, value)
                for key, value in recipe.trainer.items() if key not in OURS}  # fmt: skip
    if not settings.keys() & {"gradient_checkpointing", "activation_checkpointing"}:
        settings[checkpointing_key(config_class)] = False  # with TRL's True a step takes 1.5 times as long
    settings.setdefault("dataloader_pin_memory", target.type == "cuda")
    clash = sorted(settings.keys() & (owned.keys() | WITHOUT_EFFECT))
    if clash:
        raise ToolkitError(
            f"the toolkit sets trainer.{', trainer.'.join(clash)} itself",
            fix="remove it; data, batches, checkpoints and precision have keys outside of trainer",
        )
    try:
        config = config_class(**settings, **owned)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ToolkitError(f"trl's {config_class.__name__} rejects the settings: {error}") from error
    run.decide("trainer", _effective(config, recipe, settings.keys() | owned.keys()))
    return config, table.dataset().select(order)


def _require_fitting(recipe: TrainerRecipe, steps: int) -> None:
    """Refuse what `check` cannot know where the number of steps follows from the data."""
    if steps * recipe.batch_examples > MOST_EXAMPLES:
        raise ToolkitError(
            f"{steps:,} steps of {recipe.batch_examples:,} examples are more than a training can have",
            where="trainer.num_train_epochs", fix="lower it, or set max_steps",
        )  # fmt: skip
    for mistake in trl_schedules.too_long(recipe.trainer, steps=steps):
        raise ToolkitError(mistake.what, where=dotted(("trainer", *mistake.key)),
                           fix="lower it, or train longer")  # fmt: skip


def checkpointing_key(config_class: type[TrainingArguments]) -> str:
    """Return the name of activation checkpointing, which transformers renamed in 5.2x."""
    names = config_class.__dataclass_fields__
    return "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"


def _effective(config: TrainingArguments, recipe: TrainerRecipe, keys: set[str]) -> dict[str, Any]:
    """Return the effective values of the keys that were set and of those that TRL adds to transformers."""
    inherited = set(TrainingArguments.__dataclass_fields__)
    keys = keys | (set(config.__dataclass_fields__) - inherited)
    keys |= {"learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim",
             "adam_beta1", "adam_beta2", "adam_epsilon"}  # fmt: skip
    values = {key: getattr(config, key) for key in sorted(keys - {"output_dir"}) if hasattr(config, key)}
    values |= {key: recipe.trainer[key] for key in ("train_sampling_strategy", "assistant_only_loss")
               if key in recipe.trainer}  # fmt: skip
    return json.loads(json.dumps(values, default=str))


def quiet(trainer_class: type[Trainer]) -> type[Trainer]:
    """Return a subclass of a TRL trainer that accepts tokenized rows and sends no telemetry.

    It also writes no model card into its checkpoints.
    """
    return type(
        trainer_class.__name__,
        (TokenizedRows, trainer_class),
        {"create_model_card": lambda self, *args, **kwargs: None},
    )


def probe_rows(held_out: Sequence[Sequence[int]], rows: datasets.Dataset) -> list[list[int]]:
    """Return token ids of some held-out rows, or of training rows if nothing is held out, for ModelWriter.

    Args:
        rows: the tokenized training rows of sft, reward or dpo.
    """
    if held_out:
        return [list(row) for row in held_out[:PROBE_ROWS]]
    columns = [name for name in ("input_ids", "prompt_ids", "chosen_ids") if name in rows.column_names]
    first = rows.select(range(min(PROBE_ROWS, len(rows))))
    return [[token for name in columns for token in row[name]] for row in first]


def staging(run: Run) -> Path:
    """Return the folder in which Trainer writes before a checkpoint is sealed; it is emptied at the start."""
    return run.path / ".trainer"


def fit(
    trainer: Trainer, run: Run, writer: ModelWriter, *, measure: Measure | None = None
) -> PreTrainedModel | None:
    """Train to the end, from the newest sealed checkpoint if there is one, and write `run.model_dir`.

    Called on every process. On the same machine, threads and number of processes, a resumed run has bitwise
    the weights of an uninterrupted one. The last step is a checkpoint, too: a run that fails after it, or is
    killed, only writes and measures the model when it is resumed.

    Args:
        writer: writes the model; created before the trainer.
        measure: called on every process before the first step and five times during training; its results are
            logged as metrics.

    Returns:
        The model that `run.model_dir` holds, to be measured; None except on the main process.

    Raises:
        ToolkitError: the loss, the gradient norm, a weight or a logit is not finite, or the written model
            would not be the trained one.
        KeyboardInterrupt: after a signal of `signals.STOPPING`, once a checkpoint is sealed.
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise RunError(
            "this stage needs all weights on every process; FSDP and DeepSpeed shard them",
            where=run.name,
            fix="set distributed_type: MULTI_GPU in the accelerate configuration",
        )
    require_as_recorded(trainer.accelerator, bf16=trainer.args.bf16, compiled=trainer.args.torch_compile)
    trainer.model.config.use_cache = False
    if four_bit.is_four_bit(trainer.model):
        four_bit.train_in_fp32(trainer.model)
    run.decide("stored_dtype", writer.dtypes.name)
    newest = _newest_checkpoint(trainer, run)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    run.metrics.truncate(newest[0] if newest else -1)
    with (
        Progress(run.name, trainer.args.max_steps, unit="step") as progress,
        warnings.catch_warnings(),
        scored_positions_only(),
        fastest_attention(_models(trainer), device_type=trainer.args.device.type, bf16=trainer.args.bf16),
    ):
        # TRL uses names that transformers deprecated
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        trainer.add_callback(_RunCallback(trainer, run, progress, measure, writer.reference))
        _shield_workers(trainer)
        trainer.train(resume_from_checkpoint=str(newest[1]) if newest else None)
    if not getattr(trainer, "finished", trainer.state.global_step >= trainer.args.max_steps):
        signals.stopped_in_order()
        raise KeyboardInterrupt
    signals.stop_at_once()
    if not run.is_main:
        return None
    # unwrapped: without bf16 autocast, so that logits can be compared; in PPO the critic wraps the policy
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    model = getattr(model, "policy", model)
    step = trainer.state.global_step
    written = writer.write(model, trainer.processing_class, run.model_dir, step=step)
    shutil.rmtree(staging(run), ignore_errors=True)
    return written


def _models(trainer: Trainer) -> list[PreTrainedModel]:
    """Return the trained model without adapters, and DPO's reference model if there is one."""
    models = [trainer.model, getattr(trainer, "ref_model", None)]
    return [getattr(model, "base_model", model).model if isinstance(model, peft.PeftModel) else model
            for model in models if isinstance(model, (PreTrainedModel, peft.PeftModel))]  # fmt: skip


def _shield_workers(trainer: Trainer) -> None:
    """Let the workers of the data loader ignore signals: without them there would be no last step to save."""
    original = trainer.get_train_dataloader

    def get_train_dataloader() -> DataLoader:
        loader = original()
        plain = getattr(loader, "base_dataloader", loader)  # Accelerate's loader iterates over this one
        plain.worker_init_fn = functools.partial(_begin_worker, plain.worker_init_fn)
        return loader

    trainer.get_train_dataloader = get_train_dataloader


def _begin_worker(begin: Callable[[int], None] | None, number: int) -> None:
    signals.leave_to_parent()
    if begin is not None:
        begin(number)


def _newest_checkpoint(trainer: Trainer, run: Run) -> tuple[int, str] | None:
    """Return step and folder of the newest sealed checkpoint that the main process sees, on all processes."""
    newest_checkpoint: list[Any] = [None]
    if run.is_main:
        shutil.rmtree(staging(run), ignore_errors=True)
        newest = checkpoint.latest(run)
        newest_checkpoint = [(newest[0], str(newest[1]))] if newest else [None]
    if trainer.args.world_size > 1:
        torch.distributed.broadcast_object_list(newest_checkpoint, src=0)
    return newest_checkpoint[0]


class _RunCallback(TrainerCallback):
    """Logs metrics, shows progress, measures, seals checkpoints, and stops if the loss is not finite."""

    def __init__(
        self, trainer: Trainer, run: Run, progress: Progress, measure: Measure | None, base: Reference
    ):
        self.trainer, self.run, self.progress, self.measure = trainer, run, progress, measure
        self.base = base
        self.agreement = Agreement()
        self.shown: dict[str, float] = {}
        self.measured: dict[str, float] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0 and self.measure is not None:
            self.run.metrics.log(0, **self._measured())
        continue_token_count(self.trainer)
        self.progress.update(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step
        every = max(1, math.ceil(state.max_steps / MEASUREMENTS))
        self.progress.update(step, **self.shown)
        if self.measure is not None and (step % every == 0 or step == state.max_steps):
            self.measured = self._measured()
            control.should_log = True
        if self.agreement.largest(signals.stop_requested()):
            control.should_save = control.should_training_stop = True
        if control.should_save:
            control.should_log = True  # check the loss before saving, and let no log span a save
        return control

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            return
        self._require_finite({key: logs[key] for key in ("loss", "grad_norm") if key in logs})
        values = {key: value for key, value in logs.items() if key not in NOT_METRICS}
        self.run.metrics.log(state.global_step, **values, **self.measured)
        self.shown, self.measured = {"loss": values["loss"]}, {}

    def _require_finite(self, values: Mapping[str, float]) -> None:
        broken = {key: value for key, value in values.items() if not math.isfinite(value)}
        if broken:
            problem = " and ".join(f"{key} is {value}" for key, value in broken.items())
            raise ToolkitError(
                f"{problem} at step {self.trainer.state.global_step}", where=self.run.name, fix=DIVERGED
            )

    def on_save(self, args, state, control, **kwargs):
        if args.world_size > 1:
            torch.distributed.barrier()  # each process writes its random state
        if self.run.is_main:
            # no later loss shows the last update
            require_finite_weights(self.trainer.model, step=state.global_step, where=self.run.name)
            written = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            checkpoint.save(self.run, state.global_step, self._moves(written), keep=1)
            shutil.rmtree(written)

    def _moves(self, written: Path) -> Callable[[Path], None]:
        """Return what moves the files that Trainer wrote to the folder of a checkpoint."""

        def move(folder: Path) -> None:
            _move(written, folder)
            if checkpoint_folder.is_adapter(folder):
                adapters.complete_settings(folder, base=self.base)

        return move

    def _measured(self) -> dict[str, float]:
        """Call `measure` on the base model, which contains the adapters, in eval mode.

        Raises:
            ToolkitError: a logit or a value is not finite.
        """
        model = self.trainer.model
        if isinstance(model, peft.PeftModel):
            model = model.get_base_model()
        was_training, step = model.training, self.trainer.state.global_step
        model.eval()
        try:
            with torch.no_grad():
                values = self.measure(model)
        except ModelError as error:  # the trained weights, even if each of them is finite
            if step == 0:
                raise
            raise ToolkitError(
                f"{error.what} after step {step}", where=self.run.name, fix=DIVERGED
            ) from error
        model.train(was_training)
        self._require_finite(values)
        return dict(values)


def _move(written: Path, folder: Path) -> None:
    """Move Trainer's files except its pickled arguments, which hold absolute paths and are not needed."""
    for path in written.iterdir():
        if path.name not in ("training_args.bin", "README.md"):
            path.rename(folder / path.name)
    sort_modules(folder)
