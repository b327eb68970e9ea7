"""Rows and files as other people write them: rendered dialogues, JSON in text, labels, merged tables."""

import gzip
import io
import json
import zipfile

import pyarrow
import pyarrow.parquet
import pytest

from toolkit.base.errors import DataError
from toolkit.config.data_formats import RowKind
from toolkit.config.schema import Columns, DataSource
from toolkit.data import files
from toolkit.data.chat import rendered, sources
from toolkit.data.chat.report import ReadingReport
from toolkit.data.preview import kind_of, preview
from toolkit.data.text import documents
from toolkit.stages.tokenizer import learn


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **keys):
    return {"role": "assistant", "content": text, **keys}


S, Q, A, B = {"role": "system", "content": "S"}, user("Q"), assistant("A"), assistant("B")
TALK = [Q, A]


class File:
    """A file, as stages read it."""

    def __init__(self, path, content):
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        self.path, self.report = path, ReadingReport()

    def _read(self, reader, **settings):
        self.report = ReadingReport()
        source = DataSource(name=str(self.path), **settings)
        return list(reader(source, part="all", seed=0, report=self.report))

    def sft(self, **settings):
        return [row["prompt"] + row["completion"] for row in self._read(sources.conversations, **settings)]

    def pairs(self, **settings):
        rows = self._read(sources.preferences, **settings)
        return [(row["prompt"], row["chosen"], row["rejected"]) for row in rows]

    def prompts(self, **settings):
        return [row["prompt"] for row in self._read(sources.prompts, **settings)]

    @property
    def notes(self):
        return dict(self.report.sources[0].notes)

    @property
    def unread(self):
        return dict(self.report.sources[0].unread)

    @property
    def left_out(self):
        return dict(self.report.sources[0].left_out)


@pytest.fixture
def file(tmp_path):
    return lambda content, name="rows.jsonl": File(tmp_path / name, content)


# Dialogues that are one text

RENDERED = {
    "chatml": (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>\n",
    ),
    "llama 3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "llama 2": ("<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST]", " </s>"),
    "gemma": (
        "<bos><start_of_turn>system\nS<end_of_turn>\n<start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>",
    ),
    "zephyr": ("<|system|>\nS</s>\n<|user|>\nQ</s>\n<|assistant|>\n", "</s>"),
    "hh-rlhf with a system message": ("System: S\n\nHuman: Q\n\nAssistant:", ""),
    "alpaca": ("### System:\nS\n\n### Instruction:\nQ\n\n### Response:\n", ""),
    "vicuna": ("A chat between a curious user and an assistant. USER: Q ASSISTANT:", "</s>"),
    "user": ("System: S\nUser: Q\nAssistant:", ""),
    "capitals": ("SYSTEM: S\n\nHUMAN: Q\n\nASSISTANT:", ""),
}


@pytest.mark.parametrize("name", RENDERED)
def test_turns_of_a_rendered_prompt_are_read(file, name):
    prompt, end = RENDERED[name]
    system = [{**S, "content": prompt.split(" USER")[0]}] if name == "vicuna" else [S]
    rows = file([{"prompt": prompt, "chosen": f" A{end}", "rejected": f" B{end}"}])
    assert rows.pairs() == [([*system, Q], [A], [B])]
    assert rows.sft() == [[*system, *TALK]]
    assert rows.prompts() == [[*system, Q]]
    whole = file([{"chosen": f"{prompt} A{end}", "rejected": f"{prompt} B{end}"}])
    assert whole.pairs() == [([*system, Q], [A], [B])]
    assert whole.prompts() == [[*system, Q]]


def test_several_turns_of_rendered_dialogues_are_read(file):
    two = [Q, A, user("R"), B]
    for text in (
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nR<|im_end|>\n"
        "<|im_start|>assistant\nB<|im_end|>",
        "<s>[INST] Q [/INST] A </s><s>[INST] R [/INST] B </s>",
        "USER: Q ASSISTANT: A</s>USER: R ASSISTANT: B</s>",
    ):
        assert file([{"messages": text}]).sft() == [two]


@pytest.mark.parametrize(
    "text",
    [
        "User: is this a name?",
        "What does <|im_start|> mean?",
        "USER: and no answer",
        "Who writes USER: x ASSISTANT: y?",
    ],
)
def test_text_without_both_speakers_is_no_dialogue(file, text):
    assert file([{"prompt": text, "completion": "A"}]).sft() == [[user(text), A]]


