"""Generate the tables of the documentation: `python -m tools.recipe_tables docs/RECIPES.md`.

Those of docs/RECIPES.md come from the schema, that of docs/DATA.md from the columns that are known.
"""

from __future__ import annotations

import re
import sys
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from toolkit.config import schema, trl_checks
from toolkit.config.messages import alternatives, is_model, shown
from toolkit.data.chat import columns

# Descriptions of the settings that have no docstring in the schema.
DESCRIPTIONS = {
    "stage": "Name of the stage.",
    "TokenizerRecipe.data": "Text to train the tokenizer on.",
    "CorpusRecipe.tokenizer": "A sealed tokenizer run, or the folder or `hub-id@revision` of a checkpoint, "
    "whose tokenizer stays as it is.",
    "CorpusRecipe.data": "The text to tokenize.",
    "PretrainRecipe.train_tokens": "Total number of training tokens.",
    "PretrainRecipe.keep_checkpoints": "Number of newest checkpoints to keep.",
    "log_every_steps": "Interval of the lines in metrics.jsonl, in steps.",
    "precision": "`auto`: bf16 if the hardware supports it natively.",
    "ModelSettings.n_layer": "Number of transformer blocks.",
    "ModelSettings.n_head": "Number of attention heads; must divide `n_embd`.",
    "ModelSettings.n_embd": "Embedding size.",
    "ModelSettings.n_positions": "Maximum context length in tokens.",
    "dropout": "Dropout probability during training.",
    "OptimizerSettings.name": "`adamw`, or `muon` for the matrices of the blocks and AdamW for the rest.",
    "OptimizerSettings.weight_decay": "Decoupled weight decay, of matrices only.",
    "OptimizerSettings.beta1": "AdamW: decay rate of the first moment.",
    "OptimizerSettings.beta2": "AdamW: decay rate of the second moment.",
    "ScheduleSettings.name": "Shape of the decay; `wsd` is constant until `decay_tokens` before the end.",
    "ScheduleSettings.warmup_tokens": "Tokens over which the learning rate rises from 0 to its peak.",
    "ScheduleSettings.final_fraction": "Final learning rate as a fraction of the peak.",
    "max_new_tokens": "Maximum number of generated tokens.",
    "max_prompt_tokens": "Maximum prompt length; a longer prompt loses its oldest turns, then its beginning.",
    "SampleSettings.temperature": "Sampling temperature; 0 is greedy.",
    "TrainerRecipe.data": "Training data: conversations for sft, preferences for reward and dpo.",
    "LoraSettings.r": "Rank of the adapters.",
    "LoraSettings.alpha": "Adapters are scaled by alpha / r.",
    "PpoRecipe.rewards": "Additional rewards, added to the reward model's score with their weights.",
    "PpoRecipe.early_stopping": "Evaluation by a held-out judge during training.",
    "PpoTrainerSettings.learning_rate": "Learning rate of the policy.",
    "PpoTrainerSettings.gamma": "Discount factor per token.",
    "PpoTrainerSettings.gae_lambda": "Lambda of generalized advantage estimation (Schulman et al., 2016).",
    "PpoTrainerSettings.clip_range": "Clip range of the probability ratio: 1 +- this value.",
    "PpoTrainerSettings.value_clip_range": "Clip range of the change of a value.",
    "PpoTrainerSettings.value_coefficient": "Weight of the value loss.",
    "PpoTrainerSettings.entropy_coefficient": "Weight of the entropy bonus.",
    "PpoTrainerSettings.max_grad_norm": "Gradients are clipped to this global L2 norm.",
    "PpoTrainerSettings.whiten_advantages": "Normalize advantages to mean 0 and variance 1.",
    "WinRateSettings.baseline": "The model in `models` that the others are compared with.",
    "WinRateSettings.batch_examples": "Answers generated at once.",
    "WinRateSettings.bootstrap_samples": "Number of bootstrap resamples per interval.",
}
SECTIONS: dict[str, list[tuple[str, type[BaseModel]]]] = {
    "every stage": [("", schema.StageRecipe)],
    "data": [("data", schema.DataSource), ("columns", schema.Columns),
             ("held_out", schema.HeldOut)],
    "tokenizer": [("", schema.TokenizerRecipe)],
    "corpus": [("", schema.CorpusRecipe)],
    "pretrain": [("", schema.PretrainRecipe), ("model", schema.ModelSettings),
                 ("optimizer", schema.OptimizerSettings), ("schedule", schema.ScheduleSettings),
                 ("speed", schema.SpeedSettings), ("length_warmup", schema.LengthSettings),
                 ("guard", schema.GuardSettings), ("samples", schema.SampleSettings)],
    "preferences": [("", schema.PreferencesRecipe), ("annotator", schema.AnnotatorSettings),
                    ("annotator.biases", schema.BiasSettings)],
    "sft, reward, dpo": [("", schema.TrainerRecipe), ("lora", schema.LoraSettings), ("", schema.SftRecipe)],
    "ppo": [
        ("", schema.PpoRecipe),
        ("rewards", schema.RewardSettings),
        ("early_stopping", schema.EarlyStoppingSettings),
        ("trainer", schema.PpoTrainerSettings),
    ],
    "evaluate": [("", schema.EvaluateRecipe), ("perplexity", schema.PerplexitySettings),
                 ("win_rate", schema.WinRateSettings)],
}  # fmt: skip


