"""The configuration classes of the installed TRL as plain data (importing trl takes 4 to 5 seconds).

Imported only where the installed version is not in `trl_fields.json`; `python -m tools.trl_snapshot` writes
that file.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import textwrap
import types
import typing
from typing import Any

import transformers
import trl
from transformers import optimization
from transformers.trainer_utils import SchedulerType
from trl.trainer import dpo_trainer, sft_trainer

from toolkit.config.registry import STAGES


def describe() -> dict[str, Any]:
    """`{trl, transformers, stages: {stage: {key: {types, default, choices?}}}, schedulers}`."""
    classes = {stage.name: getattr(trl, stage.trl_config) for stage in STAGES.values() if stage.trl_config}
    stages = {stage: _fields(cls) for stage, cls in classes.items()}
    stages["dpo"]["loss_type"]["choices"] = _compared(dpo_trainer, "loss_type")
    stages["dpo"]["loss_type"]["types"].append("text")  # __post_init__ makes a list of one name
    stages["dpo"]["f_divergence_type"]["choices"] = _compared(dpo_trainer, "self.f_divergence_type")
    stages["sft"]["loss_type"]["choices"] = _compared(sft_trainer, "args.loss_type")
    return {
        "trl": trl.__version__,
        "transformers": transformers.__version__,
        "stages": stages,
        "schedulers": _schedulers(),
    }


def _fields(cls: type) -> dict[str, dict[str, Any]]:
    hints = typing.get_type_hints(cls)
    return {field.name: _field(field, hints[field.name]) for field in dataclasses.fields(cls) if field.init}


def _field(field: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    kinds, choices = _types(hint)
    choices += [item for item in field.metadata.get("choices", []) if item not in choices]
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    described: dict[str, Any] = {"types": kinds, "default": _plain(default)}
    return {**described, "choices": choices} if choices else described


def _types(hint: Any) -> tuple[list[str], list[str]]:
    """Names of the allowed types, and the values of enumerations among them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        parts = [_types(argument) for argument in arguments]
        names = [name for part in parts for name in part[0]]
        return list(dict.fromkeys(names)), [value for part in parts for value in part[1]]
    if origin is typing.Literal:
        return ["bool" if isinstance(arguments[0], bool) else "text"], []
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return ["text"], [str(member.value) for member in hint]
    if (origin or hint) is list:
        item = _types(arguments[0])[0][0] if arguments else "text"
        return [f"list of {item}"], []
    if (origin or hint) is dict:
        return ["mapping"], []
    scalars: dict[Any, str] = {bool: "bool", int: "int", float: "float", str: "text", type(None): "null"}
    return [scalars.get(hint, "mapping")], []


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, dict, type(None))) else str(value)


def _compared(module: types.ModuleType, name: str) -> list[str]:
    """The text literals that `name` is compared with in a trainer's source: the values that it knows."""
    values: list[str] = []
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(module)))):
        if isinstance(node, ast.Compare) and ast.unparse(node.left) == name:
            values += [
                item.value
                for right in node.comparators
                for item in ast.walk(right)
                if isinstance(item, ast.Constant) and isinstance(item.value, str)
            ]
    return list(dict.fromkeys(values))


def _schedulers() -> dict[str, list[str]]:
    """The keys of `lr_scheduler_kwargs` that each scheduler takes."""
    given = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch", "kwargs"}
    plain = (SchedulerType.CONSTANT, SchedulerType.CONSTANT_WITH_WARMUP)  # called without them
    return {
        kind.value: []
        if kind in plain
        else [name for name in inspect.signature(function).parameters if name not in given]
        for kind, function in optimization.TYPE_TO_SCHEDULER_FUNCTION.items()
    }
