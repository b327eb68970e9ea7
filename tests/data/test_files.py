"""Local data sources: name resolution, file formats and error messages."""

import gzip
import json
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from toolkit.base.errors import DataError
from toolkit.config.schema import DataSource
from toolkit.data import decoding, files, tables


def refused(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    assert caught.value.fix, "an error says what to do"
    for word in words:
        assert word in str(caught.value)


def resolve(name, **settings):
    return files.resolve(DataSource(name=str(name), **settings))


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", ["x.txt", "./x", "/x", "~/x", "*.txt", "a/b/c", "a/b.jsonl.gz", "a/x.csv"])
def test_path_like_names_are_local(name):
    assert files.is_local(name)


@pytest.mark.parametrize(
    "name",
    [
        "storyworld",
        "owner/name",
        "squad",
        "owner/corpus-v1.5",
        "owner/name@main",
        "owner/name@refs/convert/parquet",
    ],
)
def test_hub_names_are_not_local(name):
    assert not files.is_local(name)
    assert resolve(name) is None


def test_existing_path_is_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    write(tmp_path / "owner" / "name", "text")
    assert files.is_local("owner/name")


def test_missing_file_suggests_a_similar_name(tmp_path):
    write(tmp_path / "stories.txt", "a")
    refused(
        lambda: resolve(tmp_path / "storys.txt"),
        "storys.txt: this file does not exist",
        f"did you mean {tmp_path}/stories.txt?",
    )


def test_missing_folder_is_reported(tmp_path):
    refused(lambda: resolve(tmp_path / "no" / "a.txt"), "the folder", "does not exist either")


def test_glob_is_sorted_and_empty_match_lists_files(tmp_path):
    for name in ("b.txt", "a.txt", "c.jsonl"):
        write(tmp_path / name, "x")
    assert [path.name for path in resolve(tmp_path / "*.txt")] == ["a.txt", "b.txt"]
    refused(lambda: resolve(tmp_path / "*.parquet"), "no file matches", "a.txt, b.txt, c.jsonl")


def test_empty_folder_empty_file_and_unknown_suffix_are_refused(tmp_path):
    refused(lambda: resolve(tmp_path), "the folder has no file that can be read", ".txt")
    refused(lambda: resolve(write(tmp_path / "e.txt", "")), "e.txt: this file is empty")
    refused(lambda: resolve(write(tmp_path / "a.pdf", "x")), ".pdf", ".jsonl", ".gz")


@pytest.mark.parametrize(
    "settings", [{"split": "train"}, {"config": "en"}, {"flawed_share": 0.1}, {"temperature": 1.0}]
)
def test_settings_without_effect_on_files_are_refused(tmp_path, settings):
    refused(lambda: resolve(write(tmp_path / "a.txt", "x"), **settings), next(iter(settings)))


def test_settings_without_effect_on_storyworld_and_hub_are_refused():
    refused(lambda: resolve("storyworld", split="train"), "split")
    refused(lambda: resolve("owner/name", flawed_share=0.5), "flawed_share")


def test_unresolvable_names_are_refused():
    refused(lambda: resolve("what is this"), "neither a file nor the name of a hub dataset")


def test_text_is_read_unchanged_across_chunk_boundaries(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "PIECE_BYTES", 5)
    text = "aé\r\nあいう😀\n\n"
    seen = []
    path = write(tmp_path / "a.txt", text)
    pieces = list(decoding.text_pieces(path, seen.append))
    assert "".join(pieces) == text and len(pieces) > 2
    assert sum(seen) == path.stat().st_size


@pytest.mark.parametrize(
    ("content", "offset"),
    [
        (b"abcdefgh\xff", 8),
        (b"ab\xe3\x81", 2),
        (b"abcd\xe3\x81(", 4),
    ],
)
def test_invalid_utf8_is_reported_with_location(tmp_path, monkeypatch, content, offset):
    monkeypatch.setattr(decoding, "PIECE_BYTES", 5)
    path = write(tmp_path / "a.txt", content)
    refused(lambda: list(decoding.text_pieces(path)), "not UTF-8", f"byte {offset} ", "iconv")


def test_nul_byte_is_reported_with_location(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "PIECE_BYTES", 4)
    path = write(tmp_path / "a.txt", b"abcdef\0")
    refused(lambda: list(decoding.text_pieces(path)), "a.txt:1: not text: a NUL character")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{broken", ["not JSON"]),
        ("[1]", ["a list"]),
        ('"x"', ["text"]),
        ('{"text": "\\ud800"}', ["surrogate"]),
    ],
)
def test_invalid_line_is_reported_with_its_number(tmp_path, line, words):
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n\n' + line + "\n")
    refused(lambda: list(tables.rows(path)), f"{path}:3:", *words)


def test_three_table_formats_give_the_same_rows(tmp_path):
    wanted = [{"text": "あ", "n": 1}, {"text": "\\ud83d", "n": 2}]
    lines = "".join(json.dumps(row) + "\n" for row in wanted).encode()
    plain, packed = write(tmp_path / "a.jsonl", lines), write(tmp_path / "a.jsonl.gz", gzip.compress(lines))
    table = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(wanted), table)
    for path in (plain, packed, table):
        seen = []
        assert [row for _, row in tables.rows(path, seen.append)] == wanted
        assert sum(seen) == path.stat().st_size
    assert [row for _, row in tables.rows(table, only="text")] == [{"text": row["text"]} for row in wanted]


def test_damaged_archive_or_table_is_reported(tmp_path):
    whole = gzip.compress(b'{"text": "a"}\n' * 100)
    path = write(tmp_path / "a.jsonl.gz", whole[:-12])
    refused(lambda: list(tables.rows(path)), "corrupt")
    path = write(tmp_path / "b.jsonl.gz", "not an archive")
    refused(lambda: list(tables.rows(path)), "corrupt")
    path = write(tmp_path / "c.parquet", "not a table")
    refused(lambda: list(tables.rows(path)), "Parquet")


def test_missing_or_invalid_column_is_reported():
    refused(
        lambda: tables.column({"texts": "a", "id": 1}, "text", location="f:1"),
        "f:1:",
        "no column 'text'",
        "id, texts",
        "field: texts",
    )
    refused(lambda: tables.column({"text": 3}, "text", location="f:1"), "a number")


def test_digest_is_computed_from_bytes(tmp_path):
    path = write(tmp_path / "a.txt", "one")
    first = files.digest(DataSource(name=str(path)))
    assert first == files.digest(DataSource(name=str(tmp_path / "*.txt")))
    write(path, "two")
    assert files.digest(DataSource(name=str(path))) != first
    assert files.digest(DataSource(name="owner/name@abc")) == "hub:owner/name@abc"
    assert files.digest(DataSource(name="storyworld")).startswith("storyworld:")


def test_file_reading_does_not_import_datasets_or_transformers():
    code = (
        "import sys, toolkit.data.files, toolkit.data.text.shards, toolkit.data.chat.template;"
        "import toolkit.data.text.encoding;"
        "print([name for name in ('datasets', 'transformers', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
