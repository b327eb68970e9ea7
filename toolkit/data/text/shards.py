"""Memory-mapped token shards on disk: a stream of token ids in several files, and a record of each document.

    index.json          sizes and digests; written last and atomically: without it the folder is incomplete
    tokens-00000.bin    little-endian uint16 or uint32; each document is followed by end-of-text, and begins
                        with the token that its tokenizer puts in front of a text, if it puts one there
    documents.bin       one record per document: start, tokens (without these two), bytes, logprob

A document may span files. The digest depends on tokens, documents and the size of the files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.base.errors import DataError, RunError
from toolkit.base.files import write_json
from toolkit.runs import layout
from toolkit.runs.evaluation import LostText

INDEX = layout.TOKEN_INDEX
DOCUMENTS = "documents.bin"
RECORD = np.dtype([("start", "<u8"), ("tokens", "<u8"), ("bytes", "<u8"), ("logprob", "<f8")])
"""`start` in tokens of the stream, `bytes` of the original UTF-8 text, `logprob` in nats (NaN: unknown)."""
_RECORD_BYTES = struct.Struct("<QQQd")
_BUFFER_BYTES = 1 << 22


def dtype_for(vocab_size: int) -> np.dtype:
    """Return the smallest unsigned dtype that holds every id below `vocab_size`."""
    return np.dtype("<u2") if vocab_size <= 65536 else np.dtype("<u4")


def shard_name(index: int) -> str:
    return f"tokens-{index:05d}.bin"


class TokenShards:
    """Read access to a folder of shards, memory-mapped."""

    def __init__(self, folder: Path, index: dict[str, Any]):
        self.folder, self.index = folder, index
        self.tokens: int = index["tokens"]
        """Length of the stream, with every end-of-text."""
        self.documents: int = index["documents"]
        self.bytes: int = index["bytes"]
        self.vocab_size: int = index["vocab_size"]
        self.end_id: int = index["end_id"]
        self.begin_id: int | None = index.get("begin_id")
        """The token in front of each document; None: there is none."""
        self.digest: str = index["digest"]
        self.dtype = np.dtype(index["dtype"])
        self._shard_tokens: int = index["shard_tokens"]
        self._maps: dict[int, np.ndarray] = {}
        self._records = _map(folder / DOCUMENTS, RECORD)

    @classmethod
    def open(cls, folder: Path | str) -> TokenShards:
        """Open a complete folder.

        Raises:
            RunError: the index or a file is missing, or a file has another size.
        """
        folder = Path(folder)
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(
                f"cannot be read: {error}",
                where=str(folder / INDEX),
                fix="restore the file, or run the corpus recipe again with --fresh",
            ) from None
        except FileNotFoundError:
            raise RunError(
                "no token shards: there is no index.json",
                where=str(folder),
                fix="give the folder of a finished corpus run",
            ) from None
        for entry in index["files"]:
            path = folder / entry["name"]
            size = path.stat().st_size if path.exists() else None
            if size != entry["bytes"]:
                problem = "is missing" if size is None else f"has {size} bytes instead of {entry['bytes']}"
                raise RunError(
                    f"{entry['name']} {problem}",
                    where=str(folder),
                    fix="run the corpus recipe again with --fresh",
                )
        return cls(folder, index)

    @property
    def start_id(self) -> int:
        """The token before the first token of a document: in front of it, or at the end of the one before."""
        return self.end_id if self.begin_id is None else self.begin_id

    @property
    def document_bytes(self) -> np.ndarray:
        """Bytes of each document's original text in UTF-8, (documents,) uint64."""
        return self._records["bytes"]

    @property
    def document_tokens(self) -> np.ndarray:
        """Tokens of each document without end-of-text, (documents,) uint64."""
        return self._records["tokens"]

    @property
    def document_starts(self) -> np.ndarray:
        """Position of each document in the stream, (documents,) uint64."""
        return self._records["start"]

    @property
    def document_logprobs(self) -> np.ndarray:
        """True log-probability of each document in nats, its end included, NaN if unknown, (documents,)."""
        return self._records["logprob"]

    def document(self, index: int) -> np.ndarray:
        """Return the ids of one document, (tokens,), without end-of-text."""
        if not 0 <= index < self.documents:
            raise IndexError(f"document {index} of {self.documents}")
        record = self._records[index]
        return self.read(int(record["start"]), int(record["tokens"]))

    def read(self, start: int, count: int) -> np.ndarray:
        """Return `count` ids of the stream from `start`, (count,); raises IndexError beyond the end."""
        if start < 0 or count < 0 or start + count > self.tokens:
            raise IndexError(f"tokens {start} to {start + count} of {self.tokens}")
        shard, offset = divmod(start, self._shard_tokens)
        parts = []
        while count > 0:
            part = self._shard(shard)[offset : offset + count]
            parts.append(part)
            count, shard, offset = count - len(part), shard + 1, 0
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def entropy_floor(self) -> float | None:
        """Return the exact entropy of these documents in bits per byte, None if a logprob is unknown.

        It is the sum of -log2 p(document with its end) divided by the sum of original bytes.
        """
        total = float(np.sum(self.document_logprobs, dtype=np.float64)) if self.documents else math.nan
        return None if math.isnan(total) or not self.bytes else -total / math.log(2) / self.bytes

    @property
    def lost_text(self) -> LostText | None:
        """What the tokenizer did not keep of the documents; None if it kept everything."""
        return lost_text_in(self.index["facts"])

    def verify(self) -> list[str]:
        """Return the names of files whose sha256 differs from the recorded one."""
        return [
            entry["name"]
            for entry in self.index["files"]
            if file_digest(self.folder / entry["name"]) != entry["sha256"]
        ]

    def _shard(self, index: int) -> np.ndarray:
        if index not in self._maps:
            self._maps[index] = _map(self.folder / shard_name(index), self.dtype)
        return self._maps[index]


