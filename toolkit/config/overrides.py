"""Overrides of settings, `key=value`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import yaml

from toolkit.base.errors import Problem, ProblemKind, RecipeError
from toolkit.config import history
from toolkit.config.inputs import DATA_SETTINGS, setting_of
from toolkit.config.messages import shown
from toolkit.config.registry import PRODUCTS
from toolkit.config.schema import HeldOut
from toolkit.config.yaml_source import Key, Tree, dotted, forget, parse

COMMAND_LINE = "command line"

EXCLUSIVE: dict[str, tuple[tuple[str, ...], ...]] = {
    "trainer": (
        ("max_steps", "num_train_epochs"),
        ("activation_checkpointing", "gradient_checkpointing"),
        ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"),
    ),
    "lr_scheduler_kwargs": (("min_lr", "min_lr_rate"),),
    "held_out": (tuple(HeldOut.model_fields),),
    "rewards": (("reward_model", "function"),),
    **dict.fromkeys(DATA_SETTINGS, (("field", "columns"),)),
}
"""Setting -> keys below it of which a recipe may have one: an override of one replaces the recipe's other."""


@dataclass(frozen=True)
class Override:
    """An override `a.b=value` from the command line."""

    text: str
    key: Key
    tree: Tree

    @classmethod
    def read(cls, text: str) -> Override:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name):
            message = f"{text!r} is not an override; write key=value, for instance trainer.learning_rate=5e-5"
            raise RecipeError([Problem(COMMAND_LINE, "", message)])
        if not value.strip():
            raise RecipeError([Problem(COMMAND_LINE, name, f"no value; write {name}=null or {name}=\"''\"")])
        key = tuple(int(part) if part.isdigit() else part for part in name.split("."))
        # YAML's own marks are a glob or a name on a command line.
        tree = Tree(value) if value[0] in "*&!%@`" else _read_value(name, value)
        return cls(text, key, tree)

    def map_references(self, change: Callable[[str], str]) -> str:
        """Return the text of the override with the runs and models that it names changed."""
        if setting_of(self.key) not in PRODUCTS:
            return self.text
        value = self.tree.value
        entries = value if isinstance(value, list) else [value]
        changed = [change(entry) if isinstance(entry, str) else entry for entry in entries]
        if changed == entries:
            return self.text
        new = changed if isinstance(value, list) else changed[0]
        written = yaml.safe_dump(new, default_flow_style=True, width=math.inf, allow_unicode=True)
        written = written.removesuffix("...\n").rstrip()  # the end of a document that is one text
        return f"{dotted(self.key)}={written}"

    def with_current_key(self, tree: Tree) -> Override:
        """Return the override with the current name of its key, for the recipe in `tree`."""
        stage = tree.value.get("stage")
        return replace(self, key=history.renamed(stage, self.key)) if stage else self

    def apply(self, tree: Tree) -> Problem | None:
        """Set the key in `tree`; return a problem if a parent is neither a mapping nor a list."""
        if self.key[0] == "base":
            return Problem(COMMAND_LINE, "base", "cannot be overridden", ProblemKind.RESERVED)
        node, parent = tree.value, self.key[:-1]
        for i, part in enumerate(parent):
            problem = _no_step(node, self.key, i)
            if problem:
                return problem
            if isinstance(node, dict) and node.get(part) is None:
                node[part] = {}
                tree.positions[self.key[: i + 1]] = COMMAND_LINE
            node = node[part]
        problem = _no_step(node, self.key, len(parent))
        if problem:
            return problem
        node[self.key[-1]] = self.tree.value
        self._replace_exclusive(tree)
        forget(tree.positions, self.key)
        tree.positions[self.key] = COMMAND_LINE
        tree.positions.update({(*self.key, *below): COMMAND_LINE for below in self.tree.positions})
        return None

    def replaces(self) -> list[Key]:
        """Return the keys that a recipe cannot have together with the override's, which replaces them."""
        keys = []
        for depth, part in enumerate(self.key[1:], 1):
            parent = self.key[:depth]
            for names in EXCLUSIVE.get(setting_of(parent), ()):
                if part in names:
                    keys += [(*parent, name) for name in names if name != part]
        return keys

    def _replace_exclusive(self, tree: Tree) -> None:
        if self.tree.value in (None, -1):  # not set
            return
        for key in self.replaces():
            if tree.positions.get(key, COMMAND_LINE) != COMMAND_LINE:
                del tree.at(key[:-1])[key[-1]]
                forget(tree.positions, key)
                del tree.positions[key]


def _read_value(name: str, value: str) -> Tree:
    try:
        return parse(value, COMMAND_LINE)
    except RecipeError as error:
        raise RecipeError(
            [replace(problem, place=COMMAND_LINE, key=name) for problem in error.problems]
        ) from None


def _no_step(node: Any, key: Key, depth: int) -> Problem | None:
    """Return a problem unless `node`, the value at the first `depth` parts, has the next part of the key."""
    part, parent = key[depth], dotted(key[:depth])
    if isinstance(node, list):
        if not isinstance(part, int):
            message = f"{parent} is a list; give the index of an entry, for instance {parent}.0.{part}"
            return Problem(COMMAND_LINE, dotted(key), message, ProblemKind.TYPE)
        if part >= len(node):
            entries = f"{len(node)} entries, the last is {parent}.{len(node) - 1}"
            return Problem(COMMAND_LINE, dotted(key), f"{parent} has {entries}", ProblemKind.VALUE)
        return None
    if isinstance(node, dict) and isinstance(part, str):
        return None
    expected = "not a list" if isinstance(part, int) else f"{shown(node)}, not a mapping"
    message = f"{parent} is {expected}"
    return Problem(COMMAND_LINE, dotted(key), message, ProblemKind.TYPE)
