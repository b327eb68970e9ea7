"""What lies in the folder of a checkpoint, and why it cannot be loaded: seen before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from toolkit.base.errors import ToolkitError
from toolkit.models import safetensors_files
from toolkit.models.safetensors_files import INDEX, WEIGHTS
from toolkit.runs import hub, layout, seal
from toolkit.runs.hub import Reference

ADAPTER_CONFIG = "adapter_config.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "vocab.json", "vocab.txt", "tekken.json",
)  # fmt: skip
"""Any of them makes a tokenizer."""
_OTHER_WEIGHTS = {"*.h5": "TensorFlow", "*.msgpack": "Flax", "*.onnx": "ONNX"}


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has files that make a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES) or bool(gguf_option(folder))


def holds_model(folder: Path) -> bool:
    """Return whether a folder is a model, an adapter or a GGUF file, by the names of its files."""
    names = ("config.json", ADAPTER_CONFIG)
    return any((folder / name).is_file() for name in names) or any(folder.glob("*.gguf"))


def is_classifier(folder: Path) -> bool:
    """Return whether a model or an adapter in a folder is a sequence classifier, as reward models are.

    Raises:
        ToolkitError: its configuration is not JSON.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        return read_json(folder / ADAPTER_CONFIG).get("task_type") == "SEQ_CLS"
    config = folder / "config.json"
    return config.is_file() and is_classifier_architecture(read_json(config).get("architectures"))


def is_classifier_architecture(architectures: Iterable[str] | None) -> bool:
    """Return whether the `architectures` of a configuration are those of a sequence classifier."""
    return any("SequenceClassification" in str(name) for name in architectures or ())


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter of PEFT instead of a model.

    Raises:
        ToolkitError: it holds both.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        return False
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        raise ToolkitError(
            f"holds a model and an adapter ({ADAPTER_CONFIG}), so that it is not clear which one is meant",
            where=str(folder),
            fix="move the adapter's files into a folder of their own",
        )
    return True


