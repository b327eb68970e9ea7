"""The tables of docs/RECIPES.md, from the schema: `python -m tools.recipe_tables docs/RECIPES.md`."""

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

# What the schema's own docstrings leave to the name, said for people who do not know the name.
MEANINGS = {
    "stage": "Which stage this is.",
    "TokenizerRecipe.data": "The text to learn from.",
    "CorpusRecipe.tokenizer": "A sealed tokenizer run, a folder, or `hub-id@revision`.",
    "CorpusRecipe.data": "The text to tokenize.",
    "PretrainRecipe.train_tokens": "Tokens of the whole training.",
    "PretrainRecipe.keep_checkpoints": "So many of the newest checkpoints are kept.",
    "log_every_steps": "Steps between two lines of metrics.jsonl.",
    "precision": "`auto`: bf16 where the machine computes it natively.",
    "ModelSettings.architecture": "GPT-2.",
    "ModelSettings.n_layer": "Blocks.",
    "ModelSettings.n_head": "Attention heads of a block; `n_embd` must be a multiple.",
    "ModelSettings.n_embd": "Width: numbers that stand for one token.",
    "ModelSettings.n_positions": "Tokens that the model can see at once.",
    "dropout": "Share of activations that are dropped while training.",
    "OptimizerSettings.name": "AdamW for all weights, or Muon for the matrices of the blocks.",
    "OptimizerSettings.weight_decay": "Decoupled weight decay, of matrices only.",
    "OptimizerSettings.beta1": "AdamW: decay of the mean of gradients.",
    "OptimizerSettings.beta2": "AdamW: decay of the mean of squared gradients.",
    "ScheduleSettings.name": "Shape of the decay; `wsd` is flat until `decay_tokens` before the end.",
    "ScheduleSettings.warmup_tokens": "Tokens over which the learning rate rises from 0 to its peak.",
    "ScheduleSettings.final_fraction": "Share of the peak at the end.",
    "SampleSettings.prompts": "Texts to continue.",
    "max_new_tokens": "Longest continuation or answer.",
    "max_prompt_tokens": "Longest prompt; a longer one loses its oldest turns, then its beginning.",
    "SampleSettings.temperature": "0 takes the most probable token.",
    "TrainerRecipe.data": "What is learned from: conversations for sft, preferences for reward and dpo.",
    "LoraSettings.r": "Rank of the adapters.",
    "LoraSettings.alpha": "Adapters are scaled by alpha / r.",
    "LoraSettings.target_modules": "Layers that get adapters, by the last part of their names.",
    "PpoRecipe.rewards": "More rewards, added to the reward model's score with their weights.",
    "PpoRecipe.early_stopping": "A held-out judge, asked while it trains.",
    "PpoTrainerSettings.learning_rate": "Of the policy.",
    "PpoTrainerSettings.gamma": "Discount per token.",
    "PpoTrainerSettings.gae_lambda": "Of generalized advantage estimation (Schulman et al., 2016).",
    "PpoTrainerSettings.clip_range": "Probability ratios beyond 1 +- this have no gradient.",
    "PpoTrainerSettings.value_clip_range": "The same for the change of a value.",
    "PpoTrainerSettings.value_coefficient": "Weight of the value loss.",
    "PpoTrainerSettings.entropy_coefficient": "Weight of the entropy bonus.",
    "PpoTrainerSettings.max_grad_norm": "Gradients are clipped to this global L2 norm.",
    "PpoTrainerSettings.whiten_advantages": "Advantages get mean 0 and variance 1.",
    "WinRateSettings.baseline": "The one of `models` that the others are compared with.",
    "WinRateSettings.batch_examples": "Answers generated at once.",
    "WinRateSettings.bootstrap_samples": "Resamples of the interval.",
}
SECTIONS: dict[str, list[tuple[str, type[BaseModel]]]] = {
    "every stage": [("", schema.StageRecipe)],
    "data": [("data", schema.DataSource), ("held_out", schema.HeldOut)],
    "tokenizer": [("", schema.TokenizerRecipe)],
    "corpus": [("", schema.CorpusRecipe)],
    "pretrain": [("", schema.PretrainRecipe), ("model", schema.ModelSettings),
                 ("optimizer", schema.OptimizerSettings), ("schedule", schema.ScheduleSettings),
                 ("speed", schema.SpeedSettings), ("length_warmup", schema.LengthSettings),
                 ("guard", schema.GuardSettings), ("samples", schema.SampleSettings)],
    "sft, reward, dpo": [("", schema.TrainerRecipe), ("lora", schema.LoraSettings)],
    "ppo": [
        ("", schema.PpoRecipe),
        ("rewards", schema.RewardSettings),
        ("early_stopping", schema.EarlyStoppingSettings),
        ("trainer", schema.PpoTrainerSettings),
    ],
    "evaluate": [("", schema.EvaluateRecipe), ("perplexity", schema.PerplexitySettings),
                 ("win_rate", schema.WinRateSettings)],
}  # fmt: skip


