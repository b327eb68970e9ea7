"""Checks across settings that a schema cannot express: contradictions, and settings without effect."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from toolkit.base.errors import ProblemKind
from toolkit.config import data_formats, inputs, trl_checks, trl_schedules
from toolkit.config.judge_kinds import kind
from toolkit.config.messages import Mistake, conflict, listed, no_effect, suggestion
from toolkit.config.registry import STAGES, Stage
from toolkit.config.schema import (
    AnnotatorSettings,
    CorpusRecipe,
    DataSource,
    EvaluateRecipe,
    HeldOut,
    ModelSettings,
    PpoRecipe,
    PreferencesRecipe,
    PretrainRecipe,
    StageRecipe,
    TrainerRecipe,
    WinRateSettings,
)
from toolkit.config.schema.base import STORYWORLD
from toolkit.config.schema.ppo import DEFAULT_ANSWERS_PER_PROMPT, PPO_ONLY_SETTINGS, PpoTrainerSettings
from toolkit.config.trl_checks import MOST_STEPS
from toolkit.config.yaml_source import Key

MOST_EXAMPLES = 1_000_000_000
"""More examples than any of these trainings has; a list of them would fill the memory."""
EVERY_CONFIG = ("stories", "conversations", "preferences", "prompts", "turns")
VOTES_REPLACE = {
    "models", "data", "answers_per_prompt", "compare", "max_prompt_tokens", "max_new_tokens", "temperature",
    "top_k", "top_p", "batch_examples",
}  # fmt: skip
"""Settings of the preferences stage that a file of votes makes useless."""
ONE_WORLD = "gold judges answers to storyworld's prompts only, and to those of one world"
ENDPOINT_SETTINGS = ("judge_model", "judge_key_variable", "stop_early")
"""Settings that have an effect only if the judge is an endpoint."""
LARGE_LACKS = ("turns",)
GPT2_ONLY = {
    "dropout": "Llama has none; leave it out, or write 0",
    "activation": "Llama's is SwiGLU; leave it out",
    "position_init": "Llama has no position embeddings; leave it out, or write normal",
    "attention_init": "its matrices of queries, keys and values are one; leave it out, or write normal",
}
LLAMA_ONLY = {
    "n_kv_head": "GPT-2 has keys and values for every head; leave it out",
    "n_inner": "GPT-2's MLP is 4 n_embd wide; leave it out",
}
"""Settings of a model that one architecture has -> the reason, and what to write with the other."""
OPTION_CONFIGS: dict[str, dict[str, tuple[str, ...]]] = {
    "large": {"flawed_share": ("conversations", "preferences"), "temperature": ("preferences",)},
    "small": {
        "flawed_share": ("conversations",),
        "complying_share": ("conversations",),
        "temperature": ("preferences",),
    },
}
"""World -> setting of a data source -> the configurations of the world that it acts on."""
TEXT = {"stories", "turns"}


def check(recipe: StageRecipe) -> list[Mistake]:
    """Return a mistake for every contradiction that shows without data and parents."""
    mistakes: list[Mistake] = []
    for key, source in inputs.data_sources(recipe):
        mistakes += _source(STAGES[recipe.stage], key, source)
    if isinstance(recipe, PretrainRecipe):
        mistakes += _pretrain(recipe)
    if isinstance(recipe, TrainerRecipe):
        mistakes += _trainer(recipe)
        mistakes += _batch(
            recipe.batch_examples,
            recipe.micro_batch_examples,
            key="micro_batch_examples",
            name="batch_examples",
        )
    if isinstance(recipe, CorpusRecipe) or (isinstance(recipe, PpoRecipe) and recipe.early_stopping):
        mistakes += _without_held_out(recipe)
    if isinstance(recipe, PpoRecipe):
        mistakes += _ppo(recipe)
    if isinstance(recipe, EvaluateRecipe):
        mistakes += _evaluate(recipe)
    if isinstance(recipe, PreferencesRecipe):
        mistakes += _preferences(recipe)
    return mistakes


def _source(stage: Stage, key: Key, source: DataSource) -> list[Mistake]:
    configs = stage.storyworld.get(str(key[0]), EVERY_CONFIG)
    mistakes: list[Mistake] = []
    if source.name == STORYWORLD:
        mistakes += _storyworld(configs, key, source, reads_held_out=stage.reads_held_out)
    else:
        mistakes += [
            no_effect((*key, name), "has an effect only with name: storyworld")
            for name in inputs.STORYWORLD_SETTINGS
            if getattr(source, name) is not None
        ]
        if source.name.startswith("runs/") and set(configs) <= TEXT:
            mistakes.append(conflict((*key, "name"), "a run of preferences has no text; name a file of text"))
        if inputs.is_local(source.name):
            mistakes += _local(configs, key, source)
        else:
            mistakes += _only_files(key, source)
    is_single = not isinstance(key[-1], int)
    if is_single and "weight" in source.model_fields_set:
        mistakes.append(no_effect((*key, "weight"), "has an effect only in a list of several sources"))
    return mistakes + _held_out(stage, key, source, is_text=set(configs) <= TEXT)


def _held_out(stage: Stage, key: Key, source: DataSource, *, is_text: bool) -> list[Mistake]:
    held_out, key, is_storyworld = source.held_out, (*key, "held_out"), source.name == STORYWORLD
    if isinstance(held_out, HeldOut):
        if held_out.last_characters and (not is_text or is_storyworld):
            return [conflict((*key, "last_characters"), "is for one long text; write documents")]
        return _separate_held_out(key, held_out, source) if inputs.has_separate_held_out(source) else []
    if held_out is not None and is_storyworld:
        return [no_effect(key, f"{held_out} has no effect with storyworld, whose parts are drawn separately")]
    if held_out == "all" and not stage.reads_held_out:
        return [conflict(key, "all leaves no row to train on; write a share, {documents: 0.1}")]
    if held_out == "none" and stage.reads_held_out:
        return [conflict(key, "none leaves no row to measure on; write all")]
    return []


def _separate_held_out(key: Key, held_out: HeldOut, source: DataSource) -> list[Mistake]:
    if source.name == STORYWORLD:
        name = "split" if held_out.name is None else "name"
        return [no_effect((*key, name), "has no effect with storyworld; write documents")]
    if held_out.name is not None:
        if held_out.name != STORYWORLD and not held_out.name.startswith("runs/"):
            return []
        return [conflict((*key, "name"), "must be a file, folder, glob or Hub dataset")]
    if inputs.is_local(source.name) and not Path(source.name).expanduser().is_dir():
        sentence = "is of a Hub dataset or a saved DatasetDict; for a file, write name"
        return [conflict((*key, "split"), sentence)]
    return []


def _without_held_out(recipe: CorpusRecipe | PpoRecipe) -> list[Mistake]:
    """Return the mistake of a stage that needs held-out rows, of data that holds out none."""
    if any(source.held_out != "none" for source in recipe.data):
        return []
    key = next(key for key, _ in inputs.data_sources(recipe))
    purpose = "pretraining measures on" if isinstance(recipe, CorpusRecipe) else "early_stopping measures on"
    return [conflict((*key, "held_out"), f"none leaves no held-out rows, which {purpose}; write a share")]


def _local(configs: tuple[str, ...], key: Key, source: DataSource) -> list[Mistake]:
    mistakes: list[Mistake] = []
    suffix, is_folder = data_formats.suffix_of(source.name), Path(source.name).expanduser().is_dir()
    if not suffix and not is_folder and re.search(r"\.[A-Za-z]\w*$", source.name):
        sentence = f"must be a file of {data_formats.listed()}, not {source.name!r}"
        mistakes.append(Mistake((*key, "name"), sentence, ProblemKind.VALUE))
    elif suffix == data_formats.TEXT and not set(configs) <= TEXT:
        sentence = f"plain text has no {configs[0]}; give {data_formats.listed(data_formats.TABLES)}"
        mistakes.append(Mistake((*key, "name"), sentence, ProblemKind.VALUE))
    elif source.separator is not None and suffix in data_formats.TABLES:
        mistakes.append(no_effect((*key, "separator"), "has an effect only on plain text (.txt)"))
    if source.encoding is not None and suffix in data_formats.NOT_TEXT:
        mistakes.append(no_effect((*key, "encoding"), "has an effect only on files of text"))
    if source.split not in (None, "all") and not is_folder:
        mistakes.append(conflict((*key, "split"), f"local files have no split {source.split!r}; write all"))
    if source.config is not None:
        mistakes.append(no_effect((*key, "config"), "has no effect: local files have no configurations"))
    return mistakes


def _only_files(key: Key, source: DataSource) -> list[Mistake]:
    return [
        no_effect((*key, name), "has an effect only on local files")
        for name in ("encoding", "separator")
        if getattr(source, name) is not None
    ]


def _storyworld(
    configs: tuple[str, ...], key: Key, source: DataSource, *, reads_held_out: bool
) -> list[Mistake]:
    mistakes: list[Mistake] = [
        no_effect((*key, name), "has no effect with storyworld")
        for name in ("split", "field", "columns", "on_bad_row")
        if name in source.model_fields_set and getattr(source, name) is not None
    ]
    mistakes += _only_files(key, source)
    config = source.config or configs[0]
    if config not in EVERY_CONFIG:
        choices = ", ".join(EVERY_CONFIG)
        sentence = f"must be one of {choices}, not {config!r}{suggestion(config, EVERY_CONFIG)}"
        mistakes.append(Mistake((*key, "config"), sentence, ProblemKind.VALUE))
    elif config not in configs:
        mistakes.append(
            Mistake((*key, "config"), f"must be {listed(configs)} here, not {config!r}", ProblemKind.VALUE)
        )
    elif config in LARGE_LACKS and source.world != "small":
        mistakes.append(conflict((*key, "config"), f"{config} is in the small world only: add world: small"))
    else:
        mistakes += _options_without_effect(key, source, config)
    if source.examples is None and not reads_held_out:
        mistakes.append(
            Mistake(
                (*key, "examples"), "is required with storyworld: the number of examples", ProblemKind.MISSING
            )
        )
    return mistakes


def _preferences(recipe: PreferencesRecipe) -> list[Mistake]:
    annotator = recipe.annotator
    judge = kind(annotator.judge)
    mistakes: list[Mistake] = []
    if judge == "votes":
        mistakes += [
            no_effect((name,), "has no effect: the file of votes holds the pairs")
            for name in sorted(recipe.model_fields_set & VOTES_REPLACE)
        ]
    else:
        mistakes += [
            Mistake((name,), "is required, unless the annotator is a file of votes", ProblemKind.MISSING)
            for name in ("models", "data")
            if not getattr(recipe, name)
        ]
    if judge in ("votes", "endpoint"):
        mistakes += [
            no_effect(("annotator", name), "has an effect only with gold or a reward model")
            for name in ("temperature", "biases")
            if name in annotator.model_fields_set
        ]
    if judge == "endpoint" and recipe.compare == "best_with_worst":
        mistakes.append(
            conflict(("compare",), "best_with_worst needs scores: the judge is gold or a reward model")
        )
    mistakes += _endpoint(("annotator",), annotator)
    if judge == "gold" and recipe.data and inputs.world_of(recipe.data) is None:
        mistakes.append(conflict(("annotator", "judge"), ONE_WORLD))
    return mistakes


def _options_without_effect(key: Key, source: DataSource, config: str) -> list[Mistake]:
    world = source.world or "large"
    mistakes = []
    for name in inputs.STORYWORLD_SETTINGS[1:]:
        configs = OPTION_CONFIGS[world].get(name, ())
        if getattr(source, name) is None or config in configs:
            continue
        sentence = (
            f"has no effect on {config}, only on {listed(configs)}"
            if configs
            else f"has no effect in the {world} world"
        )
        mistakes.append(no_effect((*key, name), sentence))
    return mistakes


def _batch(batch: int, micro: int | None, *, key: str, name: str) -> list[Mistake]:
    if micro is None or batch % micro == 0:
        return []
    if micro > batch:
        return [conflict((key,), f"{micro} is more than {name} {batch}")]
    return [conflict((key,), f"{name} {batch} is not a multiple of {micro}")]


def _trainer(recipe: TrainerRecipe) -> list[Mistake]:
    if trl_checks.check(recipe.stage, recipe.trainer):
        return []  # those come first; a wrong type cannot be compared
    mistakes: list[Mistake] = []
    steps, settings = recipe.planned_steps(), recipe.trainer
    if steps is not None:
        mistakes += [
            Mistake(("trainer", *mistake.key), mistake.what, mistake.kind)
            for mistake in trl_schedules.too_long(settings, steps=steps)
        ]
        if steps * recipe.batch_examples > MOST_EXAMPLES:
            name = "max_steps" if settings.get("max_steps", -1) > 0 else "num_train_epochs"
            key = ("trainer", name) if name in settings else ("batch_examples",)
            mistakes.append(conflict(key, _too_many(steps, f"steps of {recipe.batch_examples:,} examples")))
    if recipe.lora is not None and settings.get("sync_ref_model"):
        sentence = "contradicts lora: the reference is then the same model without adapters"
        mistakes.append(conflict(("trainer", "sync_ref_model"), sentence))
    if recipe.lora is not None and recipe.lora.load_in_4bit and not recipe.lora.merge:
        sentence = "contradicts load_in_4bit: the adapter is trained on 4-bit values, which its base lacks"
        mistakes.append(conflict(("lora", "merge"), sentence))
    return mistakes


def _too_many(count: int, words: str) -> str:
    return f"{count:,} {words} are more than a training can have"


def _pretrain(recipe: PretrainRecipe) -> list[Mistake]:
    mistakes = _batch(
        recipe.batch_tokens, recipe.micro_batch_tokens, key="micro_batch_tokens", name="batch_tokens"
    )
    if recipe.train_tokens < recipe.batch_tokens:
        sentence = (
            f"{recipe.train_tokens} is less than one step of batch_tokens {recipe.batch_tokens}, the least"
        )
        mistakes.append(conflict(("train_tokens",), sentence))
    if recipe.steps > MOST_STEPS:
        mistakes.append(
            conflict(("train_tokens",), f"{_too_many(recipe.steps, 'steps')}; raise batch_tokens")
        )
    schedule = recipe.schedule
    if schedule.warmup_tokens + (schedule.decay_tokens or 0) > recipe.train_tokens:
        name = "decay_tokens" if schedule.decay_tokens else "warmup_tokens"
        sentence = f"warm-up and decay are longer than train_tokens {recipe.train_tokens}"
        mistakes.append(conflict(("schedule", name), sentence))
    return mistakes + ([] if recipe.checkpoint else _shape(recipe.shape))


def _shape(settings: ModelSettings) -> list[Mistake]:
    """Return the settings that the architecture does not have.

    A value that describes what the architecture always does is no mistake, so that an override can take back
    what a `base:` or a recipe sets: Llama has no dropout.
    """
    fields = type(settings).model_fields
    if settings.architecture == "gpt2":
        return [
            no_effect(("model", key), f"has an effect only with architecture: llama: {reason}")
            for key, reason in LLAMA_ONLY.items()
            if getattr(settings, key) is not None
        ]
    return [
        no_effect(("model", key), f"has an effect only with architecture: gpt2: {reason}")
        for key, reason in GPT2_ONLY.items()
        if getattr(settings, key) != fields[key].default
        or (key == "activation" and key in settings.model_fields_set)
    ]


def _ppo(recipe: PpoRecipe) -> list[Mistake]:
    settings = recipe.trainer
    minibatch = settings.rollout_examples // settings.minibatches
    mistakes = _batch(
        minibatch, recipe.micro_batch_examples, key="micro_batch_examples", name="the minibatch"
    )
    if recipe.algorithm == "ppo":
        if settings.answers_per_prompt is not None:
            sentence = "has an effect only with algorithm: rloo or grpo"
            mistakes.append(no_effect(("trainer", "answers_per_prompt"), sentence))
    else:
        mistakes += _without_critic(recipe)
    mistakes += _ppo_steps(settings)
    if settings.score_scale != "first_rollout" and not settings.normalize_scores:
        mistakes.append(
            no_effect(("trainer", "score_scale"), "has an effect only with normalize_scores: true")
        )
    if settings.score_scale == "reward_model" and (recipe.rewards or recipe.reward_model == "gold"):
        sentence = "needs one reward model and no further rewards: the scale of its scores is in its config"
        mistakes.append(conflict(("trainer", "score_scale"), sentence))
    if recipe.algorithm == "ppo" and recipe.preset == "fast" and settings.critic == "separate":
        mistakes.append(conflict(("trainer", "critic"), "contradicts preset: fast, which shares the critic"))
    if recipe.lora and recipe.lora.load_in_4bit:
        sentence = "only sft, reward and dpo train with weights in 4 bits"
        mistakes.append(conflict(("lora", "load_in_4bit"), sentence))
    reward_models = [recipe.reward_model, *(reward.reward_model for reward in recipe.rewards)]
    mistakes += _ppo_stopping(recipe, reward_models)
    if inputs.world_of(recipe.data) is None:
        mistakes += [conflict(key, ONE_WORLD) for key, judge in _ppo_judges(recipe) if judge == "gold"]
    return mistakes


def _ppo_steps(settings: PpoTrainerSettings) -> list[Mistake]:
    steps = settings.episodes // settings.rollout_examples * settings.epochs * settings.minibatches
    if settings.episodes > MOST_EXAMPLES:
        return [conflict(("trainer", "episodes"), _too_many(settings.episodes, "answers"))]
    if steps > MOST_STEPS:
        return [conflict(("trainer", "epochs"), _too_many(steps, "steps"))]
    mistakes = []
    if settings.kl_target is not None and settings.kl_coefficient == 0:
        sentence = "has no effect with kl_coefficient: 0, which it multiplies"
        mistakes.append(no_effect(("trainer", "kl_target"), sentence))
    if settings.target_kl is not None and settings.epochs * settings.minibatches == 1:
        sentence = "has no effect: with epochs 1 and minibatches 1, no step follows the first"
        mistakes.append(no_effect(("trainer", "target_kl"), sentence))
    return mistakes


def _ppo_stopping(recipe: PpoRecipe, reward_models: Sequence[str | None]) -> list[Mistake]:
    stopping, mistakes = recipe.early_stopping, []
    if stopping and kind(stopping.judge) in ("endpoint", "votes"):
        mistakes.append(
            Mistake(
                ("early_stopping", "judge"),
                "must be gold or a reward model, which score new answers",
                ProblemKind.VALUE,
            )
        )
    if stopping and _normal(stopping.judge) in map(_normal, reward_models):
        sentence = f"{stopping.judge} is trained on, so it cannot judge the training; name another"
        mistakes.append(conflict(("early_stopping", "judge"), sentence))
    return mistakes


def _normal(model: str | None) -> str | None:
    """Return one spelling of a reference: `runs/r` for `./runs/r/`."""
    return None if model is None else posixpath.normpath(model)


def _ppo_judges(recipe: PpoRecipe) -> Iterator[tuple[Key, str | None]]:
    yield ("reward_model",), recipe.reward_model
    for index, reward in enumerate(recipe.rewards):
        yield ("rewards", index, "reward_model"), reward.reward_model
    if recipe.early_stopping:
        yield ("early_stopping", "judge"), recipe.early_stopping.judge


def _without_critic(recipe: PpoRecipe) -> list[Mistake]:
    settings, name = recipe.trainer, recipe.algorithm
    fields = type(settings).model_fields
    mistakes: list[Mistake] = [
        no_effect(("trainer", key), f"has no effect with algorithm: {name}")
        for key in PPO_ONLY_SETTINGS
        if getattr(settings, key) != fields[key].default
    ]
    for key, is_set in (("early_stopping", recipe.early_stopping), ("preset", recipe.preset != "standard")):
        if is_set:
            mistakes.append(no_effect((key,), f"is for algorithm: ppo, not {name}"))
    answers = settings.answers_per_prompt or DEFAULT_ANSWERS_PER_PROMPT
    if settings.rollout_examples % answers:
        sentence = f"{settings.rollout_examples} is not a multiple of answers_per_prompt {answers}"
        mistakes.append(conflict(("trainer", "rollout_examples"), sentence))
    return mistakes


def _evaluate(recipe: EvaluateRecipe) -> list[Mistake]:
    mistakes: list[Mistake] = []
    perplexity = recipe.perplexity
    if perplexity and perplexity.stride and perplexity.window and perplexity.stride > perplexity.window:
        sentence = f"{perplexity.stride} is more than window {perplexity.window}"
        mistakes.append(conflict(("perplexity", "stride"), sentence))
    for index, model in enumerate(recipe.models):
        if model in recipe.models[:index]:
            mistakes.append(conflict(("models", index), f"{model} is given twice"))
    win_rate = recipe.win_rate
    if win_rate:
        judge_kind = kind(win_rate.judge)
        if judge_kind in ("gold", "votes") and win_rate.judge_data is not None:
            judge = "gold" if judge_kind == "gold" else "people's votes"
            mistakes.append(no_effect(("win_rate", "judge_data"), f"has no effect with judge: {judge}"))
        if judge_kind == "gold" and recipe.data and inputs.world_of(recipe.data) is None:
            mistakes.append(conflict(("win_rate", "judge"), ONE_WORLD))
        mistakes += _endpoint(("win_rate",), win_rate)
    return mistakes


def _endpoint(key: Key, settings: WinRateSettings | AnnotatorSettings) -> list[Mistake]:
    """Return the mistakes in the settings that only an endpoint as the judge has."""
    if kind(settings.judge) != "endpoint":
        sentence = "has an effect only if judge is the URL of an endpoint"
        return [
            no_effect((*key, name), sentence)
            for name in ENDPOINT_SETTINGS
            if name in settings.model_fields_set
        ]
    if settings.judge_model is None:
        sentence = "is an endpoint: name its model in judge_model"
        return [Mistake((*key, "judge"), sentence, ProblemKind.MISSING)]
    return []
