"""One way to run a transformers Trainer: resumed, watched, and its model sealed as a plain folder.

What transformers' own loop lacks: its saves can be cut off in the middle and are picked up all the same,
it replaces a NaN loss by the mean of the ones before, and it prints. Here a checkpoint counts once it is
sealed, a loss that is not finite ends the run, and people read one progress bar.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import torch.distributed
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.pytorch_utils import Conv1D

from toolkit.base import ranks
from toolkit.base.errors import RunError, ToolkitError
from toolkit.base.progress import Progress
from toolkit.base.rng import derive
from toolkit.config.schema import PpoRecipe, TrainerRecipe
from toolkit.data.chat.rows import RowTable, training_order
from toolkit.models.attention import fast_attention
from toolkit.models.loading import save_model
from toolkit.runs import checkpoint
from toolkit.runs.run import Run
from toolkit.runtime import signals
from toolkit.runtime.devices import precision, select, trainer_arguments
from toolkit.runtime.upstream_private import TokenizedRows, scored_positions_only

Measure = Callable[[PreTrainedModel], Mapping[str, float]]
"""Numbers of a model on held-out examples; the same on every process, and without chance."""

OURS = frozenset(
    {"max_steps", "num_train_epochs", "max_length", "train_sampling_strategy", "assistant_only_loss"}
)
"""Keys of `trainer:` that the toolkit carries out itself."""

WITHOUT_EFFECT = frozenset(
    {"packing", "packing_strategy", "padding_free", "truncation_mode", "dataloader_drop_last"}
)
"""Keys that would be read by nobody: rows are tokenized here, one conversation each, in whole batches.
Packed or padding-free rows would also let GPT-2's attention look into the conversation before."""

MEASUREMENTS = 5
"""How often a model is measured on held-out examples while it trains, the start not counted."""

NOT_METRICS = frozenset({"epoch", "num_tokens", "step"})
"""What Trainer logs beside measurements; its count of tokens restarts from 0 in a resumed run."""


def split_batch(recipe: TrainerRecipe) -> tuple[int, int]:
    """Return (examples of one forward pass on one process, forward passes of one optimizer step).

    Raises:
        ToolkitError: a batch that cannot be divided equally: its parts would weigh differently.
    """
    processes = ranks.world_size()
    share, rest = divmod(recipe.batch_examples, processes)
    if rest or not share:
        raise ToolkitError(
            f"batch_examples {recipe.batch_examples} cannot be shared equally by {processes} processes",
            fix=f"take a multiple of {processes}",
        )  # fmt: skip
    micro = recipe.micro_batch_examples or share
    if share % micro:
        raise ToolkitError(
            f"micro_batch_examples {micro} does not divide the {share} examples of each process",
            fix=f"take a divisor of {share}",
        )  # fmt: skip
    return micro, share // micro


def num_steps(recipe: TrainerRecipe, config_class: type[TrainingArguments], *, examples: int) -> int:
    """Return the optimizer steps of a training on `examples`; epochs are rounded up to whole batches."""
    steps = recipe.trainer.get("max_steps", -1)
    epochs = recipe.trainer.get("num_train_epochs")
    if steps > 0 and epochs is not None:
        raise ToolkitError("trainer.max_steps and trainer.num_train_epochs exclude each other",
                           fix="give one of them")  # fmt: skip
    if steps > 0:
        return steps
    if epochs is None:
        epochs = config_class.__dataclass_fields__["num_train_epochs"].default
    return max(1, math.ceil(epochs * examples / recipe.batch_examples))


def max_length(recipe: TrainerRecipe, config_class: type[TrainingArguments], model: PreTrainedModel) -> int:
    """Return the tokens that a row may have: TRL's default is 1024, but the model's positions end earlier."""
    default = config_class.__dataclass_fields__["max_length"].default
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    given = recipe.trainer.get("max_length")
    if "max_length" in recipe.trainer and given is None:
        default = None
    if given and positions and given > positions:
        raise ToolkitError(f"trainer.max_length {given} is more than the model's {positions} positions",
                           fix=f"take at most {positions}")  # fmt: skip
    bounds = [bound for bound in (given or default, positions) if bound]
    return min(bounds) if bounds else 1024


