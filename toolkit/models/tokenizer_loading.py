"""Loading tokenizers without torch, for stages that only read text.

transformers' AutoTokenizer imports modelling code, which takes 3.3 s of processor time; the class that reads
any tokenizer.json takes 0.7 s.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from toolkit.base.console import tell_once
from toolkit.base.errors import ToolkitError
from toolkit.base.files import sha256
from toolkit.config.inputs import is_local
from toolkit.data.chat.dates import TEMPLATE_DATE, with_fixed_date

Reference = tuple[str, str | None]
"""A folder or a hub id, and the hub revision or None."""

GENERIC_CLASS = "TokenizersBackend"
"""`tokenizer_class` of a tokenizer that tokenizer.json describes completely."""


def load_tokenizer(reference: Reference) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder, a tokenizer folder or a hub model.

    A chat template that prints today's date prints a fixed one (`toolkit.data.chat.dates`).

    Raises:
        ToolkitError: no such folder, no tokenizer in it, or a hub model that cannot be downloaded.
    """
    name, revision = reference
    folder = local_folder(name)
    if folder and not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
        raise ToolkitError(
            "has no tokenizer (tokenizer.json)", where=name,
            fix="copy the tokenizer's files into the folder: tokenizer.save_pretrained(folder)",
        )  # fmt: skip
    try:
        if folder and _is_generic(folder):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise not_loadable(name, revision, error) from error
    fixed = with_fixed_date(tokenizer.chat_template)
    if fixed != tokenizer.chat_template:
        tell_once(f"{name}: the chat template prints today's date; here it always prints {TEMPLATE_DATE}")
        tokenizer.chat_template = fixed
    return tokenizer


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the sha256 of everything that determines a text's ids; padding and truncation are ignored."""
    if tokenizer.is_fast:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        content |= {"padding": None, "truncation": None}
    else:
        content = tokenizer.get_vocab()
    return sha256(json.dumps(content, sort_keys=True))


def _is_generic(folder: Path) -> bool:
    """Return whether the tokenizer in the folder needs no special class."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return config.get("tokenizer_class") == GENERIC_CLASS and (folder / "tokenizer.json").is_file()
    except (OSError, ValueError, AttributeError):
        return False


def local_folder(name: str) -> Path | None:
    """Return the folder that `name` means, or None for a hub id.

    Raises:
        ToolkitError: a path that does not exist, or a file.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise ToolkitError(
            "is a file, not a model folder", where=name, fix="give the folder that contains it"
        )
    if is_local(name, kind="model"):
        raise ToolkitError("no such folder", where=name, fix="check the path, or run its stage first")
    return None


def not_loadable(name: str, revision: str | None, error: Exception) -> ToolkitError:
    """Return the error for a model or tokenizer that transformers failed to load."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(name).expanduser().is_dir():
        return ToolkitError(
            f"cannot be loaded: {reason}", where=name, fix="check that the folder is complete"
        )
    where = f"{name}@{revision}" if revision else name
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") or "connect" in str(error).lower()
    fix = (
        "the hub is unreachable: download the model on a machine with network access and give its folder"
        if offline
        else "check the name and the revision; a private model needs `hf auth login`"
    )
    return ToolkitError(
        f"is not a local folder and cannot be loaded from the hub: {reason}", where=where, fix=fix
    )
