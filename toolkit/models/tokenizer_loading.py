"""Loading tokenizers without torch, for stages that only read text.

transformers' AutoTokenizer imports modelling code, which takes 3.3 s of processor time; the class that reads
any tokenizer.json takes 0.7 s.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from toolkit.base.console import tell_once
from toolkit.base.errors import ToolkitError
from toolkit.base.files import sha256
from toolkit.data.chat.dates import TEMPLATE_DATE, with_fixed_date
from toolkit.models import checkpoint_folder
from toolkit.models.load_errors import not_loadable
from toolkit.runs.hub import Reference

GENERIC_CLASS = "TokenizersBackend"
"""`tokenizer_class` of a tokenizer that tokenizer.json describes completely."""

_OF_THE_MACHINE = ("is_local", "local_files_only")
"""What transformers would write into tokenizer_config.json: where it was loaded from, and HF_HUB_OFFLINE."""


def load_tokenizer(reference: Reference) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder, a tokenizer folder or a hub model.

    A chat template that prints today's date prints a fixed one (`toolkit.data.chat.dates`).

    Raises:
        ToolkitError: no such folder, no tokenizer in it, one that needs a package that is not installed, or a
            hub model that cannot be downloaded.
    """
    place = checkpoint_folder.located(reference)
    folder = place.folder
    if folder and not checkpoint_folder.has_tokenizer(folder):
        if checkpoint_folder.is_adapter(folder):
            return load_tokenizer(checkpoint_folder.base_of_adapter(folder))
        raise ToolkitError(
            "has no tokenizer (tokenizer.json)", where=reference[0],
            fix="copy the tokenizer's files into the folder: tokenizer.save_pretrained(folder)",
        )  # fmt: skip
    try:
        if folder and _is_generic(folder):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        else:
            from transformers import AutoTokenizer

            options = {**place.options, **checkpoint_folder.gguf_option(folder)}
            tokenizer = AutoTokenizer.from_pretrained(place.name, trust_remote_code=False, **options)
    except Exception as error:  # a file of other people may be wrong in any way
        raise not_loadable(reference, error) from error
    if not isinstance(tokenizer.model_max_length, int | float):
        raise ToolkitError(
            f"tokenizer_config.json: model_max_length is {tokenizer.model_max_length!r}, not a number",
            where=reference[0], fix="correct the value; numbers stand without quotes",
        )  # fmt: skip
    for name in _OF_THE_MACHINE:
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.name_or_path = reference[0]
    fixed = with_fixed_date(tokenizer.chat_template)
    if fixed != tokenizer.chat_template:
        tell_once(
            f"{reference[0]}: the chat template prints today's date; here it always prints {TEMPLATE_DATE}"
        )
        tokenizer.chat_template = fixed
    return _whole_text(tokenizer)


def _whole_text(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Switch off what tokenizer.json may store and what would cut, fill or change the ids of a text.

    Truncation and padding are those of the program that saved the tokenizer, and dropout in BPE is meant for
    its training: ids would be random.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(backend, Tokenizer):
        backend.no_truncation()
        backend.no_padding()
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None
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