def arguments(
    config_class: type[TrainingArguments], recipe: TrainerRecipe, run: Run, *, table: RowTable, length: int
) -> tuple[TrainingArguments, datasets.Dataset]:
    """Build TRL's configuration, and the rows in the order of training.

    The configuration is what the recipe sets, upstream's defaults, and what the toolkit owns; the
    effective values are recorded in the run. Constructing it under a launcher starts torch.distributed.

    Args:
        length: tokens that a row may have, as `max_length` gave it.
    """
    micro, accumulation = split_batch(recipe)
    steps = num_steps(recipe, config_class, examples=len(table))
    order = training_order(
        table.lengths(), steps=steps, batch=recipe.batch_examples, seed=recipe.seed,
        strategy=recipe.trainer.get("train_sampling_strategy", "random"),
    )  # fmt: skip
    target = select(recipe.device)
    bf16 = run.decide("precision", precision(recipe.precision, target)) == "bf16"
    owned = {
        "output_dir": str(staging(run)),
        "seed": derive(recipe.seed, recipe.stage, "trainer") % 2**32,  # numpy takes 32 bits
        "max_steps": steps,
        "max_length": length,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "train_sampling_strategy": "sequential",  # rows.training_order has shuffled
        "save_steps": recipe.checkpoint_every_steps or max(1, math.ceil(steps / 5)),
        "logging_steps": recipe.log_every_steps,
        **trainer_arguments(target, bf16=bf16),
    }
    settings = {key: value for key, value in recipe.trainer.items() if key not in OURS}
    if not settings.keys() & {"gradient_checkpointing", "activation_checkpointing"}:
        settings[checkpointing_key(config_class)] = (
            False  # TRL's True costs 1.5x time where memory is no problem
        )
    settings.setdefault("dataloader_pin_memory", target.type != "cpu")
    clash = sorted(settings.keys() & (owned.keys() | WITHOUT_EFFECT))
    if clash:
        raise ToolkitError(
            f"the toolkit itself decides trainer.{', trainer.'.join(clash)}",
            fix="remove it; data, batches, checkpoints and precision have keys outside of trainer",
        )
    try:
        config = config_class(**settings, **owned)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ToolkitError(f"trl's {config_class.__name__} refuses the settings: {error}") from error
    run.decide("trainer", _effective(config, recipe, settings.keys() | owned.keys()))
    return config, table.dataset().select(order)


def checkpointing_key(config_class: type[TrainingArguments]) -> str:
    """The name of activation checkpointing; transformers renamed it in 5.2x and warns of the old one."""
    names = config_class.__dataclass_fields__
    return "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"


def _effective(config: TrainingArguments, recipe: TrainerRecipe, keys: set[str]) -> dict[str, Any]:
    """What is in force of the keys that were set, and of those that TRL's class adds to transformers'."""
    inherited = set(TrainingArguments.__dataclass_fields__)
    keys = keys | (set(config.__dataclass_fields__) - inherited)
    keys |= {"learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim",
             "adam_beta1", "adam_beta2", "adam_epsilon"}  # fmt: skip
    values = {key: getattr(config, key) for key in sorted(keys - {"output_dir"}) if hasattr(config, key)}
    values |= {key: recipe.trainer[key] for key in ("train_sampling_strategy", "assistant_only_loss")
               if key in recipe.trainer}  # fmt: skip
    return json.loads(json.dumps(values, default=str))


def quiet(trainer_class: type[Trainer]) -> type[Trainer]:
    """Return a TRL trainer that takes tokenized rows as they are and reports to nobody.

    It also writes no model card into its checkpoints.
    """
    return type(
        trainer_class.__name__,
        (TokenizedRows, trainer_class),
        {"create_model_card": lambda self, *args, **kwargs: None},
    )


def lora(recipe: TrainerRecipe | PpoRecipe, model: PreTrainedModel, task: str) -> peft.LoraConfig | None:
    """Return the adapters that the recipe asks for.

    Args:
        task: CAUSAL_LM, or SEQ_CLS, whose new head is trained whole.
    """
    if recipe.lora is None:
        return None
    wanted = tuple(recipe.lora.target_modules)
    targets = [module for name, module in model.named_modules() if name.rpartition(".")[2] in wanted]
    if not targets:
        kinds = sorted({name.rpartition(".")[2] for name, module in model.named_modules()
                        if isinstance(module, (torch.nn.Linear, Conv1D))})  # fmt: skip
        raise ToolkitError(f"the model has no module named {' or '.join(wanted)}",
                           where="lora.target_modules", fix=f"it has {', '.join(kinds)}")  # fmt: skip
    return peft.LoraConfig(
        r=recipe.lora.r, lora_alpha=recipe.lora.alpha, lora_dropout=recipe.lora.dropout,
        target_modules=list(wanted), task_type=task, bias="none",
        fan_in_fan_out=all(isinstance(module, Conv1D) for module in targets),  # GPT-2 stores them transposed
        modules_to_save=["score"] if task == "SEQ_CLS" else None,
    )  # fmt: skip


def staging(run: Run) -> Path:
    """Where Trainer writes before a checkpoint is sealed; whatever lies there at a start is removed."""
    return run.path / ".trainer"