class TokenWriter:
    """Writes a folder of shards in bounded memory; a new writer can resume from `state`.

    A document is one `add`, or several `extend` and one `end_document` if it is too long for memory.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        vocab_size: int,
        end_id: int,
        begin_id: int | None = None,
        shard_tokens: int = 100_000_000,
        state: dict[str, Any] | None = None,
    ):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.vocab_size, self.shard_tokens = vocab_size, shard_tokens
        self.end_id, self.begin_id = end_id, begin_id
        self.dtype = dtype_for(vocab_size)
        self.tokens = self.documents = self.bytes = 0
        self._open_start = self._open_bytes = 0
        self._is_open = False
        self._digests: list[str] = []
        self._buffer: list[np.ndarray] = []
        self._buffered = 0
        self._records = bytearray()
        self._open_hashes = {"shard": hashlib.sha256(), "documents": hashlib.sha256()}
        """Of the bytes so far of the last shard, and of documents.bin."""
        (self.folder / INDEX).unlink(missing_ok=True)
        if state is not None:
            self._restore(state)
        self._cut_files()
        if state is not None:
            self._check_open_files(state.get("open_digests", {}))

    def add(self, ids: np.ndarray | list[int], *, num_bytes: int, logprob: float | None = None) -> None:
        """Append a document, given by its ids without end-of-text."""
        self.extend(ids, num_bytes=num_bytes)
        self.end_document(logprob)

    def extend(self, ids: np.ndarray | list[int], *, num_bytes: int) -> None:
        """Append a piece of the open document; raises DataError for an id outside the vocabulary."""
        self._begin_document()
        ids = np.asarray(ids)
        if len(ids):
            if ids.max() >= self.vocab_size or ids.min() < 0:
                raise DataError(f"a token id is outside the vocabulary of {self.vocab_size}")
            self._append(ids.astype(self.dtype))
        self._open_bytes += num_bytes

    def end_document(self, logprob: float | None = None) -> None:
        """Close the open document with end-of-text."""
        self._begin_document()
        length = self.tokens - self._open_start
        self._records += _RECORD_BYTES.pack(
            self._open_start, length, self._open_bytes, math.nan if logprob is None else logprob
        )
        self._append(np.array([self.end_id], self.dtype))
        self.documents += 1
        self.bytes += self._open_bytes
        self._open_start, self._open_bytes, self._is_open = self.tokens, 0, False

    def _begin_document(self) -> None:
        """Write what stands in front of a document, unless one is open."""
        if self._is_open:
            return
        self._is_open = True
        if self.begin_id is not None:
            self._append(np.array([self.begin_id], self.dtype))
            self._open_start = self.tokens

    def state(self) -> dict[str, Any]:
        """Write everything to disk and return the state from which a new writer can resume."""
        self._flush(sync=True)
        return {
            "tokens": self.tokens,
            "documents": self.documents,
            "bytes": self.bytes,
            "is_open": self._is_open,
            "open_start": self._open_start,
            "open_bytes": self._open_bytes,
            "digests": list(self._digests),
            "open_digests": {name: value.hexdigest() for name, value in self._open_hashes.items()},
        }

    def finish(self, facts: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write the index atomically and return it; `facts` are stored in it but not part of the digest."""
        if self._is_open:
            raise ValueError("the last document is still open")
        self._flush(sync=True)
        if self.tokens % self.shard_tokens:
            self._digests.append(file_digest(self.folder / shard_name(len(self._digests))))
        files = [_entry(self.folder / shard_name(i), digest) for i, digest in enumerate(self._digests)]
        files.append(_entry(self.folder / DOCUMENTS, file_digest(self.folder / DOCUMENTS)))
        index = {
            "format": 1,
            "dtype": self.dtype.str,
            "vocab_size": self.vocab_size,
            "end_id": self.end_id,
            "shard_tokens": self.shard_tokens,
            "tokens": self.tokens,
            "documents": self.documents,
            "bytes": self.bytes,
            "files": files,
        }
        if self.begin_id is not None:
            index["begin_id"] = self.begin_id
        index["digest"] = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
        index["facts"] = facts or {}
        write_json(self.folder / INDEX, index)
        return index

    def _append(self, ids: np.ndarray) -> None:
        self._buffer.append(ids)
        self._buffered += ids.nbytes
        self.tokens += len(ids)
        if self._buffered >= _BUFFER_BYTES:
            self._flush()

    def _flush(self, *, sync: bool = False) -> None:
        ids = np.concatenate(self._buffer) if self._buffer else np.empty(0, self.dtype)
        position = self.tokens - len(ids)
        self._buffer, self._buffered = [], 0
        while len(ids):
            shard, offset = divmod(position, self.shard_tokens)
            part = ids[: self.shard_tokens - offset]
            path = self.folder / shard_name(shard)
            content = part.tobytes()
            self._open_hashes["shard"].update(content)
            _append_bytes(path, content, sync=sync or offset + len(part) == self.shard_tokens)
            if offset + len(part) == self.shard_tokens:
                self._digests.append(file_digest(path))
                self._open_hashes["shard"] = hashlib.sha256()
            ids, position = ids[len(part) :], position + len(part)
        self._open_hashes["documents"].update(self._records)
        _append_bytes(self.folder / DOCUMENTS, bytes(self._records), sync=sync)
        self._records.clear()

    def _restore(self, state: dict[str, Any]) -> None:
        self.tokens, self.documents, self.bytes = state["tokens"], state["documents"], state["bytes"]
        self._open_start, self._open_bytes = state["open_start"], state["open_bytes"]
        self._is_open = state.get("is_open", self._open_start != self.tokens)  # older journals do not say
        self._digests = list(state["digests"])
        for shard, digest in enumerate(self._digests):
            path = self.folder / shard_name(shard)
            if not path.exists() or file_digest(path) != digest:
                raise _changed(path)

    def _check_open_files(self, digests: Mapping[str, str]) -> None:
        """Hash the last shard and documents.bin again, cut to the state's sizes; old states lack digests."""
        for name, path in (("shard", shard_name(len(self._digests))), ("documents", DOCUMENTS)):
            if (self.folder / path).exists():
                self._open_hashes[name].update((self.folder / path).read_bytes())
            if name in digests and self._open_hashes[name].hexdigest() != digests[name]:
                raise _changed(self.folder / path)

    def _cut_files(self) -> None:
        """Truncate each file to the size in the state, because a killed writer may have written more."""
        full, rest = divmod(self.tokens, self.shard_tokens)
        sizes = {shard_name(full): rest * self.dtype.itemsize, DOCUMENTS: self.documents * RECORD.itemsize}
        for path in self.folder.glob("tokens-*.bin"):
            if path.name >= shard_name(full) and path.name not in sizes:
                path.unlink()
        for name, size in sizes.items():
            path = self.folder / name
            path.touch()
            if path.stat().st_size < size:
                raise RunError(
                    f"{name} is shorter than recorded",
                    where=str(self.folder),
                    fix="start the corpus over with --fresh",
                )
            os.truncate(path, size)
            if not size and name != DOCUMENTS:
                path.unlink()


def _changed(path: Path) -> RunError:
    return RunError(
        "this file was changed since it was written",
        where=str(path),
        fix="start the corpus over with --fresh",
    )


def lost_text_in(content: Mapping[str, Any]) -> LostText | None:
    """Return `lost_text` of the facts of an index, or of a journal; None if no text was lost."""
    return LostText.from_json(content["lost_text"]) if "lost_text" in content else None


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    if not path.stat().st_size:  # mmap rejects empty files
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)


def _entry(path: Path, digest: str) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}


def _append_bytes(path: Path, content: bytes, *, sync: bool) -> None:
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        if sync:
            os.fsync(file.fileno())
