"""`toolkit plan`: what a recipe costs, before it is spent: counted, and timed by a few steps on this machine.

Nothing here imports torch or reads text; the steps are made by a program of their own (pretrain/probe.py).
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

from rich.console import Console
from rich.table import Table

from toolkit.base import files
from toolkit.base.errors import RunError, UsageError
from toolkit.config import schema
from toolkit.config.loader import LoadedRecipe, load, load_folder, read_folder
from toolkit.config.registry import STAGES
from toolkit.execution import dag
from toolkit.models import memory
from toolkit.models.shape import flops_per_token, mean_flops_per_token, num_parameters
from toolkit.runs import references, seal
from toolkit.runtime import hardware, signals

PROBE = "toolkit.planning.probe"
PROBE_SECONDS = 4.0
PROBE_LIMIT_SECONDS = 300
"""Compiling for a GPU takes a minute; what takes longer than this does not end."""
ASSUMED_FLOPS = 0.4 * 989e12
"""Of a GPU that is not here: an H100 in bf16, 40 % of its data sheet (a well-tuned GPT-2 reaches that)."""
ASSUMED = "40% of an H100's 989 TFLOP/s"


@dataclass(frozen=True)
class Question:
    """What the command line asks besides the recipes."""

    probe: bool = True
    price: float | None = None
    """Money for an hour of one process (a GPU, or a machine)."""
    processes: int = 1
    runs_dir: Path = Path("runs")
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What probes said, by the run's name."""


def plan_command(
    path: str,
    overrides: Sequence[str] = (),
    *,
    json: bool = False,
    probe: bool = True,
    price: float | None = None,
    processes: int = 1,
    runs_dir: Path | str = "runs",
) -> int:
    """Print the plan of a recipe or a folder: a table on stderr, or one JSON object on stdout.

    Raises:
        ToolkitError: a batch that the processes cannot share, or a probe that failed.
    """
    if price is not None and not 0 <= price < math.inf:
        raise UsageError(f"--price {price:g} is no amount of money", fix="give a number from 0 on")
    place = Path(path)
    folder = dag.order(load_folder(place, overrides)) if place.is_dir() else None
    chosen = folder if folder is not None else [load(place, overrides)]
    question = Question(probe=probe, price=price, processes=processes, runs_dir=Path(runs_dir))
    rows = plan(chosen, neighbours=folder if folder is not None else _neighbours(place), question=question)
    total = {key: _sum(rows, key) for key in ("flops", "seconds", "money")}
    if json:
        print(json_format.dumps({"plan": rows, "total": total}))
    else:
        _show(path, rows, total, question)
    return 0


def plan(
    recipes: Sequence[LoadedRecipe], *, neighbours: Sequence[LoadedRecipe], question: Question | None = None
) -> list[dict[str, Any]]:
    """Return one row a recipe; None stands where a number is not known.

    stage, run; parameters; tokens (trained on); flops; state_bytes (weights, gradients, optimizer); memory
    (bytes of each part) and peak_bytes, both of one process; tokens_per_second of all processes; seconds of
    the stage; their basis: `measured` here, `scaled` by FLOPs from the pretraining's, `assumed`; money; note.

    Args:
        neighbours: the recipes in which references such as `runs/tiny/pretrain` are looked up.
        question: None asks for no probe.
    """
    by_reference = {f"runs/{loaded.name}": loaded for loaded in neighbours}
    by_reference |= {f"runs/{loaded.name}": loaded for loaded in recipes}
    return [_row(loaded, by_reference, question or Question(probe=False)) for loaded in recipes]


def _neighbours(path: Path) -> list[LoadedRecipe]:
    return read_folder(path.parent)[0] if path.parent.is_dir() else []


