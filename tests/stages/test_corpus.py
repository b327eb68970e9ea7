"""The corpus stage: deterministic shards, resuming, exact entropy floor, and refused inputs."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from tests.foreign_tokenizers import unigram
from tests.runs.small_runs import manifest_of
from toolkit.base import files
from toolkit.base.errors import DataError, RunError, ToolkitError
from toolkit.config.schema import CorpusRecipe, DataSource, HeldOut
from toolkit.data.chat import template
from toolkit.data.text import documents, encoding
from toolkit.data.text.documents import PIECE_CHARACTERS, Piece
from toolkit.data.text.duplicates import NormalisedTexts
from toolkit.data.text.shards import TokenShards
from toolkit.models.tokenizer_loading import tokenizer_digest
from toolkit.runs.run import Run
from toolkit.stages import corpus as stage
from toolkit.stages.tokenizer import learn
from toolkit.storyworld import LARGE, large, split_of


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    text = " ".join(row["text"] for row in LARGE.rows("stories", 0, "train", 200))
    learn([text], vocab_size=600).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    generator = np.random.default_rng(0)
    words = ["cat", "dog", "sat", "猫", "ran", "<|endoftext|>", "\n", "123"]
    rows = [{"text": " ".join(generator.choice(words, generator.integers(1, 120)))} for _ in range(600)]
    path = tmp_path_factory.mktemp("lines") / "lines.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def opened(folder, recipe):
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    loaded = SimpleNamespace(name="corpus", recipe=recipe, text="", overrides=())
    return Run(loaded, runs_dir=folder, content=manifest_of(loaded))


def made(folder, tokenizer, data, **settings):
    recipe = CorpusRecipe(stage="corpus", tokenizer=tokenizer, data=data, **{"workers": 1, **settings})
    run = opened(folder, recipe)
    stage.run(recipe, run)
    return run.path / "corpus", json.loads((run.path / "evaluation.json").read_text())


def small_batches(monkeypatch):
    monkeypatch.setattr(stage, "BATCH_CHARACTERS", 3000)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_documents_round_trip_with_byte_counts(tmp_path, vocabulary, lines):
    folder, measured = made(tmp_path, vocabulary, DataSource(name=lines), shard_tokens=1000)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    texts = [json.loads(line)["text"] for line in Path(lines).read_text(encoding="utf-8").splitlines()]
    documents_read = []
    for part in ("train", "held_out"):
        shards = TokenShards.open(folder / part)
        assert shards.verify() == [] and shards.tokens > 1000
        for number in range(shards.documents):
            ids = shards.document(number)
            text = tokenizer.decode(ids)
            assert 0 not in ids, "what is spelled <|endoftext|> is text"
            assert shards.document_bytes[number] == len(text.encode())
            assert ids.tolist() == template.encode_text(tokenizer, text)
            documents_read.append(text)
    assert sorted(documents_read) == sorted(texts)
    assert measured["documents"] + measured["held_out_documents"] == len(texts)
    assert measured["bytes"] + measured["held_out_bytes"] == sum(len(text.encode()) for text in texts)
    assert measured["tokens"] == TokenShards.open(folder / "train").tokens
    assert measured["entropy_floor_bits_per_byte"] is None


def test_shards_do_not_depend_on_the_number_of_workers(tmp_path, vocabulary, lines, monkeypatch):
    small_batches(monkeypatch)
    data = DataSource(name=lines)
    folders = [
        made(tmp_path / str(workers), vocabulary, data, workers=workers, shard_tokens=5000)[0]
        for workers in (1, 2, 3)
    ]
    first = content(folders[0])
    assert len(first) > 8 and all(content(folder) == first for folder in folders[1:])


def test_long_text_in_pieces_equals_the_whole_text(tmp_path, vocabulary, monkeypatch):
    text = "The cat sat.\n\nThe dog ran, and 猫は寝た。 " * 400
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr("toolkit.data.text.documents.whole_words.__kwdefaults__", {"characters": 500})
    data = DataSource(name=str(tmp_path / "a.txt"), held_out=HeldOut(last_characters=0.1))
    folder, measured = made(tmp_path, vocabulary, data)
    tokenizer = AutoTokenizer.from_pretrained(vocabulary)
    place = int(len(text) * 0.9)
    assert TokenShards.open(folder / "train").document(0).tolist() == tokenizer(text[:place])["input_ids"]
    assert TokenShards.open(folder / "held_out").document(0).tolist() == tokenizer(text[place:])["input_ids"]
    assert measured["documents"] == measured["held_out_documents"] == 1


def test_storyworld_entropy_floor_is_exact(tmp_path, vocabulary):
    folder, measured = made(
        tmp_path, vocabulary, DataSource(name="storyworld", examples=50, held_out_examples=30)
    )
    tokenizer = AutoTokenizer.from_pretrained(vocabulary)
    shards = TokenShards.open(folder / "held_out")
    texts = [tokenizer.decode(shards.document(number)) for number in range(shards.documents)]
    nats = sum(large.document_logprob(text) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    assert len(texts) == 30 and all(split_of(text) == "held_out" for text in texts)
    assert measured["entropy_floor_bits_per_byte"] == pytest.approx(-nats / np.log(2) / size, rel=1e-9)


def test_mixture_entropy_floor_requires_known_sources(tmp_path, vocabulary, lines):
    world = DataSource(name="storyworld", examples=20, held_out_examples=10)
    _, both = made(tmp_path / "a", vocabulary, [world, world.model_copy(update={"weight": 3.0})])
    assert both["entropy_floor_bits_per_byte"] > 0.1 and sum(both["documents_by_source"]) == both["documents"]
    _, mixed = made(tmp_path / "b", vocabulary, [world, DataSource(name=lines)])
    assert mixed["entropy_floor_bits_per_byte"] is None
    assert abs(mixed["documents_by_source"][0] - mixed["documents_by_source"][1]) <= 1


PROGRAM = """
if __name__ == "__main__":  # the workers import this file
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import test_corpus as here
    here.stage.BATCH_CHARACTERS, here.stage.JOURNAL_SECONDS = 3000, 0.0
    append = here.stage._append
    def slowly(*arguments, **settings):
        for count in append(*arguments, **settings):
            yield count
            time.sleep(0.05)
    here.stage._append = slowly
    here.made(Path({folder!r}), {tokenizer!r}, here.DataSource(name={lines!r}), workers=2, shard_tokens=5000)
