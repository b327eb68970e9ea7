"""Adapters of PEFT, such as LoRA: read and merged into the weights of their base model, and written."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, PreTrainedModel

from toolkit.base import files
from toolkit.base.errors import ToolkitError
from toolkit.models import checkpoint_folder, checkpoint_shape, safetensors_files
from toolkit.models.tokenizer_loading import load_tokenizer
from toolkit.runs import hub
from toolkit.runs.hub import Reference

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel  # 1 s that most models do not need

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NAME = "default"
_TRAINED_ROWS = ".trainable_tokens_delta"
_OWN_SETTINGS = ("score_mean", "score_std")
"""Keys of config.json beside an adapter that its base model does not have."""


def merged(
    folder: Path, model: PreTrainedModel, report: dict[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the base model with the adapter in its weights, and the report of loading both.

    Args:
        model: the base model; it is changed.
        report: transformers' report of its weights. What the adapter brings, such as a score head, is not
            missing any more.

    Raises:
        ToolkitError: the adapter's weights are missing or do not fit the model, or it is of a kind that does
            not change weights (prompt tuning).
    """
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict  # 1 s that most models do not need

    weights = _weights(folder)
    if checkpoint_folder.is_classifier(folder) and not hasattr(model, "num_labels"):
        raise ToolkitError(
            "is an adapter of a reward model, not a language model", where=str(folder),
            fix="give one that was trained on a language model",
        )  # fmt: skip
    try:
        config = PeftConfig.from_pretrained(folder)
        if config.is_prompt_learning:
            raise ToolkitError(
                f"is an adapter of the kind {config.peft_type.value}, which cannot be merged into weights",
                where=str(folder), fix="give a LoRA adapter, or a whole model",
            )  # fmt: skip
        _make_room(folder, model, weights)
        if hasattr(model, "score") and not checkpoint_folder.is_classifier(folder):
            # a language model becomes a classifier, which has no such head; PEFT wants one for this task
            weights = {name: weight for name, weight in weights.items() if not _is_of_head(name)}
            config.task_type, config.trainable_token_indices = None, _without_heads(config)
        config.inference_mode, config.base_model_name_or_path = True, model.name_or_path
        with warnings.catch_warnings():  # PEFT asks transformers by a deprecated name
            warnings.simplefilter("ignore", FutureWarning)
            wrapped = get_peft_model(model, config)
        loaded = set_peft_model_state_dict(wrapped, weights)
        missing = _missing(wrapped, loaded.missing_keys)
        if missing or loaded.unexpected_keys:
            key = (missing or loaded.unexpected_keys)[0]
            raise _unfit(folder, f"{'it lacks' if missing else 'the model has no place for'} {key}")
        plain = wrapped.merge_and_unload().requires_grad_(True)  # PEFT froze the base model
        _take_settings(folder, plain)
    except ToolkitError:
        raise
    except Exception as error:  # a file of other people may be wrong in any way
        raise _unfit(folder, repr(error).splitlines()[0]) from error
    brought = {key.removeprefix(_PREFIX) for key in weights}
    missing_keys = [key for key in report["missing_keys"] if key not in brought]
    return plain, {**report, "missing_keys": missing_keys}


@dataclass(frozen=True)
class TrainedAdapter:
    """The adapter of a trained model.

    Attributes:
        settings: of PEFT.
        weights: on the CPU, by their names in PEFT's files.
    """

    settings: PeftConfig
    weights: dict[str, torch.Tensor]

    @classmethod
    def of(cls, model: PeftModel) -> TrainedAdapter:
        from peft import get_peft_model_state_dict

        [settings] = model.peft_config.values()
        weights = get_peft_model_state_dict(model, save_embedding_layers=False)
        return cls(settings, {name: weight.detach().cpu().clone() for name, weight in weights.items()})

    def with_tables(self, merged: PreTrainedModel) -> TrainedAdapter:
        """Return the adapter with whole embeddings, of a model that has more rows than its base.

        Args:
            merged: the model with the adapter in its weights.
        """
        inputs, outputs = merged.get_input_embeddings(), merged.get_output_embeddings()
        is_tied = outputs is None or outputs.weight is inputs.weight
        names = {module: name for name, module in merged.named_modules()}
        tables = {
            f"{_PREFIX}{names[module]}.weight": module.weight.detach().cpu().clone()
            for module in ([inputs] if is_tied else [inputs, outputs])
        }
        others = {name: weight for name, weight in self.weights.items() if not name.endswith(_TRAINED_ROWS)}
        settings = copy.copy(self.settings)
        settings.trainable_token_indices = None
        return replace(self, settings=settings, weights={**others, **tables})

    def write(self, folder: Path, *, base: Reference) -> None:
        """Write the two files of PEFT into a folder; `base` as in `complete_settings`."""
        self.settings.save_pretrained(folder)
        complete_settings(folder, base=base)
        save_file(self.weights, folder / WEIGHTS, metadata={"format": "pt"})

    def is_in(self, folder: Path) -> bool:
        """Return whether a folder holds these weights, bit for bit."""
        written = load_file(folder / WEIGHTS)
        return written.keys() == self.weights.keys() and all(
            torch.equal(weight, written[name]) for name, weight in self.weights.items()
        )