def description(model: type[BaseModel], name: str) -> str:
    """Return the description of a setting in one or two sentences."""
    info = model.model_fields[name]
    nested = [
        option
        for option in alternatives(info.annotation)
        if is_model(option) and option is not schema.DataSource
    ]
    text = info.description or DESCRIPTIONS.get(f"{model.__name__}.{name}") or DESCRIPTIONS.get(name)
    text = text or (nested[0].__doc__ if nested else None)
    if not text:
        raise KeyError(f"{model.__name__}.{name} has no description; add one to DESCRIPTIONS")
    return " ".join(text.split()) + (" See below." if nested else "")


def table(model: type[BaseModel], prefix: str) -> str:
    """Return a Markdown table of the settings of a model without inherited ones."""
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    inherited = model.__mro__[1].model_fields if model.__mro__[1] is not schema.Settings else {}
    for name, info in model.model_fields.items():
        if name in inherited or (name == "stage" and model is not schema.StageRecipe):
            continue
        key = f"{prefix}.{name}" if prefix else name
        rows.append(f"| `{key}` | {_kind(model, name)} | {_default(info)} | {description(model, name)} |")
    return "\n".join(rows)


def _kind(model: type[BaseModel], name: str) -> str:
    words: list[str] = []
    for option in alternatives(model.model_fields[name].annotation):
        origin = typing.get_origin(option)
        if origin is typing.Literal:
            words += [f"`{item}`" for item in typing.get_args(option)]
        elif is_model(option) or origin is dict:
            words.append("mapping")
        elif origin is list:
            words.append("list")
        else:
            words.append({bool: "true, false", int: "integer", float: "number", str: "string"}[option])
    info = model.model_fields[name]
    within = [bound for argument in typing.get_args(info.annotation) for bound in _bounds_within(argument)]
    return ", ".join([*words, *_bounds(info.metadata), *within])


def _bounds_within(annotation: Any) -> list[str]:
    """Return the bounds of each `Annotated[int, Field(gt=0)]` in a union."""
    fields = [argument for argument in typing.get_args(annotation) if hasattr(argument, "metadata")]
    return [bound for field in fields for bound in _bounds(field.metadata)]


def _bounds(metadata: Any) -> list[str]:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    constraints = [(item, name) for item in metadata for name in signs if hasattr(item, name)]
    return [f"{signs[name]} {getattr(item, name)}" for item, name in constraints]


def _default(info: Any) -> str:
    if info.default is PydanticUndefined:
        return "**required**"
    if info.default is None or isinstance(info.default, BaseModel) or info.default == {}:
        return ""
    return f"`{info.default if isinstance(info.default, str) else shown(info.default)}`"


def owned_table() -> str:
    """Return the table of upstream keys that `trainer:` refuses, grouped by replacement."""
    by_reason: dict[str, list[str]] = {}
    for key, reason in trl_checks.OWNED.items():
        by_reason.setdefault(reason, []).append(f"`{key}`")
    return "\n".join(
        [
            "| key | instead |",
            "|---|---|",
            *(f"| {', '.join(keys)} | {reason} |" for reason, keys in by_reason.items()),
        ]
    )


def columns_table() -> str:
    """Return the table of the columns that are read, refused, warned about or ignored."""
    lines = ["| columns | | |", "|---|---|---|"]
    for column in columns.COLUMNS:
        names = ", ".join(f"`{name}`" for name in column.names)
        lines.append(f"| {names} | {column.status} | {column.note} |")
    return "\n".join(lines)


GENERATED = {"owned": owned_table, "columns": columns_table}
"""Tables that are not of settings."""


def filled(text: str) -> str:
    """Return the page with every table between `<!-- settings: x -->` and `<!-- end -->` regenerated."""

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name in GENERATED:
            body = GENERATED[name]()
        else:
            body = "\n\n".join(table(model, prefix) for prefix, model in SECTIONS[name])
        return f"<!-- settings: {name} -->\n\n{body}\n\n<!-- end -->"

    return re.sub(r"<!-- settings: (.+?) -->.*?<!-- end -->", replace, text, flags=re.DOTALL)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
