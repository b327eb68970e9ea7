"""Reproducing a finished run in a subprocess compares every file and detects planted differences."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.pretrain.conftest import corpus, write_recipe  # noqa: F401 (a fixture)
from toolkit.base import files
from toolkit.cli import main
from toolkit.cli.run import run_command
from toolkit.proofs import rebuild, reproduction
from toolkit.runs import seal


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus) -> Path:  # noqa: F811
    """A run with a command line override, from a recipe whose base is deleted afterwards."""
    folder = tmp_path_factory.mktemp("reproduce")
    recipe = write_recipe(folder, corpus, "whole", train_tokens=256 * 4, checkpoint_every_tokens=256 * 2)
    recipe.rename(recipe.with_name("_base.yaml"))
    recipe.write_text("base: _base.yaml\nkeep_checkpoints: 4\n")
    assert run_command(recipe, ["seed=3"], runs_dir=folder / "runs") == 0
    shutil.rmtree(folder / "recipes")
    return folder / "runs" / "t" / "whole"


@pytest.fixture(scope="module")
def again(finished) -> Path:
    output = finished.parents[2] / "again"
    assert main.main(["reproduce", str(finished), "--output", str(output)]) == 0
    return output / "t" / "whole"


def test_pretraining_is_reproduced(finished, again):
    assert seal.is_sealed(again) and not seal.verify(again)
    rows = {row.name: row for row in reproduction.compare(finished, again)}
    assert {row.result for row in rows.values()} == {"same", "not compared"}
    for name in ("model/model.safetensors", "checkpoints/step-00000002/optimizer.safetensors", "steps.jsonl"):
        assert rows[name].result == "same" and rows[name].note == ""
    assert rows["metrics.jsonl"].note == "apart from times"
    apart = {name for name, row in rows.items() if row.result == "not compared"}
    assert {Path(name).name for name in apart} == {"recipe.yaml", "resolved.yaml", "timing.json", "seal.json"}
    assert not [path for path in again.parents[1].rglob("*") if path.is_symlink()]
    assert rebuild.recipe(again).seed == 3


def seal_again(run: Path) -> None:
    content = files.read_json(run / "lock.json")
    files.write_json(run / "lock.json", content | {"files": files.hash_files(run, seal.outputs(run))})


def one_bit(run: Path) -> None:
    file = run / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["transformer.wte.weight"].view(torch.int32)[0, 0] ^= 1
    save_file(tensors, file, metadata={"format": "pt"})


def another_number(run: Path) -> None:
    content = files.read_json(run / "evaluation.json")
    files.write_json(run / "evaluation.json", content | {"bits_per_byte": 1.5})


def metric(key: str):
    def spoil(run: Path) -> None:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            if key in row:
                row[key] *= 1.0000001
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return spoil


FAULTS = {
    "weight": (one_bit, "model/model.safetensors", "bytes"),
    "evaluation": (another_number, "evaluation.json", "bits_per_byte: 1.5 -> "),
    "metric": (metric("loss"), "metrics.jsonl", "line 3.loss: "),
    "missing": (lambda run: (run / "model/config.json").unlink(), "model/config.json", "only in the new run"),
    "added": (lambda run: (run / "more.json").write_text("{}"), "more.json", "only in the first run"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_difference_is_detected(finished, again, tmp_path, fault):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    spoil, name, note = FAULTS[fault]
    spoil(run)
    seal_again(run)
    wrong = [row for row in reproduction.compare(run, again) if row.result == "differs"]
    assert [row.name for row in wrong] == [name]
    assert note in wrong[0].note


def test_times_and_extra_checkpoints_are_ignored(finished, again, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    metric("time")(run)
    metric("tokens_per_second")(run)
    shutil.rmtree(run / "checkpoints" / "step-00000002")
    seal_again(run)
    rows = {row.name: row for row in reproduction.compare(run, again)}
    assert not [row for row in rows.values() if row.result == "differs"]
    assert rows["checkpoints/step-00000002/model.safetensors"].note == "only the new run kept this checkpoint"


def test_tokenizer_written_offline_is_equal(finished, again, tmp_path):
    run, name = tmp_path / "run", "model/tokenizer_config.json"
    shutil.copytree(finished, run)
    content = files.read_json(run / name)
    files.write_json(run / name, content | {"local_files_only": not content.get("local_files_only", False)})
    seal_again(run)
    [row] = [row for row in reproduction.compare(run, again) if row.name == name]
    assert row.result == "same"
    files.write_json(run / name, content | {"model_max_length": 3})
    seal_again(run)
    [row] = [row for row in reproduction.compare(run, again) if row.name == name]
    assert row.result == "differs"


def test_difference_exits_with_status_1(finished, again, monkeypatch, capsys, tmp_path):
    """The rerun is replaced by the earlier output with one changed weight, to avoid a second training."""

    def run(loaded, options):
        place = options.runs_dir / loaded.name
        shutil.copytree(again, place)
        one_bit(place)
        seal_again(place)
        return 0

    monkeypatch.setattr(reproduction.launching, "run", run)
    assert main.main(["reproduce", str(finished), "--json"]) == 1
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert not told["same"] and told["tier"] == "B" and "tier B" in captured.err
    assert [row["file"] for row in told["files"] if row["result"] == "differs"] == ["model/model.safetensors"]
    assert "differ, first model/model.safetensors" in captured.err
    monkeypatch.setattr(reproduction.launching, "run", lambda loaded, options: 3)
    assert main.main(["reproduce", str(finished)]) == 3


def test_non_reproducible_runs_are_refused(finished, capsys, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert main.main(["reproduce", str(finished), "--output", str(tmp_path / "full")]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    run = finished.with_name("changed")
    shutil.copytree(finished, run)
    (run / "evaluation.json").write_text("{}")
    assert main.main(["reproduce", str(run)]) == 1
    assert "the run changed since it was sealed: evaluation.json" in capsys.readouterr().err
    (run / "lock.json").unlink()
    assert main.main(["reproduce", str(run)]) == 1
    assert "the run is not finished" in capsys.readouterr().err


def test_changed_text_is_refused_before_rerunning(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("The cat sleeps. " * 200)
    Path("recipes/t").mkdir(parents=True)
    recipe = "stage: tokenizer\ndata: {name: text.txt, held_out: {last_characters: 0.1}}\nvocab_size: 270\n"
    Path("recipes/t/words.yaml").write_text(recipe)
    assert main.main(["run", "recipes/t/words.yaml"]) == 0
    Path("text.txt").write_text("The dog sleeps. " * 200)
    monkeypatch.setattr(reproduction.launching, "run", lambda loaded, options: pytest.fail("it was started"))
    capsys.readouterr()
    assert main.main(["reproduce", "runs/t/words"]) == 1
    assert "data: the data is not what the run was made from" in capsys.readouterr().err


def test_setting_missing_in_an_old_evaluation_is_ignored(tmp_path):
    settings = {"win_rate": {"baseline": "a", "top_k": 0, "top_p": 1.0}, "perplexity": None}
    for name, win_rate in (("old", {"baseline": "a"}), ("new", settings["win_rate"])):
        (tmp_path / name).mkdir()
        content = {"models": {"a": {"perplexity": 2.0}}, "settings": settings | {"win_rate": win_rate}}
        files.write_json(tmp_path / name / "evaluation.json", content)
        hashes = files.hash_files(tmp_path / name, ["evaluation.json"])
        files.write_json(tmp_path / name / "lock.json", {"files": hashes})
    [row] = reproduction.compare(tmp_path / "old", tmp_path / "new")
    assert (row.name, row.result) == ("evaluation.json", "same")
    changed = content | {"settings": settings | {"win_rate": {"baseline": "a", "top_k": 5, "top_p": 1.0}}}
    files.write_json(tmp_path / "new" / "evaluation.json", changed)
    files.write_json(
        tmp_path / "new" / "lock.json", {"files": files.hash_files(tmp_path / "new", ["evaluation.json"])}
    )
    [row] = reproduction.compare(tmp_path / "old", tmp_path / "new")
    assert row.result == "differs" and "top_k: 0 -> 5" in row.note


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        (
            "adapter_config.json",
            {"base_model_name_or_path": "/a", "r": 2},
            {"base_model_name_or_path": "/b", "r": 2},
        ),
        ("metrics.json", {"step": 1, "step_time": 0.1}, {"step": 1, "step_time": 0.2}),
        (
            "evaluation.json",
            {"models": {"a": 1}, "n": 1, "seconds": 1},
            {"models": {"a": 1}, "n": 1, "seconds": 2},
        ),
    ],
    ids=["place of the parent", "time of a step", "evaluation of preferences"],
)
def test_places_and_times_are_not_compared(tmp_path, name, first, second):
    for folder, content in (("first", first), ("second", second)):
        (tmp_path / folder).mkdir()
        files.write_json(tmp_path / folder / name, content)
        hashes = files.hash_files(tmp_path / folder, [name])
        files.write_json(tmp_path / folder / "lock.json", {"files": hashes})
    [row] = reproduction.compare(tmp_path / "first", tmp_path / "second")
    assert (row.name, row.result) == (name, "same")