def gguf_option(folder: Path | None) -> dict[str, str]:
    """Return the option `gguf_file` of `from_pretrained` for a folder whose weights are a GGUF file, else {}.

    Raises:
        ToolkitError: there are several GGUF files, or the package that reads them is not installed.
    """
    if folder is None or (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        return {}
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if not files:
        return {}
    if len(files) > 1:
        raise ToolkitError(
            f"has {len(files)} GGUF files, such as {files[0]} and {files[1]}", where=str(folder),
            fix="move the one to load into a folder of its own",
        )  # fmt: skip
    if find_spec("gguf") is None:
        raise ToolkitError(
            f"its weights are a GGUF file ({files[0]}), which only the package gguf reads",
            where=str(folder), fix="pip install gguf",
        )  # fmt: skip
    return {"gguf_file": files[0]}


@dataclass(frozen=True)
class Place:
    """Where the files of a checkpoint are.

    Attributes:
        name: the folder or hub id that `from_pretrained` takes.
        options: its further options: the commit of a hub model, and whether only the cache is to be used.
        folder: the folder of the files, None for a hub model that is not downloaded yet.
    """

    name: str
    options: dict[str, Any]
    folder: Path | None


def located(reference: Reference) -> Place:
    """Return where a checkpoint is; an adapter of the Hub is downloaded to the cache.

    Raises:
        ToolkitError: as `hub.local_folder` and `hub.find`.
    """
    name = reference[0]
    folder = hub.local_folder(name)
    if folder is not None:
        return Place(str(folder), {}, folder)
    found = hub.find(reference)
    if found.folder is not None and is_adapter(found.folder):
        return Place(str(found.folder), {}, found.folder)
    options = {"revision": found.commit, "local_files_only": found.folder is not None}
    if found.folder is not None:
        return Place(name, options, found.folder)
    if ADAPTER_CONFIG in found.files and not {WEIGHTS, INDEX} & set(found.files):
        folder = hub.download(reference, ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"])
        return Place(str(folder), {}, folder)
    return Place(name, options, None)


def check_hub_model(reference: Reference) -> None:
    """Refuse a hub model without weights in safetensors, before it is downloaded.

    Raises:
        ToolkitError: names what there is instead, and what to do.
    """
    name, files = reference[0], hub.find(reference).files
    if any(file.endswith(".safetensors") for file in files):
        return
    if any(file.endswith(".gguf") for file in files):
        raise ToolkitError(
            "has only GGUF files", where=name,
            fix="download one of them into a folder of its own and give the folder",
        )  # fmt: skip
    if any(file.endswith(".bin") for file in files):
        raise pickles(name, {}, target=name.rpartition("/")[2])


def base_of_adapter(folder: Path) -> Reference:
    """Return the model that an adapter was trained on.

    Its path may be relative to the adapter's folder or to the current one.

    Raises:
        ToolkitError: the adapter does not name it, or it is not there.
    """
    settings = read_json(folder / ADAPTER_CONFIG)
    base, file = settings.get("base_model_name_or_path"), folder / ADAPTER_CONFIG
    if not base or not isinstance(base, str):
        raise ToolkitError(
            "is an adapter that does not name its base model", where=str(folder),
            fix=f"write the base model's folder or hub id as base_model_name_or_path into {file}",
        )  # fmt: skip
    beside = seal.parent_path(folder, base)
    if beside.is_dir() and beside != folder:
        base = str(beside)
    if Path(base).is_dir() and Path(base).resolve() == folder.resolve():
        raise ToolkitError("is an adapter that names itself as base model", where=str(folder),
                           fix=f"correct base_model_name_or_path in {file}")  # fmt: skip
    try:
        located((base, settings.get("revision")))
    except ToolkitError as error:
        raise ToolkitError(
            f"is an adapter, and its base model cannot be loaded: {base}: {error.what}", where=str(folder),
            fix=f"provide the base model, or write where it is as base_model_name_or_path into {file}",
        ) from error  # fmt: skip
    return base, settings.get("revision")


def check(folder: Path) -> None:
    """Refuse a folder that is no model of transformers, or one that the toolkit cannot use.

    Raises:
        ToolkitError: names the reason and what to do.
    """
    if gguf_option(folder):
        return
    if not (folder / "config.json").is_file():
        inner = [path.parent for name in ("config.json", ADAPTER_CONFIG) for path in folder.glob(f"*/{name}")]
        newest = max(inner, key=lambda path: (len(path.name), path.name), default=None)  # checkpoint-1000
        model = folder / layout.MODEL if folder / layout.MODEL in inner else newest
        fix = f"give {model}" if model else "give a folder that save_pretrained wrote"
        raise ToolkitError("is not a model folder: it has no config.json", where=str(folder), fix=fix)
    config = read_json(folder / "config.json")
    check_config(config, where=str(folder))
    _check_weights(folder, config)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file.

    Raises:
        ToolkitError: the file holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ToolkitError(
            f"cannot be read: {error.strerror}", where=str(path), fix="check the file and its permissions"
        ) from error
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ToolkitError(f"is not JSON: {reason}", where=str(path), fix="copy the file again") from error
    if not isinstance(content, dict):
        raise ToolkitError("is not a JSON object", where=str(path), fix="copy the file again")
    return content


def check_config(config: dict[str, Any], *, where: str) -> None:
    """Refuse a config.json of quantized weights, of custom code, or of an unknown architecture.

    Raises:
        ToolkitError: names the reason and what to do.
    """
    import transformers  # takes 0.5 s, which looking at the files of a folder need not wait for

    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise ToolkitError(
            f"its weights are quantized ({method or 'quantization_config in config.json'}), and the toolkit "
            "computes with plain weights", where=where,
            fix="give the checkpoint that it was quantized from; its model card names it",
        )  # fmt: skip
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ToolkitError(
            "config.json names no model_type, so that its architecture is not known", where=where,
            fix='save the model again with save_pretrained, or add the key, such as "model_type": "llama"',
        )  # fmt: skip
    if model_type in transformers.CONFIG_MAPPING:
        return
    if config.get("auto_map"):
        raise ToolkitError(
            f"needs Python code of its own (auto_map in config.json; model_type {model_type}), which the "
            "toolkit does not run", where=where,
            fix="give a checkpoint whose architecture is part of transformers; many are also published so",
        )  # fmt: skip
    close = get_close_matches(model_type, [*transformers.CONFIG_MAPPING], n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    raise ToolkitError(
        f"transformers {transformers.__version__} does not know the architecture {model_type!r} of "
        f"config.json{meant}", where=where,
        fix="if the model is newer than this version, update transformers; else correct model_type",
    )  # fmt: skip


def _check_weights(folder: Path, config: dict[str, Any]) -> None:
    """Refuse weights that are missing, truncated, or not in safetensors."""
    files = safetensors_files.weight_files(folder)
    if not files:
        raise _no_weights(folder, config)
    for file in files:
        safetensors_files.header(file)


def _no_weights(folder: Path, config: dict[str, Any]) -> ToolkitError:
    where, shards = str(folder), sorted(path.name for path in folder.glob("*.safetensors"))
    if shards:
        return ToolkitError(
            f"has {shards[0]}, but no {INDEX} that says which weights are where", where=where,
            fix=f"copy {INDEX}, too; a single file is called {WEIGHTS}",
        )  # fmt: skip
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        return pickles(where, config)
    other = next((name for pattern, name in _OTHER_WEIGHTS.items() if any(folder.glob(pattern))), None)
    found = f": they are of {other}" if other else ""
    return ToolkitError(
        f"has no weights in safetensors{found}", where=where,
        fix=f"copy {WEIGHTS}, too, or save the model again with save_pretrained",
    )  # fmt: skip


def pickles(where: str, config: dict[str, Any], *, target: str | None = None) -> ToolkitError:
    """Return the error for weights that are pickles, with a command that converts them.

    Args:
        target: the folder to write, together with the tokenizer; by default the checkpoint's own.
    """
    architectures = config.get("architectures") or ["AutoModelForCausalLM"]
    command = (
        f"import transformers as t; t.{architectures[0]}.from_pretrained({where!r}, dtype='auto')"
        f".save_pretrained({target or where!r})"
    )
    if target:
        command += f"; t.AutoTokenizer.from_pretrained({where!r}).save_pretrained({target!r})"
    return ToolkitError(
        "has no weights in safetensors, only pickles (.bin), which can run code and are not loaded",
        where=where, fix=f'convert them once, if you trust their author: python -c "{command}"',
    )  # fmt: skip
