"""Which runs were trained on the data of an evaluation, and which of its rows they held out.

The manifests of a model's run, and of the runs that it was made from, have the digests and settings of their
data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from toolkit.base import files as json_files
from toolkit.base.console import tell_once
from toolkit.base.errors import DataError, ToolkitError, UsageError
from toolkit.config import data_formats
from toolkit.config.inputs import has_separate_held_out, separate_held_out
from toolkit.config.registry import STAGES, Product
from toolkit.config.schema import DataSource, HeldOut
from toolkit.data import files, hub, tables
from toolkit.data.chat import plain_text, split_key
from toolkit.data.chat.formats import Unusable
from toolkit.data.data_sources import DEFAULT_HELD_OUT, Part
from toolkit.runs import layout, manifest, seal
from toolkit.runs.hub import Reference

READING = ("field", "columns", "encoding", "separator")
"""Settings that decide what a document or a prompt is, and so what is hashed."""


@dataclass(frozen=True)
class MeasuredPart:
    """What of a source is measured.

    Attributes:
        source: the source; its `held_out` is what the trainings held out, or `all`.
        part: what is measured.
        trained_on: names of the runs that were trained on the source.
    """

    source: DataSource
    part: Part
    trained_on: tuple[str, ...] = ()

    @property
    def part_to_read(self) -> Part:
        """The part to read of `source`, whose `held_out: all` makes every row one of the held-out part."""
        return "train" if self.part == "train" else "held_out"

    def sentence(self, used: int, total: int, unit: str) -> str:
        """Return which rows are measured, and how to measure others."""
        runs, count = " and ".join(self.trained_on), f"{used:,} of {total:,} {unit}"
        runs += " were" if len(self.trained_on) > 1 else " was"
        rows = {
            "held_out": f"only its held-out part is measured, {count}; --part train measures the training "
            "rows, --part all measures all rows",
            "train": f"{count} are measured, all of them training rows",
            "all": f"{count} are measured, training rows among them",
        }
        return f"{runs} trained on {self.source.name}: {rows[self.part]}"


def select(
    source: DataSource,
    models: Iterable[Reference],
    *,
    part: Part | None,
    is_text: bool,
    keeps_field: bool = True,
) -> MeasuredPart:
    """Return what to measure of a source: by default all rows, or those that no training of the models read.

    Args:
        models: the models to measure and their judges.
        part: the part that the user asked for.
        is_text: the documents of the source are measured, not its conversations, preferences or prompts.
        keeps_field: whether the setting `field` has an effect on the rows that are read.

    Raises:
        UsageError: the held-out rows are asked for, or needed by default, and cannot be computed.
        DataError: the source cannot be read.
    """
    if source.name == files.STORYWORLD:
        if part in ("train", "all"):
            raise UsageError(
                "has no effect on storyworld, whose held-out part is measured",
                where="--part",
                fix="leave it out",
            )
        return MeasuredPart(source, "held_out")
    if has_separate_held_out(source):
        source = separate_held_out(source).model_copy(update={"examples": source.held_out_examples})
    elif source.held_out is not None and part is None:
        part = "all" if source.held_out == "all" else "held_out"
    found = _trainings_on(source, models)
    names = tuple(dict.fromkeys(training.run for training, _ in found))
    part = part or ("held_out" if found else "all")
    if part == "all":
        return MeasuredPart(_limited(source, part, "all"), part, names)
    if not found:
        return MeasuredPart(
            _limited(source, part, source.held_out or HeldOut(documents=DEFAULT_HELD_OUT)), part
        )
    source, held_out = _held_out_rows(source, found, is_text=is_text, keeps_field=keeps_field)
    if part == "held_out" and held_out == "none":
        raise _no_rows(source, found)
    return MeasuredPart(_limited(source, part, held_out), part, names)


def _limited(source: DataSource, part: Part, held_out: Any) -> DataSource:
    """Return the source with a held-out part; its limit applies to the part that is measured."""
    limit = source.examples if part != "held_out" else source.held_out_examples or source.examples
    return source.model_copy(update={"held_out": held_out, "examples": limit, "held_out_examples": limit})


@dataclass(frozen=True)
class Training:
    """A source that a run read the training part of.

    Attributes:
        run: name of the run that was trained on it.
        digest: of the source's content when it was read; of a Hub dataset its name and revision.
        is_text: its documents were read, not its conversations.
        key: what was hashed for the held-out part, as the run recorded it.
    """

    run: str
    source: DataSource
    digest: str
    is_text: bool
    key: str | None

    @cached_property
    def files(self) -> frozenset[bytes]:
        """SHA-256 of each file of the source, none if they are not those that were read."""
        try:
            digests = files.file_digests(files.resolve(self.source, quiet=True) or [])
        except DataError:  # moved or removed since
            return frozenset()
        return frozenset(digests) if files.joined_digest(digests) == self.digest else frozenset()

    def is_by_text(self, source: DataSource) -> bool:
        """Return whether the hash of a document's text determined its part, not that of a prompt.

        Args:
            source: where the same data, or some of its files, are now.
        """
        place = {"name": source.name, "split": source.split}
        return self.is_text and not is_conversation(self.source.model_copy(update=place))


def _trainings_on(source: DataSource, models: Iterable[Reference]) -> list[tuple[Training, bool]]:
    """Return the trainings on a file or Hub dataset, nearest first, and whether each read exactly this."""
    paths = files.resolve(source, quiet=True)
    digests = None if paths is None else files.file_digests(paths)
    digest = files.digest(source) if digests is None else files.joined_digest(digests)
    found: dict[tuple[str, DataSource], tuple[Training, bool]] = {}
    for training in trainings(models, source.name):
        is_same = training.digest == digest
        if digests is None:
            is_shared = _is_same_dataset(source, training.source)
            is_same = is_same and source.split == training.source.split
        else:
            is_shared = is_same or not training.files.isdisjoint(digests)
        if is_shared:
            found.setdefault((training.run, training.source), (training, is_same))
    return list(found.values())


def _is_same_dataset(source: DataSource, other: DataSource) -> bool:
    """Return whether two sources have rows of the same Hub dataset in common, of whichever revision.

    A dataset whose split is not named has only one.
    """
    if files.is_local(other.name) or files.hub_name(source)[0] != files.hub_name(other)[0]:
        return False
    splits = {source.split, other.split}
    return source.config == other.config and (len(splits) == 1 or not splits.isdisjoint({None, "all"}))


def trainings(models: Iterable[Reference], name: str) -> Iterator[Training]:
    """Yield every source that the runs of models, and the runs that they were made from, were trained on.

    Args:
        name: of the measured data, for a warning about a run that cannot be read.
    """
    for model in models:
        yield from _trainings(model, name)


def _trainings(model: Reference, name: str) -> Iterator[Training]:
    path = Path(model[0])
    run = seal.run_of(path) if path.exists() else None
    waiting, seen = [] if run is None else [(run, "")], {run}
    while waiting:
        run, trained = waiting.pop(0)
        try:
            content = manifest.read(run)
            # What a corpus or preferences were made from, the run that was made from them is trained on.
            is_model = STAGES[content["stage"]].product in (Product.LANGUAGE_MODEL, Product.REWARD_MODEL)
            trained = content["name"] if is_model or not trained else trained
            sources = list(_sources(run, content, trained))
            parents = [parent for _, parent, _, is_run in seal.parents(run) if is_run]
        except (ToolkitError, ValidationError, OSError, KeyError) as error:
            reason = " ".join(str(error).split())
            tell_once(f"warning: whether {run} was trained on {name} is unknown: {reason}")
            continue
        yield from sources
        for parent in parents:
            if parent not in seen:
                seen.add(parent)
                waiting.append((parent, trained))


def _sources(run: Path, content: manifest.Manifest, trained: str) -> Iterator[Training]:
    stage, inputs = STAGES[content["stage"]], content["inputs"]
    data = inputs["settings"].get("data")
    # The merges of a tokenizer are no memory of its text.
    if data is None or stage.reads_held_out or stage.product is Product.TOKENIZER:
        return
    recorded = _recorded_keys(run)
    entries = data if isinstance(data, list) else [data]
    for index, settings in enumerate(entries):
        source, key = DataSource.model_validate(settings), f"data[{index}]" if len(entries) > 1 else "data"
        if key in inputs["data"]:
            digest = inputs["data"][key]
        elif key in inputs["parents"]:  # the preferences of a run
            owner = next(path for name, path, _, _ in seal.parents(run) if name == key)
            file = owner / (Path(source.name).name if Path(source.name).suffix else layout.PREFERENCES)
            source = source.model_copy(update={"name": str(file)})
            digest = files.digest(source)
        else:
            continue
        is_text = stage.product is Product.CORPUS
        yield Training(trained, source, digest, is_text, recorded.get(index))


def _recorded_keys(run: Path) -> dict[int, str]:
    """Return what a run hashed for the held-out part, by the number of the source."""
    file = run / layout.EVALUATION
    data = json_files.read_json(file).get("data") if file.is_file() else None
    sources = data.get("sources", []) if isinstance(data, dict) else []
    return {index: row["held_out_by"] for index, row in enumerate(sources) if "held_out_by" in row}


def _held_out_rows(
    source: DataSource, found: list[tuple[Training, bool]], *, is_text: bool, keeps_field: bool
) -> tuple[DataSource, Any]:
    """Return the source as it was read in the trainings, and the part of it that all of them held out.

    Raises:
        UsageError: that part cannot be computed.
    """
    given, nearest = source.held_out, found[0][0].source
    _require_same_reading(source, found)
    reading = {name: getattr(nearest, name) for name in (*READING, "on_bad_row")}
    reading |= {} if keeps_field else {"field": None}
    source = source.model_copy(update={**reading, "held_out": None})
    sources = [training.source for training, _ in found]
    if any(other.held_out == "none" or has_separate_held_out(other) for other in sources):
        return source, "none"
    by_text = is_text and not is_conversation(source)
    if by_text and any(
        getattr(other, name) != getattr(nearest, name) for other in sources for name in READING
    ):
        raise _unknown(source, found[0][0], "the runs read the text as different documents")
    shares: dict[str, list[float]] = {"documents": [], "last_characters": []}
    for training, is_same in found:
        held_out = training.source.held_out or HeldOut(documents=DEFAULT_HELD_OUT)
        ((name, share),) = held_out.model_dump(exclude_none=True).items()
        shares[name].append(share)
        if name == "documents":
            _require_same_hash(source, training, by_text=by_text)
        elif not is_text:
            raise _unknown(source, training, "the last characters of its text were held out, not rows")
        elif not is_same:
            raise _unknown(source, training, "the last characters of several files were held out")
    if all(shares.values()):
        raise _unknown(source, found[0][0], "one run held out documents, and another the last characters")
    # Of two shares by the same hash, the smaller one is a part of the larger one; so are the last characters.
    held_out = HeldOut(**{name: min(values) for name, values in shares.items() if values})
    if given not in (None, "all", held_out):
        raise _unknown(
            source, found[0][0], f"held_out is {given!r} here, and was {held_out!r} in its training"
        )
    return source, held_out


def _require_same_reading(source: DataSource, found: list[tuple[Training, bool]]) -> None:
    """Raise UsageError if the source is to be read in another way than in a training."""
    for training, _ in found:
        for name in READING:
            given, then = getattr(source, name), getattr(training.source, name)
            if given is not None and given != then:
                reason = f"`{name}` was {then!r} in its training, and is {given!r} here"
                raise _unknown(source, training, reason)


def _require_same_hash(source: DataSource, training: Training, *, by_text: bool) -> None:
    """Raise UsageError if another text was hashed in a training than would be hashed now."""
    if training.is_by_text(source) != by_text:
        what = ("its prompts", "its text") if by_text else ("its text", "its prompts")
        raise _unknown(source, training, f"a hash of {what[0]} chose them, and {what[1]} are measured")
    if by_text:
        return
    if files.is_in_run(source) != files.is_in_run(training.source):
        raise _unknown(
            source, training, f"they are known of the file in its run only: {training.source.name}"
        )
    key = training.key
    if key is None and training.files:
        key = str(split_key.of_source(training.source))
    if key is not None and key != (now := str(split_key.of_source(source))):
        raise _unknown(
            source, training, f"a hash of {key} chose them, and of these rows alone it would be {now}"
        )


def is_conversation(source: DataSource) -> bool:
    """Return whether the documents of a source are conversations, by its first row."""
    for location, row in islice(_rows(source), 1):
        try:
            return plain_text.as_text(row, source, location=location) is not None
        except (Unusable, DataError):
            return True
    return False


def _rows(source: DataSource) -> Iterator[tables.Row]:
    """Yield the rows of a file or Hub dataset until a file of plain text, which has none."""
    paths = files.resolve(source, quiet=True)
    if paths is None:
        yield from hub.rows(source, streaming=True)
    for path in paths or []:
        if data_formats.suffix_of(path.name) == data_formats.TEXT:
            return
        yield from tables.rows(path, encoding=source.encoding)


def _unknown(source: DataSource, training: Training, reason: str) -> UsageError:
    return UsageError(
        f"{training.run} was trained on it, and its held-out rows cannot be computed: {reason}",
        where=source.name,
        fix="--part all measures all rows, training rows among them; or give other data",
    )


def _no_rows(source: DataSource, found: list[tuple[Training, bool]]) -> UsageError:
    for training, _ in found:
        held_out = training.source.held_out
        if isinstance(held_out, HeldOut):
            other = (held_out.name and f"--data {held_out.name}") or f"--split {held_out.split}"
            fix = f"{other} has the held-out rows of this run"
            break
    else:
        fix = "give other data"
    return UsageError(
        f"{found[0][0].run} was trained on all of its rows: none is held out",
        where=source.name,
        fix=f"{fix}; --part train measures training rows",
    )
