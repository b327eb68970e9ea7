"""Documents, conversations and preferences from all sources: formats, splits, caps, mixtures, errors."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import datasets
import pytest

from toolkit.base.errors import DataError
from toolkit.config.schema import DataSource, HeldOut
from toolkit.data import hub
from toolkit.data.chat import sources
from toolkit.data.chat.row_reader import SEVERAL_MESSAGES
from toolkit.data.data_sources import mixture_order
from toolkit.data.text import documents
from toolkit.data.text.documents import Piece, Stream, whole_words
from toolkit.stages.tokenizer import learn
from toolkit.storyworld import LARGE, large, split_of

REAL = Path(os.environ.get("TOOLKIT_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
HH = REAL / "hh-rlhf-harmless-test.jsonl.gz"
real_data = pytest.mark.skipif(not HH.exists(), reason=f"no real data at {REAL}: set TOOLKIT_TEST_DATA")


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def texts(data, part, seed=0):
    return [document.text for document in documents.texts(data, part=part, seed=seed)]


def refused(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    assert caught.value.fix


# Documents


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_last_characters_splits_the_concatenated_text(tmp_path, monkeypatch, share):
    monkeypatch.setattr("toolkit.data.decoding.PIECE_BYTES", 7)
    contents = ["猫はねる。\n" * 3, "dogs bark. " * 5, "x"]
    for name, content in zip("abc", contents, strict=True):
        (tmp_path / f"{name}.txt").write_text(content, encoding="utf-8")
    source = DataSource(name=str(tmp_path / "*.txt"), held_out=HeldOut(last_characters=share))
    train, held_out = texts(source, "train"), texts(source, "held_out")
    whole = "".join(contents)
    assert "".join(train) == whole[: int(len(whole) * (1 - share))]
    assert "".join(train + held_out) == whole
    assert texts(source, "all") == contents
    # Document boundaries are kept, and the split adds one.
    assert len(train) + len(held_out) == 4


def test_single_text_file_is_one_document_split_at_the_end(tmp_path):
    (tmp_path / "a.txt").write_text("0123456789" * 10 + "rest", encoding="utf-8")
    source = DataSource(name=str(tmp_path / "a.txt"), held_out=HeldOut(last_characters=0.1))
    assert [len(text) for text in texts(source, "train") + texts(source, "held_out")] == [93, 11]


def test_documents_are_held_out_by_text_hash(tmp_path):
    rows = [{"text": f"document {number}"} for number in range(2000)]
    one = DataSource(name=jsonl(tmp_path / "a.jsonl", rows))
    train, held_out = texts(one, "train"), texts(one, "held_out", seed=5)
    assert sorted(train + held_out) == sorted(row["text"] for row in rows)
    assert not set(train) & set(held_out) and abs(len(held_out) - 200) < 60
    reverse = DataSource(name=jsonl(tmp_path / "b.jsonl", rows[::-1]), held_out=HeldOut(documents=0.1))
    assert set(texts(reverse, "held_out")) == set(held_out)
    for number, text in enumerate(held_out[:3] + train[:3]):  # and the same documents in separate files
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "x.txt").write_text(text, encoding="utf-8")
        part = "held_out" if number < 3 else "train"
        assert texts(DataSource(name=str(folder / "x.txt")), part) == [text]


def test_split_matches_earlier_versions(tmp_path):
    """The split is pinned, because otherwise a new run could train on data that an old run held out."""
    rows = [
        {"text": f"story {number}", "messages": [user(f"Story  {number}"), assistant("A")]}
        for number in range(60)
    ]
    source = DataSource(name=jsonl(tmp_path / "a.jsonl", rows))
    held_out = ["story 36", "story 41", "story 42", "story 49"]
    assert texts(source, "held_out") == held_out
    requests = [row["prompt"][0]["content"] for row in sources.prompts(source, part="held_out", seed=9)]
    assert [" ".join(text.lower().split()) for text in requests] == held_out


def test_text_conversations_are_split_by_first_request(tmp_path):
    rows = [
        {"messages": [user(f"story {number}"), assistant("A"), user("and?"), assistant(f"B{number}")]}
        for number in range(60)
    ]
    rows.append({"messages": [user("no answer")]})
    source = DataSource(name=jsonl(tmp_path / "a.jsonl", rows))
    assert texts(source, "held_out")[0] == "Human: story 36\n\nAssistant: A\n\nHuman: and?\n\nAssistant: B36"
    stream = Stream(source, part="train", seed=0)
    assert len(list(stream)) == 56 and stream.dropped == {"no answer of the assistant": 1}
    world = DataSource(name="storyworld", config="conversations", examples=5)
    assert all(text.startswith("Human: ") for text in texts(world, "train"))


def test_larger_held_out_fraction_is_a_superset(tmp_path):
    name = jsonl(tmp_path / "a.jsonl", [{"text": str(number)} for number in range(500)])
    small = set(texts(DataSource(name=name, held_out=HeldOut(documents=0.1)), "held_out"))
    large = set(texts(DataSource(name=name, held_out=HeldOut(documents=0.4)), "held_out"))
    assert small < large


def test_capped_documents_are_a_seeded_sample_within_each_split(tmp_path):
    name = jsonl(tmp_path / "a.jsonl", [{"text": f"{number}"} for number in range(1000)])
    source = DataSource(name=name, examples=50, held_out_examples=20)
    free = DataSource(name=name)
    for part, size in (("train", 50), ("held_out", 20)):
        first = texts(source, part, seed=1)
        assert len(first) == size and first == texts(source, part, seed=1) != texts(source, part, seed=2)
        assert set(first) <= set(texts(free, part))
        assert [text for text in texts(free, part) if text in set(first)] == first, "in their order"


def test_empty_texts_are_counted_and_field_is_used(tmp_path):
    name = jsonl(tmp_path / "a.jsonl", [{"story": "a"}, {"story": ""}, {"story": "b"}])
    stream = Stream(DataSource(name=name, field="story"), part="all", seed=0)
    assert [piece.text for piece in stream] == ["a", "b"] and stream.dropped == {
        "empty or only white space": 1
    }
    refused(lambda: texts(DataSource(name=name), "all"), "a.jsonl:1", "no column 'text'", "story")


def test_splitting_at_words_preserves_token_ids():
    text = "The cat's  mat\n\n\n and it's 123 dogs...  猫は寝た。\n\u3000犬\u00a0x \t y" * 40 + "z" * 90
    tokenizer = learn([text], vocab_size=400)
    whole = tokenizer(text)["input_ids"]
    for size in (25, 40, 101, 5000):
        pieces = list(whole_words([Piece(text[:700], 0, False), Piece(text[700:], 0, True)], characters=size))
        assert "".join(piece.text for piece in pieces) == text
        assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        if size > 100:  # longer than the run of z, which contains no white space
            assert [token for piece in pieces for token in tokenizer(piece.text)["input_ids"]] == whole


def test_large_file_is_read_in_bounded_pieces(tmp_path):
    (tmp_path / "a.txt").write_text("word " * 1_000_000, encoding="utf-8")
    stream = Stream(DataSource(name=str(tmp_path / "a.txt")), part="all", seed=0)
    assert max(len(piece.text) for piece in stream) <= 1 << 20
    assert stream.progress() == (5_000_000, 5_000_000, "byte")


def test_mixture_turns_keep_exact_shares():
    for weights in ([1, 1], [3, 1], [0.7, 0.2, 0.1], [5, 1, 1, 1]):
        shares = [weight / sum(weights) for weight in weights]
        counts = Counter()
        for turn, index in zip(range(1, 1001), mixture_order(weights, seed=3), strict=False):
            counts[index] += 1
            assert all(abs(counts[i] - share * turn) <= 1 for i, share in enumerate(shares)), (weights, turn)
        assert all(counts[i] == round(1000 * share) for i, share in enumerate(shares))


def test_text_mixture_has_exact_shares_and_ends_with_the_first_exhausted_source(tmp_path):
    first = jsonl(tmp_path / "a.jsonl", [{"text": f"a{number}"} for number in range(300)])
    second = jsonl(tmp_path / "b.jsonl", [{"text": f"b{number}"} for number in range(1000)])
    mixture = [DataSource(name=first, weight=3.0), DataSource(name=second)]
    documents_read = texts(mixture, "all")
    counts = Counter(text[0] for text in documents_read)
    assert counts["a"] == 300 and abs(counts["b"] - 100) <= 1
    assert documents_read == texts(mixture, "all")
    both = set(texts(mixture, "train")), set(texts(mixture, "held_out"))
    assert not both[0] & both[1]


def test_weight_without_mixture_and_unused_source_are_refused(tmp_path):
    one = jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    refused(lambda: texts(DataSource(name=one, weight=2.0), "all"), "weight")
    two = jsonl(tmp_path / "b.jsonl", [{"text": "b"}])
    mixture = [DataSource(name=one, weight=9.0), DataSource(name=two)]
    refused(lambda: texts(mixture, "all"), "mixture", "b.jsonl")


def test_stories_have_logprobs_and_the_right_split():
    source = DataSource(name="storyworld", examples=60, held_out_examples=10)
    train = list(documents.texts(source, part="train", seed=3))
    held_out = list(documents.texts(source, part="held_out", seed=3))
    assert (len(train), len(held_out)) == (60, 10)
    assert all(split_of(document.text) == "held_out" for document in held_out)
    assert [document.logprob for document in train] == pytest.approx(
        [large.document_logprob(document.text) for document in train]
    )
    assert len(texts(DataSource(name="storyworld", examples=90), "held_out")) == 10
    assert len(texts(source, "all")) == 70


def test_entropy_is_known_only_for_pure_storyworld_mixtures(tmp_path):
    world = DataSource(name="storyworld", examples=20, held_out_examples=5)
    twice = list(documents.texts([world, world], part="train", seed=3))
    assert len({document.text for document in twice}) == len(twice) == 40, "each source has its own stories"
    assert [document.logprob for document in twice] == pytest.approx(
        [large.document_logprob(document.text) for document in twice]
    )
    other = DataSource(name=jsonl(tmp_path / "a.jsonl", [{"text": str(number)} for number in range(99)]))
    assert {document.logprob for document in documents.texts([world, other], part="train", seed=3)} == {None}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ["examples"]),
        ({"examples": 5, "config": "novels"}, ["novels", "stories"]),
        ({"examples": 5, "flawed_share": 0.5}, ["flawed_share"]),
        ({"examples": 5, "config": "prompts"}, ["text"]),
        ({"examples": 5, "held_out": HeldOut(last_characters=0.1)}, ["characters"]),
    ],
)
def test_unknown_storyworld_config_is_refused(settings, words):
    refused(lambda: texts(DataSource(name="storyworld", **settings), "train"), *words)


# Conversations and preferences

PROMPT, ANSWER, WORSE = [user("Q1"), assistant("A1"), user("Q2")], "better", "worse"
HH_TEXT = "\n\nHuman: Q1\n\nAssistant: A1\n\nHuman: Q2\n\nAssistant: "
FORMATS = {
    "hh-rlhf": {"chosen": HH_TEXT + ANSWER, "rejected": HH_TEXT + WORSE},
    "whole messages": {"chosen": [*PROMPT, assistant(ANSWER)], "rejected": [*PROMPT, assistant(WORSE)]},
    "prompt and messages": {"prompt": PROMPT, "chosen": [assistant(ANSWER)], "rejected": [assistant(WORSE)]},
    "ultrafeedback": {
        "prompt": "Q1",
        "prompt_id": "0",
        "score_chosen": 1.0,
        "messages": [user("other")],
        "chosen": [*PROMPT, assistant(ANSWER)],
        "rejected": [*PROMPT, assistant(WORSE)],
    },
    "prompt as hh text": {"prompt": HH_TEXT[: -len("\n\nAssistant: ")], "chosen": ANSWER, "rejected": WORSE},
}


@pytest.mark.parametrize("name", FORMATS)
def test_preference_formats(tmp_path, name):
    source = DataSource(name=jsonl(tmp_path / "a.jsonl", [FORMATS[name]]))
    [row] = sources.preferences(source, part="all", seed=0).to_list()
    assert row == {"prompt": PROMPT, "chosen": [assistant(ANSWER)], "rejected": [assistant(WORSE)]}
    if name != "ultrafeedback":  # whose `messages` differ here
        [row] = sources.conversations(source, part="all", seed=0).to_list()
        assert row == {"prompt": PROMPT, "completion": [assistant(ANSWER)]}
        assert sources.prompts(source, part="all", seed=0).to_list() == [{"prompt": PROMPT}]


def test_trl_text_preferences(tmp_path):
    source = DataSource(name=jsonl(tmp_path / "a.jsonl", [{"prompt": "Q", "chosen": "A", "rejected": "B"}]))
    [row] = sources.preferences(source, part="all", seed=0)
    assert row == {"prompt": [user("Q")], "chosen": [assistant("A")], "rejected": [assistant("B")]}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [*PROMPT, assistant(ANSWER)]},
        {"conversation": [*PROMPT, assistant(ANSWER), user("bye")]},
        {"prompt": PROMPT, "completion": ANSWER},
        {"prompt": PROMPT, "completion": [assistant(ANSWER)]},
        {
            "conversations": [
                {"from": "human", "value": "Q1"},
                {"from": "gpt", "value": "A1"},
                {"from": "human", "value": "Q2"},
                {"from": "gpt", "value": ANSWER},
            ]
        },
    ],
)
def test_conversation_formats(tmp_path, row):
    source = DataSource(name=jsonl(tmp_path / "a.jsonl", [row]))
    assert sources.conversations(source, part="all", seed=0).to_list() == [
        {"prompt": PROMPT, "completion": [assistant(ANSWER)]}
    ]
    assert sources.prompts(source, part="all", seed=0).to_list() == [{"prompt": PROMPT}]


def test_prompt_only_rows_and_named_field(tmp_path):
    source = DataSource(name=jsonl(tmp_path / "a.jsonl", [{"prompt": "Q"}]))
    assert sources.prompts(source, part="all", seed=0).to_list() == [{"prompt": [user("Q")]}]
    row = {"chat": [user("Q"), assistant("A")], "messages": []}
    source = DataSource(name=jsonl(tmp_path / "b.jsonl", [row]), field="chat")
    assert sources.conversations(source, part="all", seed=0)[0]["completion"] == [assistant("A")]


def test_unusable_rows_are_counted_by_reason(tmp_path, capsys):
    good = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    rows = [
        good,
        {**good, "chosen": " "},
        {**good, "rejected": "A"},
        {"chosen": [user("Q"), assistant("A")], "rejected": [user("R"), assistant("B")]},
        {"chosen": [assistant("A")], "rejected": [assistant("B")]},
    ]
    source = DataSource(name=jsonl(tmp_path / "a.jsonl", rows))
    report = sources.ReadingReport()
    assert len(sources.preferences(source, part="all", seed=0, report=report)) == 1
    reasons = {
        "an answer is empty": 2,
        "the two answers are the same": 3,
        "the prompts of the two answers differ": 4,
        "no message of the user": 5,
    }
    assert report.as_json() == {
        "read": 5,
        "kept": 1,
        "dropped": dict.fromkeys(reasons, 1),
        "sources": [
            {
                "name": source.name,
                "read": 5,
                "used": 1,
                "left_out": {
                    reason: {"rows": 1, "first": f"{source.name}:{line}"} for reason, line in reasons.items()
                },
                "notes": {},
                "unread_columns": {},
            }
        ],
    }
    assert capsys.readouterr().err == ""
    sources.preferences(source, part="all", seed=0)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[-4:] for line in lines[:2]] == [
        ["read", "used", "left", "out"],
        [source.name, "5", "1", "4"],
    ]
    assert re.fullmatch(rf"  left out: an answer is empty +1  first: {re.escape(source.name)}:2", lines[2])
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("row", "read", "words"),
    [
        ({"text": "a"}, sources.preferences, ["'chosen'", "text"]),
        ({"chosen": "a"}, sources.preferences, ["'rejected'"]),
        ({"text": "a"}, sources.conversations, ["'messages'"]),
        ({"messages": 3}, sources.conversations, ["messages", "int"]),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            sources.conversations,
            ["no answer of the assistant", ":1"],
        ),
        (
            {"messages": [{"role": "wizard", "content": "x"}]},
            sources.conversations,
            ["'wizard'", "gpt"],
        ),
        ({"messages": [{"role": "user"}]}, sources.conversations, ["content"]),
        (
            {"prompt": "", "completion": "A"},
            sources.conversations,
            ["no usable row", "no message of the user"],
        ),
    ],
)
def test_missing_or_invalid_columns_are_reported(tmp_path, row, read, words):
    source = DataSource(name=jsonl(tmp_path / "a.jsonl", [row]))
    refused(lambda: read(source, part="all", seed=0), "a.jsonl", *words)


def test_plain_text_and_last_characters_are_refused_for_conversations(tmp_path):
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    source = DataSource(name=str(tmp_path / "a.txt"))
    refused(lambda: sources.prompts(source, part="all", seed=0), "plain text")
    source = DataSource(
        name=jsonl(tmp_path / "a.jsonl", [FORMATS["hh-rlhf"]]), held_out=HeldOut(last_characters=0.5)
    )
    refused(lambda: sources.prompts(source, part="train", seed=0), "last_characters")


def test_empty_split_is_an_error(tmp_path):
    source = DataSource(
        name=jsonl(tmp_path / "a.jsonl", [FORMATS["hh-rlhf"]]), held_out=HeldOut(documents=1e-9)
    )
    refused(
        lambda: sources.preferences(source, part="held_out", seed=0),
        "held-out part has no usable row",
    )


def test_split_ignores_case_space_and_later_turns(tmp_path):
    variants = ["Tell me a STORY ", "tell  me a story", "Ｔell me\na story"]  # noqa: RUF001
    rows = [
        {"messages": [user(text), assistant(f"A{number}"), user(f"more {number}"), assistant("end")]}
        for number, text in enumerate(variants)
    ]
    source = DataSource(name=jsonl(tmp_path / "a.jsonl", rows), held_out=HeldOut(documents=0.5))
    sizes = []
    for part in ("train", "held_out"):
        try:
            sizes.append(len(sources.conversations(source, part=part, seed=0)))
        except DataError:
            sizes.append(0)
    assert sorted(sizes) == [0, 3]


def test_capped_rows_are_a_seeded_sample(tmp_path):
    rows = [{"prompt": f"Q{number}", "completion": "A"} for number in range(300)]
    source = DataSource(name=jsonl(tmp_path / "a.jsonl", rows), examples=40, held_out_examples=5)
    first = sources.conversations(source, part="train", seed=1).to_list()
    assert len(first) == 40 and first == sources.conversations(source, part="train", seed=1).to_list()
    assert first != sources.conversations(source, part="train", seed=2).to_list()
    assert len(sources.conversations(source, part="held_out", seed=1)) == 5


def test_row_mixture_has_exact_shares(tmp_path):
    first = jsonl(tmp_path / "a.jsonl", [{"prompt": f"a{n}", "completion": "A"} for n in range(40)])
    second = jsonl(tmp_path / "b.jsonl", [{"prompt": f"b{n}", "completion": "B"} for n in range(400)])
    mixture = [DataSource(name=first), DataSource(name=second, weight=3.0)]
    rows = sources.conversations(mixture, part="all", seed=0).to_list()
    counts = Counter(row["prompt"][0]["content"][0] for row in rows)
    assert counts["a"] == 40 and abs(counts["b"] - 120) <= 1
    assert Counter(row["prompt"][0]["content"][0] for row in rows[:40]) == {"a": 10, "b": 30}


def test_storyworld_preferences_keep_utilities_in_mixtures(tmp_path):
    world = DataSource(name="storyworld", examples=12, held_out_examples=4, flawed_share=0.9, temperature=0.5)
    rows = sources.preferences(world, part="train", seed=0).to_list()
    assert len(rows) == 12 and {"utility_chosen", "utility_rejected", "probability"} <= set(rows[0])
    given = list(LARGE.rows("preferences", 0, "train", 12, flawed_share=0.9, temperature=0.5))
    assert [row["probability"] for row in rows] == [row["probability"] for row in given]
    other = DataSource(name=jsonl(tmp_path / "a.jsonl", [FORMATS["hh-rlhf"]] * 12))
    mixed = sources.preferences([world, other], part="all", seed=0).to_list()
    assert {row["probability"] is None for row in mixed} == {True, False}
    assert len(sources.preferences(world, part="held_out", seed=0)) == 4
    refused(lambda: sources.conversations(world, part="train", seed=0), "conversations", "temperature")
    chosen = world.model_copy(update={"config": "preferences"})
    assert sources.conversations(chosen, part="train", seed=0)[0]["completion"] == rows[0]["chosen"]
    world = world.model_copy(update={"flawed_share": None, "temperature": None})
    assert len(sources.conversations(world, part="train", seed=0)) == 12
    assert sources.prompts(world, part="train", seed=0).column_names == ["prompt"]


def test_storyworld_requests_never_cross_the_split():
    world = DataSource(name="storyworld", examples=150, held_out_examples=50)
    sides = {"train": set(), "held_out": set()}
    for read in (sources.conversations, sources.preferences, sources.prompts):
        for part, seen in sides.items():
            seen |= {row["prompt"][0]["content"].lower() for row in read(world, part=part, seed=0)}
    assert not sides["train"] & sides["held_out"]


@real_data
def test_hh_rlhf_held_out_requests_are_never_trained_on():
    source = DataSource(name=str(HH))
    sides = {"train": set(), "held_out": set()}
    for read in (sources.conversations, sources.preferences, sources.prompts):
        for part, seen in sides.items():
            for row in read(source, part=part, seed=len(seen)):
                first = next(message["content"] for message in row["prompt"] if message["role"] == "user")
                seen.add(" ".join(first.casefold().split()))
    assert len(sides["held_out"]) > 150 and not sides["train"] & sides["held_out"]


@real_data
def test_hh_rlhf_text_and_pairs_hold_out_the_same_requests():
    source = DataSource(name=str(HH))
    documents_read = list(documents.texts(source, part="train", seed=0))
    assert len(documents_read) == 2049 and all(
        document.text.startswith("Human: ") for document in documents_read
    )
    held_out = {row["prompt"][0]["content"] for row in sources.conversations(source, part="held_out", seed=0)}
    assert not held_out & {
        document.text.split("\n\nAssistant:")[0][len("Human: ") :] for document in documents_read
    }


@real_data
def test_hh_rlhf_is_read_completely():
    report = sources.ReadingReport()
    rows = sources.preferences(DataSource(name=str(HH)), part="all", seed=0, report=report)
    assert report.read == 2312 and len(rows) == report.kept == 2303
    assert report.dropped == {"an answer is empty": 4, SEVERAL_MESSAGES: 5}
    for row in rows:
        assert row["prompt"][0]["role"] == row["prompt"][-1]["role"] == "user"
        assert "\n\nHuman:" not in row["chosen"][0]["content"]


@real_data
def test_tinyshakespeare_split():
    source = DataSource(name=str(REAL / "tinyshakespeare.txt"), held_out=HeldOut(last_characters=0.1))
    [train], [held_out] = texts(source, "train"), texts(source, "held_out")
    assert (len(train), len(held_out)) == (1003854, 111540)


# The hub


class Offline:
    @staticmethod
    def load(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub (OfflineModeIsEnabled)")


def test_offline_error_says_what_to_pass(monkeypatch):
    monkeypatch.setattr(hub.datasets, "load_dataset", Offline.load)
    for read in (
        lambda: texts(DataSource(name="owner/name@v1"), "train"),
        lambda: sources.preferences(DataSource(name="owner/name@v1"), part="train", seed=0),
    ):
        refused(read, "owner/name@v1: the Hub cannot be reached", "local files", "storyworld")


@pytest.fixture
def fake_hub(monkeypatch):
    def load(name, config, *, revision, streaming):
        calls.append((name, config, revision, streaming))
        return datasets.DatasetDict(
            {
                split: datasets.Dataset.from_list(
                    [
                        {"text": f"{split} {number}", "prompt": f"{split} {number}", "completion": "A"}
                        for number in range(100)
                    ]
                )
                for split in ("train", "test")
            }
        )

    calls = []
    monkeypatch.setattr(hub.datasets, "load_dataset", load)
    monkeypatch.setattr(hub.datasets.config, "HF_HUB_OFFLINE", False)
    return calls


def test_hub_dataset_with_several_splits_requires_split(fake_hub):
    refused(lambda: texts(DataSource(name="owner/name"), "all"), "several splits: train, test", "`all`")
    refused(lambda: texts(DataSource(name="owner/name", split="dev"), "all"), "'dev'", "train, test")
    assert texts(DataSource(name="owner/name", split="test"), "all")[0] == "test 0"
    joined = texts(DataSource(name="owner/name@v1", split="all", config="en"), "all")
    assert joined[0] == "train 0" and joined[-1] == "test 99" and len(joined) == 200
    assert fake_hub[-1] == ("owner/name", "en", "v1", True)


def test_hub_dataset_is_split_and_capped(fake_hub):
    source = DataSource(name="owner/name", split="all", examples=30, held_out_examples=5)
    train, held_out = texts(source, "train"), texts(source, "held_out")
    assert (len(train), len(held_out)) == (30, 5) and not set(train) & set(held_out)
    rows = sources.conversations(source, part="train", seed=0)
    assert len(rows) == 30 and fake_hub[-1][-1] is False, "conversations are cached, not streamed"


def test_mixture_progress_follows_the_first_exhausted_source(tmp_path):
    world = DataSource(name="storyworld", examples=10)
    stream = documents.Stream([world, world], part="train", seed=0)
    assert stream.fraction() == 0.0
    list(stream)
    assert stream.fraction() == 1.0 and stream.progress() == (10, 10, "document")
