"""Estimate the cost of a recipe from counts and from a few timed training steps on this machine.

This module does not import torch or read text; planning/probe.py times the steps in a separate process.
"""

from __future__ import annotations

import json as json_format
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.base import files
from toolkit.base.console import tell
from toolkit.base.errors import RunError, UsageError
from toolkit.config import schema
from toolkit.config.loader import LoadedRecipe, load, load_folder, read_folder, recipes_beside
from toolkit.config.registry import STAGES, Cost
from toolkit.execution import dag
from toolkit.models import checkpoint_memory, memory
from toolkit.models.checkpoint_shape import CheckpointShape
from toolkit.models.shape import flops_per_token, mean_flops_per_token, num_parameters
from toolkit.planning import checkpoint_cost, checkpoints
from toolkit.planning.checkpoint_cost import DEFAULT_POSITIONS
from toolkit.runs import layout, references, seal
from toolkit.runtime import hardware, signals

PROBE = "toolkit.planning.probe"
PROBE_SECONDS = 4.0
PROBE_LIMIT_SECONDS = 300
"""Time limit of the probe; compiling for a GPU takes about a minute."""
ASSUMED_FLOPS = 0.4 * 989e12
"""FLOP/s assumed for an absent GPU: 40% of an H100's bf16 peak, which a well-tuned GPT-2 reaches."""
ASSUMED = "40% of an H100's 989 TFLOP/s"


@dataclass(frozen=True)
class Question:
    """Options of a plan."""

    probe: bool = True
    price: float | None = None
    """Price of one hour of one process (a GPU or a machine)."""
    processes: int = 1
    runs_dir: Path = Path("runs")
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Results of probes by the run's name."""


@dataclass
class StagePlan:
    """The estimated cost of one recipe; a number is None if it is not known.

    Attributes:
        tokens: number of training tokens.
        state_bytes: weights, gradients and optimizer state of one process.
        memory: bytes of each part of one process; peak_bytes is their sum.
        tokens_per_second: throughput of all processes together.
        seconds: duration of the whole stage.
        basis: source of `seconds`: `measured` on this machine, `scaled` by FLOPs from the pretraining, or
            `assumed`.
    """

    stage: str
    run: str
    parameters: int | None = None
    tokens: int | None = None
    flops: int | None = None
    state_bytes: int | None = None
    memory: dict[str, int] | None = None
    peak_bytes: int | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None
    basis: str | None = None
    money: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """The estimated cost of recipes by stage; totals leave out unknown numbers."""

    stages: list[StagePlan]
    flops: float | None
    seconds: float | None
    money: float | None


def plan_recipes(path: Path, overrides: Sequence[str] = (), *, question: Question | None = None) -> Plan:
    """Plan a recipe, or all recipes of a folder.

    Args:
        question: None asks for no probe.

    Raises:
        ToolkitError: a batch that the processes cannot share, or a probe that failed.
    """
    question = question or Question(probe=False)
    if question.price is not None and not 0 <= question.price < math.inf:
        raise UsageError(
            f"{question.price:g} is no amount of money", where="price", fix="give a positive number"
        )
    if path.is_dir():
        recipes = neighbours = dag.order(load_folder(path, overrides))
    else:
        recipes, neighbours = [load(path, overrides)], _neighbours(path)
    stages = plan(recipes, neighbours=neighbours, question=question)
    return Plan(
        stages,
        flops=_sum([row.flops for row in stages]),
        seconds=_sum([row.seconds for row in stages]),
        money=_sum([row.money for row in stages]),
    )


def plan(
    recipes: Sequence[LoadedRecipe], *, neighbours: Sequence[LoadedRecipe], question: Question | None = None
) -> list[StagePlan]:
    """Plan each recipe.

    Args:
        neighbours: the recipes in which references such as `runs/tiny/pretrain` are looked up.
        question: None asks for no probe.
    """
    by_reference = {f"runs/{loaded.name}": loaded for loaded in neighbours}
    by_reference |= {f"runs/{loaded.name}": loaded for loaded in recipes}
    return [_row(loaded, by_reference, question or Question(probe=False)) for loaded in recipes]


def _neighbours(path: Path) -> list[LoadedRecipe]:
    return read_folder(path.parent)[0] if recipes_beside(path) else []


