"""`toolkit batch`: the rows computed from manifest and corpus match those of the training."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pretrain.conftest import corpus, pretrain  # noqa: F401 (fixtures)
from toolkit.base import files
from toolkit.cli import main
from toolkit.data.text.shards import TokenShards
from toolkit.pretrain import loop
from toolkit.pretrain.prefetch import split_rows

SHORT = [{"tokens": 256 * 2, "sequence_length": 8}]


@pytest.fixture
def seen(monkeypatch) -> dict[int, list[list[int]]]:
    """Return {step, starting at 1: input rows of the model}, filled during training."""
    rows_of: dict[int, list[list[int]]] = {}
    train_step = loop.train_step

    def watched(context, number, rows, monitor):
        rows_of[number + 1] = split_rows(rows, context.row_tokens(number)).tolist()
        return train_step(context, number, rows, monitor)

    monkeypatch.setattr(loop, "train_step", watched)
    return rows_of


@pytest.fixture
def run(pretrain, seen) -> Path:  # noqa: F811
    return pretrain(train_tokens=256 * 4, length_warmup=SHORT, samples={"prompts": []})


def run_batch(run: Path, step: int, capsys, *more: str) -> tuple[int, dict, str]:
    status = main.main(["batch", str(run), "--step", str(step), "--json", *more])
    captured = capsys.readouterr()
    return status, json.loads(captured.out), captured.err


def test_rows_tokens_and_documents_match_the_training(run, seen, corpus, capsys):  # noqa: F811
    shards = TokenShards.open(corpus / "train")
    document_of = []
    for document, length in enumerate(shards.document_tokens.tolist()):
        document_of += [document] * (length + 1)
    capsys.readouterr()
    for step in (1, 2, 3, 4):
        status, output, stderr = run_batch(run, step, capsys, "--tokens")
        assert status == 0 and output["same_as_recorded"] and "the same batch" in stderr
        assert [row["tokens"] for row in output["rows"]] == seen[step]
        assert output["length"] == (8 if step <= 2 else 32) and len(output["rows"]) == 256 // output["length"]
        assert len(output["row_starts"]) == 8 and output["row_tokens"] == 32
        for row in output["rows"]:
            assert row["documents"] == [document_of[row["start"]], document_of[row["end"] - 1]]
            assert row["end"] - row["start"] == len(row["tokens"]) == output["length"] + 1
    assert "tokens" not in run_batch(run, 1, capsys)[1]["rows"][0]


def test_table_shows_decoded_text(run, seen, tiny_tokenizer, capsys):
    capsys.readouterr()
    assert main.main(["batch", str(run), "--step", "4", "--rows", "2", "--text"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "and 6 more rows" in captured.err and "8 rows of 32 tokens" in captured.err
    text = tiny_tokenizer.decode(seen[4][0])
    assert text.split("<|endoftext|>")[0].split()[0] in captured.err


def test_digest_mismatch_is_an_error(run, capsys):
    capsys.readouterr()
    lines = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    lines[2]["batch"] = lines[1]["batch"]
    (run / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, output, stderr = run_batch(run, 3, capsys)
    assert status == 1 and output["same_as_recorded"] is False and "error: the run recorded another" in stderr
    assert run_batch(run, 4, capsys)[0] == 0


@pytest.mark.parametrize("key,value", [("seed", 1), ("batch_tokens", 512), ("sequence_length", 16)])
def test_modified_manifest_is_an_error(run, capsys, key, value):
    capsys.readouterr()
    content = files.read_json(run / "manifest.json")
    content["inputs"]["settings"] |= {key: value, "length_warmup": []}
    files.write_json(run / "manifest.json", content)
    assert run_batch(run, 1, capsys)[0] == 1


def test_future_step_has_no_recorded_digest(run, capsys):
    capsys.readouterr()
    lines = (run / "steps.jsonl").read_text().splitlines(keepends=True)
    (run / "steps.jsonl").write_text("".join(lines[:2]))
    status, output, stderr = run_batch(run, 4, capsys)
    assert status == 0 and output["same_as_recorded"] is None and "(its last is 2)" in stderr


def test_unsupported_requests_are_refused(run, corpus, capsys, tmp_path):  # noqa: F811
    capsys.readouterr()

    def refused(place: Path, step: str, status: int, stderr: str, *more: str) -> None:
        assert main.main(["batch", str(place), "--step", step, *more]) == status
        captured = capsys.readouterr()
        assert stderr in captured.err and captured.out == ""

    refused(run, "5", 2, "there is no step 5: this training has 4 steps")
    refused(run, "0", 2, "must be a positive integer")
    refused(run, "1", 2, "--tokens has an effect only with --json", "--tokens")
    refused(tmp_path / "none", "1", 1, "there is no such run")
    refused(corpus, "1", 1, "is not a run directory")
    content = files.read_json(run / "manifest.json")
    copy = tmp_path / "other corpus"
    shutil.copytree(corpus, copy)
    (copy / "train" / "index.json").write_text((copy / "train" / "index.json").read_text() + "\n")
    content["inputs"]["parents"]["tokens"]["path"] = "../../../other corpus"
    files.write_json(run / "manifest.json", content)
    refused(run, "1", 1, "is not what the run was made from")
    shutil.rmtree(copy)
    refused(run, "1", 1, "what the run was made from is missing")
    content["stage"] = "sft"
    files.write_json(run / "manifest.json", content)
    refused(run, "1", 2, "is a run of the stage sft")


def test_torch_is_not_imported():
    code = (
        "import sys, toolkit.proofs.batch; print([n for n in ('torch', 'transformers') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
