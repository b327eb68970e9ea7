"""Token shards: round trips across files, resuming after a kill, and detection of damage."""

import json
import math

import numpy as np
import pytest

from toolkit.base.errors import DataError, RunError
from toolkit.data.text.shards import DOCUMENTS, INDEX, TokenShards, TokenWriter, dtype_for

DOCUMENT_IDS = [[1, 2, 3], [], [4] * 20, [5, 299], [6]]
STREAM = [token for ids in DOCUMENT_IDS for token in [*ids, 0]]


def written(folder, *, shard_tokens=7, vocab_size=300, **settings):
    writer = TokenWriter(folder, vocab_size=vocab_size, end_id=0, shard_tokens=shard_tokens, **settings)
    for number, ids in enumerate(DOCUMENT_IDS):
        writer.add(ids, num_bytes=10 * number, logprob=-1.5 * number)
    writer.finish()
    return TokenShards.open(folder)


@pytest.mark.parametrize("shard_tokens", [1, 5, 7, 31, 1000])
def test_stream_and_documents_round_trip(tmp_path, shard_tokens):
    shards = written(tmp_path, shard_tokens=shard_tokens)
    assert shards.tokens == len(STREAM) and shards.documents == len(DOCUMENT_IDS)
    for start in range(len(STREAM)):
        for count in (0, 1, 3, len(STREAM) - start):
            if start + count <= len(STREAM):
                assert shards.read(start, count).tolist() == STREAM[start : start + count]
    assert [shards.document(i).tolist() for i in range(shards.documents)] == DOCUMENT_IDS
    assert shards.document_bytes.tolist() == [0, 10, 20, 30, 40] and shards.bytes == 100
    assert shards.document_tokens.tolist() == [len(ids) for ids in DOCUMENT_IDS]
    assert shards.verify() == []


def test_read_beyond_the_end_raises(tmp_path):
    shards = written(tmp_path)
    for call in (
        lambda: shards.read(shards.tokens - 1, 2),
        lambda: shards.read(-1, 1),
        lambda: shards.document(5),
        lambda: shards.document(-1),
    ):
        with pytest.raises(IndexError):
            call()


def test_the_dtype_follows_the_vocabulary(tmp_path):
    assert dtype_for(65536).itemsize == 2 and dtype_for(65537).itemsize == 4
    writer = TokenWriter(tmp_path, vocab_size=70000, end_id=0)
    writer.add([69999], num_bytes=1)
    writer.finish()
    assert TokenShards.open(tmp_path).read(0, 2).tolist() == [69999, 0]


@pytest.mark.parametrize("ids", [[300], [-1]])
def test_out_of_vocabulary_ids_are_refused(tmp_path, ids):
    with pytest.raises(DataError, match="outside the vocabulary"):
        TokenWriter(tmp_path, vocab_size=300, end_id=0).add(ids, num_bytes=1)


def test_document_written_in_pieces_is_identical(tmp_path):
    whole = written(tmp_path / "whole")
    writer = TokenWriter(tmp_path / "pieces", vocab_size=300, end_id=0, shard_tokens=7)
    for number, ids in enumerate(DOCUMENT_IDS):
        for place in range(0, len(ids), 3):
            writer.extend(ids[place : place + 3], num_bytes=0)
        writer.extend([], num_bytes=10 * number)
        writer.end_document(-1.5 * number)
    assert writer.finish()["digest"] == whole.digest


def test_killed_writer_resumes_from_its_state(tmp_path):
    whole = written(tmp_path / "whole")
    for stop in range(len(DOCUMENT_IDS)):
        folder = tmp_path / str(stop)
        writer = TokenWriter(folder, vocab_size=300, end_id=0, shard_tokens=7)
        for number in range(stop):
            writer.add(DOCUMENT_IDS[number], num_bytes=10 * number, logprob=-1.5 * number)
        state = json.loads(json.dumps(writer.state()))
        writer.add([9] * 30, num_bytes=5)  # data after the last state, left by a kill
        writer.state()
        again = TokenWriter(folder, vocab_size=300, end_id=0, shard_tokens=7, state=state)
        for number in range(stop, len(DOCUMENT_IDS)):
            again.add(DOCUMENT_IDS[number], num_bytes=10 * number, logprob=-1.5 * number)
        assert again.finish()["digest"] == whole.digest
        assert TokenShards.open(folder).verify() == []
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            path.name for path in (tmp_path / "whole").iterdir()
        )


