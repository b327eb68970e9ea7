"""The first row of each local data source of a recipe, read as the stage would, before anything runs.

The libraries that read rows are imported only if a recipe names a file: `datasets` and `transformers` take
2 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.base import console
from toolkit.base.errors import DataError, Problem, ProblemKind, RunError, ToolkitError
from toolkit.config import data_formats, inputs
from toolkit.config.loader import LoadedRecipe
from toolkit.config.registry import STAGES
from toolkit.config.schema import DataSource, PpoRecipe, SftRecipe, TrainerRecipe
from toolkit.config.yaml_source import Key, dotted, nearest
from toolkit.data import files
from toolkit.runs import references, seal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LARGEST_ARRAY = 1 << 26
"""Bytes of a JSON array that is read here: it has to be read whole."""
TEXT = ("stories", "turns")


@dataclass(frozen=True)
class CheckedData:
    """What the first rows of a recipe's data show.

    Attributes:
        problems: what the stage would stop at.
        missing: files that are not there.
        unread: a line for each file that a run may still write, or that is too large for a check.
    """

    problems: list[Problem] = field(default_factory=list)
    missing: list[Problem] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def check(loaded: LoadedRecipe, *, runs_dir: Path) -> CheckedData:
    """Read the first row of each data source that is a local file, and find the other files of a recipe."""
    found = CheckedData()
    sources = []
    for key, source in _local_sources(loaded):
        if (what := _missing(source)) is None:
            sources.append((key, source))
        elif Path(source.name).resolve().is_relative_to(runs_dir.resolve()):
            found.unread.append(f"{dotted(key)}: {what}")
        else:
            found.missing.append(_problem(loaded, key, what, ProblemKind.MISSING))
    try:
        list(inputs.files(loaded.recipe))
    except DataError as error:
        found.missing.append(_problem(loaded, (), f"{error.where}: {error.what}", ProblemKind.MISSING))
        return found
    tokenizers: list[PreTrainedTokenizerBase] = []
    if sources and (reference := _model_here(loaded, runs_dir)) is not None:
        with _collected(found.problems, loaded, ("model",)):
            tokenizers = [_tokenizer(loaded, reference)]
    for key, source in sources:
        with _collected(found.problems, loaded, key):
            _require_readable(loaded, key, source, tokenizers, found)
    return found


@contextmanager
def _collected(problems: list[Problem], loaded: LoadedRecipe, key: Key) -> Iterator[None]:
    """Turn an error in the block into a problem of a setting; libraries and notices print nothing."""
    try:
        with console.notices_to(None):
            yield
    except ToolkitError as error:
        problems.append(_problem(loaded, key, str(error), ProblemKind.VALUE))


def _problem(loaded: LoadedRecipe, key: Key, what: str, kind: ProblemKind) -> Problem:
    return Problem(nearest(loaded.positions, key), dotted(key), what, kind)


def _local_sources(loaded: LoadedRecipe) -> Iterator[tuple[Key, DataSource]]:
    for key, source in inputs.data_sources(loaded.recipe):
        named = [(key, source)]
        if inputs.has_separate_held_out(source):
            named.append(((*key, "held_out"), inputs.separate_held_out(source)))
        for place, one in named:
            if inputs.is_local(one.name) and not one.name.startswith("runs/"):
                yield place, one


def _missing(source: DataSource) -> str | None:
    """Return what is not there of a local source; None if it is."""
    if not any(character in source.name for character in "*?["):
        is_there = Path(source.name).expanduser().exists()
        return None if is_there else f"there is no file {source.name} here"
    try:
        files.resolve(source, quiet=True)
    except DataError as error:
        return f"{error.where}: {error.what}"
    return None


def _require_readable(
    loaded: LoadedRecipe,
    key: Key,
    source: DataSource,
    tokenizers: list[PreTrainedTokenizerBase],
    found: CheckedData,
) -> None:
    """Read the first row of a source, as its stage would."""
    paths = files.resolve(source, quiet=True) or []
    if paths and data_formats.suffix_of(paths[0].name) == ".json" and paths[0].stat().st_size > LARGEST_ARRAY:
        found.unread.append(f"{dotted(key)}: {paths[0]} (a large array)")
        return
    configs = STAGES[loaded.recipe.stage].storyworld[str(key[0])]
    if set(configs) <= set(TEXT):
        from toolkit.data.text import source_documents

        source_documents.require_readable(source)
        return
    from toolkit.data.chat import sources

    sources.require_readable(source, configs[0], tokenizers=tokenizers)


def _model_here(loaded: LoadedRecipe, runs_dir: Path) -> tuple[str, str | None] | None:
    """Return the folder of the model that is trained; None if it is not there yet, or of the Hub."""
    if not isinstance(loaded.recipe, TrainerRecipe | PpoRecipe):
        return None
    name = loaded.recipe.model
    try:
        path = references.run_path(name, runs_dir)
        is_here = Path(name).is_dir() if path is None else seal.is_sealed(seal.run_of(path) or path)
        return references.model(name, runs_dir=runs_dir) if is_here else None
    except RunError:  # the stage says why
        return None


def _tokenizer(loaded: LoadedRecipe, reference: tuple[str, str | None]) -> PreTrainedTokenizerBase:
    from toolkit.data.chat import answer_end, template
    from toolkit.models.tokenizer_loading import load_tokenizer

    tokenizer = load_tokenizer(reference)
    if isinstance(loaded.recipe, SftRecipe):
        template.configure(tokenizer, loaded.recipe.chat_template)
        answer_end.require_answers(tokenizer)
    return tokenizer
