"""Messages of libraries that do not concern the user of a recipe stay off the terminal.

Warnings about the data, the model or the machine stay. Python's `-W` and `PYTHONWARNINGS`, and
`TRANSFORMERS_VERBOSITY`, show everything again.
"""

from __future__ import annotations

import logging
import os
import re
import warnings

_UNIMPORTANT = (
    # For who calls the library: the toolkit supports the versions that it requires.
    re.compile(r"\bdeprecated\b"),
    # Trainer copies the tokenizer's special tokens to the model; those of before are written.
    re.compile(r"tokens that differ from the model config and generation config"),
    # models/generation_settings.py repairs them and says so.
    re.compile(r"generation flags are not valid and may be ignored"),
    # The tokens of a chat template are new on purpose.
    re.compile(r"new (embeddings|lm_head weights) will be initialized"),
)
_LOAD_REPORT = re.compile(r"\bLOAD REPORT\b")
_REPORTED = re.compile(r"^(\S+) *\| *([A-Z]+)\b", re.MULTILINE)
_NEW_HEAD = ("score.weight", "MISSING")
_COLORS = re.compile(r"\x1b\[[0-9;]*m")


def quiet() -> None:
    """Hide unimportant messages in this process from now on; call it after the libraries are imported."""
    # At the end of the list, so that the user's own filters and the tests' come first.
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, append=True)
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        for handler in logging.getLogger("transformers").handlers:
            handler.addFilter(_is_important)
    # A checkpoint holds the embeddings, too, if tokens were added.
    warnings.filterwarnings("ignore", message="Setting `save_embedding_layers`", append=True)


def _is_important(record: logging.LogRecord) -> bool:
    if record.levelno > logging.WARNING:
        return True
    message = _COLORS.sub("", record.getMessage())
    if _LOAD_REPORT.search(message):
        # A reward model begins with a new head; models/loading.py refuses a model that lacks other weights.
        return _REPORTED.findall(message) != [_NEW_HEAD]
    return not any(pattern.search(message) for pattern in _UNIMPORTANT)