def meaning(model: type[BaseModel], name: str) -> str:
    """What a setting means, in one or two sentences."""
    info = model.model_fields[name]
    nested = [one for one in alternatives(info.annotation) if is_model(one) and one is not schema.DataSource]
    described = info.description or MEANINGS.get(f"{model.__name__}.{name}") or MEANINGS.get(name)
    described = described or (nested[0].__doc__ if nested else None)
    if not described:
        raise KeyError(f"say in MEANINGS what {model.__name__}.{name} is")
    return " ".join(described.split()) + (" See below." if nested else "")


def table(model: type[BaseModel], prefix: str) -> str:
    """A Markdown table of the settings of a model, inherited ones left out."""
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    inherited = model.__mro__[1].model_fields if model.__mro__[1] is not schema.Settings else {}
    for name, info in model.model_fields.items():
        if name in inherited or (name == "stage" and model is not schema.StageRecipe):
            continue
        key = f"{prefix}.{name}" if prefix else name
        rows.append(f"| `{key}` | {_kind(model, name)} | {_default(info)} | {meaning(model, name)} |")
    return "\n".join(rows)


def _kind(model: type[BaseModel], name: str) -> str:
    words: list[str] = []
    for one in alternatives(model.model_fields[name].annotation):
        origin = typing.get_origin(one)
        if origin is typing.Literal:
            words += [f"`{item}`" for item in typing.get_args(one)]
        elif is_model(one) or origin is dict:
            words.append("mapping")
        elif origin is list:
            words.append("list")
        else:
            words.append({bool: "true, false", int: "integer", float: "number", str: "string"}[one])
    info = model.model_fields[name]
    within = [bound for one in typing.get_args(info.annotation) for bound in _bounds_within(one)]
    return ", ".join([*words, *_bounds(info.metadata), *within])


def _bounds_within(annotation: Any) -> list[str]:
    """The bounds of `Annotated[int, Field(gt=0)]` where it is one of several types."""
    fields = [one for one in typing.get_args(annotation) if hasattr(one, "metadata")]
    return [bound for one in fields for bound in _bounds(one.metadata)]


def _bounds(metadata: Any) -> list[str]:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    known = [(one, name) for one in metadata for name in signs if hasattr(one, name)]
    return [f"{signs[name]} {getattr(one, name)}" for one, name in known]


def _default(info: Any) -> str:
    if info.default is PydanticUndefined:
        return "**required**"
    if info.default is None or isinstance(info.default, BaseModel) or info.default == {}:
        return ""
    return f"`{info.default if isinstance(info.default, str) else shown(info.default)}`"


def owned_table() -> str:
    """Upstream keys that `trainer:` refuses, by what to write instead."""
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


def filled(text: str) -> str:
    """The page with every table between `<!-- settings: x -->` and `<!-- end -->` written anew."""

    def replace(found: re.Match[str]) -> str:
        name = found[1]
        body = (
            owned_table()
            if name == "owned"
            else "\n\n".join(table(model, prefix) for prefix, model in SECTIONS[name])
        )
        return f"<!-- settings: {name} -->\n\n{body}\n\n<!-- end -->"

    return re.sub(r"<!-- settings: (.+?) -->.*?<!-- end -->", replace, text, flags=re.DOTALL)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