def _row(loaded: LoadedRecipe, by_reference: dict[str, LoadedRecipe], question: Question) -> StagePlan:
    recipe = loaded.recipe
    row = StagePlan(recipe.stage, loaded.name)
    cost = STAGES[recipe.stage].cost
    if cost is None:
        row.note = "no training"
        return row
    base = _origin(recipe, loaded, by_reference)
    if isinstance(base, str):
        return _row_from_checkpoint(row, recipe, cost, base, question)
    vocab_size = None if base is None else _vocabulary(base.recipe, by_reference, question)
    if base is None or vocab_size is None:
        row.note = "the model's shape is not in these recipes"
        return row
    model = base.recipe.shape
    row.parameters = num_parameters(model, vocab_size=vocab_size)
    row.state_bytes = row.parameters * cost.bytes_per_parameter
    flops = _flops(recipe, base.recipe, vocab_size)
    _set_work(row, recipe, cost, positions=model.n_positions, flops_per_token=flops)
    answer = _answer(base, vocab_size, question)
    if loaded is base:
        _set_memory(row, base.recipe, vocab_size, answer, question)
    _set_time(row, recipe, base.recipe, vocab_size, answer, question)
    if row.seconds is not None and question.price is not None:
        row.money = row.seconds / 3600 * question.processes * question.price
    return row


def _row_from_checkpoint(
    row: StagePlan, recipe: schema.StageRecipe, cost: Cost, reference: str, question: Question
) -> StagePlan:
    """Fill the row of a stage that trains a checkpoint, by the headers of its weights and its config.json."""
    shape = checkpoints.shape_of(reference, runs_dir=question.runs_dir)
    if shape is None:
        row.note = f"{reference} has no weights in safetensors on this disk; a plan downloads nothing"
        return row
    lora = getattr(recipe, "lora", None)
    row.parameters = shape.parameters
    row.state_bytes = shape.state_bytes(cost.bytes_per_parameter, lora=lora)
    positions = shape.positions or DEFAULT_POSITIONS
    flops = shape.flops_per_token(recipe.longest_sequence(positions), lora=lora)
    _set_work(row, recipe, cost, positions=positions, flops_per_token=flops)
    row.note += f"; {_in_words(shape)}; {flops:.1e} FLOPs a token"
    if lora is not None:
        count = shape.adapter_parameters(lora)
        row.note += f"; {count:,} parameters of adapters are trained"
        row.note += ", without those of experts" if shape.has_experts else ""
        if not count:
            row.note += f": no layer is named {' or '.join(lora.target_modules)}"
    _complete(row, recipe, cost, shape, flops_per_token=flops, question=question)
    if row.seconds is not None and question.price is not None:
        row.money = row.seconds / 3600 * question.processes * question.price
    return row


def _in_words(shape: CheckpointShape) -> str:
    limit = "no limit of positions" if shape.positions is None else f"{shape.positions:,} positions"
    return f"{shape.layers} layers of width {shape.width:,}, {shape.vocabulary:,} rows, {limit}"


def _complete(
    row: StagePlan, recipe: schema.StageRecipe, cost: Cost, shape: CheckpointShape, *,
    flops_per_token: float, question: Question,
) -> None:  # fmt: skip
    """Set memory and time of a stage that trains a checkpoint."""
    training = checkpoint_cost.training(recipe, cost, shape, processes=question.processes)
    if training is not None:
        row.memory = training.memory(row.state_bytes)
        row.peak_bytes = checkpoint_memory.peak(row.memory)
    rate, note = _rate(row, recipe, shape, question, tokens=training.computed.tokens if training else None)
    row.note += f"; {note}"
    if rate is None:
        return
    if training is not None:  # PPO's answers are sampled, too
        row.tokens_per_second = rate / (flops_per_token * cost.passes_per_token)
    if row.flops is not None:
        row.seconds = row.flops / rate