def complete_settings(folder: Path, *, base: Reference) -> None:
    """Name the base of an adapter that PEFT wrote, and sort its modules, a set that PEFT writes in any order.

    Args:
        base: a folder is recorded relative to the adapter's, so that both can be moved together.
    """
    content = files.read_json(folder / checkpoint_folder.ADAPTER_CONFIG)
    name, revision = base
    if (local := hub.local_folder(name)) is not None:
        name = Path(os.path.relpath(local.resolve(), folder.resolve())).as_posix()
    content |= {"base_model_name_or_path": name, "revision": revision, "inference_mode": True}
    if isinstance(content["target_modules"], list):
        content["target_modules"].sort()
    files.write_json(folder / checkpoint_folder.ADAPTER_CONFIG, content)


def _is_of_head(name: str) -> bool:
    """Return whether a weight of an adapter belongs to the head of a language model."""
    return not checkpoint_shape.HEADS.isdisjoint(name.split("."))


def _without_heads(config: PeftConfig) -> Any:
    """Return `trainable_token_indices` without the rows of a head."""
    rows = config.trainable_token_indices
    return (
        {name: ids for name, ids in rows.items() if not _is_of_head(name)} if isinstance(rows, dict) else rows
    )


def _missing(model: PeftModel, keys: Sequence[str]) -> list[str]:
    """Return the parameters of the adapter among the keys, without those that are another's (tied rows)."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    loaded = {id(parameter) for name, parameter in parameters.items() if name not in keys}
    return [key for key in keys if f".{_NAME}" in key and id(parameters.get(key)) not in loaded]


def _take_settings(folder: Path, model: PreTrainedModel) -> None:
    """Let the model have the settings that were written beside the adapter."""
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    if (folder / "config.json").is_file():
        content = checkpoint_folder.read_json(folder / "config.json")
        for name in _OWN_SETTINGS:
            if name in content:
                setattr(model.config, name, content[name])


def _weights(folder: Path) -> dict[str, Any]:
    path = folder / WEIGHTS
    if not path.is_file():
        pickle = folder / "adapter_model.bin"
        command = (
            "import torch; from safetensors.torch import save_file; "
            f"save_file(torch.load({str(pickle)!r}, weights_only=True), {str(path)!r})"
        )
        fix = f'convert it once: python -c "{command}"' if pickle.is_file() else f"copy {WEIGHTS}, too"
        raise ToolkitError("is an adapter without weights in safetensors", where=str(folder), fix=fix)
    safetensors_files.header(path)
    return load_file(path)


def _make_room(folder: Path, model: PreTrainedModel, weights: dict[str, Any]) -> None:
    """Add rows to the embeddings for the tokens that were added when the adapter was trained.

    What the adapter does not train of them is the mean of the other rows: random rows would differ from one
    load to the next.
    """
    table = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is table)
    saved = weights.get(f"{_PREFIX}{name}.weight")
    own = len(load_tokenizer((str(folder), None))) if checkpoint_folder.has_tokenizer(folder) else 0
    rows = own if saved is None else saved.shape[0]
    before = table.num_embeddings
    if rows > before:
        model.resize_token_embeddings(rows, mean_resizing=False)
        for resized in (model.get_input_embeddings(), model.get_output_embeddings()):
            if resized is not None:
                with torch.no_grad():
                    resized.weight[before:] = resized.weight[:before].mean(dim=0)


def _unfit(folder: Path, reason: str) -> ToolkitError:
    return ToolkitError(
        f"is an adapter that does not fit its base model: {reason}", where=str(folder),
        fix=f"give the model that it was trained on as base_model_name_or_path in "
        f"{folder / checkpoint_folder.ADAPTER_CONFIG}",
    )  # fmt: skip
