"""Every file format with every reader: texts, rows, compression, encodings, folders, separators, errors."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import tracemalloc
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from toolkit.base.errors import DataError
from toolkit.config import data_formats
from toolkit.config.schema import DataSource, HeldOut
from toolkit.data import decoding, files, tables
from toolkit.data.chat import sources
from toolkit.data.text import documents
from toolkit.data.text.documents import Stream

COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
}
ROWS = [{"text": 'Zwölf "Boxkämpfer",\njagen', "id": "1"}, {"text": "猫", "id": ""}]
TABLES = {
    ".json": '[\n {"text": "Zwölf \\"Boxkämpfer\\",\\njagen", "id": "1"},\n {"text": "猫", "id": ""}\n]\n',
    ".jsonl": '{"text": "Zwölf \\"Boxkämpfer\\",\\njagen", "id": "1"}\n\n{"text": "猫", "id": ""}',
    ".ndjson": '{"text": "Zwölf \\"Boxkämpfer\\",\\njagen", "id": "1"}\r\n{"text": "猫", "id": ""}\r\n',
    ".csv": 'text,id\r\n"Zwölf ""Boxkämpfer"",\njagen",1\r\n\r\n猫,\r\n',
    ".tsv": 'text\tid\n"Zwölf ""Boxkämpfer"",\njagen"\t1\n猫\t""\n',
}
LOCATIONS = {
    ".json": ["2", "3"],
    ".jsonl": ["1", "3"],
    ".ndjson": ["1", "2"],
    ".csv": ["2", "5"],
    ".tsv": ["2", "4"],
}


def write(path, content, encoding="utf-8"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def texts(path, part="all", **settings):
    source = DataSource(name=str(path), **settings)
    return [document.text for document in documents.texts(source, part=part, seed=0)]


def rows(path, **options):
    return [row for _, row in tables.rows(path, **options)]


def refused(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    assert caught.value.fix and caught.value.where, "an error says where, and what to do"
    for word in words:
        assert word in str(caught.value)


def arrow(path, table, kind):
    new = pyarrow.ipc.new_stream if kind == "stream" else pyarrow.ipc.new_file
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return path


# The matrix


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("suffix", TABLES)
def test_tables_of_lines(tmp_path, monkeypatch, suffix, mark, compression):
    monkeypatch.setattr(decoding, "PIECE_BYTES", 5)
    content = COMPRESS[compression]((mark + TABLES[suffix]).encode())
    path = write(tmp_path / f"a{suffix.upper()}{compression}", content)
    seen: list[int] = []
    read = list(tables.rows(path, seen.append))
    assert [row for _, row in read] == ROWS
    assert [location for location, _ in read] == [f"{path}:{line}" for line in LOCATIONS[suffix]]
    assert sum(seen) == path.stat().st_size
    assert texts(path) == ['Zwölf "Boxkämpfer",\njagen', "猫"]


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_plain_text(tmp_path, monkeypatch, mark, compression):
    monkeypatch.setattr(decoding, "PIECE_BYTES", 5)
    content = "\nZwölf Boxkämpfer\r\n\n猫\ufeff \n"
    path = write(tmp_path / f"a.txt{compression}", COMPRESS[compression]((mark + content).encode()))
    seen: list[int] = []
    assert "".join(decoding.text_pieces(path, seen.append)) == content
    assert sum(seen) == path.stat().st_size
    assert texts(path) == [content]


def test_a_byte_order_mark_is_removed_from_every_file_of_a_glob(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.txt", "\ufeff" + name)
    assert texts(tmp_path / "*.txt") == ["a", "b"]
    write(tmp_path / "joined.jsonl", '\ufeff{"text": "a"}\n\ufeff{"text": "b"}\n')
    assert rows(tmp_path / "joined.jsonl") == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_arrow(tmp_path, kind):
    path = arrow(tmp_path / "a.arrow", pyarrow.Table.from_pylist(ROWS), kind)
    seen: list[int] = []
    read = list(tables.rows(path, seen.append))
    assert read == [(f"{path}:row 1", ROWS[0]), (f"{path}:row 2", ROWS[1])]
    assert sum(seen) == path.stat().st_size
    assert rows(path, only="text") == [{"text": row["text"]} for row in ROWS]
    assert rows(path, only="other") == ROWS
    assert texts(path) == [row["text"] for row in ROWS]


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert list(tables.rows(path)) == [(f"{path}:row 1", ROWS[0]), (f"{path}:row 2", ROWS[1])]
    assert texts(path) == [row["text"] for row in ROWS]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz", "a.csv", "a.tsv.xz", "a.ndjson.zst", "a.arrow"])
def test_conversations_from_every_table(tmp_path, name):
    suffix, compression = data_formats.suffix_of(name), data_formats.compression_of(name)
    row = {"prompt": "Hi", "completion": "Hello, you"}
    content = {
        ".json": json.dumps([row]),
        ".jsonl": json.dumps(row),
        ".ndjson": json.dumps(row),
        ".csv": 'prompt,completion\nHi,"Hello, you"\n',
        ".tsv": "prompt\tcompletion\nHi\tHello, you\n",
    }.get(suffix)
    if content is None:
        path = arrow(tmp_path / name, pyarrow.Table.from_pylist([row]), "stream")
    else:
        path = write(tmp_path / name, COMPRESS[compression](content.encode()))
    [read] = sources.conversations(DataSource(name=str(path)), part="all", seed=0)
    assert read["prompt"] == [{"role": "user", "content": "Hi"}]
    assert read["completion"] == [{"role": "assistant", "content": "Hello, you"}]


def test_table_of_formats():
    assert data_formats.suffix_of("a/B.JSONL.GZ") == ".jsonl"
    assert data_formats.compression_of("a/B.JSONL.GZ") == ".gz"
    for name in ("a.gz", "a.parquet.gz", "a.pdf", "a", "a.jsonl.zip", "jsonl"):
        assert data_formats.suffix_of(name) == "", name
    assert {*TABLES, ".parquet", ".arrow", *data_formats.VOTES} == {*data_formats.TABLES}
    assert {*COMPRESS} == {"", *data_formats.COMPRESSIONS}
    page = (Path(__file__).parents[2] / "docs" / "DATA.md").read_text(encoding="utf-8")
    for suffix in (*data_formats.SUFFIXES, *data_formats.COMPRESSIONS):
        assert f"`{suffix}`" in page and suffix in data_formats.listed()


# JSON


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": "a"}, {"text": "b"}]',
        '{"text": "a"}\n{"text": "b"}\n',
        '{\n "text": "a"\n}\n{\n "text": "b"\n}',
        '{"data": [{"text": "a"}, {"text": "b"}]}',
        '{"anything": [{"text": "a"}, {"text": "b"}]}',
        '{"version": "1.1", "data": [{"text": "a"}, {"text": "b"}]}',
    ],
)
def test_shapes_of_json(tmp_path, content):
    assert rows(write(tmp_path / "a.json", content)) == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    "row",
    [
        {"text": "one document"},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
        {"text": "x", "tags": ["a", "b"]},
        {"text": "x", "conversations": [{"from": "human", "value": "x"}]},
    ],
)
def test_one_object_is_one_row_unless_it_holds_rows(tmp_path, row):
    assert list(tables.rows(write(tmp_path / "a.json", json.dumps(row)))) == [(f"{tmp_path}/a.json:1", row)]


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ('\n"text"', 2, ["expected an array of objects"]),
        ('{"text": ["a", "b"]}', 1, ["one object of columns (text)", ".jsonl"]),
        ('{"train": [{"text": "a"}], "test": [{"text": "b"}]}', 1, ["train, test", "not clear"]),
        ('{"data": [{"text": "a"}], "test": [{"text": "b"}]}', 1, ["data, test", "not clear"]),
        ('{"prompt": "a", "answers": [{"text": "b"}]}', 1, ["prompt, answers", "not clear"]),
        ('[{"text": "a"},\n 3]', 2, ["expected an object, not int"]),
        ('[{"text": "a"}]\n[{"text": "b"}]', 2, ["something after the array"]),
        ('[{"text": "a"}\n{"text": "b"}]', 2, ["expected a comma or ]"]),
        ('[{"text": "a"},\n{"text": ', 2, ["not JSON"]),
        ('{"text": "a"}\n{"text": b}', 2, ["not JSON: Expecting value at column 10"]),
        ('{"text": "a"}\n["b"]', 2, ["expected an object, not list"]),
        ('[\n{"text": "\\ud800"}]', 2, ["surrogate"]),
    ],
)
def test_other_shapes_of_json_are_refused(tmp_path, content, line, words):
    path = write(tmp_path / "a.json", content)
    refused(lambda: rows(path), f"{path}:{line}: ", *words)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    ("value", "words"),
    [("[" * 100_000, "nested too deeply"), ("1" * 10_000, "an integer of thousands of digits")],
)
def test_extreme_json_is_refused(tmp_path, name, value, words):
    path = write(tmp_path / name, '{"text": "a"}\n{"text": ' + value + "}\n")
    refused(lambda: rows(path), f"{path}:2: not readable: {words}")


# CSV


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("text,id\na,1\nb\n", 3, ["the row has 1 cells, and the header has 2"]),
        ('text,id\n"a\nb",1\nc,2,3\n', 4, ["the row has 3 cells", "','"]),
        ('text,id\na,1\n"b,2\nc,3\n', 3, ["not a table", "quote"]),
        ('text,id\n"a" b,1\n', 2, ["not a table", "quote"]),
        ("text,id,text\na,1,b\n", 1, ["two columns have the name 'text'"]),
        ("text\ra\rb", 1, ["not a table", "new-line"]),
    ],
)
def test_malformed_csv_is_refused(tmp_path, content, line, words):
    path = write(tmp_path / "a.csv", content)
    refused(lambda: rows(path), f"{path}:{line}: ", *words)


def test_long_cells_are_read(tmp_path):
    assert texts(write(tmp_path / "a.csv", f"text\n{'x' * 200_000}\n")) == ["x" * 200_000]


# Damage


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "not an archive", "second stream"])
def test_damaged_archives_are_refused(tmp_path, name, compression, damage):
    generator = random.Random(0)
    lines = [f'{{"text": "{generator.random()}"}}' for _ in range(2000)]
    whole = COMPRESS[compression]("\n".join(["text", *lines] if "csv" in name else lines).encode())
    content = {
        "truncated": whole[: len(whole) // 2],
        "changed": whole[:10] + bytes(byte ^ 255 for byte in whole[10:60]) + whole[60:],
        "not an archive": b"this is not an archive",
        "second stream": whole + b"?" + whole[1:],
    }[damage]
    path = write(tmp_path / f"{name}{compression}", content)
    refused(lambda: texts(path), f"{path}: the archive is corrupt or truncated")


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
def test_archives_of_several_streams_are_read(tmp_path, compression):
    parts = ["猫\n" * 40_000, "b" * 100_000, "c"]
    content = b"".join(COMPRESS[compression](part.encode()) for part in parts)
    assert texts(write(tmp_path / f"a.txt{compression}", content)) == ["".join(parts)]


@pytest.mark.parametrize(("name", "kind"), [("a.parquet", "Parquet"), ("a.arrow", "Arrow")])
@pytest.mark.parametrize("damage", ["truncated", "not a table"])
def test_damaged_tables_are_refused(tmp_path, name, kind, damage):
    path = tmp_path / name
    table = pyarrow.Table.from_pylist([{"text": "word " * 100}] * 100)
    if kind == "Arrow":
        arrow(path, table, "stream")
    else:
        pyarrow.parquet.write_table(table, path)
    write(path, path.read_bytes()[:-2000] if damage == "truncated" else b"this is not a table")
    refused(lambda: texts(path), f"{path}: not a readable {kind} file")


def test_arrow_text_that_is_not_utf8_is_refused(tmp_path):
    array = pyarrow.array([b"ab\xff"]).cast(pyarrow.string(), safe=False)
    path = arrow(tmp_path / "a.arrow", pyarrow.table({"text": array}), "file")
    refused(lambda: rows(path), "not a readable Arrow file", "utf-8")


# Encodings


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-be", "utf-32", "utf-8-sig", "latin-1"])
def test_encoding_of_a_source(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr(decoding, "PIECE_BYTES", 5)
    write(tmp_path / "a.txt", "Zwölf\nBoxkämpfer", encoding)
    write(tmp_path / "b.csv", "text\nZwölf\n", encoding)
    write(tmp_path / "c.jsonl", '{"text": "ä"}\n{"text": "ö"}\n', encoding)
    write(tmp_path / "d.json", '[{"text": "ü"}]', encoding)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["ß"]}), tmp_path / "e.parquet")
    expected = ["Zwölf\nBoxkämpfer", "Zwölf", "ä", "ö", "ü", "ß"]
    assert texts(tmp_path, encoding=encoding) == expected
    row = '{"prompt": "ä", "completion": "ö"}'
    source = DataSource(name=str(write(tmp_path / "f.jsonl", row, encoding)), encoding=encoding)
    assert sources.prompts(source, part="all", seed=0)[0]["prompt"][0]["content"] == "ä"


def test_big_endian_utf16_with_a_mark_is_read(tmp_path):
    assert texts(write(tmp_path / "a.txt", "\ufeffäö", "utf-16-be"), encoding="utf-16") == ["äö"]


@pytest.mark.parametrize(
    ("written", "given", "words"),
    [
        ("utf-16", None, ["the file is UTF-16", "not UTF-8", "`encoding: utf-16`"]),
        ("utf-32", None, ["the file is UTF-32", "`encoding: utf-32`"]),
        ("utf-16", "cp1252", ["the file is UTF-16", "not CP1252"]),
        ("utf-8-sig", "cp1252", ["the file is UTF-8", "not CP1252", "`encoding: utf-8`"]),
        ("utf-16-le", None, [":1: not text: a NUL character", "utf-16-le"]),
        ("utf-16-le", "utf-16", ["BOM", "`encoding: utf-16-le`"]),
        ("cp1252", None, [":3: not UTF-8 text: byte 9 cannot", "`encoding: cp1252`", "iconv"]),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv.gz"])
def test_wrong_encodings_are_refused(tmp_path, monkeypatch, name, written, given, words):
    monkeypatch.setattr(decoding, "PIECE_BYTES", 5)
    content = '"a"\n"bc\n"ä"'.encode(written)
    path = write(tmp_path / name, COMPRESS[data_formats.compression_of(name)](content))
    refused(lambda: list(decoding.text_pieces(path, encoding=given)), str(path), *words)


def test_line_of_a_wrong_byte_of_big_endian_utf16(tmp_path, monkeypatch):
    content = "\ufeffa\nb\n".encode("utf-16-be") + b"\xd8\x00\x00a"
    path = write(tmp_path / "a.txt", content)
    refused(lambda: texts(path, encoding="utf-16"), f"{path}:3: not UTF-16 text: byte 10")


@pytest.mark.parametrize(
    ("name", "words"),
    [("uft-8", "near names are .*utf-8"), ("hex", "examples are utf-8"), ("", "examples are")],
)
def test_unknown_encodings_are_refused(name, words):
    with pytest.raises(ValidationError, match=f"encoding must be a text codec of Python.*{words}"):
        DataSource(name="a.txt", encoding=name)


def test_settings_of_files_without_effect_are_refused(tmp_path):
    write(tmp_path / "a.jsonl", '{"text": "a"}')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "a.parquet")
    refused(lambda: texts(tmp_path / "a.parquet", encoding="cp1252"), "`encoding` has no effect")
    refused(lambda: texts(tmp_path / "a.jsonl", separator="--"), "`separator` has no effect")
    for name in ("storyworld", "owner/name"):
        refused(lambda name=name: texts(name, examples=1, encoding="cp1252"), "`encoding` has no effect")
        refused(lambda name=name: texts(name, examples=1, separator="--"), "`separator` has no effect")


# Columns


def test_nested_columns(tmp_path):
    data = [{"doc": {"text": "a", "meta": {"text": "b"}}, "doc.text": "c", "doc.meta": {"id": 1}, "n": None}]
    parquet = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(data), parquet)
    for path in (write(tmp_path / "a.jsonl", json.dumps(data[0])), parquet):
        assert texts(path, field="doc.text") == ["c"], "a column with the dot in its name comes first"
        assert texts(path, field="doc.meta.text") == ["b"]
    assert texts(write(tmp_path / "b.jsonl", '{"doc": {"text": "a"}}'), field="doc.text") == ["a"]
    refused(
        lambda: texts(tmp_path / "a.jsonl", field="doc.txt"),
        "a.jsonl:1: there is no column 'doc.txt'; the columns are: doc.meta.id, doc.meta.text, doc.text, n",
        "set `field: doc.text`",
    )
    refused(lambda: texts(tmp_path / "a.jsonl", field="doc.text.x"), "there is no column 'doc.text.x'")


def test_paragraphs_nulls_and_white_space(tmp_path):
    data = [{"text": ["a", "b"]}, {"text": None}, {"text": " \n"}, {"text": []}, {"text": ""}, {"text": "c"}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, data)))
    for part, expected in (("all", ["a\n\nb", "c"]), ("held_out", ["c"])):
        source = DataSource(name=str(path), held_out=HeldOut(last_characters=0.1))
        stream = Stream(source, part=part, seed=0)
        assert [piece.text for piece in stream] == expected
        assert stream.dropped == {"the text is null": 1, "empty or only white space": 3}
        assert stream.report.sources[0].first == {
            "the text is null": f"{path}:2", "empty or only white space": f"{path}:3"
        }  # fmt: skip
    path = write(tmp_path / "b.jsonl", '{"doc": null}\n{"doc": {"text": "a"}}')
    stream = Stream(DataSource(name=str(path), field="doc.text"), part="all", seed=0)
    assert [piece.text for piece in stream] == ["a"] and stream.dropped == {"the text is null": 1}
    path = write(tmp_path / "c.jsonl", '{"text": ["a", null]}')
    refused(lambda: texts(path), "c.jsonl:1: column 'text' holds a list, not text")


def test_text_files_of_white_space_are_left_out(tmp_path):
    for name, content in {"a": " \n", "b": "b", "c": "\ufeff"}.items():
        write(tmp_path / f"{name}.txt", content)
    stream = Stream(DataSource(name=str(tmp_path / "*.txt")), part="all", seed=0)
    assert [piece.text for piece in stream] == ["b"] and stream.dropped == {"empty or only white space": 2}
    assert stream.progress() == (6, 6, "byte")
    for part in ("train", "held_out"):  # a file whose hash puts it into the other part counts once, too
        stream = Stream(DataSource(name=str(tmp_path / "*.txt")), part=part, seed=0)
        assert len(list(stream)) == (part == "train") and stream.progress() == (6, 6, "byte")


# Folders


def test_a_folder_is_read_in_order(tmp_path, capsys):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    write(tmp_path / "b" / "x.csv", "text\nb\n")
    write(tmp_path / "c.txt", "c")
    write(tmp_path / "a.jsonl.gz", gzip.compress(b'{"text": "a"}'))
    for name, content in {"README.md": "x", ".hidden.txt": "x", "b/empty.txt": ""}.items():
        write(tmp_path / name, content)
    assert texts(tmp_path) == texts(f"{tmp_path}/") == ["a", "b", "c"]
    notice = (
        f"{tmp_path}: left out are 4 files or folders (hidden, empty or of another type): "
        ".git, .hidden.txt, README.md, b/empty.txt\n"
    )
    assert capsys.readouterr().err.count(notice) == 1
    refused(lambda: texts(tmp_path, split="train"), "the folder has no split 'train'")


def test_a_folder_without_a_readable_file_is_refused(tmp_path):
    write(tmp_path / "a.pdf", "x")
    write(tmp_path / "empty.txt", "")
    refused(
        lambda: texts(tmp_path), f"{tmp_path}: the folder has no file that can be read", ".txt", ".parquet"
    )


def test_run_directories_and_loops_are_refused(tmp_path):
    (tmp_path / "run").mkdir()
    write(tmp_path / "run" / "metrics.jsonl", '{"loss": 1}')
    write(tmp_path / "run" / "manifest.json", json.dumps({"format": files.seal.FORMAT}))
    for name in (tmp_path, tmp_path / "run"):
        refused(lambda name=name: texts(name), "run: is a run directory", "preferences.jsonl")
    loop = tmp_path / "loop"
    loop.mkdir()
    write(loop / "a.txt", "a")
    (loop / "again").symlink_to(loop)
    refused(lambda: texts(loop), "again: a link leads to a folder above")


def test_saved_datasets(tmp_path, capsys):
    data = datasets.Dataset.from_list([{"text": f"{number}"} for number in range(6)])
    data.select([4, 0, 2]).save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict(train=data, test=data.select([5])).save_to_disk(tmp_path / "two")
    assert texts(tmp_path / "one") == ["4", "0", "2"]
    assert texts(tmp_path / "two", split="test") == ["5"]
    assert texts(tmp_path / "two", split="all") == ["0", "1", "2", "3", "4", "5", "5"]
    refused(lambda: texts(tmp_path / "two"), "several splits: train, test")
    refused(lambda: texts(tmp_path / "two", split="dev"), "no split 'dev'; the splits are: train, test")
    refused(lambda: texts(tmp_path / "one", split="train"), "the folder has no split 'train'")
    assert texts(tmp_path, split="test") == ["4", "0", "2", "5"], "a folder of saved datasets"
    assert "left out" not in capsys.readouterr().err
    (tmp_path / "one" / "data-00001-of-00002.arrow").unlink()
    refused(lambda: texts(tmp_path / "one"), "data-00001-of-00002.arrow: this file does not exist")
    write(tmp_path / "one" / "state.json", "{}")
    refused(lambda: texts(tmp_path / "one"), "state.json: not a file that `save_to_disk`", "_data_files")


def test_digest_covers_the_files_that_are_read_in_order(tmp_path, capsys):
    def digest(**settings):
        return files.digest(DataSource(name=str(tmp_path), **settings))

    (tmp_path / "b").mkdir()
    for name in ("a.txt", "b/c.txt", "b/d.txt"):
        write(tmp_path / name, name)
    first = digest()
    write(tmp_path / "b" / "notes.md", "not read")
    assert digest() == first
    write(tmp_path / "b" / "c.txt", "b/d.txt")
    write(tmp_path / "b" / "d.txt", "b/c.txt")
    swapped = digest()
    write(tmp_path / "b" / "d.txt", "changed")
    assert len({first, swapped, digest()}) == 3
    assert capsys.readouterr().err == "", "the readers name what is not read"


# Separators


@pytest.mark.parametrize("piece_bytes", [4, 5, 13, 1 << 20])
@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_separator(tmp_path, monkeypatch, compression, piece_bytes):
    monkeypatch.setattr(decoding, "PIECE_BYTES", piece_bytes)
    content = "猫\n<|endoftext|>\n\nb<|endoftext|><|endoftext|> \n<|endoftext|>c<|endof\n<|endoftext|>"
    path = write(tmp_path / f"a.txt{compression}", COMPRESS[compression](content.encode()))
    write(tmp_path / "b.txt", "whole file")
    stream = Stream(DataSource(name=f"{tmp_path}/*", separator="<|endoftext|>"), part="all", seed=0)
    assert [piece.text for piece in stream] == ["猫\n", "\n\nb", "c<|endof\n", "whole file"]
    assert stream.dropped == {"empty or only white space": 3}
    assert stream.progress()[0] == path.stat().st_size + 10


@pytest.mark.parametrize("separator", ["\n", "\n\n\n", "aa", "aab", "<|endoftext|>"])
def test_split_equals_that_of_the_whole_text(separator):
    generator = random.Random(separator)
    for _ in range(300):
        pieces = [
            "".join(generator.choice(["a", "b", "\n", separator, separator[:2]]) for _ in range(4))[:length]
            for length in generator.choices(range(1, 7), k=12)
        ]
        assert list(decoding.split(pieces, separator)) == "".join(pieces).split(separator)


def test_separated_documents_are_held_out_by_their_own_hash(tmp_path):
    names = [f"document {number}" for number in range(300)]
    one = write(tmp_path / "a.txt", "\n\n\n".join(names))
    table = write(tmp_path / "a.jsonl", "\n".join(json.dumps({"text": name}) for name in names))
    for part, examples in (("train", None), ("held_out", None), ("train", 20)):
        expected = texts(table, part, examples=examples)
        assert texts(one, part, separator="\n\n\n", examples=examples) == expected != []


def test_separator_that_does_not_occur_is_refused(tmp_path):
    path = write(tmp_path / "a.txt", "a\n\nb")
    refused(lambda: texts(path, separator="\\n\\n"), "does not occur in the text", "double quotes")


def test_a_large_file_is_split_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "PIECE_BYTES", 1 << 14)
    path = write(tmp_path / "a.txt", ("word " * 200 + "<|endoftext|>") * 8000)
    tracemalloc.start()
    count = sum(1 for _ in Stream(DataSource(name=str(path), separator="<|endoftext|>"), part="all", seed=0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 8000 and peak < 1 << 20 < path.stat().st_size


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        ("a<|endoftext|>b" * 3, '"<|endoftext|>" is in the text 3 times'),
        ("a</s>\n" * 7, '"</s>" is in the text 7 times'),
        ("<|im_end|>\n" * 3, '"<|im_end|>" is in the text 3 times'),
        ("a\n\n\n\nb" * 20, r'separator: "\n\n\n"'),
        ("a\r\n\r\n\r\n" * 20, r'separator: "\r\n\r\n\r\n"'),
        ("a<|endoftext|>b" * 2, None),
        ("a\n\n\n" * 19, None),
        ("a\n\nb" * 100, None),
    ],
)
@pytest.mark.parametrize("piece_bytes", [5, 1 << 20])
def test_separators_in_the_text_are_named_once(tmp_path, monkeypatch, capsys, content, warning, piece_bytes):
    monkeypatch.setattr(decoding, "PIECE_BYTES", piece_bytes)
    path = write(tmp_path / "a.txt", content)
    assert texts(path) == texts(path, "all", examples=5) == [content]
    told = capsys.readouterr().err
    assert (
        (told == "")
        if warning is None
        else (warning in told and told.count("each file is one document") == 1)
    )


def test_separators_are_counted_over_all_files_and_blank_lines_per_file(tmp_path, capsys):
    for name in "abc":
        write(tmp_path / f"{name}.txt", "x</s>" + "y\n\n\n" * 10)
    texts(tmp_path)
    assert '"</s>" is in the text 3 times' in capsys.readouterr().err
    for name in "abc":
        write(tmp_path / f"{name}.txt", "y\n\n\n" * 10)
    texts(f"{tmp_path}/*.txt")
    assert capsys.readouterr().err == ""
