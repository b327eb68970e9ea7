"""The history of settings and embedded data, so that runs of older versions stay valid.

`CHANGES` lists every change. Manifests (`toolkit.runs.manifest.read`) and recipes (`toolkit.config.loader`)
are read through it, so that former names are understood. A changed default needs no entry, because a manifest
holds every effective value.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from toolkit.base.errors import Problem, ProblemKind, RecipeError
from toolkit.config.yaml_source import Key, Tree, dotted, forget, nearest


class _Any:
    def __repr__(self) -> str:
        return "ANY"


ANY = _Any()
"""In `Added.before`: no result depends on the setting, so any value is right for runs without it."""
UNLIMITED = 2**62
"""In `Added.before`: there was no limit."""


@dataclass(frozen=True)
class Added:
    """A setting that older manifests do not have.

    Attributes:
        stage: name of the stage.
        key: dotted; a list in it means each of its entries (`data.temperature`, `rewards.weight`).
        before: the value that applied to runs before the setting was added.
    """

    stage: str
    key: str
    before: Any


@dataclass(frozen=True)
class Removed:
    """A setting that was removed.

    Attributes:
        stage, key: as in `Added`.
        now: the values that mean what this version always does; runs and recipes with these stay valid.
        because: what this version always does, as a clause.
    """

    stage: str
    key: str
    now: tuple[Any, ...]
    because: str


@dataclass(frozen=True)
class Renamed:
    """A setting with a new name; with another parent it moves (then no list may be in its key)."""

    stage: str
    key: str
    to: str


Change = Added | Removed | Renamed


WORLD = {"world": None, "complying_share": None}
"""Settings of data sources that choose between worlds: until then there was the large one."""
ROWS = {"encoding": None, "separator": None, "columns": None, "on_bad_row": "stop"}
"""Settings of data sources that say how files and rows are read."""


def _added_to_sources(before: dict[str, Any], stage: str, *keys: str) -> tuple[Added, ...]:
    """Return settings that were added to data sources, with the values that applied before."""
    return tuple(Added(stage, f"{key}.{name}", value) for key in keys for name, value in before.items())


HELD_OUT = {"held_out.name": ANY, "held_out.split": ANY}
"""Keys of `held_out`, which has exactly one: where one of these was added, another key of it changed, too.

