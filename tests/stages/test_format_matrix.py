"""File formats and chat templates times stages: each stage tokenizes the same rows to hand-written ids.

Every file has a bad row, and every count that a stage prints adds up to the rows of the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from tests.chat_fixtures import byte_tokenizer
from tests.data import file_formats
from tests.data.chat_templates import FORMATS
from tests.runs.small_runs import manifest_of
from toolkit.base.errors import DataError
from toolkit.config.schema import CorpusRecipe, DataSource, HeldOut, SftRecipe, TokenizerRecipe
from toolkit.data.chat import fitting, pairs, sources
from toolkit.data.chat.report import ReadingReport
from toolkit.data.chat.rows import IGNORED
from toolkit.data.text.documents import Stream, whole_words
from toolkit.evaluate import context
from toolkit.runs.run import Run
from toolkit.stages import corpus, sft
from toolkit.stages import tokenizer as tokenizer_stage
from toolkit.stages.tokenizer import Limited

END, USER, ASSISTANT = 0, 2, 3
"""Special tokens of the byte tokenizer; the other ids are those of bytes."""


def ids(text: str) -> list[int]:
    """Return the ids of visible ASCII characters: `!` is 5, `A` is 37."""
    return [ord(character) - 28 for character in text]


def asked(text: str) -> list[int]:
    return [USER, *ids(text), ASSISTANT]


@dataclass
class Reading:
    """What a stage made of a source: its rows as ids, and the counts that it prints."""

    rows: list
    report: ReadingReport = field(default_factory=ReadingReport)


TEXTS = [{"text": "a,b"}, {"text": " "}, {"text": 'say"it"'}]
TALK = [{"prompt": "Q,1", "completion": "A"}, {"prompt": "Q2", "completion": ""},
        {"prompt": "Q3", "completion": 'B"!"'}]  # fmt: skip
PAIRS = [{"prompt": "Q,1", "chosen": "A", "rejected": "B!"}, {"prompt": "Q2", "chosen": "A", "rejected": "A"},
         {"prompt": "Q3", "chosen": '"C"', "rejected": "D"}]  # fmt: skip
PROMPTS = [{"prompt": "Q,1"}, {"prompt": " "}, {"prompt": 'Q"3"'}]


def read_tokenizer(source, part, folder):
    stream = Stream(source, part=part, seed=0)
    return Reading(list(Limited(whole_words(stream), 1000)), stream.report)


def read_corpus(source, part, folder):
    recipe = CorpusRecipe(stage="corpus", tokenizer="unused", data=source, workers=1)
    reading = corpus._Reading(Stream(source, part=part, seed=0))
    shards = corpus._write_part(recipe, reading, folder=folder / part, tokenizer=byte_tokenizer())
    return Reading(
        [shards.document(number).tolist() for number in range(shards.documents)], reading.stream.report
    )


def read_sft(source, part, folder):
    report = ReadingReport()
    recipe = SftRecipe(stage="sft", model="x/y", data=source)
    if part == "held_out":
        held_out = sft.held_out_conversations(recipe, byte_tokenizer(), 64, report=report)
        rows = list(zip(held_out.prompts, held_out.answers, strict=True))
        return Reading(rows, ReadingReport(report.held_out))
    table = sft.conversation_rows(recipe, byte_tokenizer(), 64, report=report)
    return Reading([(row["input_ids"], row["labels"]) for row in table.dataset()], report)


def read_pairs(source, part, folder, *, joined):
    report = ReadingReport()
    rows = sources.preferences(source, part=part, seed=0, report=report)
    table, report.lengths = pairs.training_pairs(rows, byte_tokenizer(), max_length=64, joined=joined)
    return Reading([tuple(row.values()) for row in table.dataset()], report)


def read_ppo(source, part, folder):
    report = ReadingReport()
    rows = sources.prompts(source, part=part, seed=0, report=report)
    return Reading([fitting.prompt_ids(byte_tokenizer(), prompt) for prompt in rows["prompt"]], report)


def read_evaluation(unit):
    def read(source, part, folder):
        surroundings = context.of_current_folder()
        if unit == "documents":
            found = surroundings.read_text(source, seed=0).ids(byte_tokenizer())
            return Reading([row.tolist() for row in found], surroundings.findings.reports[unit])
        read = sources.prompts if unit == "prompts" else sources.preferences
        rows = surroundings.read_rows(read, source, unit=unit, seed=0)
        report = surroundings.findings.reports[unit]
        if unit == "prompts":
            return Reading([fitting.prompt_ids(byte_tokenizer(), row) for row in rows["prompt"]], report)
        found = pairs.held_out_pairs(rows, byte_tokenizer(), max_length=64).pairs
        return Reading([(pair.prompt, pair.chosen, pair.rejected) for pair in found], report)

    return read


LABELS = [
    ([*asked("Q,1"), *ids("A"), END], [IGNORED] * 5 + [*ids("A"), END]),
    ([*asked("Q3"), *ids('B"!"'), END], [IGNORED] * 4 + [*ids('B"!"'), END]),
]
ANSWERS = [
    (asked("Q,1"), [*ids("A"), END], [*ids("B!"), END]),
    (asked("Q3"), [*ids('"C"'), END], [*ids("D"), END]),
]
JOINED = [(prompt + chosen, prompt + rejected) for prompt, chosen, rejected in ANSWERS]
ASKED = [asked("Q,1"), asked('Q"3"')]
EMPTY, SAME = "empty or only white space", "the two answers are the same"

STAGES = {
    "tokenizer": (read_tokenizer, TEXTS, ["a,b", 'say"it"'], EMPTY),
    "corpus": (read_corpus, TEXTS, [ids("a,b"), ids('say"it"')], EMPTY),
    "sft": (read_sft, TALK, LABELS, "an answer is empty"),
    "reward": (lambda *args: read_pairs(*args, joined=True), PAIRS, JOINED, SAME),
    "dpo": (lambda *args: read_pairs(*args, joined=False), PAIRS, ANSWERS, SAME),
    "ppo": (read_ppo, PROMPTS, ASKED, "no message of the user"),
    "evaluate documents": (read_evaluation("documents"), TEXTS, [ids("a,b"), ids('say"it"')], EMPTY),
    "evaluate prompts": (read_evaluation("prompts"), PROMPTS, ASKED, "no message of the user"),
    "evaluate pairs": (read_evaluation("pairs"), PAIRS, ANSWERS, SAME),
}
"""How a stage reads a source, the rows of its file, what it makes of them, why it leaves out the second."""
SECOND = {".json": ":3", ".jsonl": ":2", ".ndjson": ":2", ".csv": ":3", ".tsv": ":3"}
"""Where the second row is; in the other formats `:row 2`."""
FEW = ((".csv", ""), (".parquet", ""))
slow = [cell for cell in file_formats.ALL if cell not in file_formats.ONE_COMPRESSION_EACH]
CELLS = [*file_formats.ONE_COMPRESSION_EACH, *(pytest.param(*cell, marks=pytest.mark.slow) for cell in slow)]


def whole(name, stage, **settings):
    """Return a source all of whose rows are of the part that the stage reads, and that part."""
    is_measured = stage.startswith("evaluate")
    source = DataSource(name=name, held_out="all" if is_measured else "none", **settings)
    return source, "held_out" if is_measured else "train"


def require_sum(report: ReadingReport, rows: int) -> None:
    """Check that the counts of the only source add up, as a dataclass, in JSON and as printed."""
    [found], [written] = report.sources, report.as_json()["sources"]
    assert found.read == rows == found.usable + found.paired + found.left_out.total()
    others = sum(written.get(key, 0) for key in ("other_part", "joined_in_pairs", "not_sampled", "not_mixed"))
    left_out = sum(reason["rows"] for reason in written["left_out"].values())
    assert written["read"] == rows == written["used"] + others + left_out
    table = str(report).splitlines()
    total, *counts = (int(cell.replace(",", "")) for cell in table[1].removeprefix(found.name).split())
    assert total == rows == sum(counts)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("suffix", "compression"), CELLS)
def test_every_format_gives_the_hand_written_ids(tmp_path, suffix, compression, stage):
    read, rows, expected, reason = STAGES[stage]
    name = file_formats.write(tmp_path, rows, suffix=suffix, compression=compression)
    found = read(*whole(name, stage), tmp_path)
    assert found.rows == expected
    require_sum(found.report, 3)
    [report] = found.report.sources
    assert report.left_out == {reason: 1} and report.used == 2
    assert report.first[reason].endswith(SECOND.get(suffix, ":row 2")) and name in report.first[reason]


TEXT_STAGES = ["tokenizer", "corpus", "evaluate documents"]


@pytest.mark.parametrize("stage", TEXT_STAGES)
@pytest.mark.parametrize("compression", file_formats.COMPRESS)
def test_plain_text_gives_the_hand_written_ids(tmp_path, compression, stage):
    read, _, expected, reason = STAGES[stage]
    path = tmp_path / f"a.txt{compression}"
    path.write_bytes(file_formats.COMPRESS[compression](b'a,b|\n|say"it"'))
    found = read(*whole(str(path), stage, separator="|"), tmp_path)
    assert found.rows == expected
    require_sum(found.report, 3)
    assert found.report.sources[0].first == {reason: f"{path}:part 2"}


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in TEXT_STAGES])
def test_plain_text_is_refused_by_other_stages(tmp_path, stage):
    path = tmp_path / "a.txt"
    path.write_text("a")
    with pytest.raises(DataError, match="plain text has no") as caught:
        STAGES[stage][0](*whole(str(path), stage), tmp_path)
    assert caught.value.where == str(path) and "with columns of messages" in caught.value.fix


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("suffix", "compression"),
    [cell if cell in FEW else pytest.param(*cell, marks=pytest.mark.slow) for cell in file_formats.ALL],
)
def test_a_column_that_is_missing_is_refused_with_row_and_fix(tmp_path, suffix, compression, stage):
    name = file_formats.write(tmp_path, [{"words": "a"}], suffix=suffix, compression=compression)
    with pytest.raises(DataError, match="there is no column '(text|messages|chosen|prompt)'") as caught:
        STAGES[stage][0](*whole(name, stage), tmp_path)
    assert "words" in caught.value.what and caught.value.fix
    assert caught.value.where.startswith(name) and caught.value.where != name


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("examples", [None, 4])
def test_used_held_out_and_left_out_are_all_rows(tmp_path, stage, examples):
    read, rows, _, reason = STAGES[stage]
    column = "text" if "text" in rows[0] else "prompt"
    many = [{**rows[0], column: f"Q{number}"} for number in range(40)]
    for at in (0, 17, 42):
        many.insert(at, rows[1])
    name = file_formats.write(tmp_path, many, suffix=".jsonl")
    used = {}
    for part in ("train", "held_out") if not stage.startswith("evaluate") else ("held_out",):
        limit = {"examples": examples, "held_out_examples": examples}
        source = DataSource(name=name, held_out=HeldOut(documents=0.4), **limit)
        found = read(source, part, tmp_path)
        used[part] = len(found.rows)
        if not found.report.sources:  # the training part counts them
            continue
        require_sum(found.report, 43)
        [report] = found.report.sources
        assert report.left_out == {reason: 3} and report.first[reason] == f"{name}:1"
        assert report.used == used[part] and 0 < report.other_part < 40
    if examples is None and len(used) == 2:
        assert used["train"] + used["held_out"] == 40
    if examples is not None:
        assert set(used.values()) == {4}


# Chat templates

MESSAGES = [{"role": "user", "content": "Q1"}, {"role": "assistant", "content": "A1"},
            {"role": "user", "content": "Q2"}]  # fmt: skip


@pytest.fixture(scope="module", params=FORMATS)
def chat_format(request):
    return FORMATS[request.param]


@pytest.fixture(scope="module")
def tokenizer(chat_format):
    return chat_format.tokenizer()


@pytest.fixture
def file(tmp_path):
    """A table with a conversation of two turns, a preference between two answers, and a bad row."""

    def write(*rows):
        return file_formats.write(tmp_path, rows, suffix=".jsonl")

    return write


@pytest.mark.parametrize("multi_turn", ["all", "last"])
def test_fine_tuning_learns_the_answers_as_the_template_ends_them(chat_format, tokenizer, file, multi_turn):
    name = file({"messages": [*MESSAGES, {"role": "assistant", "content": "A2"}]}, {"messages": MESSAGES[:1]})
    source, _ = whole(name, "sft")
    recipe = SftRecipe(stage="sft", model="x/y", data=source, multi_turn=multi_turn)
    report = ReadingReport()
    table = sft.conversation_rows(recipe, tokenizer, 256, report=report)
    [row] = table.dataset()
    assert tokenizer.decode(row["input_ids"]) == chat_format.prompt + chat_format.answer
    learned = [label for label in row["labels"] if label != IGNORED]
    first = chat_format.earlier or chat_format.answer.replace("A2", "A1")
    assert tokenizer.decode(learned) == first * (multi_turn == "all") + chat_format.answer
    assert row["labels"][-len(learned) :][-1] == tokenizer.convert_tokens_to_ids(chat_format.end)
    require_sum(report, 2)


def test_rewards_preferences_and_prompts_are_rendered_by_the_template(chat_format, tokenizer, file):
    """reward, dpo, the evaluation of pairs, PPO's prompts, and the prompts of a win rate."""
    name = file({"prompt": MESSAGES, "chosen": "A2", "rejected": "the cat"}, {"prompt": "Q", "chosen": "A"})
    source, _ = whole(name, "dpo", on_bad_row="skip")
    text = chat_format.prompt, chat_format.answer, chat_format.answer.replace("A2", "the cat")
    for joined in (False, True):
        report = ReadingReport()
        rows = sources.preferences(source, part="train", seed=0, report=report)
        table, _ = pairs.training_pairs(rows, tokenizer, max_length=256, joined=joined)
        decoded = [tokenizer.decode(value) for value in table.dataset()[0].values()]
        assert decoded == (list(text) if not joined else [text[0] + text[1], text[0] + text[2]])
        require_sum(report, 2)
    surroundings = context.of_current_folder()
    measured = source.model_copy(update={"held_out": "all"})
    rows = surroundings.read_rows(sources.preferences, measured, unit="pairs", seed=0)
    [pair] = pairs.held_out_pairs(rows, tokenizer, max_length=256).pairs
    assert (*map(tokenizer.decode, (pair.prompt, pair.chosen, pair.rejected)),) == text
    rows = surroundings.read_rows(sources.prompts, measured, unit="prompts", seed=0)
    assert tokenizer.decode(fitting.prompt_ids(tokenizer, rows["prompt"][0])) == chat_format.prompt
    report = surroundings.findings.reports["prompts"]
    require_sum(report, 2)