def _rate(
    row: StagePlan, recipe: schema.StageRecipe, shape: CheckpointShape, question: Question,
    *, tokens: int | None,
) -> tuple[float | None, str]:  # fmt: skip
    """Set `basis`; return operations per second of all processes, None if not known, and a note."""
    if recipe.device == "cuda" and not hardware.has_gpu():
        row.basis = "assumed"
        each = " on each GPU" * (question.processes > 1)
        return ASSUMED_FLOPS * question.processes, f"time at an assumed {ASSUMED}{each}"
    if not question.probe:
        return None, "the time is not known: no products were timed"
    key = f"products of width {shape.width} on {recipe.device}"
    if key not in question.answers:
        tell("timing matrix products on this machine")
        rate = checkpoint_cost.flops_per_second(recipe, shape, tokens=tokens or checkpoint_cost.PROBE_TOKENS)
        question.answers[key] = {"flops_per_second": rate}
    row.basis = "scaled"
    rate = question.answers[key]["flops_per_second"]
    return rate * question.processes, f"time at {rate / 1e9:,.0f} GFLOP/s, from products timed here"


def _set_work(
    row: StagePlan, recipe: schema.StageRecipe, cost: Cost, *, positions: int, flops_per_token: float
) -> None:
    """Set tokens and FLOPs of `row`, if the recipe says how many."""
    work = recipe.planned_work(positions)
    row.note = work.note
    if work.tokens is not None:
        row.tokens = int(work.tokens * cost.sequences_per_example)
        passes = cost.passes_per_token if work.passes_per_token is None else work.passes_per_token
        row.flops = int(row.tokens * passes * flops_per_token)


def _origin(
    recipe: schema.StageRecipe, loaded: LoadedRecipe, by_reference: dict[str, LoadedRecipe]
) -> LoadedRecipe | str | None:
    """Return the recipe that has the shape of the model: this one, or the one whose model it starts from.

    A checkpoint that none of the recipes makes is returned by its name.
    """
    seen: set[str] = set()
    while not isinstance(reference := getattr(recipe, "model", None), schema.ModelSettings):
        if not isinstance(reference, str) or reference in seen:
            return None
        if reference not in by_reference:
            return reference
        seen.add(reference)
        loaded = by_reference[reference]
        recipe = loaded.recipe
    return loaded


def _vocabulary(
    recipe: schema.PretrainRecipe, by_reference: dict[str, LoadedRecipe], question: Question
) -> int | None:
    """Return the vocabulary size of the existing corpus, else the one that the tokenizer's recipe sets."""
    index = _index(recipe, "train", question)
    if index is not None:
        return index["vocab_size"]
    corpus = by_reference.get(recipe.tokens)
    tokenizer = by_reference.get(corpus.recipe.tokenizer) if corpus else None
    return tokenizer.recipe.vocab_size if tokenizer else None


def _index(recipe: schema.PretrainRecipe, part: str, question: Question) -> dict[str, Any] | None:
    """Return index.json of one part of a corpus; None if the corpus is missing or unfinished."""
    path = references.run_path(recipe.tokens, question.runs_dir) or Path(recipe.tokens)
    if seal.is_run(path) and not seal.is_sealed(path):
        return None
    folder = references.corpus_folder(path)
    return None if folder is None else files.read_json(folder / part / layout.TOKEN_INDEX)


def _flops(recipe: schema.StageRecipe, base: schema.PretrainRecipe, vocab_size: int) -> float:
    """Return the FLOPs of training on one token; with a length warm-up, the mean over the lengths."""
    if recipe is base:
        return mean_flops_per_token(base, vocab_size=vocab_size)
    length = recipe.longest_sequence(base.shape.n_positions)
    return flops_per_token(base.shape, vocab_size=vocab_size, sequence_length=length)


# Memory and time


def _set_memory(
    row: StagePlan, recipe: schema.PretrainRecipe, vocab_size: int, answer: dict[str, Any],
    question: Question,
) -> None:  # fmt: skip
    """Set the memory of `row`; without a probe, assume a GPU with bf16 if the recipe sets `device: cuda`."""
    remainder = recipe.batch_tokens % (recipe.row_tokens() * question.processes)
    if remainder:
        raise UsageError(
            f"batch_tokens {recipe.batch_tokens} is not a whole number of rows on each of "
            f"{question.processes} processes",
            where=row.run, fix="plan for another number of processes, or set another batch_tokens",
        )  # fmt: skip
    on_gpu = answer.get("device", recipe.device) == "cuda"
    native = recipe.device != "mps" and (on_gpu or bool(hardware.processor()["bf16"]))
    precision = recipe.precision if recipe.precision != "auto" else "bf16" if native else "fp32"
    need = memory.estimate(
        recipe, vocab_size=vocab_size, bf16=precision == "bf16", on_gpu=on_gpu, processes=question.processes
    )
    row.state_bytes = need.weights + need.gradients + need.optimizer
    row.memory, row.peak_bytes = need.parts(), need.peak


