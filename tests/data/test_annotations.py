"""Reading annotation files: both layouts, several annotators, and errors with line numbers."""

from __future__ import annotations

import gzip
import json

import pytest

from toolkit.base.errors import DataError
from toolkit.data.chat import annotations
from toolkit.data.chat.annotations import AnnotatedAnswer

ROW = {"instruction": "Say hello.", "output_1": "Hello.", "output_2": "Hi!", "preference": 2,
       "generator_1": "old", "generator_2": "new", "annotator": "judge"}  # fmt: skip


def read(tmp_path, rows, name="annotations.json"):
    path = tmp_path / name
    text = json.dumps(rows, indent=1) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return annotations.read(str(path))


@pytest.mark.parametrize("name", ["annotations.json", "lines.jsonl", "lines.jsonl.gz"])
def test_alpacaeval_layout(tmp_path, name):
    found = read(tmp_path, [ROW, {**ROW, "preference": 1.25, "input": "In French."}], name)
    first, second = found.rows
    assert (first.first, first.second) == (AnnotatedAnswer("Hello.", "old"), AnnotatedAnswer("Hi!", "new"))
    assert (first.prompt, first.outcome, first.annotator, first.shown) == ("Say hello.", 0.0, "judge", True)
    assert (second.prompt, second.outcome) == ("Say hello.\n\nIn French.", 0.75)


@pytest.mark.parametrize(("preference", "outcome"), [(1, 1.0), (2.0, 0.0), (1.5, 0.5), (0, 0.5), (1.9, 0.1)])
def test_preference_ranges_from_one_to_two(tmp_path, preference, outcome):
    [row] = read(tmp_path, [{**ROW, "preference": preference}]).rows
    assert row.outcome == pytest.approx(outcome)


@pytest.mark.parametrize("preference", [3, 0.5, -1, "1", True, float("nan"), [1, 7]])
def test_invalid_preference_is_reported_with_its_line(tmp_path, preference):
    with pytest.raises(DataError, match="is not a number from 1 to 2") as error:
        read(tmp_path, [ROW, {**ROW, "preference": preference}])
    assert error.value.where.endswith("annotations.json:11")  # "[", nine lines of the first row, "{"


def test_several_annotators_per_row(tmp_path):
    rows = [{**ROW, "preference": [1, 2, None]}, {**ROW, "preference": {"ann": 1, "bob": 1.5, "cat": None}}]
    found = read(tmp_path, rows).rows
    assert [(one.annotator, one.outcome) for one in found] == [
        ("1", 1.0), ("2", 0.0), ("ann", 1.0), ("bob", 0.5),
    ]  # fmt: skip


def test_numbered_and_unnamed_annotators(tmp_path):
    plain = {
        key: value for key, value in ROW.items() if key not in ("annotator", "generator_1", "generator_2")
    }
    found = read(tmp_path, [{**plain, "annotator_index": 7}, plain]).rows
    assert [one.annotator for one in found] == ["7", "annotator"]
    assert found[0].first.model is None


def test_null_preferences_are_counted(tmp_path):
    found = read(tmp_path, [ROW, {**ROW, "preference": None}])
    assert len(found.rows) == 1 and found.left_out == {"without a preference": 1}
    with pytest.raises(DataError, match="no annotation: without a preference \\(1 rows\\)"):
        read(tmp_path, [{**ROW, "preference": None}])


def test_chosen_and_rejected(tmp_path):
    rows = [
        {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "chosen_model": "a", "rejected_model": "b",
         "annotator": "ann"},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: So."},
    ]  # fmt: skip
    found = read(tmp_path, rows, "pairs.jsonl")
    first, second = found.rows
    assert (first.first, first.second) == (AnnotatedAnswer("So.", "a"), AnnotatedAnswer("No.", "b"))
    assert first.prompt == second.prompt and first.outcome == second.outcome == 1.0
    assert not first.shown and (first.annotator, second.annotator) == ("ann", "annotator")
    assert found.left_out == {"the two answers are the same": 1}


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ('{"instruction": "x"}', "expected a list of annotations", ":1"),
        ('[\n\n{"instruction": "x"},\n 3]', "there is no column 'output_1'", ":3"),
        ("[\n3]", "expected an object, not int", ":2"),
        ('[\n{"instruction": "x",\n "output_1": }\n]', "not JSON: Expecting value", ":3"),
        ("[\n" + json.dumps(ROW), "not JSON: expected a comma or ]", ":2"),
        ("[\n" + json.dumps(ROW) + ",\n", "not JSON: Expecting value", ":3"),
        ("[]", "no annotation", ""),
        (json.dumps([{**ROW, "output_2": None}]), "'output_2' holds NoneType, not text", ":1"),
        (json.dumps([{**ROW, "generator_1": 4}]), "'generator_1' is 4, not a name", ":1"),
        (json.dumps([{"chosen": "a", "output_1": "b"}]), "there is no column 'instruction'", ":1"),
    ],
)
def test_invalid_rows_are_reported_with_location(tmp_path, text, what, line):
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        annotations.read(str(path))
    assert what in error.value.what and error.value.where == f"{path}{line}" and error.value.fix


def test_annotations_of_tables_of_cells_and_of_folders(tmp_path):
    (tmp_path / "a.csv").write_text(
        "instruction,output_1,output_2,preference\nWhy?,So.,No.,1.25\nWhy?,So.,No.,\n"
    )
    (tmp_path / "b.tsv").write_text("chosen\trejected\tprompt\nSo.\tNo.\tWhy?\n")
    found = annotations.read(str(tmp_path))
    assert [row.outcome for row in found.rows] == [0.75, 1.0]
    assert found.left_out == {"without a preference": 1}
    (tmp_path / "a.csv").write_text("instruction,output_1,output_2,preference\nWhy?,So.,No.,first\n")
    with pytest.raises(DataError, match="'first' is not a number from 1 to 2") as error:
        annotations.read(str(tmp_path))
    assert error.value.where == f"{tmp_path}/a.csv:2"


def test_missing_and_unsupported_files_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match="does not exist") as error:
        annotations.read(str(tmp_path / "b.json"))
    assert "a.json" in error.value.fix
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="are not read"):
        annotations.read(str(tmp_path / "a.txt"))
