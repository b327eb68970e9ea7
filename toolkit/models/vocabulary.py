"""Loading tokenizers, apart from models: a stage that only reads text starts without torch.

AutoTokenizer of transformers imports its modelling code: 3.3 seconds of processor time where the class that
reads any tokenizer.json takes 0.7.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from toolkit.base.errors import ToolkitError
from toolkit.base.files import sha256
from toolkit.config.inputs import is_local

Reference = tuple[str, str | None]
"""A folder or a hub id, and the hub revision."""

OURS = "TokenizersBackend"
"""What tokenizer_config.json calls a tokenizer that its tokenizer.json describes whole."""


def load_tokenizer(reference: Reference) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder, of a tokenizer folder, or of a hub model."""
    name, revision = reference
    folder = local_folder(name)
    if folder and not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
        raise ToolkitError(
            "has no tokenizer (tokenizer.json)", where=name,
            fix="copy the tokenizer's files into the folder: tokenizer.save_pretrained(folder)",
        )  # fmt: skip
    try:
        if folder and _plain(folder):
            return PreTrainedTokenizerFast.from_pretrained(folder)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise not_loadable(name, revision, error) from error


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of all that decides which ids a text gets; padding and truncation do not count."""
    if tokenizer.is_fast:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        content |= {"padding": None, "truncation": None}
    else:
        content = tokenizer.get_vocab()
    return sha256(json.dumps(content, sort_keys=True))


def _plain(folder: Path) -> bool:
    """Whether the folder's tokenizer needs no class of its own."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return config.get("tokenizer_class") == OURS and (folder / "tokenizer.json").is_file()
    except (OSError, ValueError, AttributeError):
        return False


def local_folder(name: str) -> Path | None:
    """Return the folder that `name` is, or None for a hub id; a path that is not there is an error."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise ToolkitError("is a file, not a model folder", where=name, fix="name the folder that holds it")
    if is_local(name, kind="model"):
        raise ToolkitError("no such folder", where=name, fix="check the path, or run its stage first")
    return None


def not_loadable(name: str, revision: str | None, error: Exception) -> ToolkitError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(name).expanduser().is_dir():
        return ToolkitError(f"cannot be loaded: {reason}", where=name, fix="check that the folder is whole")
    where = f"{name}@{revision}" if revision else name
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") or "connect" in str(error).lower()
    fix = (
        "there is no way to the hub from here: download the model where there is one, and name its folder"
        if offline
        else "check the name and the revision; a private model needs `hf auth login`"
    )
    return ToolkitError(f"is no folder here and cannot be had from the hub: {reason}", where=where, fix=fix)