@pytest.mark.parametrize("stop", range(9))
def test_documents_that_begin_with_a_token_survive_a_kill(tmp_path, stop):
    """The token in front is in the stream, not in the document; a kill may come within a document."""
    steps = [ids[place : place + 5] for ids in DOCUMENT_IDS for place in range(0, max(1, len(ids)), 5)]
    ends = [place + 5 >= len(ids) for ids in DOCUMENT_IDS for place in range(0, max(1, len(ids)), 5)]

    def write(writer, first, last):
        for ids, is_end in list(zip(steps, ends, strict=True))[first:last]:
            writer.extend(ids, num_bytes=len(ids))
            if is_end:
                writer.end_document()

    settings = {"vocab_size": 300, "end_id": 0, "begin_id": 299, "shard_tokens": 7}
    writer = TokenWriter(tmp_path, **settings)
    write(writer, 0, stop)
    state = json.loads(json.dumps(writer.state()))
    writer.extend([9] * 30, num_bytes=5)  # data after the last state, left by a kill
    writer.state()
    again = TokenWriter(tmp_path, **settings, state=state)
    write(again, stop, None)
    again.finish()
    shards = TokenShards.open(tmp_path)
    assert shards.read(0, shards.tokens).tolist() == [t for ids in DOCUMENT_IDS for t in (299, *ids, 0)]
    assert [shards.document(i).tolist() for i in range(shards.documents)] == DOCUMENT_IDS
    assert shards.start_id == shards.begin_id == 299 and shards.verify() == []


def test_without_a_token_in_front_the_index_is_as_before(tmp_path):
    shards = written(tmp_path)
    assert "begin_id" not in shards.index and shards.begin_id is None and shards.start_id == 0


def test_resume_detects_a_changed_finished_shard(tmp_path):
    writer = TokenWriter(tmp_path, vocab_size=300, end_id=0, shard_tokens=7)
    writer.add([4] * 20, num_bytes=1)
    state = writer.state()
    (tmp_path / "tokens-00000.bin").write_bytes(b"\1" * 14)
    with pytest.raises(RunError, match="tokens-00000.bin: this file was changed"):
        TokenWriter(tmp_path, vocab_size=300, end_id=0, shard_tokens=7, state=state)


def test_missing_index_or_truncated_shard_is_detected(tmp_path):
    with pytest.raises(RunError, match="no index.json"):
        TokenShards.open(tmp_path)
    shards = written(tmp_path)
    (tmp_path / DOCUMENTS).write_bytes(b"")
    with pytest.raises(RunError, match="documents.bin has 0 bytes instead of 160"):
        TokenShards.open(tmp_path)
    (tmp_path / DOCUMENTS).unlink()
    with pytest.raises(RunError, match="is missing"):
        TokenShards.open(tmp_path)
    assert shards.index["digest"] == json.loads((tmp_path / INDEX).read_text())["digest"]


def test_verify_detects_one_changed_token(tmp_path):
    shards = written(tmp_path)
    path = tmp_path / "tokens-00001.bin"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    assert shards.verify() == ["tokens-00001.bin"]


def test_entropy_floor_is_bits_divided_by_bytes(tmp_path):
    shards = written(tmp_path)
    assert shards.entropy_floor() == pytest.approx(15.0 / math.log(2) / 100)
    writer = TokenWriter(tmp_path / "unknown", vocab_size=300, end_id=0)
    writer.add([1], num_bytes=1, logprob=-1.0)
    writer.add([1], num_bytes=1)
    writer.finish()
    assert TokenShards.open(tmp_path / "unknown").entropy_floor() is None


def test_random_streams_round_trip(tmp_path):
    generator = np.random.default_rng(0)
    documents = [generator.integers(0, 500, generator.integers(0, 50)) for _ in range(300)]
    writer = TokenWriter(tmp_path, vocab_size=500, end_id=0, shard_tokens=97)
    for ids in documents:
        writer.add(ids, num_bytes=len(ids))
    writer.finish()
    shards = TokenShards.open(tmp_path)
    for number, ids in enumerate(documents):
        assert np.array_equal(shards.document(number), ids)
