"""What a schema cannot say: settings that contradict each other, or that would have no effect."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from toolkit.config.judge_kinds import kind
from toolkit.config.messages import listed, suggestion
from toolkit.config.schema import (
    DataSource,
    EvaluateRecipe,
    PpoRecipe,
    PretrainRecipe,
    StageRecipe,
    TrainerRecipe,
)
from toolkit.config.schema.ppo import DEFAULT_ANSWERS_PER_PROMPT, PPO_ONLY_SETTINGS
from toolkit.config.yaml_source import Key

Found = list[tuple[Key, str]]

# Storyworld's configurations that a stage or setting can read, the default first.
_PROMPTS = ("prompts", "conversations", "preferences")
CONFIGS = {
    "tokenizer": ("stories",),
    "corpus": ("stories",),
    "perplexity": ("stories",),
    "sft": ("conversations", "preferences"),
    "reward": ("preferences",),
    "dpo": ("preferences",),
    "ppo": _PROMPTS,
    "win_rate": _PROMPTS,
    "judge_data": ("preferences",),
}
EVERY_CONFIG = ("stories", "conversations", "preferences", "prompts")
OPTIONS = {"flawed_share": ("conversations", "preferences"), "temperature": ("preferences",)}
"""Setting -> the configurations of storyworld that it acts on."""
READS_TEXT = ("tokenizer", "corpus", "perplexity")
SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")


def check(recipe: StageRecipe) -> Found:
    """(key, sentence) for every contradiction that needs neither data nor parents to be seen."""
    read = list(sources(recipe))
    found = []
    for key, source in read:
        alone = not isinstance(key[-1], int) or sum(other[:-1] == key[:-1] for other, _ in read) == 1
        found += _source(recipe.stage, key, source, alone)
    if isinstance(recipe, PretrainRecipe):
        found += _pretrain(recipe)
    if isinstance(recipe, TrainerRecipe):
        found += _batch(
            recipe.batch_examples,
            recipe.micro_batch_examples,
            key="micro_batch_examples",
            name="batch_examples",
        )
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


def _use(stage: str, key: Key) -> str:
    """What a source is read for: a key of CONFIGS."""
    if stage != "evaluate":
        return stage
    return "judge_data" if "judge_data" in key else "win_rate" if key[0] == "data" else str(key[0])


def _source(stage: str, key: Key, source: DataSource, alone: bool) -> Found:
    use = _use(stage, key)
    found: Found = []
    if source.name == "storyworld":
        found += _storyworld(use, key, source)
    else:
        found += [
            ((*key, name), "has an effect only with name: storyworld")
            for name in OPTIONS
            if getattr(source, name) is not None
        ]
        found += _local(use, key, source) if is_local(source.name) else []
    if alone and "weight" in source.model_fields_set:
        found.append(((*key, "weight"), "has an effect only in a list of several sources"))
    held_out = source.held_out
    if held_out and held_out.last_characters and (use not in READS_TEXT or source.name == "storyworld"):
        found.append(((*key, "held_out", "last_characters"), "is for one long text; write documents"))
    return found


def _local(use: str, key: Key, source: DataSource) -> Found:
    found: Found = []
    name = source.name.lower()
    if not name.endswith(SUFFIXES) and re.search(r"\.[a-z]\w*$", name):
        found.append(((*key, "name"), f"must be {', '.join(SUFFIXES)}, not {source.name!r}"))
    elif name.endswith(".txt") and use not in READS_TEXT:
        what = f"plain text has no {CONFIGS[use][0]}; give .jsonl, .jsonl.gz or .parquet"
        found.append(((*key, "name"), what))
    if source.split not in (None, "all"):
        found.append(((*key, "split"), f"local files have no split {source.split!r}; write all"))
    if source.config is not None:
        found.append(((*key, "config"), "has no effect: local files have no configurations"))
    return found


def _storyworld(use: str, key: Key, source: DataSource) -> Found:
    found: Found = [
        ((*key, name), "has no effect with storyworld")
        for name in ("split", "field")
        if getattr(source, name) is not None
    ]
    allowed = CONFIGS[use]
    config = source.config or allowed[0]
    if config not in EVERY_CONFIG:
        what = f"must be one of {', '.join(EVERY_CONFIG)}, not {config!r}{suggestion(config, EVERY_CONFIG)}"
        found.append(((*key, "config"), what))
    elif config not in allowed:
        found.append(((*key, "config"), f"must be {listed(allowed)} here, not {config!r}"))
    else:
        given = {name: configs for name, configs in OPTIONS.items() if getattr(source, name) is not None}
        found += [
            ((*key, name), f"has no effect on {config}, only on {listed(configs)}")
            for name, configs in given.items()
            if config not in configs
        ]
    if source.examples is None:
        measured = use in ("perplexity", "win_rate", "judge_data")  # only the held-out part is read
        if not measured:
            found.append(((*key, "examples"), "is required with storyworld: how many to make"))
        elif source.held_out_examples is None:
            found.append(((*key, "held_out_examples"), "is required with storyworld: how many to make"))
    return found


def _batch(batch: int, micro: int | None, *, key: str, name: str) -> Found:
    if micro is None or batch % micro == 0:
        return []
    if micro > batch:
        return [((key,), f"{micro} is more than {name} {batch}")]
    return [((key,), f"{name} {batch} is not a multiple of {micro}")]


def _pretrain(recipe: PretrainRecipe) -> Found:
    found = _batch(
        recipe.batch_tokens, recipe.micro_batch_tokens, key="micro_batch_tokens", name="batch_tokens"
    )
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
    settings = recipe.trainer
    minibatch = settings.rollout_examples // settings.minibatches
    found = _batch(minibatch, recipe.micro_batch_examples, key="micro_batch_examples", name="the minibatch")
    if recipe.algorithm == "ppo":
        if settings.answers_per_prompt is not None:
            what = "has an effect only with algorithm: rloo or grpo"
            found.append((("trainer", "answers_per_prompt"), what))
    else:
        found += _without_critic(recipe)
    if settings.score_scale != "first_rollout" and not settings.normalize_scores:
        found.append((("trainer", "score_scale"), "has an effect only with normalize_scores: true"))
    if settings.score_scale == "reward_model" and (recipe.rewards or recipe.reward_model == "gold"):
        what = "needs one reward model and no further rewards: only its config says what its scores are like"
        found.append((("trainer", "score_scale"), what))
    if recipe.algorithm == "ppo" and recipe.preset == "fast" and settings.critic == "separate":
        found.append((("trainer", "critic"), "contradicts preset: fast, which shares it"))
    trained_on = {_place(recipe.reward_model), *(_place(one.reward_model) for one in recipe.rewards)}
    judged = recipe.early_stopping
    if judged and kind(judged.judge) in ("endpoint", "votes"):
        found.append((("early_stopping", "judge"), "must be gold or a reward model: it scores new answers"))
    if judged and _place(judged.judge) in trained_on:
        what = f"{judged.judge} is what is trained on: its scores rise as long as it learns; name another"
        found.append((("early_stopping", "judge"), what))
    known = [source.name == "storyworld" for _, source in sources(recipe)]
    for key, name in _ppo_judges(recipe):
        if name == "gold" and not all(known):
            found.append((key, "gold judges answers to storyworld's prompts only"))
    return found


def _place(model: str | None) -> str | None:
    """One spelling of a reference: `runs/r` for `./runs/r/`."""
    return None if model is None else posixpath.normpath(model)


def _ppo_judges(recipe: PpoRecipe) -> Iterator[tuple[Key, str | None]]:
    yield ("reward_model",), recipe.reward_model
    for place, one in enumerate(recipe.rewards):
        yield ("rewards", place, "reward_model"), one.reward_model
    if recipe.early_stopping:
        yield ("early_stopping", "judge"), recipe.early_stopping.judge


def _without_critic(recipe: PpoRecipe) -> Found:
    settings, name = recipe.trainer, recipe.algorithm
    fields = type(settings).model_fields
    found: Found = [
        (("trainer", key), f"has no effect with algorithm: {name}")
        for key in PPO_ONLY_SETTINGS
        if getattr(settings, key) != fields[key].default
    ]
    for key, is_set in (("early_stopping", recipe.early_stopping), ("preset", recipe.preset != "standard")):
        if is_set:
            found.append(((key,), f"is for algorithm: ppo, not {name}"))
    answers = settings.answers_per_prompt or DEFAULT_ANSWERS_PER_PROMPT
    if settings.rollout_examples % answers:
        what = f"{settings.rollout_examples} is not a multiple of answers_per_prompt {answers}"
        found.append((("trainer", "rollout_examples"), what))
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
    if judged:
        sort = kind(judged.judge)
        if sort in ("gold", "votes") and judged.judge_data is not None:
            what = "gold" if sort == "gold" else "people's votes"
            found.append((("win_rate", "judge_data"), f"has no effect with judge: {what}"))
        if sort == "endpoint" and judged.judge_model is None:
            found.append((("win_rate", "judge"), "is an endpoint: name its model in judge_model"))
        for name in ("judge_model", "judge_key_variable", "stop_early"):
            if sort != "endpoint" and name in judged.model_fields_set:
                found.append((("win_rate", name), "has an effect only where judge is the URL of an endpoint"))
    return found
