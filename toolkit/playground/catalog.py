"""The runs below `--runs-dir`, as the Runs room finds them: by reference, never by a path from a browser."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from toolkit.base import files
from toolkit.base.errors import RunError, UsageError
from toolkit.runs import index, layout, seal
from toolkit.runs.index import RunEntry
from toolkit.runs.lineage import Family, family
from toolkit.runs.live_metrics import Follower

FOLLOWED = 16
"""Runs whose metrics stay in memory; 100,000 lines of 10 numbers are 20 MB."""
Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Damaged:
    """A run whose manifest cannot be read."""

    reference: str
    problem: str


class Catalog:
    """The runs below a folder. Thread-safe.

    The entry of a sealed run is remembered: listing 200 runs of 27 files takes 13 ms then, instead of 105.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._lock = threading.Lock()
        self._entries: dict[Path, tuple[Stamp, RunEntry]] = {}
        self._paths: dict[str, Path] = {}
        self._followers: OrderedDict[Path, tuple[threading.Lock, Follower]] = OrderedDict()

    def listing(self) -> tuple[list[RunEntry], list[Damaged]]:
        """Return the runs by reference, and those that cannot be read.

        Raises:
            RunError: the folder does not exist.
        """
        if not self.folder.is_dir():
            raise RunError("there is no such folder", where=str(self.folder),
                           fix="run `toolkit run recipes/tiny`, or name another --runs-dir")  # fmt: skip
        entries, damaged = [], []
        for path in index.run_directories(self.folder, is_run=_is_run_or_damaged):
            try:
                entries.append(self._entry(path))
            except (RunError, OSError, AttributeError) as error:
                what = error.what if isinstance(error, RunError) else str(error)
                damaged.append(
                    Damaged(path.relative_to(self.folder).as_posix(), f"{layout.MANIFEST}: {what}")
                )
        with self._lock:
            self._paths = {entry.reference: entry.path for entry in entries}
        return entries, damaged

    def _entry(self, path: Path) -> RunEntry:
        found = [path / name for name in (layout.LOCK, layout.MANIFEST) if (path / name).exists()]
        states = [file.stat() for file in found]
        stamp = tuple((state.st_mtime_ns, state.st_size, state.st_ino) for state in states)
        kept = self._entries.get(path)
        if kept is not None and kept[0] == stamp and kept[1].state == "sealed":
            return kept[1]
        entry = index.entry_of(path, self.folder)
        self._entries[path] = stamp, entry
        return entry

    def find(self, reference: str) -> RunEntry:
        """Return the entry of a run by its reference.

        Raises:
            UsageError: there is no such run.
        """
        with self._lock:
            path = self._paths.get(reference)
        if path is None or not seal.is_run(path):
            self.listing()
            path = self._paths.get(reference)
        if path is None:
            raise UsageError(f"there is no run {reference!r}", where="run", fix="choose one of the list")
        return self._entry(path)

    def family(self) -> Family:
        """Return what all runs were made from."""
        entries, _ = self.listing()
        return family({entry.reference: entry.path for entry in entries})

    @contextmanager
    def metrics(self, run: Path) -> Iterator[Follower]:
        """Lend the metrics of a run, up to date, to one thread at a time."""
        with self._lock:
            if run not in self._followers:
                self._followers[run] = threading.Lock(), Follower(run / layout.METRICS)
            self._followers.move_to_end(run)
            while len(self._followers) > FOLLOWED:
                self._followers.popitem(last=False)
            lock, follower = self._followers[run]
        with lock:
            follower.update()
            yield follower


def _is_run_or_damaged(path: Path) -> bool:
    """Say whether a folder is a run, or its manifest is not JSON; one of another program is not damaged."""
    try:
        return seal.is_run(path) or not isinstance(files.read_json(path / layout.MANIFEST), dict)
    except RunError:
        return True
