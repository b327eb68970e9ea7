"""Trainings of a few steps, each on another file format: the counts in evaluation.json add up to the file."""

from __future__ import annotations

import json
import re

import pytest

from tests.chat_fixtures import COLOURS, THINGS, write_model
from tests.data import file_formats
from toolkit.cli import main

SENTENCES = [f"the {thing} is {colour}" for thing in THINGS for colour in COLOURS]
BAD = 3
"""Bad rows of every file."""
ROWS = {
    "text": ([{"text": f"{sentence} ." * 4} for sentence in SENTENCES], {"text": " \n"}),
    "talk": (
        [{"prompt": f"{sentence}?", "completion": "yes!"} for sentence in SENTENCES],
        {"prompt": "why?", "completion": " "},
    ),
    "pairs": (
        [{"prompt": f"{sentence}?", "chosen": "yes!", "rejected": "no"} for sentence in SENTENCES],
        {"prompt": "why?", "chosen": "no", "rejected": "no"},
    ),
    "prompts": ([{"prompt": f"{sentence}?"} for sentence in SENTENCES], {"prompt": " "}),
}
TRAINER = "trainer: {max_steps: 2, learning_rate: 1e-3}\nbatch_examples: 4\n"
STAGES = {
    "tokenizer": ("text", ".json", ".gz", "vocab_size: 300\n"),
    "corpus": ("text", ".parquet", "", "tokenizer: BASE\n"),
    "sft": ("talk", ".csv", ".bz2", "model: BASE\n" + TRAINER),
    "reward": ("pairs", ".tsv", ".xz", "model: BASE\n" + TRAINER),
    "dpo": ("pairs", ".arrow", "", "model: BASE\n" + TRAINER),
    "ppo": ("prompts", ".ndjson", ".zst", "model: BASE\nreward_model: runs/t/reward\n"
            "trainer: {episodes: 8, rollout_examples: 4, max_new_tokens: 4, max_prompt_tokens: 40}\n"),
    "preferences": ("prompts", "", "",
                    "models: [BASE]\nmax_new_tokens: 4\nannotator: {judge: runs/t/reward}\n"),
    "evaluate": ("prompts", ".jsonl", "", "models: [BASE, runs/t/sft]\n"
                 "win_rate: {baseline: BASE, judge: runs/t/reward, max_new_tokens: 4}\n"),
}  # fmt: skip

SIZES = {"tokenizer": "documents", "corpus": "documents", "sft": "examples", "reward": "examples",
         "dpo": "examples", "preferences": "prompts", "evaluate": "prompts"}  # fmt: skip
"""The key of the number of rows that a stage used; ppo has none."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run every stage; the runs are in runs/t."""
    path = tmp_path_factory.mktemp("counts")
    write_model(path / "base")
    (path / "t").mkdir()
    for stage, (kind, suffix, compression, settings) in STAGES.items():
        good, bad = ROWS[kind]
        place = path / stage
        place.mkdir()
        rows = [bad, *good[:20], bad, *good[20:], bad]
        name = file_formats.write(place, rows, suffix=suffix, compression=compression)
        device = "" if stage in ("tokenizer", "corpus") else "device: cpu\n"
        device += "" if stage in ("tokenizer", "corpus", "preferences") else "precision: fp32\n"
        recipe = f"stage: {stage}\nthreads: 1\n{device}{settings}".replace("BASE", str(path / "base"))
        recipe += f"data: {{name: {name}, held_out: {{documents: 0.3}}}}\n"
        (path / "t" / f"{stage}.yaml").write_text(recipe)
    return path


def run(folder, stage, capsys):
    assert main.main(["run", str(folder / f"t/{stage}.yaml"), "--runs-dir", str(folder / "runs")]) == 0
    assert (folder / "runs/t" / stage / "lock.json").is_file()
    written = json.loads((folder / f"runs/t/{stage}/evaluation.json").read_text())
    return written, capsys.readouterr().err


@pytest.mark.slow
def test_counts_of_sealed_runs_add_up_to_the_rows_of_the_file(folder, capsys):
    for stage in STAGES:
        written, said = run(folder, stage, capsys)
        counts = written["data"]["prompts"] if stage == "evaluate" else written["data"]
        [source] = counts["sources"]
        left_out = sum(reason["rows"] for reason in source["left_out"].values())
        assert source["read"] == len(SENTENCES) + BAD and left_out == BAD, stage
        assert source["used"] + source["other_part"] == len(SENTENCES), stage
        assert min(source["used"], source["other_part"]) > 5, stage
        table = re.search(rf"^{re.escape(source['name'])} +51 +{source['used']} +\d+ +3$", said, re.MULTILINE)
        assert table, said
        if stage not in ("tokenizer", "corpus"):
            assert said.index(table[0]) < said.index("finished and sealed")
        rows = written["models"]["sft"] if stage == "evaluate" else written
        assert rows.get(SIZES.get(stage), source["used"]) == source["used"], stage
        held_out = {"sft": "n", "reward": "n", "dpo": "n", "corpus": "held_out_documents"}
        if stage in held_out:
            assert written[held_out[stage]] == source["other_part"], stage


@pytest.mark.slow
def test_an_earlier_part_of_a_corpus_is_counted_again(folder, capsys):
    """A run that was interrupted after its training part has the same report."""
    written, _ = run(folder, "corpus", capsys)
    again = folder / "runs" / "t" / "corpus"
    (again / "lock.json").unlink()
    (again / "evaluation.json").unlink()
    repeated, _ = run(folder, "corpus", capsys)
    assert repeated == written
