"""The report of the tokenizer and corpus stages: every document is counted once, for every kind of source."""

import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from toolkit.base.errors import DataError
from toolkit.config.schema import DataSource, HeldOut
from toolkit.data import hub
from toolkit.data.text.documents import Stream

REASONS = {"empty or only white space": 2, "the text is null": 1}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def numbered(count, start=0):
    return [{"text": f"document {number}"} for number in range(start, start + count)]


def read(data, part, seed=0):
    """Return the documents of a part and the report, whose counts must add up for each source."""
    stream = Stream(data, part=part, seed=seed)
    texts, report = [], stream.report
    for piece in stream:
        texts.append(piece.text)
        assert sum(source.used for source in report.sources) == len(texts), "counted while it is read"
    for source in report.sources:
        assert source.read == source.usable + source.paired + source.left_out.total()
    return texts, report


@pytest.fixture
def bad(tmp_path):
    rows = [*numbered(60), {"text": " \n"}, {"text": None}, *numbered(60, 60), {"text": ""}]
    return write_rows(tmp_path / "bad.jsonl", rows)


@pytest.mark.parametrize("held_out", [{"documents": 0.3}, {"last_characters": 0.3}])
@pytest.mark.parametrize("examples", [None, 20, 120])
def test_parts_add_up_to_the_rows_of_the_file(bad, held_out, examples):
    source = DataSource(
        name=bad,
        held_out=HeldOut(**held_out),
        examples=examples,
        held_out_examples=examples and examples // 4,
    )
    found = {}
    for part in ("train", "held_out"):
        texts, report = read(source, part)
        [found[part]] = report.sources
        assert found[part].read == 123 and found[part].left_out == REASONS
        assert found[part].first["the text is null"] == f"{bad}:62"
        assert found[part].used == len(texts) and found[part].warnings() == []
    train, test = found["train"], found["held_out"]
    divided = int("last_characters" in held_out)  # the document in which the held-out text begins
    assert train.of_part + test.of_part == 120 + divided and train.other_part + divided == test.of_part
    if divided:
        characters = sum(len(f"document {number}") for number in range(120))
        assert train.held_out_characters == (characters - int(0.7 * characters), characters)
    assert train.used == min(examples or 120, train.of_part)
    assert test.used == min((examples or 480) // 4, test.of_part)


def test_counts_of_separated_parts_and_files(tmp_path):
    (tmp_path / "a.txt").write_text("one|two| \n|three|")
    (tmp_path / "b.txt").write_text("\n\n")
    _, report = read(DataSource(name=f"{tmp_path}/*.txt", separator="|"), "all")
    [found] = report.sources
    assert (found.read, found.used, found.left_out.total()) == (6, 3, 3)
    assert found.first == {"empty or only white space": f"{tmp_path}/a.txt:part 3"}
    _, report = read(DataSource(name=f"{tmp_path}/*.txt"), "all")
    assert report.sources[0].first == {"empty or only white space": f"{tmp_path}/b.txt"}


@pytest.mark.parametrize("part", ["train", "held_out", "all"])
def test_a_mixture_of_ten_and_a_thousand_rows_says_what_it_uses(tmp_path, part):
    few, many = (
        DataSource(
            name=write_rows(tmp_path / f"{count}.jsonl", numbered(count)), held_out=HeldOut(documents=0.3)
        )
        for count in (10, 1000)
    )
    texts, report = read([few, many], part)
    small, large = report.sources
    assert small.read == 10 and large.read == 1000, "the rest of the larger source is counted, too"
    assert len(texts) == small.used + large.used and small.not_mixed == 0
    assert large.not_mixed == 1000 - large.other_part - large.used > 600 * (part != "held_out")
    used, of_large = len(texts), large.used + large.not_mixed
    assert (
        f"the mixture uses {used:,} of {used + large.not_mixed:,} rows: it ends after the {small.used} rows "
        f"of {few.name}, whose weight is 50.0%; weights {small.used} : {of_large} would use all rows"
    ) in str(report)
    shares = [row["share"] for row in report.as_json()["sources"]]
    assert shares == [small.used / used, large.used / used]
    assert str(report).splitlines()[1].endswith(f"{small.used / used:.1%}")


def test_the_end_of_a_mixture_is_counted_for_every_kind_of_source(tmp_path, monkeypatch):
    few = DataSource(name=write_rows(tmp_path / "few.jsonl", numbered(4)), held_out="none")
    world = DataSource(name="storyworld", examples=30)
    (tmp_path / "long.txt").write_text("x" * 100 + "|" + "y" * 100 + "|" + "z" * 100)
    last = DataSource(
        name=str(tmp_path / "long.txt"), separator="|", held_out=HeldOut(last_characters=0.5), weight=0.2
    )
    _, report = read([few, world, last], "train")
    stories, parts = report.sources[1:]
    assert (stories.read, stories.used + stories.not_mixed) == (30, 30) and stories.used < 8
    assert (parts.read, parts.used, parts.not_mixed, parts.other_part) == (3, 1, 1, 1)
    rows = ((f"row {number}", {"text": f"{number}"}) for number in range(10**9))
    monkeypatch.setattr(hub, "rows", lambda source, streaming: rows)
    endless = DataSource(name="owner/name", held_out="none")
    _, report = read([few, endless], "train")
    assert report.sources[1].read in (3, 4) and not report.sources[1].is_complete
    assert report.sources[1].not_mixed == 0 and "mixture" not in str(report)


def test_columns_beside_the_text_are_named(tmp_path):
    rows = [{"text": "a", "id": 1, "weight": 0.5, "prompt": "p"}, {"text": "b", "weight": None, "url": "u"}]
    expected = {"weight": 1, "prompt": 1}
    path = write_rows(tmp_path / "a.jsonl", rows)
    assert read(DataSource(name=path), "all")[1].sources[0].unread == expected
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    found = read(DataSource(name=str(tmp_path / "a.parquet")), "all")[1].sources[0]
    assert found.unread == {"weight": 2, "prompt": 2}, "not read from the file, so that nulls are unknown"
    with pyarrow.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert read(DataSource(name=str(tmp_path / "a.arrow")), "all")[1].sources[0].unread == found.unread
    assert "not read: column 'prompt' (1 rows)" in str(read(DataSource(name=path), "all")[1])


def test_conversations_are_counted_as_other_stages_do(tmp_path):
    asked = {"role": "user", "content": "Q"}
    rows = [
        {"messages": [asked, {"role": "assistant", "content": "A"}]},
        {"messages": [asked]},
        {"messages": [asked, {"role": "assistant", "content": "A", "weight": 0}]},
        {"prompt": "Q", "completion": "A", "extra": 1},
    ]
    _, report = read(DataSource(name=write_rows(tmp_path / "a.jsonl", rows)), "all")
    [found] = report.sources
    assert found.used == 2 and found.left_out == {
        "no answer of the assistant": 1,
        "no answer is learned (weight 0)": 1,
    }
    assert found.unread == {"extra": 1} and found.forms["completion + prompt"] == 1


def test_bad_rows_of_text_are_skipped_if_asked(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"text": "a"}, {"text": 7}, {"other": "b"}])
    with pytest.raises(DataError, match="a.jsonl:2: column 'text' holds a number, not text"):
        read(DataSource(name=path), "all")
    texts, report = read(DataSource(name=path, on_bad_row="skip"), "all")
    assert texts == ["a"] and report.sources[0].left_out.total() == 2
    assert report.sources[0].first["column 'text' holds a number, not text"] == f"{path}:2"


def test_a_held_out_share_far_from_what_was_asked_is_said(tmp_path):
    rows = [{"prompt": f"Q{number // 45}", "completion": f"A{number}"} for number in range(90)]
    path = write_rows(tmp_path / "a.jsonl", rows)
    _, report = read(DataSource(name=path, held_out=HeldOut(documents=0.1)), "train")
    [found] = report.sources
    assert re.search(r"(0.0|50.0|100.0)% of the rows are held out, instead of 10.0%", str(report))
    assert found.as_json()["held_out_by"] == "the first user message"