def fit(trainer: Trainer, run: Run, *, measure: Measure | None = None) -> None:
    """Train to the end, from the newest sealed checkpoint where there is one, and write `run.model_dir`.

    Called on every process. A resumed run has bitwise the weights of one that was never interrupted, on
    the same machine, threads and number of processes.

    Args:
        measure: called on every process at the start and five times during training; its numbers go to
            the metrics.
    Raises:
        ToolkitError: the loss or the gradient became NaN or infinite.
        KeyboardInterrupt: SIGINT or SIGTERM came; a checkpoint was sealed first.
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise RunError(
            "this stage needs every weight on every process; FSDP and DeepSpeed share them out",
            where=run.name,
            fix="set distributed_type: MULTI_GPU in the accelerate configuration",
        )
    trainer.model.config.use_cache = False
    found = _newest_checkpoint(trainer, run)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    run.metrics.truncate(found[0] if found else -1)
    with (
        Progress(run.name, trainer.args.max_steps, unit="step") as progress,
        warnings.catch_warnings(),
        scored_positions_only(),
        fast_attention(_models(trainer), device_type=trainer.args.device.type, bf16=trainer.args.bf16),
    ):
        # TRL uses names that transformers renamed; nobody who reads it could change that
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        trainer.add_callback(_Watch(trainer, run, progress, measure))
        trainer.train(resume_from_checkpoint=str(found[1]) if found else None)
    if not getattr(trainer, "finished", trainer.state.global_step >= trainer.args.max_steps):
        raise KeyboardInterrupt
    signals.stop_at_once()
    _save(trainer, run)
    if run.is_main:
        shutil.rmtree(staging(run), ignore_errors=True)


def _models(trainer: Trainer) -> list[PreTrainedModel]:
    """The trained model without adapters, and DPO's reference where it is a model of its own."""
    found = [trainer.model, getattr(trainer, "ref_model", None)]
    return [getattr(model, "base_model", model).model if isinstance(model, peft.PeftModel) else model
            for model in found if isinstance(model, (PreTrainedModel, peft.PeftModel))]  # fmt: skip


def _newest_checkpoint(trainer: Trainer, run: Run) -> tuple[int, str] | None:
    """What the main process finds sealed, on every process."""
    found: list[Any] = [None]
    if run.is_main:
        shutil.rmtree(staging(run), ignore_errors=True)
        newest = checkpoint.latest(run)
        found = [(newest[0], str(newest[1]))] if newest else [None]
    if trainer.args.world_size > 1:
        torch.distributed.broadcast_object_list(found, src=0)
    return found[0]


class _Watch(TrainerCallback):
    """Metrics, progress, measurements, sealed checkpoints, and the end of a run whose loss is not finite."""

    def __init__(self, trainer: Trainer, run: Run, progress: Progress, measure: Measure | None):
        self.trainer, self.run, self.progress, self.measure = trainer, run, progress, measure
        self.shown: dict[str, float] = {}
        self.measured: dict[str, float] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0 and self.measure is not None:
            self.run.metrics.log(0, **self._measured())
        self.progress.update(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step
        every = max(1, math.ceil(state.max_steps / MEASUREMENTS))
        self.progress.update(step, **self.shown)
        if self.measure is not None and (step % every == 0 or step == state.max_steps):
            self.measured = self._measured()
            control.should_log = True
        if signals.stop_requested():
            control.should_save = control.should_training_stop = True
        if control.should_save:
            control.should_log = True  # no save before a look at its loss, and no log that spans a save
        return control

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            return
        broken = {key: logs[key] for key in ("loss", "grad_norm") if not math.isfinite(logs.get(key, 0.0))}
        if broken:
            found = " and ".join(f"{key} is {value}" for key, value in broken.items())
            raise ToolkitError(
                f"{found} at step {state.global_step}", where=self.run.name,
                fix="lower trainer.learning_rate, or look at the data; earlier checkpoints are whole",
            )  # fmt: skip
        values = {key: value for key, value in logs.items() if key not in NOT_METRICS}
        self.run.metrics.log(state.global_step, **values, **self.measured)
        self.shown, self.measured = {"loss": values["loss"]}, {}

    def on_save(self, args, state, control, **kwargs):
        if args.world_size > 1:
            torch.distributed.barrier()  # each process writes its own random state
        if self.run.is_main:
            written = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            checkpoint.save(self.run, state.global_step, lambda folder: _move(written, folder), keep=1)
            shutil.rmtree(written)

    def _measured(self) -> dict[str, float]:
        """Call `measure` on the model itself, in eval mode; adapters sit inside of it."""
        model = self.trainer.model
        if isinstance(model, peft.PeftModel):
            model = model.get_base_model()
        was_training = model.training
        model.eval()
        with torch.no_grad():
            values = self.measure(model)
        model.train(was_training)
        return dict(values)


def _move(written: Path, folder: Path) -> None:
    """Move Trainer's files; its pickled arguments hold absolute paths and are not needed to resume."""
    for path in written.iterdir():
        if path.name not in ("training_args.bin", "README.md"):
            path.rename(folder / path.name)


def _save(trainer: Trainer, run: Run) -> None:
    """Write the trained model as a plain folder: adapters merged, none of TRL's patches."""
    if not run.is_main:
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    model = getattr(model, "policy", model)  # beside a critic, in PPO
    if isinstance(model, peft.PeftModel):
        model = model.merge_and_unload()
    model.config.use_cache = True
    save_model(model, trainer.processing_class, run.model_dir)
