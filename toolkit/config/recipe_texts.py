"""The texts of recipe files: each file is read once, and handed over to the processes that run the recipe.

A recipe may change on disk while a folder of recipes runs, and a pipe can be read only once. So the text that
was checked is the text that every process of the run uses and that the run seals.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

from toolkit.base.errors import Problem, RecipeError
from toolkit.config.yaml_source import read_text

VARIABLE = "TOOLKIT_RECIPE"
"""The environment variable that holds the texts for a process that runs one recipe."""
LARGEST_VARIABLE = 120_000
"""Bytes of an environment variable; Linux allows 128 KiB with its name."""


class RecipeTexts:
    """The texts of recipe files by path, as the recipe writes it; a file is read at its first use only.

    Args:
        known: texts that are not read from disk.
    """

    def __init__(self, known: Mapping[str, str] | None = None):
        self._texts = dict(known or {})
        self.known = bool(self._texts)
        """Whether texts were handed over."""

    def __getitem__(self, path: Path) -> str:
        """Return the text of a file.

        Raises:
            RecipeError: it cannot be read.
        """
        if str(path) not in self._texts:
            self._texts[str(path)] = read_text(path)
        return self._texts[str(path)]

    def __contains__(self, path: Path) -> bool:
        """Return whether there is such a file."""
        return str(path) in self._texts or path.is_file()


def handed_over(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variable that hands texts over to another process.

    Raises:
        RecipeError: a recipe and its bases are too long for one.
    """
    packed = base64.b64encode(zlib.compress(json.dumps(texts).encode())).decode()
    if len(packed) > LARGEST_VARIABLE:
        raise RecipeError([Problem(list(texts)[-1], "", "is, with its bases, larger than a recipe can be")])
    return {VARIABLE: packed}


def are_handed_over() -> bool:
    """Return whether another process handed the recipe over to this one."""
    return VARIABLE in os.environ


def receive() -> RecipeTexts:
    """Return the texts that another process handed over, once; none if it did not."""
    packed = os.environ.pop(VARIABLE, None)
    if packed is None:
        return RecipeTexts()
    return RecipeTexts(json.loads(zlib.decompress(base64.b64decode(packed))))