def _answer(base: LoadedRecipe, vocab_size: int, question: Question) -> dict[str, Any]:
    """Return the cached probe result of a pretraining; {} without a probe."""
    if not question.probe:
        return {}
    if base.name not in question.answers:
        tell(f"{base.name}: timing a few training steps on this machine")
        question.answers[base.name] = _ask(base, vocab_size, question.processes)
    return question.answers[base.name]


def _ask(base: LoadedRecipe, vocab_size: int, count: int) -> dict[str, Any]:
    text = json_format.dumps({
        "recipe": base.recipe.model_dump(mode="json", exclude_unset=True), "vocab_size": vocab_size,
        "processes": count, "seconds": PROBE_SECONDS,
    })  # fmt: skip
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", PROBE], input=text, capture_output=True, text=True,
            timeout=PROBE_LIMIT_SECONDS, preexec_fn=signals.die_with_parent,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"refused": f"a few steps take longer than {PROBE_LIMIT_SECONDS} seconds here"}
    if done.returncode == -9:
        return {"refused": "the system ended it, most often for lack of memory"}
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise RunError(f"the probe failed: {last}", where=base.name, fix="plan without timing training steps")
    answer = json_format.loads(done.stdout.strip().splitlines()[-1])
    return answer | {"starting_seconds": time.monotonic() - began - answer.get("measuring_seconds", 0.0)}


def _set_time(
    row: StagePlan, recipe: schema.StageRecipe, base: schema.PretrainRecipe, vocab_size: int,
    answer: dict[str, Any], question: Question,
) -> None:  # fmt: skip
    """Set seconds, basis and tokens per second of `row`."""
    pretrains = recipe is base
    measured = "tokens_per_second" in answer and (recipe.device, answer["device"]) != ("cuda", "cpu")
    if "refused" in answer:
        row.note += f"; no probe here: {answer['refused']}"
    if row.flops is None or not (measured or recipe.device == "cuda"):
        return
    if measured:
        full = base.row_tokens()
        flops = flops_per_token(base.shape, vocab_size=vocab_size, sequence_length=full)
        rate = answer["tokens_per_second"] * flops
        row.basis = "measured" if pretrains else "scaled"
        row.note += "" if pretrains else "; time scaled by FLOPs from the pretraining's"
    else:
        rate = ASSUMED_FLOPS * question.processes
        row.basis = "assumed"
        row.note += f"; time at an assumed {ASSUMED}" + " on each GPU" * (question.processes > 1)
    row.seconds = row.flops / rate
    if pretrains:
        row.tokens_per_second = row.tokens / row.seconds
        if measured:
            row.seconds += answer["starting_seconds"] + _evaluation_seconds(base, answer, question)
            row.note += f"; {answer['steps']} steps of {answer['micro_batch_tokens']:,} tokens were timed"


def _evaluation_seconds(recipe: schema.PretrainRecipe, answer: dict[str, Any], question: Question) -> float:
    """Return the seconds of held-out evaluation: a part of the text during training, all of it at the end.

    Without a corpus, `evaluate_documents` documents of half a window each are assumed.
    """
    index = _index(recipe, "held_out", question)
    window = recipe.window
    count = index["documents"] if index else recipe.evaluate_documents
    length = index["tokens"] / max(1, count) if index else window / 2
    passes = 2 if length > window else 1  # windows overlap by half
    interval_tokens = max(recipe.batch_tokens, recipe.evaluate_every_tokens or recipe.train_tokens / 10)
    evaluations = 1 + recipe.train_tokens / interval_tokens
    part_tokens = min(length * min(count, recipe.evaluate_documents), recipe.evaluate_tokens)
    quick = evaluations * part_tokens * answer["score_seconds"]["quick"]
    return passes * (quick + length * count * answer["score_seconds"]["full"]) / question.processes


def _sum(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) if numbers else None