def _row(loaded: LoadedRecipe, by_reference: dict[str, LoadedRecipe], question: Question) -> dict[str, Any]:
    recipe = loaded.recipe
    row: dict[str, Any] = {"stage": recipe.stage, "run": loaded.name}
    row |= dict.fromkeys((
        "parameters", "tokens", "flops", "state_bytes", "memory", "peak_bytes", "tokens_per_second",
        "seconds", "basis", "money",
    ))  # fmt: skip
    row["note"] = ""
    cost = STAGES[recipe.stage].cost
    base = None if cost is None else _pretraining(recipe, loaded, by_reference)
    vocab_size = None if base is None else _vocabulary(base.recipe, by_reference, question)
    if base is None or vocab_size is None:
        row["note"] = "no training" if cost is None else "the model's shape is not in these recipes"
        return row
    model = base.recipe.model
    row["parameters"] = num_parameters(model, vocab_size=vocab_size)
    row["state_bytes"] = row["parameters"] * cost.bytes_per_parameter
    row["tokens"], factor, row["note"] = _work(recipe, model)
    if row["tokens"] is not None:
        row["flops"] = int(row["tokens"] * factor * _flops(recipe, model, vocab_size))
    answer = _answer(base, vocab_size, question)
    if isinstance(recipe, schema.PretrainRecipe):
        _remember(row, recipe, vocab_size, answer, question)
    _time(row, recipe, base.recipe, vocab_size, answer, question)
    if row["seconds"] is not None and question.price is not None:
        row["money"] = row["seconds"] / 3600 * question.processes * question.price
    return row


def _pretraining(
    recipe: schema.StageRecipe, loaded: LoadedRecipe, by_reference: dict[str, LoadedRecipe]
) -> LoadedRecipe | None:
    """Return the pretraining that a recipe is, or whose model it goes on with, following its references."""
    seen: set[str] = set()
    while not isinstance(recipe, schema.PretrainRecipe):
        reference = getattr(recipe, "model", None)
        if not isinstance(reference, str) or reference in seen or reference not in by_reference:
            return None
        seen.add(reference)
        loaded = by_reference[reference]
        recipe = loaded.recipe
    return loaded


def _vocabulary(
    recipe: schema.PretrainRecipe, by_reference: dict[str, LoadedRecipe], question: Question
) -> int | None:
    """Return the entries of the vocabulary: of the corpus that is there, or as its recipes ask for."""
    index = _index(recipe, "train", question)
    if index is not None:
        return index["vocab_size"]
    corpus = by_reference.get(recipe.tokens)
    tokenizer = by_reference.get(corpus.recipe.tokenizer) if corpus else None
    return tokenizer.recipe.vocab_size if tokenizer else None


def _index(recipe: schema.PretrainRecipe, part: str, question: Question) -> dict[str, Any] | None:
    """Return what a corpus says of itself; None where it is not there (yet)."""
    place = references.run_path(recipe.tokens, question.runs_dir) or Path(recipe.tokens)
    if seal.is_run(place) and not seal.is_sealed(place):
        return None
    folder = references.corpus_folder(place)
    return None if folder is None else files.read_json(folder / part / "index.json")


# Work


def _flops(recipe: schema.StageRecipe, model: schema.ModelSettings, vocab_size: int) -> float:
    """Return the operations of training on one token; the mean of the lengths where rows grow."""
    if isinstance(recipe, schema.PretrainRecipe):
        return mean_flops_per_token(recipe, vocab_size=vocab_size)
    length = _sequence_length(recipe, model)
    return flops_per_token(model, vocab_size=vocab_size, sequence_length=length)


def _sequence_length(recipe: schema.StageRecipe, model: schema.ModelSettings) -> int:
    if isinstance(recipe, schema.PretrainRecipe):
        return recipe.row_tokens()
    if isinstance(recipe, schema.PpoRecipe):
        return recipe.trainer.max_prompt_tokens + recipe.trainer.max_new_tokens
    return min(recipe.trainer.get("max_length") or model.n_positions, model.n_positions)


