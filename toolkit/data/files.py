"""Which local files a data source means, and their digest.

`decoding` reads their text and `tables` their rows. None of these modules imports `datasets`, which takes 1
to 2 s.
"""

from __future__ import annotations

import difflib
import glob
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from toolkit.base.console import tell_once
from toolkit.base.errors import DataError
from toolkit.base.files import sha256_file
from toolkit.config import data_formats, inputs
from toolkit.config.inputs import HUB_NAME, STORYWORLD_SETTINGS, is_local, key_text
from toolkit.config.schema import DataSource
from toolkit.config.schema.base import STORYWORLD
from toolkit.data import vote_file
from toolkit.runs import layout, seal
from toolkit.storyworld import get_world

FILE_SETTINGS = ("encoding", "separator")
"""Settings of a data source that only local files have."""
SAVED_DATASET = ("dataset_info.json", "state.json")
SAVED_SPLITS = "dataset_dict.json"
"""The files that `save_to_disk` of `datasets` writes beside the data, of a Dataset and of a DatasetDict."""
RecipeType = TypeVar("RecipeType", bound=BaseModel)
_GLOB = re.compile(r"[*?\[]")
_NAMES_SHOWN = 5
_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
"""Parts of datasets, as they are named in files: `train-00000-of-00001.parquet`."""


def resolve(source: DataSource, *, quiet: bool = False) -> list[Path] | None:
    """Return the files of a local source, in order; None for storyworld and hub datasets.

    Args:
        quiet: do not name the files of a folder that are not read.

    Raises:
        DataError: a missing or empty file, a folder or glob without a readable file, another suffix, or a
            setting without effect.
    """
    check(source)
    if not is_local(source.name):
        return None
    paths = local_files(source.name, split=source.split, quiet=quiet)
    if source.split is None and not quiet:
        _warn_of_splits(source.name, paths)
    suffixes = {data_formats.suffix_of(path.name) for path in paths}
    if source.encoding is not None and suffixes <= {*data_formats.NOT_TEXT}:
        raise DataError(
            "`encoding` has no effect: the files are not text", where=source.name, fix="remove `encoding`"
        )
    if source.separator is not None and data_formats.TEXT not in suffixes:
        raise DataError(
            "`separator` has no effect: there is no plain text", where=source.name, fix="remove `separator`"
        )
    return paths


def _warn_of_splits(name: str, paths: Sequence[Path]) -> None:
    """Warn if the files of a folder or glob are the training and the test part of a dataset."""
    words = {word for path in paths for word in re.split(r"[^a-z]+", path.name.lower())}
    splits = [split for split in _SPLITS if split in words]
    if len(splits) > 1 and _SPLITS[0] in splits:
        tell_once(
            f"warning: {name}: files of several splits are read together: {', '.join(splits)}; to read only "
            "one of them, give a glob with its name"
        )


def is_votes(source: DataSource) -> bool:
    """Return whether a source is a table of people's votes."""
    return is_local(source.name) and data_formats.is_votes(source.name)


def is_in_run(source: DataSource) -> bool:
    """Return whether a source is the preferences, or the best answers, of a run."""
    path = Path(source.name)
    return path.name in (layout.PREFERENCES, layout.BEST) and seal.run_of(path.parent) is not None


def local_files(
    name: str,
    suffixes: Sequence[str] = data_formats.SUFFIXES,
    *,
    split: str | None = None,
    quiet: bool = False,
) -> list[Path]:
    """Return the files that a path, a folder or a glob names, sorted.

    A folder stands for the files of these suffixes below it, except tables of votes, and for its data if
    `save_to_disk` of `datasets` wrote it. The other files of a folder are named once on stderr.

    Args:
        quiet: do not name them.
        split: of a saved DatasetDict; `all` joins every split in order.

    Raises:
        DataError: a missing or empty file, a folder or glob without a readable file, or another suffix.
    """
    path = Path(name).expanduser()
    if not path.is_dir():
        paths = _expand(name)
        for path in paths:
            _check_file(path, suffixes)
        return paths
    folder = _Folder([suffix for suffix in suffixes if suffix not in data_formats.VOTES], split)
    folder.read(path)
    if not folder.found:
        raise DataError(
            "the folder has no file that can be read",
            where=name,
            fix=f"give files of {data_formats.listed(suffixes)}",
        )
    if split not in (None, "all") and not folder.has_splits:
        raise DataError(f"the folder has no split {split!r}", where=name, fix="remove `split`")
    if folder.left_out and not quiet:
        names = [str(left_out.relative_to(path)) for left_out in folder.left_out]
        tell_once(
            f"{name}: left out are {len(names):,} files or folders (hidden, empty or of another type): "
            f"{_few(names)}"
        )
    return folder.found