def test_turns_that_an_answer_spells_stay_text_and_are_counted(file):
    answer = "A\n\nHuman: R\n\nAssistant: B"
    rows = file([{"prompt": "Q", "completion": answer}, {"prompt": "Q", "completion": "A"}])
    assert rows.sft() == [[Q, assistant(answer)], TALK]
    assert rows.notes == {"a message spells the beginning of another turn, which stays text": 1}


def test_name_of_the_speaker_before_an_answer_is_not_learned(file):
    rows = file([{"prompt": "Q", "chosen": "\n\nAssistant: A", "rejected": "Assistant: B"}])
    assert rows.pairs() == [([Q], [A], [B])]


# JSON in text


@pytest.mark.parametrize(
    ("prompt", "chosen"),
    [
        (json.dumps(Q), json.dumps(A)),
        (json.dumps([{"id": 1, **Q}]), json.dumps([{"id": 2, **A}])),
        (json.dumps(json.dumps([Q])), json.dumps({"messages": TALK})),
        (repr([{"id": 1, **Q}]), f"array({[Q, A]}, dtype=object)"),
    ],
)
def test_messages_in_json_text_are_read_whatever_their_first_key_is(file, prompt, chosen):
    assert file([{"prompt": prompt, "chosen": chosen, "rejected": "B"}]).pairs() == [([Q], [A], [B])]


@pytest.mark.parametrize(
    "answer", ['{"role": "admin", "name": "x"}', '[{"name": "x"}]', '["A"]', '"A"', "{'a': 1}"]
)
def test_answers_that_are_json_stay_text(file, answer):
    assert file([{"prompt": "Q", "completion": answer}]).sft() == [[Q, assistant(answer)]]


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "Q", "completion": "A", "completion": "B"}\n',
        '{"messages": [{"role": "user", "content": "Q", "content": "R"}]}\n',
    ],
)
def test_key_that_occurs_twice_is_an_error(file, text):
    for name in ("rows.jsonl", "rows.json"):
        with pytest.raises(DataError, match="has the key '(completion|content)' twice") as caught:
            file(text, name).sft()
        assert caught.value.where.endswith(f"{name}:1") and caught.value.fix


# Labels, weights, scores


@pytest.mark.parametrize(
    ("good", "bad"),
    [(True, False), (1, 0), (1, -1), (1.0, 0.0), ("true", "False"), ("1", "0"), ("Good", "bad"),
     ("yes", "no"), ("desirable", "undesirable"), ("chosen", "rejected")],
)  # fmt: skip
@pytest.mark.parametrize("names", [("prompt", "completion", "label"), ("instruction", "output", "kto_tag")])
def test_labels_in_every_spelling_divide_good_from_bad_answers(file, names, good, bad):
    rows = file(
        [dict(zip(names, ("Q", text, label), strict=True)) for text, label in (("B", bad), ("A", good))]
    )
    assert rows.pairs() == [([Q], [A], [B])]
    assert rows.sft() == [TALK]
    assert rows.left_out == {"the label is false: not a good answer": 1}


def test_numbers_beside_other_columns_may_be_classes_unless_columns_says_otherwise(file):
    rows = file([{"question": "Q", "answer": "A", "label": 0}, {"question": "Q", "answer": "B", "label": 1}])
    assert len(rows.sft()) == 2 and rows.unread == {"label": 2}
    assert rows.sft(columns=Columns(label="label")) == [[Q, B]]


def test_label_that_says_nothing_is_an_error_for_preferences(file):
    rows = file([{"prompt": "Q", "completion": "A", "label": "perhaps"}])
    with pytest.raises(DataError, match="'perhaps', which does not say whether the answer is good") as caught:
        rows.pairs()
    assert caught.value.where.endswith(":1") and "true or false" in caught.value.fix
    assert rows.sft() == [TALK] and rows.unread == {"label": 1}


@pytest.mark.parametrize("key", ["weight", "train", "training", "loss"])
def test_every_key_that_excludes_an_answer_from_the_loss_is_read(file, key):
    messages = [Q, assistant("X", **{key: False}), user("R"), assistant("A", **{key: True})]
    assert file([{"messages": messages}]).sft() == [[Q, assistant("X", learned=False), user("R"), A]]


@pytest.mark.parametrize(
    "names",
    [("reward_chosen", "reward_rejected"), ("chosen_reward", "rejected_reward"),
     ("chosen_avg_rating", "rejected_avg_rating")],
)  # fmt: skip
def test_scores_that_contradict_a_preference_leave_it_out(file, names):
    answers = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    rows = file(
        [answers | dict(zip(names, (1, 2), strict=True)), answers | dict(zip(names, (2, 1), strict=True))]
    )
    assert rows.pairs() == [([Q], [A], [B])]
    assert rows.left_out == {f"{names[0]} is lower than {names[1]}": 1}


