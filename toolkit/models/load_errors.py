"""Why transformers cannot load a model or a tokenizer, and what to do about it."""

from __future__ import annotations

from pathlib import Path

from toolkit.base.errors import ToolkitError
from toolkit.models import checkpoint_folder
from toolkit.runs.hub import Reference

_PACKAGES = ("sentencepiece", "tiktoken", "protobuf", "gguf", "mistral_common", "mistral-common")


def not_loadable(reference: Reference, error: Exception) -> ToolkitError:
    """Return the error for a model or tokenizer that transformers failed to load."""
    if isinstance(error, ToolkitError):
        return error
    name, revision = reference
    where = f"{name}@{revision}" if revision else name
    known = _known(where, error)
    if known is not None:
        return known
    folder = Path(name).expanduser()
    if folder.is_dir():
        for path in sorted(folder.glob("*.json")):
            try:
                checkpoint_folder.read_json(path)
            except ToolkitError as broken:
                return broken
        return ToolkitError(
            f"cannot be loaded: {_reason(error)}", where=name,
            fix="check that the folder is complete, and the values in config.json",
        )  # fmt: skip
    fix = "check the name and the revision; a private model needs `hf auth login`"
    if "connect" in str(error).lower():
        fix = "the connection was lost: the same command continues the download"
    return ToolkitError(
        f"is not a local folder and cannot be loaded from the hub: {_reason(error)}", where=where, fix=fix
    )


def _known(where: str, error: Exception) -> ToolkitError | None:
    """Return the error of a kind that has advice of its own."""
    text = str(error)
    if type(error).__name__.startswith("StrictDataclass"):
        detail = text.strip().splitlines()[-1].strip()
        return ToolkitError(
            f"config.json: {detail.removeprefix('TypeError: ').removeprefix('ValueError: ')}", where=where,
            fix="correct the value" + ("; numbers stand without quotes" if "got str" in detail else ""),
        )  # fmt: skip
    if "ignore_mismatched_sizes" in text:
        return ToolkitError(
            "its weights have other shapes than config.json says", where=where,
            fix="copy config.json and the weights from the same checkpoint",
        )  # fmt: skip
    packages = [package for package in _PACKAGES if package in text.lower()]
    if packages and isinstance(error, ImportError | ValueError):
        install = "sentencepiece tiktoken protobuf" if packages[0] in _PACKAGES[:3] else packages[0]
        return ToolkitError(
            f"needs a package that is not installed ({packages[0]})", where=where,
            fix=f"pip install {install}, or save it with save_pretrained where they are installed, which "
            "writes tokenizer.json",
        )  # fmt: skip
    if "trust_remote_code" in text or "custom code" in text:
        return ToolkitError(
            "needs Python code of its own, which the toolkit does not run", where=where,
            fix="give a checkpoint whose model and tokenizer are part of transformers (tokenizer.json)",
        )  # fmt: skip
    return None


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    kind = "" if isinstance(error, OSError | ValueError | ImportError) else f"{type(error).__name__}: "
    return kind + lines[0] if lines else type(error).__name__