"""


def test_killed_stage_resumes_to_identical_shards(tmp_path, vocabulary, lines, capsys, monkeypatch):
    program = tmp_path / "program.py"
    program.write_text(
        PROGRAM.format(
            tests=str(Path(__file__).parent),
            folder=str(tmp_path / "killed"),
            tokenizer=vocabulary,
            lines=lines,
        )
    )
    journal = tmp_path / "killed" / "corpus" / "corpus" / "train" / "journal.json"
    process = subprocess.Popen(
        [sys.executable, str(program)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        wait_for(lambda: journal.exists() and json.loads(journal.read_text())["writer"]["digests"], process)
        children = children_of(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (journal.parent / "index.json").exists()
    assert len(children) >= 2, "the workers, which must not outlive their parent"
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children), None)
    with (journal.parent / "tokens-00001.bin").open("ab") as file:
        file.write(b"what was written after the journal")
    done = json.loads(journal.read_text())["pieces"]
    small_batches(monkeypatch)
    data = DataSource(name=lines)
    folder, measured = made(tmp_path / "killed", vocabulary, data, workers=1, shard_tokens=5000)
    assert f"resuming after {done:,} documents" in capsys.readouterr().err and done > 0
    whole, wanted = made(tmp_path / "whole", vocabulary, data, shard_tokens=5000)
    assert content(folder) == content(whole) and measured == wanted


def children_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        assert process is None or process.poll() is None, "the program ended before it could be killed"
        time.sleep(0.02)


def test_finished_parts_are_reused_and_changes_detected(tmp_path, vocabulary, lines):
    data = DataSource(name=lines)
    folder, measured = made(tmp_path, vocabulary, data)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/tokens-*.bin")}
    assert made(tmp_path, vocabulary, data)[1] == measured
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/tokens-*.bin")}
    path = folder / "held_out" / "tokens-00000.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    with pytest.raises(RunError, match="tokens-00000.bin: this file was changed"):
        made(tmp_path, vocabulary, data)


def test_journals_of_finished_parts_guard_their_indexes(tmp_path, vocabulary, lines):
    """As of a run that was killed before it measured the corpus."""
    data = DataSource(name=lines)
    folder, _ = made(tmp_path, vocabulary, data)
    assert not list(folder.rglob("journal.json"))
    index = folder / "train" / "index.json"
    files.write_checked_json(index.with_name("journal.json"), {"index": files.sha256_file(index)})
    rows = (folder.parent / "metrics.jsonl").read_text().count("\n")
    made(tmp_path, vocabulary, data)
    assert (folder.parent / "metrics.jsonl").read_text().count("\n") == rows == 2  # not logged twice
    files.write_checked_json(index.with_name("journal.json"), {"index": files.sha256_file(index)})
    text = index.read_text()
    for changed in (text[:-20], text.replace('"documents_by_source": [', '"documents_by_source": [1')):
        index.write_text(changed)
        with pytest.raises(RunError, match="this file was changed since it was written"):
            made(tmp_path, vocabulary, data)


def test_empty_split_is_refused(tmp_path, vocabulary):
    (tmp_path / "a.txt").write_text("one text", encoding="utf-8")
    with pytest.raises(DataError, match="part has no document") as caught:
        made(tmp_path, vocabulary, DataSource(name=str(tmp_path / "a.txt")))
    assert "last_characters" in caught.value.fix


def test_invalid_tokenizer_is_refused(tmp_path, lines, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ToolkitError, match="no tokenizer"):
        made(tmp_path, str(tmp_path / "empty"), DataSource(name=lines))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ToolkitError, match="no-such-tokenizer"):
        stage.load_tokenizer("owner/no-such-tokenizer@main")


def test_tokenizer_of_a_checkpoint_stays_as_it_is(tmp_path, vocabulary, lines):
    """Its entries, its end and its chat template decide whether the corpus fits the checkpoint."""
    own = AutoTokenizer.from_pretrained(vocabulary)
    own.chat_template, own.eos_token, own.pad_token = None, "<|user|>", None
    own.save_pretrained(tmp_path / "own")
    folder, measured = made(tmp_path, str(tmp_path / "own"), DataSource(name=lines))
    kept = AutoTokenizer.from_pretrained(folder / "tokenizer")
    assert tokenizer_digest(kept) == tokenizer_digest(own) and measured["vocab_size"] == len(own)
    assert (kept.eos_token, kept.pad_token, kept.chat_template) == ("<|user|>", None, None)
    shards = TokenShards.open(folder / "train")
    assert shards.end_id == own.eos_token_id and shards.begin_id is None


def test_tokenizer_without_an_end_gets_our_special_tokens(tmp_path, vocabulary, lines):
    own = AutoTokenizer.from_pretrained(vocabulary)
    own.eos_token = None
    own.save_pretrained(tmp_path / "own")
    folder, _ = made(tmp_path, str(tmp_path / "own"), DataSource(name=lines))
    assert AutoTokenizer.from_pretrained(folder / "tokenizer").eos_token == "<|endoftext|>"


def test_documents_begin_with_what_their_tokenizer_puts_in_front(tmp_path, bos_tokenizer, lines):
    bos_tokenizer.save_pretrained(tmp_path / "own")
    folder, _ = made(tmp_path, str(tmp_path / "own"), DataSource(name=lines), workers=2)
    shards = TokenShards.open(folder / "train")
    assert shards.begin_id == bos_tokenizer.bos_token_id != shards.end_id
    stream = shards.read(0, shards.tokens)
    assert (stream == shards.begin_id).sum() == (stream == shards.end_id).sum() == shards.documents
    first = bos_tokenizer.decode(shards.document(0))
    expected = [shards.begin_id, *template.encode_text(bos_tokenizer, first)]
    assert stream[: len(expected)].tolist() == expected


@pytest.mark.parametrize(
    ("bos", "form", "begin"),
    [("<s>", "<s> $A", "<s>"), ("<s>", "$A", None), ("<|endoftext|>", "<|endoftext|> $A", None)],
)
def test_end_of_text_in_front_is_the_end_of_the_document_before(tiny_tokenizer, bos, form, begin):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"bos_token": bos})
    special = [(bos, tokenizer.convert_tokens_to_ids(bos))]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(form, special_tokens=special)
    expected = None if begin is None else tokenizer.convert_tokens_to_ids(begin)
    assert stage.begin_id(tokenizer) == expected


def test_dead_worker_is_reported(vocabulary, monkeypatch):
    monkeypatch.setattr(encoding, "_encode_here", os._exit)
    tokenizer = AutoTokenizer.from_pretrained(vocabulary).backend_tokenizer
    with pytest.raises(ToolkitError, match="a process that tokenizes died"):
        list(encoding.encode_in_order([(0, 7), (1, 7)], tokenizer=tokenizer, workers=2))


def test_only_the_main_process_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    recipe = CorpusRecipe(stage="corpus", tokenizer="missing", data=DataSource(name="missing.txt"))
    run = opened(tmp_path, recipe)
    stage.run(recipe, run)
    assert list(run.path.iterdir()) == []


def test_tokenizer_with_another_pattern_gets_whole_documents(tmp_path, vocabulary):
    tokenizer = AutoTokenizer.from_pretrained(vocabulary)
    stream = stage.Stream(DataSource(name="storyworld", examples=3), part="train", seed=0)
    assert next(iter(stage._pieces(stream, tokenizer))).ends
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    (tmp_path / "a.txt").write_text("cat " * 200_000, encoding="utf-8")
    stream = stage.Stream(DataSource(name=str(tmp_path / "a.txt")), part="all", seed=0)
    [piece] = stage._pieces(stream, tokenizer)
    assert len(piece.text) == 800_000


WIDE_C = "\uff43"
"""A letter that NFKC writes as c."""


def near_copies(path, *, count=60):
    """Write texts and copies of some with another case, white space or Unicode form.

    Returns:
        The source, and how many held-out documents are copies of training documents.
    """
    texts = [f"the cat number {number} sat on a mat" for number in range(count)]
    copies = [text.replace("the", "THE").replace(" ", "\n ").replace("c", WIDE_C) for text in texts[::2]]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts + copies), encoding="utf-8")
    source = DataSource(name=str(path), held_out=HeldOut(documents=0.3))
    train, held_out = (
        [
            document.text.replace(WIDE_C, "c").lower().split()
            for document in documents.texts(source, part=part, seed=0)
        ]
        for part in ("train", "held_out")
    )
    return source, sum(words in train for words in held_out)


def test_held_out_texts_that_are_also_trained_on_are_counted(vocabulary, tmp_path, capsys):
    source, expected = near_copies(tmp_path / "texts.jsonl")
    _, evaluation = made(tmp_path / "a", vocabulary, [source])
    assert 0 < expected == evaluation["held_out_in_training"] < evaluation["held_out_documents"]
    count = f"{expected} of {evaluation['held_out_documents']} held-out documents"
    assert f"warning: {count} are also in the training part" in capsys.readouterr().err
    distinct = DataSource(name=str(tmp_path / "distinct.jsonl"))
    rows = [{"text": f"the dog number {number} ran"} for number in range(100)]
    (tmp_path / "distinct.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, evaluation = made(tmp_path / "b", vocabulary, [distinct])
    assert evaluation["held_out_in_training"] == 0 and "also in the training" not in capsys.readouterr().err


def test_another_file_with_held_out_texts_is_compared(vocabulary, tmp_path):
    for name, words in (("train", "abcdef"), ("test", "ABx")):
        rows = "".join(json.dumps({"text": f"{word} dog"}) + "\n" for word in words)
        (tmp_path / f"{name}.jsonl").write_text(rows)
    held_out = HeldOut(name=str(tmp_path / "test.jsonl"))
    _, evaluation = made(
        tmp_path / "a", vocabulary, [DataSource(name=str(tmp_path / "train.jsonl"), held_out=held_out)]
    )
    assert (evaluation["documents"], evaluation["held_out_documents"]) == (6, 3)
    assert evaluation["held_out_in_training"] == 2


def test_the_count_is_the_same_after_an_interruption(vocabulary, tmp_path):
    source, expected = near_copies(tmp_path / "texts.jsonl")
    folder, _ = made(tmp_path / "a", vocabulary, [source])
    assert made(tmp_path / "a", vocabulary, [source])[1]["held_out_in_training"] == expected > 0
    shutil.rmtree(folder / "held_out")  # as if the run had been stopped after the training part
    assert made(tmp_path / "a", vocabulary, [source])[1]["held_out_in_training"] == expected


def test_normalised_texts_do_not_depend_on_the_pieces():
    text = "\uff21 cat \n\tsat " + "x" * 50 + " İ  on\u00a0a mat. "

    def seen(*texts):
        watched = NormalisedTexts()
        pieces = [Piece(part, 0, index == len(texts) - 1) for index, part in enumerate(texts)]
        assert list(watched.watch(pieces)) == pieces
        return watched

    whole = seen(text)
    for cut in range(1, len(text)):
        assert seen(text[:cut], text[cut:]).count_in(whole) == 1, cut
    assert seen(*text).count_in(whole) == 1
    assert seen("a CAT sat " + "X" * 50 + " İ on a mat.").count_in(whole) == 1
    assert seen(text.replace("cat", "c at")).count_in(whole) == 0
    assert seen("").count_in(seen(" \n")) == 1
    long = "y" * (PIECE_CHARACTERS + 5)
    assert seen(long[:7], long[7:], " z").count_in(seen(long + " z")) == 1


def accents(path, *, count=400):
    letters = "abcdefghij"
    names = ("".join(letters[int(digit)] for digit in str(number)) for number in range(count))
    texts = (name + " ran" * 20 + (" é ü" if number % 10 == 0 else "") for number, name in enumerate(names))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return DataSource(name=str(path))


def test_lost_text_is_counted_also_after_an_interruption(tmp_path, capsys, monkeypatch):
    unigram().save_pretrained(tmp_path / "vocabulary")
    data = accents(tmp_path / "texts.jsonl")
    folder, measured = made(tmp_path / "whole", str(tmp_path / "vocabulary"), data)
    assert "warning: the train part: the tokenizer does not keep the text of" in capsys.readouterr().err
    lost = [measured["lost_text"], measured["held_out_lost_text"]]
    assert sum(part["documents"] for part in lost) == 40 and lost[0]["characters"]["unknown"] > 60
    assert sum(part["unknown_tokens"] for part in lost) == 80
    monkeypatch.setattr(stage, "BATCH_CHARACTERS", 3000)
    monkeypatch.setattr(stage, "JOURNAL_SECONDS", 0.0)

    class Interrupted(Exception):
        pass

    extend, calls = stage.TokenWriter.extend, []

    def fail(writer, *arguments, **keywords):
        calls.append(1)
        if len(calls) == 150:
            raise Interrupted
        extend(writer, *arguments, **keywords)

    monkeypatch.setattr(stage.TokenWriter, "extend", fail)
    with pytest.raises(Interrupted):
        made(tmp_path / "again", str(tmp_path / "vocabulary"), data)
    resumed, again = made(tmp_path / "again", str(tmp_path / "vocabulary"), data)
    assert "resuming after" in capsys.readouterr().err
    assert content(resumed) == content(folder) and again == measured


def test_corpus_of_unknown_tokens_is_refused(tmp_path):
    unigram().save_pretrained(tmp_path / "vocabulary")
    (tmp_path / "a.txt").write_text("きつねは走った。" * 100, encoding="utf-8")
    data = DataSource(name=str(tmp_path / "a.txt"), held_out=HeldOut(last_characters=0.1))
    with pytest.raises(DataError, match="does not keep the text of 1 of 1 documents") as caught:
        made(tmp_path, str(tmp_path / "vocabulary"), data)
    assert "byte fallback" in caught.value.fix


def stores_truncation(tokenizer):
    tokenizer.enable_truncation(8)


def stores_padding(tokenizer):
    tokenizer.enable_padding(length=400, pad_id=0, pad_token="<|endoftext|>")


def stores_dropout(tokenizer):
    tokenizer.model.dropout = 0.5


@pytest.mark.parametrize("store", [stores_truncation, stores_padding, stores_dropout])
@pytest.mark.parametrize("generic", [True, False], ids=["generic class", "AutoTokenizer"])
def test_what_tokenizer_json_stores_of_another_program_changes_no_ids(
    tmp_path, vocabulary, lines, store, generic
):
    folder = tmp_path / "vocabulary"
    shutil.copytree(vocabulary, folder)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    store(backend)
    backend.save(str(folder / "tokenizer.json"))
    if not generic:
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["tokenizer_class"] = "GPT2Tokenizer"
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    data = DataSource(name=lines)
    plain, changed = made(tmp_path / "plain", vocabulary, data), made(tmp_path / "b", str(folder), data)
    assert changed[1]["digest"] == plain[1]["digest"] and changed[1]["tokens"] == plain[1]["tokens"]
    saved = json.loads((changed[0] / "tokenizer" / "tokenizer.json").read_text())
    assert saved["truncation"] is saved["padding"] is saved["model"]["dropout"] is None