def test_lists_of_scores_beside_a_preference_are_named_as_not_read(file):
    rows = file([{"prompt": "Q", "chosen": "A", "rejected": "B", "scores": [1, 2]}])
    assert rows.pairs() and rows.unread == {"scores": 1}


def test_better_answer_that_is_unknown_is_skipped_on_request(file):
    answers = {"prompt": "Q", "response_a": "A", "response_b": "B"}
    rows = file([answers | {"winner": "left"}, answers | {"winner": "a"}])
    with pytest.raises(DataError, match="'left', which names neither"):
        rows.pairs()
    assert rows.pairs(on_bad_row="skip") == [([Q], [A], [B])]
    tie = file([answers | {"winner": "tie"}, answers | {"winner": "a"}])
    assert tie.pairs() == [([Q], [A], [B])] and tie.left_out == {"a tie": 1}
    assert rows.unread == tie.unread == {}, "the columns of rows that are left out were not reached"


# Merged tables, unknown columns


@pytest.mark.parametrize(
    "empty", [{"messages": []}, {"messages": ""}, {"question": "", "answer": ""}, {"conversations": " "}]
)
def test_empty_columns_of_merged_tables_count_as_absent(file, empty):
    for row, wanted in (({"prompt": "Q", "completion": "A"}, TALK), ({"prompt": "Q", "chosen": "A"}, TALK)):
        assert file([row | empty]).sft() == [wanted]


def test_only_empty_answer_is_still_an_empty_answer(file):
    rows = file([{"prompt": "Q", "completion": ""}, {"prompt": "Q", "completion": "A"}])
    assert rows.sft() == [TALK] and rows.left_out == {"an answer is empty": 1}


@pytest.mark.parametrize(
    ("row", "setting"),
    [
        ({"Prompt": "Q", "Completion": "A"}, "columns: {prompt: Prompt, completion: Completion}"),
        ({"user": "Q", "assistant": "A"}, "columns: {prompt: user, completion: assistant}"),
        ({"prompt": "Q", " completion": "A"}, 'columns: {completion: " completion"}'),
    ],
)
def test_error_for_unknown_columns_names_the_setting_that_reads_them(file, row, setting):
    rows = file([row])
    with pytest.raises(DataError) as caught:
        rows.sft()
    assert setting in caught.value.fix
    if "prompt" not in row:
        with pytest.raises(DataError, match="the format is not recognised") as caught:
            kind_of(DataSource(name=str(rows.path)))
        assert setting in caught.value.fix
    assert rows.sft(columns=Columns(prompt=next(iter(row)), completion=list(row)[1])) == [TALK]


def test_preview_does_not_hide_an_error_behind_rows_that_are_left_out(file):
    rows = file(
        [{"messages": [Q]}, {"messages": [{"role": "narrator", "content": "x"}, A]}, {"messages": TALK}]
    )
    source, tokenizer = DataSource(name=str(rows.path)), learn([""], vocab_size=1)
    with pytest.raises(DataError, match="unknown role 'narrator'"):
        preview(source, tokenizer, kind=RowKind.SFT)
    skipping = preview(source.model_copy(update={"on_bad_row": "skip"}), tokenizer, kind=RowKind.SFT)
    assert (skipping.rows, skipping.used, sum(skipping.left_out.values())) == (3, 1, 2)
    nothing = preview(DataSource(name=str(file([{"messages": [Q]}]).path)), tokenizer, kind=RowKind.SFT)
    assert (nothing.rows, nothing.used, nothing.left_out) == (1, 0, {"no answer of the assistant": 1})


def test_rows_of_several_kinds_are_read_as_what_all_of_them_are(file):
    preference = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    for rows, kind in (
        ([{"messages": TALK}, preference], RowKind.SFT),
        ([preference, preference], RowKind.PREFERENCES),
        ([preference, {"prompt": "Q"}], RowKind.PROMPTS),
        ([{"text": "x"}, {"messages": TALK}], RowKind.SFT),
    ):
        assert kind_of(DataSource(name=str(file(rows).path))) is kind


# Files


