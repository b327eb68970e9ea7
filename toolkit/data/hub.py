"""Reading datasets of the Hugging Face Hub.

A separate module, because importing `datasets` takes 1 to 2 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import datasets
from datasets.exceptions import DatasetNotFoundError

from toolkit.base.errors import DataError
from toolkit.config.schema import DataSource
from toolkit.data import files
from toolkit.runtime.network import NETWORK_ERRORS


def rows(source: DataSource, *, streaming: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (location, row) of a hub dataset's split, or of all splits if it is `all`.

    Streaming stores nothing on disk; otherwise `datasets` caches the data and also reads it offline.

    Raises:
        DataError: no network; no such dataset, revision, configuration or split; or several splits and none
            is named.
    """
    name, revision = files.hub_name(source)
    where = f"{name}@{revision}" if revision else name
    streaming = streaming and not datasets.config.HF_HUB_OFFLINE  # offline, only the cache is readable
    try:
        loaded = datasets.load_dataset(name, source.config, revision=revision, streaming=streaming)
    except DatasetNotFoundError as error:
        raise DataError(
            f"the Hub has no such dataset, or it is private or gated: {error}",
            where=where,
            fix="check owner/name and revision, or `hf auth login`",
        ) from error
    except FileNotFoundError as error:
        raise DataError(
            f"the Hub has no such dataset or revision: {error}",
            where=where,
            fix="check owner/name and revision; a local file needs a suffix or ./",
        ) from error
    except (OSError, *NETWORK_ERRORS) as error:
        raise DataError(
            f"the Hub cannot be reached: {error}",
            where=where,
            fix="go online (unset HF_HUB_OFFLINE), or name local files or `storyworld`",
        ) from error
    except ValueError as error:
        raise DataError(
            f"the dataset cannot be read like this: {error}", where=where, fix="check `config`"
        ) from error
    for split in files.choose_splits(list(loaded), source.split, where=where):
        yield from _read(loaded[split], where=f"{where} {split}")


def _read(rows_of_split: Iterable[dict[str, Any]], *, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (location, row); while streaming, the network may fail at any row."""
    number = -1
    try:
        for number, row in enumerate(rows_of_split):
            yield f"{where}:{number}", row
    except (OSError, *NETWORK_ERRORS) as error:
        raise DataError(
            f"the connection to the Hub was lost: {error}",
            where=f"{where}:{number + 1}",
            fix="run the same command again: it resumes from its last checkpoint",
        ) from error
