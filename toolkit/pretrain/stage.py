"""The pretrain stage: from a corpus of token shards to a GPT-2, with its bits per byte on held-out text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.base.errors import RunError, ToolkitError
from toolkit.base.files import atomic_folder
from toolkit.config.schema import PretrainRecipe
from toolkit.data.text.batch_order import Order
from toolkit.data.text.shards import TokenShards
from toolkit.models.gpt2 import build, parameters
from toolkit.models.shape import mean_flops_per_token
from toolkit.models.vocabulary import load_tokenizer
from toolkit.pretrain import optimizer, preflight, sharding, state, throughput
from toolkit.pretrain.context import Job
from toolkit.pretrain.held_out import HeldOut
from toolkit.pretrain.loop import samples, train
from toolkit.pretrain.loss import compiles, forms_of, loss_of
from toolkit.runs import layout, metrics, references
from toolkit.runs.run import Run
from toolkit.runtime import accelerate_config, allocator, devices

SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)


def run(recipe: PretrainRecipe, run: Run) -> None:
    """Train a GPT-2 from random weights, measure it, and write its folder; called on every process.

    Raises:
        ToolkitError: a batch that the processes cannot share, no held-out text, a corpus shorter than one
            row, a loss that is not finite.
    """
    job = prepare(recipe, run)
    train(job)
    _finish(job)


def prepare(recipe: PretrainRecipe, run: Run) -> Job:
    """Build what the steps of a training need; values that the run recorded before are taken again."""
    device = devices.select(recipe.device)
    allocator.configure(device, keep=recipe.speed.keep_memory)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    devices.require_agreement(accelerator.num_processes)
    if accelerator.distributed_type not in SUPPORTED:
        raise RunError(
            f"pretraining knows DDP and FSDP2, not {accelerator.distributed_type.value}",
            where=run.name, fix="use distributed_type: MULTI_GPU or FSDP in the accelerate configuration",
        )  # fmt: skip
    length = recipe.row_tokens()
    micro_rows = _micro_rows(recipe, length=length, processes=accelerator.num_processes)
    folder = _corpus(run, recipe.tokens)
    shards = TokenShards.open(folder / "train")
    order = Order(shards.tokens, length, seed=recipe.seed, digest=shards.digest)
    tokenizer = load_tokenizer((str(folder / "tokenizer"), None))
    bf16 = run.record("precision", devices.precision(recipe.precision, device)) == "bf16"
    model = _build(recipe, tokenizer).to(device)
    sharded = _sharded(recipe, run)
    loss = loss_of(recipe, model, micro_tokens=micro_rows * length, end_id=shards.end_id, bf16=bf16)
    compiled = run.record("compile", compiles(recipe, device))
    if compiled:
        loss.speed_up(inside=recipe.speed.loss_in_module)
    forms = forms_of(recipe, model, compiled=compiled)
    if preflight.wanted(recipe, compiled=compiled):
        preflight.check(
            loss, recipe, forms, vocab_size=len(tokenizer), compiled=compiled, where=run.name,
            say=run.is_main,
        )  # fmt: skip
    if sharded:
        sharding.spread(loss, model, device=device, let_go=accelerate_config.lets_go())
    held_out = HeldOut(
        TokenShards.open(folder / "held_out"), accelerator=accelerator, tokenizer=tokenizer, bf16=bf16,
        window=recipe.model.n_positions,
    )  # fmt: skip
    fsdp = accelerator.distributed_type is DistributedType.FSDP  # its prepare_model wants the optimizer too
    job = Job(
        recipe=recipe, run=run, accelerator=accelerator, model=model, forms=forms,
        loss=loss if sharded or recipe.exact or fsdp else accelerator.prepare_model(loss), sharded=sharded,
        optimizers=optimizer.build(model, recipe.optimizer, bf16=bf16), tokenizer=tokenizer,
        shards=shards, order=order, held_out=held_out, micro_rows=micro_rows,
        flops_per_token=mean_flops_per_token(recipe, vocab_size=len(tokenizer)),
        peak=throughput.peak(device, "bf16" if bf16 else "fp32"),
    )  # fmt: skip
    epochs = order.epoch(job.steps, job.batch_rows)
    run.record("steps", job.steps)
    if run.is_main and epochs > 1:
        print(f"{run.name}: the corpus has {shards.tokens:,} tokens and is read {epochs:.1f} times, "
              "each time in another order", file=sys.stderr)  # fmt: skip
    return job


def _sharded(recipe: PretrainRecipe, run: Run) -> bool:
    """Say whether weights are kept in parts; may change when a run goes on: checkpoints are whole."""
    sharded = run.record("shard_weights", accelerate_config.spreads_weights(recipe), keep=False)
    if run.is_main and not sharded and (recipe.shard_weights is True or accelerate_config.sharding_asked()):
        print(f"{run.name}: one process keeps all weights: there is nothing to share out", file=sys.stderr)
    return sharded


def _build(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return build(
        recipe.model, vocab_size=len(tokenizer), seed=recipe.seed,
        end_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id,
    )  # fmt: skip


def _micro_rows(recipe: PretrainRecipe, *, length: int, processes: int) -> int:
    """Return the rows of one forward pass on one process.

    Raises:
        ToolkitError: a batch that is not a whole number of rows on each process.
    """
    share, rest = divmod(recipe.batch_tokens, length * processes)
    if rest or not share:
        raise ToolkitError(
            f"batch_tokens {recipe.batch_tokens} is not a multiple of {length * processes} "
            f"({length} tokens a row on each of {processes} process(es))",
            where="batch_tokens", fix=f"take {max(1, share) * length * processes}",
        )  # fmt: skip
    if recipe.exact:
        _require_tree(recipe, processes)
    if recipe.micro_batch_tokens is None:
        return share
    rows, rest = divmod(recipe.micro_batch_tokens, length)
    if rest or not rows:
        raise ToolkitError(
            f"micro_batch_tokens {recipe.micro_batch_tokens} is not a multiple of a row's {length} tokens",
            where="micro_batch_tokens", fix=f"take {max(1, rows) * length}",
        )  # fmt: skip
    return min(rows, share)


def _require_tree(recipe: PretrainRecipe, processes: int) -> None:
    """Refuse a number of processes that cannot share the tree of micro-batches."""
    parts = recipe.batch_tokens // (recipe.micro_batch_tokens or recipe.batch_tokens)
    if processes & (processes - 1) or processes > parts:
        raise ToolkitError(
            f"exact: {parts} micro-batches cannot be shared by {processes} processes",
            where="exact", fix=f"start a power of two of processes, at most {parts}",
        )  # fmt: skip


def _corpus(run: Run, reference: str) -> Path:
    """Return the folder with train/, held_out/ and tokenizer/ of a corpus run, or of a plain folder."""
    found = run.reference(reference)
    folder = references.corpus_folder(Path(found))
    if folder is None:
        raise RunError("is not a corpus: it has no token shards", where=str(found), fix="name a corpus run")
    return folder


def _untrained(run: Run) -> float:
    """Return what was measured before the first step; a model that knows nothing is the same on any text."""
    rows = metrics.read(run.path / layout.METRICS)
    return next(row["bits_per_byte"] for row in rows if row["step"] == 0 and "bits_per_byte" in row)


def _finish(job: Job) -> None:
    """Measure the model on all held-out documents; write the numbers and the model."""
    recipe, run, model = job.recipe, job.run, sharding.whole_model(job.model)
    nats, bits, over = job.held_out.measure(model, seed=recipe.seed)
    if run.is_main:
        floor = job.held_out.shards.entropy_floor()
        rate = job.watch.tokens_per_second
        numbers: dict[str, Any] = {
            **bits.as_json("bits_per_byte"),
            "untrained_bits_per_byte": _untrained(run),
            "entropy_floor_bits_per_byte": floor,
            **job.held_out.numbers(nats),
            "interval_over": over, "n": bits.n, "seed": recipe.seed, "bootstrap_samples": bits.samples,
            "parameters": parameters(model), "tokens": job.steps * recipe.batch_tokens,
            "epochs": job.order.epoch(job.steps, job.batch_rows),
            "tokens_per_second": rate, "mfu": job.utilisation(rate),
            "peak_flops": job.peak.flops, "peak_flops_source": job.peak.source,
            "flops_per_token": job.flops_per_token, "samples": samples(job, model),
        }  # fmt: skip
        with atomic_folder(run.model_dir) as folder:
            state.Template(model, job.tokenizer).write(folder, dict(model.named_parameters()))
        run.write_json(layout.EVALUATION, json.loads(json.dumps(numbers, allow_nan=False)))
    job.accelerator.wait_for_everyone()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
