"""The campaign of kills and faults: its plan, its table, one kill and, slow, a small campaign."""

from __future__ import annotations

import os
import random
import signal

import pytest

from benchmarks import chaos, chaos_cases, chaos_process, chaos_recipes, disk_faults
from benchmarks.chaos_cases import Case, Outcome
from benchmarks.chaos_process import Command
from toolkit.config import loader
from toolkit.config.registry import STAGES
from toolkit.runs import seal

PLANTED = """
from transformers import Trainer
Trainer._load_rng_state = lambda self, checkpoint: None
from benchmarks import chaos_server
chaos_server.main()
"""
"""A server whose runs forget the random state of their checkpoint: dropout then begins anew."""


def test_every_recipe_is_valid_and_refers_to_its_ancestors(tmp_path):
    chaos_recipes.write(tmp_path)
    loaded = {file.stem: loader.load(file) for file in (tmp_path / "recipes" / "chaos").iterdir()}
    assert loaded.keys() == {chaos_recipes.stem(name) for name in chaos_recipes.RECIPES}
    assert {each.recipe.stage for each in loaded.values()} == {*chaos_recipes.PARENTS} == {*STAGES}
    for name in chaos_recipes.RECIPES:
        text = (tmp_path / "recipes" / "chaos" / f"{chaos_recipes.stem(name)}.yaml").read_text()
        named = {stage for stage in chaos_recipes.PARENTS if f"runs/chaos/{stage}" in text}
        assert named <= {*chaos_recipes.ancestors(name)}


def test_plan_covers_every_stage_with_at_least_100_kills():
    cases = chaos.plan(chaos.KILLS)
    assert len({*cases}) == len(cases)
    for kind in ("kill", "change"):
        assert {case.recipe for case in cases if case.kind == kind} == {*chaos_recipes.RECIPES}
    assert sum(case.kind in ("kill", "change", "save") for case in cases) * chaos._KILLS_PER_CASE >= 140
    for kind in ("signal", "no-room", "full-disk", "damage", "environment"):
        stages = {chaos_recipes.stage(case.recipe) for case in cases if case.kind == kind}
        assert stages == {*chaos_recipes.PARENTS}, kind
    environments = [case.number for case in cases if case.kind == "environment"]
    assert sorted(environments) == [*range(len(chaos_cases.VARIABLES) + len(chaos_cases.PLACES))]
    again = chaos.plan(1, kinds=["save"], names=["dpo"])
    assert again == [Case("save", "dpo", 0)]


def test_table_has_a_row_per_recipe_and_the_totals():
    outcomes = [
        Outcome(Case("kill", "sft", 0), kills=2),
        Outcome(Case("kill", "dpo", 0), chaos_cases.DIFFERS, 1),
        Outcome(Case("damage", "sft", 0), chaos_cases.REFUSED),
        Outcome(Case("damage", "sft", 1)),
    ]
    assert chaos.table(outcomes).splitlines() == [
        "| recipe | SIGKILL after a random time | damaged file |",
        "|---|---|---|",
        "| sft | 1 | 1, 1 refused |",
        "| dpo | **1 differs** | - |",
        "| **all** | 1, **1 differs** | 1, 1 refused |",
    ]
    assert chaos.summary(outcomes).startswith("4 cases with 3 SIGKILLs: 2 ended equal, 1 refused")


def test_failed_case_names_the_command_that_repeats_it(capsys):
    outcome = Outcome(Case("save", "dpo, LoRA", 3), chaos_cases.DIFFERS, notes=["model.safetensors: bytes"])
    chaos.tell_failure(outcome, seed=5)
    err = capsys.readouterr().err
    assert "differs: dpo, LoRA, save 3: model.safetensors: bytes" in err
    assert "--seed 5 --kills 6 --only save --recipe 'dpo, LoRA'" in err
    assert Case("save", "dpo, LoRA", 3) in chaos.plan(6, kinds=["save"], names=["dpo, LoRA"])


def test_damage_changes_exactly_one_file(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(range(100)))
    seen = {chaos_cases.damage(tmp_path, random.Random(seed)).split()[0] for seed in range(4)}
    assert seen >= {"bit"}
    assert {path.read_bytes() for path in tmp_path.iterdir()} != {bytes(range(100))}


def test_full_disk_fails_from_the_given_write_on_and_only_below_the_folder(tmp_path):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            disk_faults.full_at(1, tmp_path / "full")
            (tmp_path / "full").mkdir()
            (tmp_path / "beside").write_text("x")
            for _ in range(2):
                with pytest.raises(OSError, match="No space left"):
                    (tmp_path / "full" / "file").write_text("x")
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("output", ["", "error: a\n", "Killed"])
def test_error_without_a_fix_is_not_a_clear_line(output):
    assert not chaos_cases.said(output) and chaos_cases.said(f"{output}  fix: b")


def test_killed_run_of_a_real_process_resumes_to_the_same_end(tmp_path):
    """Two processes without torch: `tokenizer`, killed while it writes, then finished."""
    chaos_recipes.write(tmp_path)
    recipe = tmp_path / "recipes" / "chaos" / "tokenizer.yaml"
    arguments = ["run", str(recipe), "--runs-dir", str(tmp_path / "runs")]
    run = tmp_path / "runs" / "chaos" / "tokenizer"
    command = Command.start(arguments, tmp_path / "1.txt", variables={})
    while not (run / "manifest.json").exists():
        assert not command.wait(0.005), (tmp_path / "1.txt").read_text()
    command.send(signal.SIGKILL)
    assert command.end().status == -signal.SIGKILL and not seal.is_sealed(run)
    end = Command.start(arguments, tmp_path / "2.txt", variables={}).end()
    assert end.status == 0 and "not finished yet" in end.output and seal.verify(run) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_small_campaign_ends_equal(capsys, tmp_path):
    arguments = ["--kills", "8", "--only", "change", "save", "damage", "--recipe", "tokenizer", "sft", "dpo"]
    status = chaos.main([*arguments, "--jobs", "1", "--output", str(tmp_path / "table.md")])
    out, err = capsys.readouterr()
    assert status == 0, err
    assert "| sft | " in out and " 0 differing" in out and " 0 tracebacks" in out
    assert (tmp_path / "table.md").read_text() == out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_campaign_reports_a_checkpoint_without_random_state(capsys, monkeypatch, tmp_path):
    program = tmp_path / "server.py"
    program.write_text(PLANTED)
    monkeypatch.setattr(chaos_process, "SERVER", (str(program),))
    assert chaos.main(["--kills", "6", "--only", "save", "--recipe", "sft", "--jobs", "1"]) == 1
    out, err = capsys.readouterr()
    assert "differs**" in out and "repeat: python -m benchmarks.chaos --seed 0" in err