def _work(recipe: schema.StageRecipe, model: schema.ModelSettings) -> tuple[int | None, float, str]:
    """Return (tokens, training passes that one token costs, note).

    A training pass is forward and backward (6 N); a forward pass alone is a third of one.
    """
    length = _sequence_length(recipe, model)
    if isinstance(recipe, schema.PretrainRecipe):
        return recipe.train_tokens, 1.0, f"{recipe.train_tokens // recipe.batch_tokens:,} steps"
    if isinstance(recipe, schema.PpoRecipe):
        settings = recipe.trainer
        # Sampling, old policy, reference, value and reward: 5 forward passes; then policy and value train.
        passes = 5 / 3 + 2 * settings.epochs
        return settings.episodes * length, passes, "at most; sampling is slower than its operations"
    examples = _examples(recipe)
    if examples is None:
        return None, 0.0, "examples: as many as the data have"
    cost = STAGES[recipe.stage].cost
    return int(examples * length * cost.sequences_per_example), cost.passes_per_token, "at most"


def _examples(recipe: schema.TrainerRecipe) -> float | None:
    """Return the examples that training reads, epochs counted; None where the data must be asked."""
    max_steps = recipe.trainer.get("max_steps", -1)
    if max_steps > 0:
        return max_steps * recipe.batch_examples
    if any(source.examples is None for source in recipe.data):
        return None
    return recipe.trainer.get("num_train_epochs", 3.0) * sum(source.examples for source in recipe.data)


# Memory and time


def _remember(
    row: dict[str, Any], recipe: schema.PretrainRecipe, vocab_size: int, answer: dict[str, Any],
    question: Question,
) -> None:  # fmt: skip
    """Fill in the memory; without a probe a GPU is there if the recipe asks for one, and bf16 with it."""
    share = recipe.batch_tokens % (_sequence_length(recipe, recipe.model) * question.processes)
    if share:
        raise UsageError(
            f"batch_tokens {recipe.batch_tokens} is not a whole number of rows on each of "
            f"{question.processes} processes",
            where=row["run"], fix="take another --processes, or another batch_tokens",
        )  # fmt: skip
    on_gpu = answer.get("device", recipe.device) == "cuda"
    native = on_gpu or bool(hardware.processor()["bf16"])
    precision = recipe.precision if recipe.precision != "auto" else "bf16" if native else "fp32"
    need = memory.estimate(
        recipe, vocab_size=vocab_size, bf16=precision == "bf16", on_gpu=on_gpu, processes=question.processes
    )
    row["state_bytes"] = need.weights + need.gradients + need.optimizer
    row["memory"], row["peak_bytes"] = need.parts(), need.peak


def _answer(base: LoadedRecipe, vocab_size: int, question: Question) -> dict[str, Any]:
    """Return what the probe of a pretraining says, asked once; {} where none was to be made."""
    if not question.probe:
        return {}
    if base.name not in question.answers:
        print(f"{base.name}: a few training steps, to see how fast this machine is (--no-probe skips them)",
              file=sys.stderr, flush=True)  # fmt: skip
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
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise RunError(f"the probe failed: {last}", where=base.name, fix="plan with --no-probe")
    answer = json_format.loads(done.stdout.strip().splitlines()[-1])
    return answer | {"starting_seconds": time.monotonic() - began - answer.get("measuring_seconds", 0.0)}


def _time(
    row: dict[str, Any], recipe: schema.StageRecipe, base: schema.PretrainRecipe, vocab_size: int,
    answer: dict[str, Any], question: Question,
) -> None:  # fmt: skip
    """Fill in the seconds, what they rest on, and the tokens trained on in one of them."""
    pretrains = isinstance(recipe, schema.PretrainRecipe)
    measured = "tokens_per_second" in answer and (recipe.device, answer["device"]) != ("cuda", "cpu")
    if "refused" in answer:
        row["note"] += f"; no probe here: {answer['refused']}"
    if row["flops"] is None or not (measured or recipe.device == "cuda"):
        return
    if measured:
        full = _sequence_length(base, base.model)
        flops = flops_per_token(base.model, vocab_size=vocab_size, sequence_length=full)
        rate = answer["tokens_per_second"] * flops
        row["basis"] = "measured" if pretrains else "scaled"
        row["note"] += "" if pretrains else "; time scaled by FLOPs from the pretraining's"
    else:
        rate = ASSUMED_FLOPS * question.processes
        row["basis"] = "assumed"
        row["note"] += f"; time at an assumed {ASSUMED}" + " on each GPU" * (question.processes > 1)
    row["seconds"] = row["flops"] / rate
    if pretrains:
        row["tokens_per_second"] = row["tokens"] / row["seconds"]
        if measured:
            row["seconds"] += answer["starting_seconds"] + _measuring(recipe, answer, question)
            row["note"] += f"; {answer['steps']} steps of {answer['micro_batch_tokens']:,} tokens were timed"


