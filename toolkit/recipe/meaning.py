"""What a schema cannot say: settings that contradict each other, or that would have no effect."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from toolkit.recipe.schema import (
    DataSource,
    EvaluateRecipe,
    PpoRecipe,
    PretrainRecipe,
    StageRecipe,
    TrainerRecipe,
)
from toolkit.recipe.source import Key

Found = list[tuple[Key, str]]

# Storyworld's configurations that a setting can be read from: prompts can be taken from all conversations.
_TEXTS = ("stories", "conversations")
_PROMPTS = ("prompts", "conversations", "preferences")
CONFIGS = {"tokenizer": _TEXTS, "corpus": _TEXTS, "perplexity": _TEXTS, "sft": ("conversations",),
           "reward": ("preferences",), "dpo": ("preferences",), "ppo": _PROMPTS, "win_rate": _PROMPTS,
           "judge_data": ("preferences",)}
EVERY_CONFIG = ("stories", "conversations", "preferences", "prompts")


def check(recipe: StageRecipe) -> Found:
    """(key, sentence) for every contradiction that needs neither data nor parents to be seen."""
    found = [one for key, source in sources(recipe) for one in _source(recipe.stage, key, source)]
    if isinstance(recipe, PretrainRecipe):
        found += _pretrain(recipe)
    if isinstance(recipe, TrainerRecipe):
        found += _batch(recipe.batch_examples, recipe.micro_batch_examples, "batch_examples")
    if isinstance(recipe, PpoRecipe):
        found += _ppo(recipe)
    if isinstance(recipe, EvaluateRecipe):
        found += _evaluate(recipe)
    return found


def sources(value: BaseModel, key: Key = ()) -> Iterator[tuple[Key, DataSource]]:
    """Every data source of a recipe with its key, those in lists and nested settings included."""
    for name in type(value).model_fields:
        held = getattr(value, name)
        entries = list(enumerate(held)) if isinstance(held, list) else [(None, held)]
        for place, one in entries:
            here = (*key, name) if place is None else (*key, name, place)
            if isinstance(one, DataSource):
                yield here, one
            elif isinstance(one, BaseModel):
                yield from sources(one, here)


def is_local(name: str) -> bool:
    """Whether a data name means files rather than a dataset of the Hub (which has at most one slash)."""
    if name.startswith((".", "/", "~")) or re.search(r"[*?\[\\]", name) or Path(name).exists():
        return True
    return "@" not in name and (name.count("/") > 1 or bool(re.search(r"\.[A-Za-z]\w{1,7}$", name)))


def _source(stage: str, key: Key, source: DataSource) -> Found:
    use = "judge_data" if "judge_data" in key else key[0] if stage == "evaluate" else stage
    found: Found = []
    if source.name == "storyworld":
        found += _storyworld(str(use), key, source)
    else:
        found += [((*key, name), "has an effect only with name: storyworld")
                  for name in ("flawed_share", "temperature") if getattr(source, name) is not None]
    if "weight" in source.model_fields_set and not isinstance(key[-1], int):
        found.append(((*key, "weight"), "has an effect only in a list of sources"))
    if source.name != "storyworld" and is_local(source.name):
        if source.split not in (None, "all"):
            found.append(((*key, "split"), f"local files have no split {source.split!r}, only all"))
        if source.config is not None:
            found.append(((*key, "config"), "has no effect: local files have no configurations"))
    held_out = source.held_out
    if held_out and held_out.last_characters and use not in ("tokenizer", "corpus", "perplexity"):
        found.append(((*key, "held_out", "last_characters"), "is for one long text; write documents"))
    return found


def _storyworld(use: str, key: Key, source: DataSource) -> Found:
    found: Found = [((*key, name), "has no effect with storyworld") for name in ("split", "field")
                    if getattr(source, name) is not None]
    config, allowed = source.config, CONFIGS[use]
    if config is not None and config not in EVERY_CONFIG:
        found.append(((*key, "config"), f"storyworld has {', '.join(EVERY_CONFIG)}, not {config!r}"))
    elif config is not None and config not in allowed:
        found.append(((*key, "config"), f"must be {' or '.join(allowed)} here, not {config!r}"))
    measured = use in ("perplexity", "win_rate", "judge_data")  # only the held-out part is read
    if measured and source.held_out_examples is None:
        found.append(((*key, "held_out_examples"), "is required with storyworld: how many to measure on"))
    if not measured and source.examples is None:
        found.append(((*key, "examples"), "is required with storyworld: how many to make"))
    if source.flawed_share is not None and config == "stories":
        found.append(((*key, "flawed_share"), "has no effect on stories: only answers have flaws"))
    if source.temperature is not None and config in ("stories", "conversations", "prompts"):
        found.append(((*key, "temperature"), "has an effect only with config: preferences"))
    return found


def _batch(batch: int, micro: int | None, name: str) -> Found:
    if micro is None or batch % micro == 0:
        return []
    key = f"micro_{name}"
    if micro > batch:
        return [((key,), f"{micro} is more than {name} {batch}")]
    return [((key,), f"{name} {batch} is not a multiple of {micro}")]


def _pretrain(recipe: PretrainRecipe) -> Found:
    length = recipe.sequence_length or recipe.model.n_positions
    found = _batch(recipe.batch_tokens, recipe.micro_batch_tokens, "batch_tokens")
    if length > recipe.model.n_positions:
        what = f"{length} is more than model.n_positions {recipe.model.n_positions}"
        found.append((("sequence_length",), what))
    for name in ("batch_tokens", "micro_batch_tokens"):
        tokens = getattr(recipe, name)
        if tokens is not None and tokens % length:
            found.append(((name,), f"{tokens} is not a multiple of the sequence length {length}"))
    if recipe.train_tokens < recipe.batch_tokens:
        what = f"{recipe.train_tokens} is less than one step of batch_tokens {recipe.batch_tokens}"
        found.append((("train_tokens",), what))
    schedule = recipe.schedule
    if schedule.warmup_tokens + (schedule.decay_tokens or 0) > recipe.train_tokens:
        name = "decay_tokens" if schedule.decay_tokens else "warmup_tokens"
        what = f"warm-up and decay are longer than train_tokens {recipe.train_tokens}"
        found.append((("schedule", name), what))
    return found


def _ppo(recipe: PpoRecipe) -> Found:
    trainer, found = recipe.trainer, []
    if trainer.rollout_examples % trainer.minibatches:
        what = f"rollout_examples {trainer.rollout_examples} is not a multiple of {trainer.minibatches}"
        found.append((("trainer", "minibatches"), what))
    elif recipe.micro_batch_examples:
        minibatch = trainer.rollout_examples // trainer.minibatches
        found += [(key, what.replace("batch_examples", "the minibatch", 1)) for key, what
                  in _batch(minibatch, recipe.micro_batch_examples, "batch_examples")]
    if trainer.episodes < trainer.rollout_examples:
        what = f"{trainer.episodes} is less than one rollout of rollout_examples {trainer.rollout_examples}"
        found.append((("trainer", "episodes"), what))
    return found


def _evaluate(recipe: EvaluateRecipe) -> Found:
    found: Found = []
    scored = recipe.perplexity
    if scored and scored.stride and scored.window and scored.stride > scored.window:
        found.append((("perplexity", "stride"), f"{scored.stride} is more than window {scored.window}"))
    for place, model in enumerate(recipe.models):
        if model in recipe.models[:place]:
            found.append((("models", place), f"{model} is given twice"))
    judged = recipe.win_rate
    if judged and judged.judge == "gold" and judged.judge_data is not None:
        found.append((("win_rate", "judge_data"), "has no effect with judge: gold"))
    return found