Another value than ANY would add the mapping to manifests whose source has none.
"""


CHANGES: tuple[Change, ...] = (
    # 2026-11-24
    Renamed("evaluate", "win_rate.data", "data"),
    Added("pretrain", "model.position_init", "normal"),
    Added("pretrain", "separate_documents", False),
    # 2026-11-25
    Added("pretrain", "model.vocabulary_multiple", 64),
    Added("pretrain", "optimizer.fused", True),
    Added("pretrain", "exact", False),
    Added("pretrain", "speed.causal_attention", True),
    Added("pretrain", "speed.loss_in_module", True),
    Added("pretrain", "speed.head_block_tokens", 0),
    Added("pretrain", "speed.prefetch_batches", ANY),
    Added("pretrain", "speed.background_saves", ANY),
    Added("pretrain", "length_warmup", []),
    Added("pretrain", "preflight", ANY),
    Added("pretrain", "guard.action", "stop"),
    Added("pretrain", "guard.z_score", None),
    Added("pretrain", "guard.window", 100),
    Added("pretrain", "guard.max_skips", 10),
    Added("pretrain", "keep_every_tokens", ANY),
    Added("pretrain", "time_limit_minutes", ANY),
    Added("pretrain", "shard_weights", ANY),
    Added("pretrain", "evaluate_tokens", UNLIMITED),
    Added("pretrain", "optimizer.muon_steps", 5),
    # 2026-11-26
    Removed("pretrain", "speed.transposed_weights", (False, "auto"), "weights lie in memory as PyTorch does"),
    Added("pretrain", "speed.keep_memory", ANY),
    Added("pretrain", "speed.logistic_gelu", False),
    Added("ppo", "lora", None),
    Added("ppo", "trainer.kl_in", "reward"),
    Added("ppo", "trainer.whiten_rewards", False),
    Added("ppo", "trainer.truncation", "terminal"),
    Added("ppo", "trainer.critic", "separate"),
    Added("ppo", "trainer.top_k", 0),
    Added("ppo", "trainer.top_p", 1.0),
    Added("ppo", "trainer.target_kl", None),
    # 2026-11-27
    Added("ppo", "algorithm", "ppo"),
    Added("ppo", "preset", "standard"),
    Added("ppo", "rewards", []),
    Added("ppo", "early_stopping", None),
    Added("ppo", "trainer.guard", "off"),
    Added("ppo", "trainer.answers_per_prompt", None),
    Added("ppo", "trainer.score_scale", "first_rollout"),
    Added("evaluate", "precision", "fp32"),
    Added("evaluate", "perplexity.prefix", "auto"),
    Added("evaluate", "perplexity.score_end", True),
    Added("evaluate", "perplexity.packed", False),
    Added("evaluate", "win_rate.best_of", None),
    Added("evaluate", "win_rate.judge_model", None),
    Added("evaluate", "win_rate.judge_key_variable", ANY),
    Added("evaluate", "win_rate.samples_per_prompt", 1),
    Added("evaluate", "win_rate.stop_early", False),
    # 2026-11-29
    Added("evaluate", "perplexity.baseline", None),
    Added("evaluate", "win_rate.top_k", 0),
    Added("evaluate", "win_rate.top_p", 1.0),
    Added("pretrain", "keep_weights_at_steps", None),
    Added("pretrain", "model.attention_init", "normal"),
    Added("evaluate", "answers_per_sample", 1),
    *_added_to_sources(WORLD, "tokenizer", "data"),
    *_added_to_sources(WORLD, "corpus", "data"),
    *_added_to_sources(WORLD, "sft", "data"),
    *_added_to_sources(WORLD, "reward", "data"),
    *_added_to_sources(WORLD, "dpo", "data"),
    *_added_to_sources(WORLD, "ppo", "data"),
    *_added_to_sources(WORLD, "evaluate", "data", "perplexity.data", "win_rate.judge_data"),
    # 2026-11-30
    Added("preferences", "compare", "in_turn"),
    # Most conversations have one answer, and learning all or the last one is then the same. A recipe without
    # the setting has the value of its older run: see `as_made`.
    Added("sft", "multi_turn", ANY),
    Added("sft", "chat_template", "auto"),
    Added("pretrain", "model.n_kv_head", None),
    Added("pretrain", "model.n_inner", None),
    *_added_to_sources(ROWS, "tokenizer", "data"),
    *_added_to_sources(ROWS, "corpus", "data"),
    *_added_to_sources(ROWS, "sft", "data"),
    *_added_to_sources(ROWS, "reward", "data"),
    *_added_to_sources(ROWS, "dpo", "data"),
    *_added_to_sources(ROWS, "ppo", "data"),
    *_added_to_sources(ROWS, "evaluate", "data", "perplexity.data", "win_rate.judge_data"),
    *_added_to_sources(ROWS, "preferences", "data"),
    *_added_to_sources(HELD_OUT, "tokenizer", "data"),
    *_added_to_sources(HELD_OUT, "corpus", "data"),
    *_added_to_sources(HELD_OUT, "sft", "data"),
    *_added_to_sources(HELD_OUT, "reward", "data"),
    *_added_to_sources(HELD_OUT, "dpo", "data"),
    *_added_to_sources(HELD_OUT, "ppo", "data"),
    *_added_to_sources(HELD_OUT, "preferences", "data"),
    *_added_to_sources(HELD_OUT, "evaluate", "data", "perplexity.data", "win_rate.judge_data"),
    Added("sft", "lora.load_in_4bit", False),
    Added("reward", "lora.load_in_4bit", False),
    Added("dpo", "lora.load_in_4bit", False),
    Added("ppo", "lora.load_in_4bit", False),
    Added("sft", "lora.merge", True),
    Added("reward", "lora.merge", True),
    Added("dpo", "lora.merge", True),
    Added("ppo", "lora.merge", True),
)
"""Every setting that was added, removed or renamed, oldest first."""

DATA: dict[str, str] = {
    # of the storyworld's source files until commit 4a212c1, now of its rows
    "storyworld:bf9197a54b82a065eae6e15a26aad8f889c61ea2fb0f56b633918295dee095cc":
        "storyworld:5dfb6971be4c8ca98ae576c6031c0e21924d837fab3eff56c17d951148a74d1d",
}  # fmt: skip
"""Digests of data in older runs -> the current digest of the same data."""

RENAMED_FOLDERS = {"tiny": "storyworld-large"}
"""Folders of shipped recipes: the former name, which other recipes have now -> the current name."""


# Manifests


def recorded(stage: str, settings: dict[str, Any], *, complete: bool = True) -> dict[str, Any]:
    """Return a copy of the settings of a manifest with current names.

    A removed setting stays if its value is not what this version always does: see `refused`.

    Args:
        complete: add the settings that were added since; else only rename and remove.
    """
    settings = copy.deepcopy(settings)
    for change in _of(stage):
        *parents, name = change.key.split(".")
        if isinstance(change, Added):
            if complete and change.before is not ANY:
                for _, holder in _holders(settings, parents, create=True):
                    holder.setdefault(name, copy.deepcopy(change.before))
            continue
        for _, holder in list(_holders(settings, parents)):
            if name not in holder:
                continue
            if isinstance(change, Renamed):
                target, last = _target(settings, holder, change)
                target.setdefault(last, holder.pop(name))
            elif _is_among(holder[name], change.now):
                del holder[name]
    return settings


def as_made(stage: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a manifest with the values that made the run where `recorded` accepts any.

    Fine-tuning learned the last answer of a conversation before `multi_turn` was added, or all answers with
    `assistant_only_loss`.
    """
    if stage != "sft" or "multi_turn" in settings:
        return settings
    learned_all = settings.get("trainer", {}).get("assistant_only_loss")
    return {**settings, "multi_turn": "all" if learned_all else "last"}