def _measuring(recipe: schema.PretrainRecipe, answer: dict[str, Any], question: Question) -> float:
    """Return the seconds that scoring held-out text takes: eleven times in part, and at the end all of it.

    Where the corpus is not there yet, a document is taken to have half a row, and there are as many as
    `evaluate_documents`.
    """
    index = _index(recipe, "held_out", question)
    window = recipe.model.n_positions
    count = index["documents"] if index else recipe.evaluate_documents
    each = index["tokens"] / max(1, count) if index else window / 2
    again = 2 if each > window else 1  # windows overlap by half
    every = max(recipe.batch_tokens, recipe.evaluate_every_tokens or recipe.train_tokens / 10)
    looks = 1 + recipe.train_tokens / every
    part = min(each * min(count, recipe.evaluate_documents), recipe.evaluate_tokens)
    quick = looks * part * answer["score_seconds"]["quick"]
    return again * (quick + each * count * answer["score_seconds"]["full"]) / question.processes


# What is shown


def _show(path: str, rows: list[dict[str, Any]], total: dict[str, float | None], question: Question) -> None:
    console = Console(stderr=True)
    names = ("stage", "weights", "tokens", "FLOPs", "GiB", "tokens/s", "time")
    table = Table(*names, title=f"plan of {path}", title_justify="left", box=None, pad_edge=False)
    if question.price is not None:
        table.add_column("money")
    for row in rows:
        about = "" if row["basis"] in (None, "measured") else "~"
        bytes_ = row["peak_bytes"] or row["state_bytes"]
        cells = [
            row["stage"], _short(row["parameters"]), _short(row["tokens"]),
            "-" if row["flops"] is None else f"{row['flops']:.1e}",
            "-" if bytes_ is None else f"{'' if row['peak_bytes'] else '>'}{bytes_ / 2**30:.2f}",
            _short(row["tokens_per_second"] and round(row["tokens_per_second"])),
            "-" if row["seconds"] is None else about + _duration(row["seconds"]),
            "-" if row["money"] is None else f"{about}{row['money']:.2f}",
        ]  # fmt: skip
        table.add_row(*cells[: len(table.columns)])
    console.print(table)
    for row in rows:
        if row["note"] != "no training":
            print(f"{row['stage']}: {row['note']}", file=sys.stderr)
    _show_total(rows, total, question)


def _show_total(rows: list[dict[str, Any]], total: dict[str, float | None], question: Question) -> None:
    if total["seconds"] is not None:
        left_out = [row["stage"] for row in rows if row["seconds"] is None]
        words = f"; not counted: {', '.join(left_out)}" if left_out else ""
        many = f" on {question.processes} processes" if question.processes > 1 else ""
        money = "" if total["money"] is None else f", {total['money']:.2f} at {question.price:g} an hour each"
        print(f"in all {_duration(total['seconds'])}{many}{money}{words}", file=sys.stderr)
    elif total["flops"] is not None:
        flops = total["flops"]
        print(
            f"{flops:.2e} floating-point operations in the stages that can be counted: "
            f"{_duration(flops / 0.2e12)} at 0.2 TFLOP/s (2 laptop cores), "
            f"{_duration(flops / ASSUMED_FLOPS)} at {ASSUMED}",
            file=sys.stderr,
        )


def _sum(rows: list[dict[str, Any]], key: str) -> float | None:
    known = [row[key] for row in rows if row[key] is not None]
    return sum(known) if known else None


def _short(number: int | None) -> str:
    if number is None:
        return "-"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"
