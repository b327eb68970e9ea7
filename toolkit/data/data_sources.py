"""The sources of a recipe's `data:`, text or conversations: checks, held-out part, order of a mixture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from toolkit.base.errors import DataError
from toolkit.base.rng import derive
from toolkit.config import inputs
from toolkit.config.inputs import has_separate_held_out, separate_held_out
from toolkit.config.schema import Data, DataSource, HeldOut
from toolkit.data import files
from toolkit.data.tables import Row
from toolkit.storyworld import World, get_world

Part = Literal["train", "held_out", "all"]
DEFAULT_HELD_OUT = 0.1


def as_sources(data: Data) -> list[DataSource]:
    """Return the sources of `data`, checked.

    Raises:
        DataError: a setting without effect on its source, or the weight of a single source.
    """
    sources = list(data) if isinstance(data, (list, tuple)) else [data]
    for source in sources:
        files.check(source)
        if has_separate_held_out(source) and source.name != files.STORYWORLD:
            files.check(separate_held_out(source))
        if source.name == files.STORYWORLD and source.columns is not None:
            raise DataError(
                "`columns` has no effect on storyworld", where=source.name, fix="remove `columns`"
            )
    if len(sources) == 1 and sources[0].weight != 1.0:
        raise DataError(
            "`weight` has an effect only in a mixture of several sources",
            where=sources[0].name,
            fix="remove `weight`",
        )
    return sources


def held_out_share(source: DataSource) -> float:
    """Return the share of documents, conversations or stories that a source holds out.

    Raises:
        DataError: the source has another held-out part than a share.
    """
    if source.held_out is None:
        return DEFAULT_HELD_OUT
    if not isinstance(source.held_out, HeldOut):
        raise DataError(
            f"held_out: {source.held_out} has no effect on storyworld, whose parts are drawn separately",
            where=source.name,
            fix="remove `held_out`",
        )
    if source.held_out.documents is None:
        (key,) = source.held_out.model_dump(exclude_none=True)
        kinds = "text only, not to conversations or storyworld" if key == "last_characters" else "files only"
        raise DataError(
            f"held_out.{key} applies to {kinds}", where=source.name, fix="give held_out: {documents: 0.1}"
        )
    return source.held_out.documents


def has_held_out(data: Data) -> bool:
    """Return whether any source of `data` holds out rows."""
    return any(source.held_out != "none" for source in as_sources(data))


def rows_of(source: DataSource, part: Part) -> tuple[DataSource | None, Part]:
    """Return the source that has the rows of a part, and which part of that source they are.

    The source is None for the held-out part of a source that holds out nothing.

    Raises:
        DataError: training on a source that is only measured on.
    """
    held_out = source.held_out
    if part == "all" or source.name == files.STORYWORLD:
        return source, part
    if held_out == "all" and part == "train":
        raise DataError(
            "held_out: all leaves no row to train on",
            where=source.name,
            fix="remove it, or write a share, held_out: {documents: 0.1}",
        )
    if held_out in ("none", "all"):
        return None if held_out == "none" and part == "held_out" else source, "all"
    if has_separate_held_out(source):
        return source if part == "train" else separate_held_out(source), "all"
    return source, part


def is_held_out(digest: bytes, *, share: float) -> bool:
    """Return whether the example with this digest is held out, independently of the seed and the source."""
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def example_limit(source: DataSource, part: Part) -> int | None:
    """Return the maximum number of examples of a part, None without a limit."""
    return source.held_out_examples if part == "held_out" else source.examples


def mixture_order(weights: Sequence[float], *, seed: int) -> Iterator[int]:
    """Yield the index of the next source, endlessly, so that counts stay within one of their shares.

    The source with the largest deficit is next; ties are broken in an order drawn from the seed.
    """
    shares = [weight / sum(weights) for weight in weights]
    order = sorted(range(len(shares)), key=lambda index: derive(seed, "mixture", index))
    counts, total = [0] * len(shares), 0
    while True:
        total += 1
        best = max(order, key=lambda index: round(shares[index] * total - counts[index], 9))
        counts[best] += 1
        yield best


def check_mixture(sources: Sequence[DataSource], counts: Sequence[int]) -> None:
    """Raise DataError if the mixture, which ends with its first exhausted source, left out a source."""
    for source, count in zip(sources, counts, strict=True):
        if not count:
            raise DataError(
                "the mixture ended before its first example of this source",
                where=source.name,
                fix="give the other sources more examples, or this one a larger weight",
            )


def world_of(data: Data) -> World | None:
    """Return the storyworld that all sources are of; None for other data and for several worlds."""
    name = inputs.world_of(as_sources(data))
    return None if name is None else get_world(name)


def story_seed(seed: int, index: int) -> int:
    """Return the seed of a storyworld source: the recipe's own for the first, so that stages agree."""
    return seed if index == 0 else derive(seed, "source", index)


def story_rows(source: DataSource, config: str, *, part: Part, seed: int) -> Iterator[Row]:
    """Yield (location, row) of a storyworld source.

    Args:
        config: the configuration if the source names none.

    Raises:
        DataError: an unknown configuration, or a setting without effect on it.
    """
    config = source.config or config
    options = {
        key: getattr(source, key)
        for key in ("flawed_share", "complying_share", "temperature")
        if getattr(source, key) is not None
    }
    if source.held_out is not None:
        options["held_out_fraction"] = held_out_share(source)
    for split, count in story_counts(source, part).items():
        try:
            rows = get_world(source.world).rows(config, seed, split, count, **options)
        except ValueError as error:
            raise DataError(
                str(error), where=files.STORYWORLD, fix="remove the setting, or name another `config`"
            ) from None
        for number, row in enumerate(rows):
            yield f"storyworld {config} {split}:{number}", row


def story_counts(source: DataSource, part: Part) -> dict[str, int]:
    """Return the number of storyworld examples of each split; by default a ninth as many are held out.

    Raises:
        DataError: the source gives no number.
    """
    if source.examples is None and (part != "held_out" or source.held_out_examples is None):
        raise DataError(
            "storyworld is endless: the number of examples is missing",
            where=files.STORYWORLD,
            fix="give `examples`, and `held_out_examples` if it matters",
        )
    held_out = source.held_out_examples or max(1, round((source.examples or 0) / 9))
    counts = {"train": source.examples or 0, "held_out": held_out}
    return counts if part == "all" else {part: counts[part]}