def choose_splits(names: Sequence[str], split: str | None, *, where: str) -> list[str]:
    """Return the splits of a dataset to read: the named one, every one for `all`, or the only one.

    Raises:
        DataError: no such split, or several and none is named.
    """
    if split == "all" or (split is None and len(names) == 1):
        return list(names)
    if split is None:
        raise DataError(
            f"the dataset has several splits: {', '.join(names)}",
            where=where,
            fix="name one with `split`, or `all`",
        )
    if split not in names:
        raise DataError(
            f"there is no split {split!r}; the splits are: {', '.join(names)}",
            where=where,
            fix="name one of them with `split`, or `all`",
        )
    return [split]


def check(source: DataSource) -> None:
    """Raise DataError for a setting without effect on this kind of source, without reading the data."""
    name = source.name
    if is_local(name):
        kind, unused = "local files", ("config", *STORYWORLD_SETTINGS)
        if source.split not in (None, "all") and not Path(name).expanduser().is_dir():
            raise DataError(
                f"local files have no split {source.split!r}, only `all`", where=name, fix="remove `split`"
            )
    elif name == STORYWORLD:
        kind, unused = "storyworld", ("split", "field", *FILE_SETTINGS)
    elif HUB_NAME.fullmatch(name):
        kind, unused = "a hub dataset", (*STORYWORLD_SETTINGS, *FILE_SETTINGS)
    else:
        raise DataError(
            "is neither a file nor the name of a hub dataset",
            where=name,
            fix="give storyworld, a path or glob, or owner/name[@revision]",
        )
    for key in unused:
        if getattr(source, key) is not None:
            raise DataError(f"`{key}` has no effect on {kind}", where=name, fix=f"remove `{key}`")


def hub_name(source: DataSource) -> tuple[str, str | None]:
    """Return (owner/name, revision) of a hub source."""
    name, _, revision = source.name.partition("@")
    return name, revision or None


def digests(recipe: BaseModel) -> dict[str, str]:
    """Return {key: digest} of all data and files that a recipe names, such as {"win_rate.judge_data": ...}.

    Raises:
        DataError: a file is missing.
    """
    sources = {}
    for key, source in inputs.data_sources(recipe):
        if not source.name.startswith("runs/"):  # a parent, whose digest is that of its seal
            sources[key_text(key)] = digest(source)
        if inputs.has_separate_held_out(source):
            sources[key_text((*key, "held_out"))] = digest(inputs.separate_held_out(source))
    files = {key_text(key): f"sha256:{sha256_of(path)}" for key, path in inputs.files(recipe)}
    return sources | files


def with_fixed_votes(recipe: RecipeType) -> RecipeType:
    """Return a recipe in which each table of votes is its present rows, `feedback.sqlite@412`.

    People go on voting while a run trains, and after it.

    Raises:
        DataError: a table cannot be read.
    """
    sources = [source for _, source in inputs.data_sources(recipe)]
    if not any(_grows(source) for source in sources):
        return recipe

    def fixed(source: DataSource) -> DataSource:
        if not _grows(source):
            return source
        count = vote_file.count_rows(Path(source.name).expanduser())
        return source.model_copy(update={"name": f"{source.name}@{count}"})

    return inputs.with_sources(recipe, fixed)


def _grows(source: DataSource) -> bool:
    return data_formats.is_votes(source.name) and data_formats.pinned(Path(source.name))[1] is None


def digest(source: DataSource) -> str:
    """Return an identifier of a source's content: digest of files or of storyworld, or name and revision."""
    paths = resolve(source, quiet=True)
    if paths is None:
        if source.name == STORYWORLD:
            return f"{STORYWORLD}:{get_world(source.world).digest}"
        return f"hub:{source.name}"
    return joined_digest(file_digests(paths))


