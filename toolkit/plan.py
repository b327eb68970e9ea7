"""`toolkit plan`: what a recipe costs, before it is spent. Nothing here imports torch or reads data."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from toolkit.models.shape import flops_per_token, num_parameters
from toolkit.recipe import schema
from toolkit.recipe.reader import LoadedRecipe, load, load_folder, read_folder
from toolkit.runs import pipeline

TRAINED = (schema.SftRecipe, schema.RewardRecipe, schema.DpoRecipe)


def plan_command(path: str, overrides: Sequence[str] = (), *, json: bool = False) -> int:
    """Print the plan of a recipe or a folder: a table on stderr, or one JSON object on stdout."""
    place = Path(path)
    folder = pipeline.order(load_folder(place, overrides)) if place.is_dir() else None
    chosen = folder if folder is not None else [load(place, overrides)]
    rows = plan(chosen, neighbours=folder if folder is not None else _neighbours(place))
    if json:
        print(json_format.dumps({"plan": rows}))
        return 0
    console = Console(stderr=True)
    table = Table("stage", "parameters", "tokens", "FLOPs", "training state", "note", title=f"plan of {path}")
    for row in rows:
        table.add_row(
            row["stage"],
            _short(row["parameters"]),
            _short(row["tokens"]),
            "-" if row["flops"] is None else f"{row['flops']:.2e}",
            "-" if row["state_bytes"] is None else f"{row['state_bytes'] / 2**20:,.0f} MiB",
            row["note"],
        )
    console.print(table)
    known = [row["flops"] for row in rows if row["flops"] is not None]
    if known:
        total = sum(known)
        print(
            f"{total:.2e} floating-point operations in the stages that can be counted: "
            f"{_duration(total / 0.2e12)} at 0.2 TFLOP/s (2 laptop cores), {_duration(total / 400e12)} at "
            f"400 TFLOP/s (one H100 in bf16, 40% used).",
            file=sys.stderr,
        )
    return 0


def plan(recipes: Sequence[LoadedRecipe], *, neighbours: Sequence[LoadedRecipe]) -> list[dict]:
    """Return one row a recipe: stage, run, parameters, tokens, flops, state_bytes (None where unknown), note.

    `neighbours` are the recipes in which references such as `runs/tiny/pretrain` are looked up.
    """
    by_reference = {f"runs/{loaded.name}": loaded for loaded in neighbours}
    return [_row(loaded, by_reference) for loaded in recipes]


def _neighbours(path: Path) -> list[LoadedRecipe]:
    return read_folder(path.parent)[0] if path.parent.is_dir() else []


def _row(loaded: LoadedRecipe, by_reference: dict[str, LoadedRecipe]) -> dict:
    recipe = loaded.recipe
    row = {
        "stage": recipe.stage,
        "run": loaded.name,
        "parameters": None,
        "tokens": None,
        "flops": None,
        "state_bytes": None,
        "note": "",
    }
    shape = _shape(recipe, by_reference)
    if shape is None:
        trains = isinstance(recipe, (schema.PretrainRecipe, schema.PpoRecipe, *TRAINED))
        row["note"] = "the model's shape is not in these recipes" if trains else "no training"
        return row
    model, vocab_size = shape
    row["parameters"] = num_parameters(model, vocab_size=vocab_size)
    # Weights, gradients and two moments in fp32: 16 bytes a weight; references and rewards: 4 more each.
    copies = {"dpo": 20, "ppo": 16 + 16 + 4 + 4}.get(recipe.stage, 16)
    row["state_bytes"] = row["parameters"] * copies
    tokens, factor, row["note"] = _work(recipe, model)
    row["tokens"] = tokens
    if tokens is not None:
        length = _sequence_length(recipe, model)
        row["flops"] = int(
            tokens * factor * flops_per_token(model, vocab_size=vocab_size, sequence_length=length)
        )
    return row


def _shape(recipe: schema.StageRecipe, by_reference: dict[str, LoadedRecipe]) -> tuple | None:
    """Return (ModelSettings, vocabulary) of what the recipe trains, following its references."""
    seen: set[str] = set()
    while not isinstance(recipe, schema.PretrainRecipe):
        reference = getattr(recipe, "model", None)
        if not isinstance(reference, str) or reference in seen or reference not in by_reference:
            return None
        seen.add(reference)
        recipe = by_reference[reference].recipe
    corpus = by_reference.get(recipe.tokens)
    tokenizer = by_reference.get(corpus.recipe.tokenizer) if corpus else None
    return (recipe.model, tokenizer.recipe.vocab_size) if tokenizer else None


def _sequence_length(recipe: schema.StageRecipe, model: schema.ModelSettings) -> int:
    if isinstance(recipe, schema.PretrainRecipe):
        return recipe.sequence_length or model.n_positions
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
        return settings.episodes * length, passes, "at most"
    examples = _examples(recipe)
    if examples is None:
        return None, 0.0, "examples: as many as the data have"
    # A pair is two sequences; DPO also reads both with the reference (a forward pass, a third).
    sequences, passes = {"sft": (1, 1.0), "reward": (2, 1.0), "dpo": (2, 1 + 1 / 3)}[recipe.stage]
    return int(examples * length * sequences), passes, "at most"


def _examples(recipe: schema.TrainerRecipe) -> float | None:
    """Return the examples that training reads, epochs counted; None where the data must be asked."""
    max_steps = recipe.trainer.get("max_steps", -1)
    if max_steps > 0:
        return max_steps * recipe.batch_examples
    sources = recipe.data if isinstance(recipe.data, list) else [recipe.data]
    if any(source.examples is None for source in sources):
        return None
    return recipe.trainer.get("num_train_epochs", 3.0) * sum(source.examples for source in sources)


def _short(number: int | None) -> str:
    if number is None:
        return "-"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 1 else "less than a second"