def recorded_keys(stage: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return {key of the recipe: anything}, such as parents and data of a manifest, with current names."""
    return {_renamed_text(stage, key): value for key, value in values.items()}


def refused(stage: str, settings: dict[str, Any]) -> list[str]:
    """Return the removed settings in the result of `recorded`, each `key: value (reason)`."""
    lines = []
    for change in _of(stage):
        *parents, name = change.key.split(".")
        if isinstance(change, Removed):
            for parent, holder in _holders(settings, parents):
                if name in holder:
                    key = dotted((*parent, name))
                    lines.append(
                        f"{key}: {_shown(holder[name])} (this setting was removed: {change.because})"
                    )
    return lines


def has_effect(stage: str, key: str) -> bool:
    """Return whether results depend on a setting that a manifest does not have (not with `ANY`)."""
    return not any(
        isinstance(change, Added) and change.before is ANY and change.key == _plain(key)
        for change in _of(stage)
    )


def note(stage: str, key: str) -> str:
    """Return a note for `key: old -> new`, empty without an entry for the setting."""
    for change in reversed(_of(stage)):
        if change.key == _plain(key):
            if isinstance(change, Removed):
                return f" (this setting was removed: {change.because})"
            if isinstance(change, Added) and change.before is not ANY:
                before = "no limit" if change.before == UNLIMITED else _shown(change.before)
                return f" (runs before this setting was added had {before})"
    return ""


def data_digest(digest: str) -> str:
    """Return the current digest of data for a digest of any version."""
    return DATA.get(digest, digest)


# Recipes


def renamed(stage: str, key: Key) -> Key:
    """Return the current name of a key of a recipe."""
    for change in _of(stage):
        if isinstance(change, Renamed):
            names = tuple(part for part in key if isinstance(part, str))
            old, new = tuple(change.key.split(".")), tuple(change.to.split("."))
            if names[: len(old)] != old:
                continue
            if old[:-1] == new[:-1]:
                index = [i for i, part in enumerate(key) if isinstance(part, str)][len(old) - 1]
                key = (*key[:index], new[-1], *key[index + 1 :])
            else:
                key = (*new, *key[len(old) :])
    return key


def update(tree: Tree, stage: str) -> list[str]:
    """Rename the settings of a recipe to their current names, in place.

    Returns:
        Warnings, each `file:line: former key: what to write`.

    Raises:
        RecipeError: a setting is given under both names, or a removed setting has a value that differs from
            what this version always does.
    """
    warnings: list[str] = []
    problems: list[Problem] = []
    for change in _of(stage):
        *parents, name = change.key.split(".")
        if isinstance(change, Added):
            continue
        for parent, holder in list(_holders(tree.value, parents)):
            key = (*parent, name)
            if name not in holder:
                continue
            position, dotted_key = nearest(tree.positions, key), dotted(key)
            if isinstance(change, Renamed):
                target = renamed(stage, key)
                if target in tree.positions:
                    message = f"given under two names, also as {dotted(target)} ({tree.positions[target]})"
                    problems.append(
                        Problem(
                            position,
                            dotted_key,
                            f"{message}; it was renamed, leave this one out",
                            ProblemKind.CONFLICT,
                        )
                    )
                    continue
                holder_now, last = _target(tree.value, holder, change)
                holder_now[last] = holder.pop(name)
                _move(tree.positions, key, target)
                warnings.append(f"{position}: {dotted_key}: was renamed; write {dotted(target)}")
            elif _is_among(holder[name], change.now):
                del holder[name]
                forget(tree.positions, key)
                tree.positions.pop(key, None)
                warnings.append(f"{position}: {dotted_key}: has no effect ({change.because}); leave it out")
            else:
                message = f"{_shown(holder[name])} is no longer possible: {change.because}; leave it out"
                problems.append(Problem(position, dotted_key, message, ProblemKind.VALUE))
    if problems:
        raise RecipeError(problems)
    return warnings


def _of(stage: str) -> list[Change]:
    return [change for change in CHANGES if change.stage == stage]


def _holders(
    value: Any, parents: list[str], key: Key = (), *, create: bool = False
) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Yield key and value of each mapping at the keys of `parents`, one per entry of a list."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _holders(item, parents, (*key, index), create=create)
    elif isinstance(value, dict):
        if not parents:
            yield key, value
            return
        if create:
            value.setdefault(parents[0], {})
        if parents[0] in value:
            child = value[parents[0]]
            yield from _holders(child, parents[1:], (*key, parents[0]), create=create)


def _target(root: dict[str, Any], holder: dict[str, Any], change: Renamed) -> tuple[dict[str, Any], str]:
    """Return the mapping of a renamed setting, and its name in it."""
    *parents, name = change.to.split(".")
    if parents != change.key.split(".")[:-1]:
        ((_, holder),) = _holders(root, parents, create=True)
    return holder, name


def _move(positions: dict[Key, str], old: Key, new: Key) -> None:
    """Move the positions of `old` and of everything below it to `new`."""
    for key in [key for key in positions if key[: len(old)] == old]:
        positions[(*new, *key[len(old) :])] = positions.pop(key)
    for depth in range(1, len(new)):
        positions.setdefault(new[:depth], positions[new])


def _is_among(value: Any, values: tuple[Any, ...]) -> bool:
    return any(type(value) is type(item) and value == item for item in values)


def _plain(key: str) -> str:
    """Return `data[0].name` as `data.name`."""
    return ".".join(part.partition("[")[0] for part in key.split("."))


def _renamed_text(stage: str, key: str) -> str:
    """Rename a key such as `win_rate.baseline` or `models[0]`, with its indices."""
    parts: list[str | int] = []
    for part in key.replace("[", ".[").split("."):
        parts.append(int(part[1:-1]) if part.startswith("[") else part)
    return "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in renamed(stage, tuple(parts))
    ).removeprefix(".")


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