def file_digests(paths: Iterable[Path]) -> list[bytes]:
    """Return the SHA-256 of each file."""
    return [bytes.fromhex(sha256_of(path)) for path in paths]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file; of a table of votes, that of its rows."""
    return vote_file.digest(path).hex() if data_formats.is_votes(path.name) else sha256_file(path)


def joined_digest(digests: Iterable[bytes]) -> str:
    """Return the identifier of a local source whose files have these digests."""
    return f"sha256:{hashlib.sha256(b''.join(digests)).hexdigest()}"


def size_bytes(paths: list[Path]) -> int:
    """Return the size of all files in bytes."""
    return sum(data_formats.pinned(path)[0].stat().st_size for path in paths)


class _Folder:
    """The files of a folder and of the folders below it.

    Attributes:
        found: the files to read, in the order of their paths.
        left_out: hidden, empty and other files, and hidden folders.
        has_splits: whether `split` chose among the splits of a saved DatasetDict.
    """

    def __init__(self, suffixes: Sequence[str], split: str | None):
        self.found: list[Path] = []
        self.left_out: list[Path] = []
        self.has_splits = False
        self._suffixes, self._split = suffixes, split

    def read(self, folder: Path) -> None:
        """Add the files of a folder.

        Raises:
            DataError: a run directory, a link to a folder above, or a damaged saved dataset.
        """
        if seal.is_run(folder):
            raise DataError(
                "is a run directory, not data",
                where=str(folder),
                fix=f"name a file in it, such as {folder / layout.PREFERENCES}",
            )
        if (folder / SAVED_SPLITS).is_file():
            names = _saved(folder / SAVED_SPLITS, "splits")
            self.has_splits = True
            for name in choose_splits(names, self._split, where=str(folder)):
                self.read(folder / name)
        elif all((folder / name).is_file() for name in SAVED_DATASET):
            files = [folder / data["filename"] for data in _saved(folder / SAVED_DATASET[1], "_data_files")]
            for path in files:
                _check_file(path, self._suffixes)
            self.found += files
        else:
            for entry in _entries(folder):
                self._add(entry)

    def _add(self, entry: Path) -> None:
        if entry.name.startswith("."):
            self.left_out.append(entry)
        elif entry.is_dir():
            if entry.is_symlink() and entry.parent.resolve().is_relative_to(entry.resolve()):
                raise DataError("a link leads to a folder above", where=str(entry), fix="remove the link")
            self.read(entry)
        elif _is_readable(entry, self._suffixes) and entry.stat().st_size:
            self.found.append(entry)
        else:
            self.left_out.append(entry)


def _saved(path: Path, key: str) -> list:
    """Return a list in a file of a saved dataset."""
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))[key])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"not a file that `save_to_disk` of datasets wrote: {error!r}",
            where=str(path),
            fix="save the dataset again",
        ) from None


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"the folder cannot be read: {error.strerror}", where=str(folder), fix="check its permissions"
        ) from None


def _expand(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.exists() or not _GLOB.search(name):
        return [path]
    matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 (the pattern may be absolute)
    paths = sorted(Path(match) for match in matches if Path(match).is_file())
    if not paths:
        raise DataError(
            "no file matches this pattern", where=name, fix=_inside(Path(_GLOB.split(str(path))[0]))
        )
    return paths


def _check_file(path: Path, suffixes: Sequence[str]) -> None:
    path, _ = data_formats.pinned(path)
    if not path.exists():
        raise DataError("this file does not exist", where=str(path), fix=_similar(path))
    if not path.is_file():
        raise DataError("is not a file", where=str(path), fix="give a path to a file or a folder, or a glob")
    if not _is_readable(path, suffixes):
        ending = "".join(path.suffixes[-2:] if data_formats.compression_of(path.name) else path.suffixes[-1:])
        raise DataError(
            f"files ending in {ending or 'no suffix'} are not read",
            where=str(path),
            fix=f"give one of {data_formats.listed(suffixes)}",
        )
    if not path.stat().st_size:
        raise DataError("this file is empty", where=str(path), fix="remove it or name another file")


def _is_readable(path: Path, suffixes: Iterable[str]) -> bool:
    return path.is_file() and data_formats.suffix_of(path.name) in suffixes


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either; paths are relative to the current folder"
    names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"did you mean {path.parent / close[0]}?" if close else _inside(path)


def _inside(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    names = sorted(entry.name for entry in folder.iterdir() if data_formats.suffix_of(entry.name))
    return f"{folder} holds {_few(names)}" if names else f"{folder} holds no {data_formats.listed()} file"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (" ..." if len(names) > _NAMES_SHOWN else "")