def test_a_row_that_the_template_refuses_is_named(chat_format, tokenizer, file):
    refused = [] if chat_format.takes_system else [{"role": "system", "content": "S"}]
    twice = [{"role": "user", "content": "Who are you?"}] * (1 + chat_format.alternates)
    messages = [*refused, *twice, {"role": "assistant", "content": "A2"}]
    source, _ = whole(file({"messages": messages}), "sft")
    recipe = SftRecipe(stage="sft", model="x/y", data=source)
    if not refused and len(twice) == 1:
        assert len(sft.conversation_rows(recipe, tokenizer, 256)) == 1
        return
    with pytest.raises(DataError, match="refuses the conversation that begins 'Who are you\\?'") as caught:
        sft.conversation_rows(recipe, tokenizer, 256)
    assert caught.value.fix


def test_the_matrix_has_every_format_that_is_read():
    from toolkit.config import data_formats

    written = {suffix for suffix, _ in file_formats.ALL} - {""}
    assert written | {data_formats.TEXT, *data_formats.VOTES} == set(data_formats.SUFFIXES)
    assert {compression for _, compression in file_formats.ALL} - {""} == set(data_formats.COMPRESSIONS)


# What else the table says


def test_held_out_rows_of_another_file_are_counted(tmp_path):
    for name, rows in (("train", TALK), ("test", [TALK[0], {"prompt": "q3", "completion": "x"}, TALK[1]])):
        (tmp_path / name).mkdir()
        file_formats.write(tmp_path / name, rows, suffix=".jsonl")
    test = f"{tmp_path}/test/rows.jsonl"
    source = DataSource(name=f"{tmp_path}/train/rows.jsonl", held_out=HeldOut(name=test))
    recipe, report = SftRecipe(stage="sft", model="x/y", data=source), ReadingReport()
    sft.conversation_rows(recipe, byte_tokenizer(), 64, report=report)
    sft.held_out_conversations(recipe, byte_tokenizer(), 64, report=report)
    require_sum(report, 3)
    [held_out] = report.as_json()["held_out"]
    assert (held_out["name"], held_out["read"], held_out["used"]) == (test, 3, 2)
    assert held_out["in_training"] == 2, "q3 is Q3 apart from case"
    assert f"{test} (held out): left out: an answer is empty  1  first: {test}:3" in str(report)