def _zip():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.jsonl", "{}")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"{}"), "gzip archive"),
        (_zip(), "ZIP archive"),
        (b"PAR1\x15\x04", "Parquet file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
    ],
    ids=["gzip", "zip", "parquet", "lfs"],  # archives contain the time
)
def test_file_of_another_format_is_named_as_what_it_is(file, content, words):
    for name in ("rows.jsonl", "text.txt", "rows.csv", "rows.json"):
        made = file(content, name)
        with pytest.raises(DataError, match=f"not text: the file is a {words}") as caught:
            if name == "text.txt":
                list(documents.texts(DataSource(name=str(made.path)), part="all", seed=0))
            else:
                made.sft()
        assert caught.value.where == str(made.path) and caught.value.fix


def test_utf8_that_is_read_in_another_encoding_is_said(file, capsys):
    text = '{"prompt": "Qué", "completion": "A"}\n'
    for name, content, is_warned in (
        ("a.jsonl", text.encode(), True),
        ("b.jsonl", text.encode("cp1252"), False),
    ):
        made = file(content, name)
        made.sft(encoding="cp1252")
        assert ("seems to be UTF-8" in capsys.readouterr().err) is is_warned


def test_two_columns_of_one_name_are_an_error_in_a_parquet_file(file):
    columns = [pyarrow.array([text]) for text in ("Q", "A", "B")]
    content = io.BytesIO()
    table = pyarrow.Table.from_arrays(columns, names=["prompt", "completion", "completion"])
    pyarrow.parquet.write_table(table, content)
    with pytest.raises(DataError, match="two columns have the name 'completion'"):
        file(content.getvalue(), "rows.parquet").sft()


@pytest.mark.parametrize(
    ("name", "header"),
    [("a.csv", "prompt;completion"), ("a.csv", "prompt\tcompletion"), ("a.tsv", "prompt,completion")],
)
def test_table_with_another_delimiter_is_refused(file, name, header):
    with pytest.raises(DataError, match="between its cells") as caught:
        file(f"{header}\n{header}\n", name).sft()
    assert caught.value.where.endswith(f"{name}:1")


@pytest.mark.parametrize(("names", "is_warned"), [(("train", "test"), True), (("train-0", "train-1"), False)])
def test_files_of_several_splits_in_a_folder_are_named(tmp_path, capsys, names, is_warned):
    for name in names:
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"messages": TALK}) + "\n")
    assert len(files.resolve(DataSource(name=str(tmp_path)))) == 2
    assert ("files of several splits are read together: train, test" in capsys.readouterr().err) is is_warned


# What is said


def test_prompt_that_is_none_of_the_messages_is_named_to_every_stage(file):
    rows = file([{"prompt": "Z", "messages": TALK}, {"prompt": "Q", "messages": TALK}])
    assert rows.sft() == [TALK, TALK] and rows.unread == {"prompt": 1}
    assert rows.prompts() == [[Q], [Q]] and rows.unread == {"prompt": 1}


def test_special_tokens_that_a_message_spells_are_counted(file):
    rows = file(
        [{"prompt": "Q", "completion": "A<|endoftext|>B"}, {"prompt": "Q", "completion": "A</s> </s>"}]
    )
    tokenizer, report = learn([""], vocab_size=1), ReadingReport()
    source = DataSource(name=str(rows.path))
    found = sources.conversations(source, part="all", seed=0, report=report, tokenizers=[tokenizer])
    assert [row["completion"][0]["content"] for row in found] == ["A<|endoftext|>B", "A"]
    assert report.sources[0].notes[rendered.SPELLED_TOKEN] == 1


def test_column_of_text_with_dialogues_is_named_to_stages_that_read_dialogues(file):
    rows = file([{"text": "### Human: Q### Assistant: A"}])
    with pytest.raises(DataError) as caught:
        rows.sft()
    assert "field: text" in caught.value.fix and rows.sft(field="text") == [TALK]


def test_keys_of_an_object_that_is_no_message_are_named(file):
    with pytest.raises(DataError, match="its keys are: role, message"):
        file([{"messages": [{"role": "user", "message": "Q"}, A]}]).sft()


def test_part_without_a_row_says_where_the_rows_are(file):
    rows = file([{"messages": TALK}])
    part = "train" if _is_held_out(rows) else "held_out"
    other = "held-out" if part == "train" else "training"
    with pytest.raises(DataError, match=f"no usable row of 1 \\(1 rows: of the {other} part\\)"):
        sources.conversations(DataSource(name=str(rows.path)), part=part, seed=0)


def _is_held_out(rows):
    try:
        return len(sources.conversations(DataSource(name=str(rows.path)), part="held_out", seed=0)) > 0
    except DataError:
        return False
