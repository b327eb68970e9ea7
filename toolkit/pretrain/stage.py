"""The pretrain stage: train a language model on a corpus of token shards and evaluate it on held-out text."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType

from toolkit.base.console import tell
from toolkit.base.errors import RunError
from toolkit.base.files import atomic_folder
from toolkit.config import process_counts
from toolkit.config.schema import PretrainRecipe
from toolkit.data.text.batch_order import Order
from toolkit.data.text.lost_text import sentence
from toolkit.data.text.shards import TokenShards
from toolkit.models.architectures import parameters
from toolkit.models.soundness import PROBE_ROWS, require_finite
from toolkit.models.stored_dtypes import StoredDtypes
from toolkit.pretrain import (
    initial_model,
    kept_weights,
    memorization,
    optimizer,
    preflight,
    sharding,
    throughput,
)
from toolkit.pretrain.context import TrainingContext
from toolkit.pretrain.held_out import HeldOutEvaluator
from toolkit.pretrain.initial_model import InitialModel
from toolkit.pretrain.loop import sample_texts, train
from toolkit.pretrain.loss import (
    TrainingKernels,
    TrainingLoss,
    build_loss,
    should_compile,
    training_kernels,
)
from toolkit.pretrain.training_state import ModelExporter
from toolkit.runs import layout, metrics, references
from toolkit.runs.evaluation import KeptStep, PretrainEvaluation, Sample
from toolkit.runs.run import Run
from toolkit.runtime import accelerate_config, devices

NULLS = frozenset(
    {
        "entropy_floor_bits_per_byte", "tokens_per_second", "mfu", "peak_flops", "peak_flops_source",
        "flops_per_token",
    }
)  # fmt: skip
"""Numbers that are null where they are unknown: of the text, of a resumed training, of the processor, of a
checkpoint."""
SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)


def run(recipe: PretrainRecipe, run: Run) -> None:
    """Train a model, evaluate it, and write its folder; called on every process.

    Raises:
        ToolkitError: a batch that cannot be divided among the processes, no held-out text, a corpus shorter
            than a row, a checkpoint that does not fit (see `initial_model.load`), a loss that is not finite.
    """
    context = prepare(recipe, run)
    train(context)
    _finish(context)


def prepare(recipe: PretrainRecipe, run: Run) -> TrainingContext:
    """Build what the steps of a training need; decisions that the run has recorded are kept."""
    device = devices.select(recipe.device)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    devices.require_as_recorded(accelerator, bf16=False)  # the loss casts itself
    if accelerator.distributed_type not in SUPPORTED:
        raise RunError(
            f"pretraining supports DDP and FSDP2, not {accelerator.distributed_type.value}",
            where=run.name, fix="use distributed_type: MULTI_GPU or FSDP in the accelerate configuration",
        )  # fmt: skip
    micro_rows = process_counts.micro_rows(recipe, processes=accelerator.num_processes)
    folder = _corpus(run, recipe.tokens)
    shards = TokenShards.open(folder / "train")
    order = Order(shards.tokens, recipe.row_tokens(), seed=recipe.seed, digest=shards.digest)
    bf16 = run.decide("precision", devices.precision(recipe.precision, device)) == "bf16"
    initial = initial_model.load(recipe, run, corpus=folder, device=device)
    model, tokenizer = initial.model, initial.tokenizer
    sharded = _sharded(recipe, run)
    loss, kernels = _loss(recipe, run, initial, shards=shards, micro_rows=micro_rows, bf16=bf16)
    if sharded:
        reshard = accelerate_config.lets_go()
        sharding.shard_model(loss, model, device=device, reshard_after_forward=reshard)
    held_out = HeldOutEvaluator(
        TokenShards.open(folder / "held_out"), accelerator=accelerator, tokenizer=tokenizer, bf16=bf16,
        window=recipe.window,
    )  # fmt: skip
    fsdp = accelerator.distributed_type is DistributedType.FSDP  # its prepare_model wants the optimizer too
    optimizers = optimizer.build(
        model, recipe.optimizer, bf16=bf16, from_checkpoint=recipe.checkpoint is not None
    )
    context = TrainingContext(
        recipe=recipe, run=run, accelerator=accelerator, model=model, training_kernels=kernels,
        loss=loss if sharded or recipe.exact or fsdp else accelerator.prepare_model(loss), sharded=sharded,
        optimizers=optimizers, tokenizer=tokenizer, shards=shards, order=order, held_out=held_out,
        micro_rows=micro_rows, flops_per_token=initial.flops_per_token(recipe),
        peak_flops=throughput.peak_flops(device, "bf16" if bf16 else "fp32"),
    )  # fmt: skip
    run.decide("steps", context.steps)
    if run.is_main:
        memorization.report_epochs(
            run.name, corpus_tokens=shards.tokens, train_tokens=recipe.train_tokens, epochs=context.epochs
        )
    return context


def _loss(
    recipe: PretrainRecipe, run: Run, initial: InitialModel, *, shards: TokenShards, micro_rows: int,
    bf16: bool,
) -> tuple[TrainingLoss, TrainingKernels]:  # fmt: skip
    """Return the loss, compiled if the run decided so, and the kernels; both are checked by the preflight."""
    model, levers = initial.model, initial.levers
    micro_tokens = micro_rows * recipe.row_tokens()
    loss = build_loss(
        recipe, model, micro_tokens=micro_tokens, end_id=shards.start_id, bf16=bf16, levers=levers
    )
    compiled = run.decide("compile", should_compile(recipe, model.device, levers))
    if compiled:
        loss.enable_compilation(whole_loss=recipe.speed.loss_in_module)
    kernels = training_kernels(recipe, model, compiled=compiled, levers=levers)
    if preflight.is_enabled(recipe, compiled=compiled):
        vocab_size = initial_model.known_ids(model, initial.tokenizer)
        preflight.check(
            loss, recipe, kernels, vocab_size=vocab_size, compiled=compiled, run_name=run.name,
            verbose=run.is_main,
        )  # fmt: skip
    return loss, kernels


def _sharded(recipe: PretrainRecipe, run: Run) -> bool:
    """Say whether weights are sharded; this may change when a run is resumed, as checkpoints are not."""
    sharded = run.describe("shard_weights", accelerate_config.spreads_weights(recipe))
    if run.is_main and not sharded and (recipe.shard_weights is True or accelerate_config.sharding_asked()):
        tell(f"{run.name}: weights are not sharded: there is only one process")
    return sharded


def _corpus(run: Run, reference: str) -> Path:
    """Return the folder with train/, held_out/ and tokenizer/ of a corpus run, or of a plain folder."""
    path = run.reference(reference)
    folder = references.corpus_folder(Path(path))
    if folder is None:
        raise RunError("is not a corpus: it has no token shards", where=str(path), fix="name a corpus run")
    return folder


def _stored_dtypes(recipe: PretrainRecipe, run: Run) -> StoredDtypes:
    """Return the dtypes of the checkpoint that the training began with, fp32 for random weights."""
    if recipe.checkpoint is None:
        return StoredDtypes()
    dtypes = StoredDtypes.of(run.model_reference(recipe.checkpoint))
    run.decide("stored_dtype", dtypes.name)
    return dtypes


def _before(recipe: PretrainRecipe, run: Run) -> dict[str, float]:
    """Return the bits per byte before the first step, by the name of the field in evaluation.json.

    A checkpoint was measured on all held-out text. Random weights were measured on some documents: their
    result hardly depends on the text.
    """
    rows = metrics.read(run.path / layout.METRICS)
    logged, name = "bits_per_byte", "untrained_bits_per_byte"
    if recipe.checkpoint is not None:
        logged = name = "checkpoint_bits_per_byte"
    return {name: next(row[logged] for row in rows if row["step"] == 0 and logged in row)}


def _finish(context: TrainingContext) -> None:
    """Evaluate the model on all held-out documents; write evaluation.json and the model."""
    recipe, run, model = context.recipe, context.run, sharding.full_model(context.model)
    dtypes = _stored_dtypes(recipe, run)
    if not dtypes.is_fp32:
        with torch.no_grad():  # what is measured is what is written
            for name, weight in model.named_parameters():
                weight.copy_(dtypes.rounded(name, weight))
    if run.is_main:
        require_finite(model, context.held_out.first_rows(PROBE_ROWS), step=context.steps, where=run.name)
    nats, bits, unit = context.held_out.evaluate(
        model, seed=recipe.seed, shown_as=f"{run.name}: held-out text"
    )
    if run.is_main:
        tokens_per_second = context.stopwatch.tokens_per_second
        described, before = context.held_out.describe(nats), _before(recipe, run)
        signs = memorization.find(
            metrics.read(run.path / layout.METRICS), held_out_loss=math.log(described["perplexity"])
        )
        if signs is not None:
            memorization.warn(
                signs, bits_per_byte=bits.estimate, before=next(iter(before.values())),
                start="as the checkpoint" if recipe.checkpoint else "untrained",
            )  # fmt: skip
        if described["held_out_lost_text"] is not None:
            lost = sentence(described["held_out_lost_text"], documents=len(nats))
            tell(f"warning: {run.name}: {lost}: bits per byte are too low")
        missing: dict[str, str] = {}
        samples = [Sample.from_json(sample) for sample in sample_texts(context, model, missing=missing)]
        kept_steps = None
        if recipe.keep_weights_at_steps is not None:
            kept_steps = [KeptStep.from_json(step) for step in kept_weights.read_samples(run.path)]
        evaluation = PretrainEvaluation(
            bits_per_byte=bits,
            **before,
            entropy_floor_bits_per_byte=context.held_out.shards.entropy_floor(),
            **described,
            interval_over=unit, n=bits.n, seed=recipe.seed, bootstrap_samples=bits.samples,
            parameters=parameters(model), tokens=context.steps * recipe.batch_tokens,
            epochs=context.epochs,
            tokens_per_second=tokens_per_second, mfu=context.mfu(tokens_per_second),
            peak_flops=context.peak_flops.flops, peak_flops_source=context.peak_flops.source,
            flops_per_token=context.flops_per_token,
            **({} if signs is None else asdict(signs)),
            samples=None if missing else samples, not_measured=missing or None, kept_steps=kept_steps,
            nulls=NULLS | missing.keys(),
        )  # fmt: skip
        with atomic_folder(run.model_dir) as folder:
            exporter = ModelExporter(model, context.tokenizer, dtypes=dtypes)
            exporter.write(folder, dict(model.named_parameters()))
        run.write_json(layout.EVALUATION, evaluation.to_json())
    context.accelerator.wait_for_everyone()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