def test_a_training_whose_answers_are_all_cut_is_an_error(tmp_path):
    name = file_formats.write(tmp_path, [{"prompt": "Q", "completion": "A" * 50}] * 3, suffix=".jsonl")
    recipe = SftRecipe(stage="sft", model="x/y", data=whole(name, "sft")[0])
    with pytest.raises(DataError, match="all 3 answers are cut") as caught:
        sft.conversation_rows(recipe, byte_tokenizer(), 40)
    assert "raise trainer.max_length" in caught.value.fix
    assert len(sft.conversation_rows(recipe, byte_tokenizer(), 60)) == 3


@pytest.mark.parametrize("stage", TEXT_STAGES)
def test_an_empty_part_is_an_error_that_says_what_was_left_out(tmp_path, stage):
    name = file_formats.write(tmp_path, [{"text": " "}] * 4, suffix=".jsonl")
    with pytest.raises(DataError, match=f"4 rows: {EMPTY} .first {name}:1.") as caught:
        if stage == "tokenizer":
            recipe = TokenizerRecipe(stage="tokenizer", data=whole(name, stage)[0], vocab_size=300)
            loaded = SimpleNamespace(name="tokenizer", recipe=recipe, text="", overrides=())
            tokenizer_stage.run(recipe, Run(loaded, runs_dir=tmp_path, content=manifest_of(loaded)))
        STAGES[stage][0](*whole(name, stage), tmp_path)
    assert caught.value.fix
