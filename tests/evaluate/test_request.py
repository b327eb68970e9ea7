"""What an evaluation measures is decided by what the data hold, in every file format."""

from __future__ import annotations

import gzip

import pytest

from toolkit.base.errors import DataError, UsageError
from toolkit.config.schema import DataSource
from toolkit.evaluate.request import contents

TEXT, PROMPTS = (True, False), (False, True)


@pytest.mark.parametrize(
    ("name", "content", "field", "expected"),
    [
        ("a.txt", "text", None, TEXT),
        ("a.txt.gz", gzip.compress(b"text", mtime=0), None, TEXT),
        ("a.csv", "text,id\na,1\n", None, TEXT),
        ("a.tsv", "prompt\tcompletion\na\tb\n", None, PROMPTS),
        ("a.json", '[{"text": "a", "prompt": "b"}]', None, (True, True)),
        ("a.jsonl", '{"doc": {"text": null}}\n{"doc": {"text": "a"}}', "doc.text", TEXT),
        ("a.jsonl", '{"parts": ["a", "b"]}', "parts", TEXT),
        ("a.jsonl", '{"talk": [{"role": "user", "content": "a"}]}', "talk", PROMPTS),
    ],
)
def test_contents_of_files_and_folders(tmp_path, name, content, field, expected):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for source in (tmp_path, tmp_path / name):
        assert contents(DataSource(name=str(source), field=field)) == expected


def test_wrong_columns_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("story,id\na,1\n")
    with pytest.raises(UsageError, match="the columns are story, id"):
        contents(DataSource(name=str(path)))
    with pytest.raises(DataError, match="there is no column 'storys'") as error:
        contents(DataSource(name=str(path), field="storys"))
    assert error.value.where == f"{path}:2" and "`field: story`" in error.value.fix
