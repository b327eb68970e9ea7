"""Runs that differ only in their seeds: grouping, means with Student's intervals, curves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.report.conftest import edit
from tests.report.test_run_names import STAGES
from toolkit.config.registry import Curve
from toolkit.report.curves import mean_line
from toolkit.report.page import read_runs, write_report
from toolkit.report.seeds import lineage_of, seed_groups
from toolkit.report.summary import name_runs
from toolkit.stats import student_mean


def change_manifests(folder: Path, change) -> None:
    for path in folder.glob("*/manifest.json"):
        path.write_text(json.dumps(change(json.loads(path.read_text()))))


def with_seed(seed: int):
    def change(manifest: dict) -> dict:
        manifest["inputs"]["settings"]["seed"] = manifest["seeds"]["root"] = seed
        return manifest

    return change


@pytest.fixture
def two_seeds(seeds) -> list[Path]:
    """All runs of s1 with seed 0 and of s2 with seed 7."""
    change_manifests(seeds / "s2", with_seed(7))
    return [seeds / name / stage for name in ("s1", "s2") for stage in STAGES]


def test_runs_that_differ_in_their_seeds_are_grouped(two_seeds):
    groups = seed_groups(name_runs(two_seeds))
    assert [group.name for group in groups] == [*STAGES]
    assert groups[5].members == {"s1/dpo": 0, "s2/dpo": 7}


def test_equal_seeds_and_other_settings_are_not_averaged(seeds):
    runs = [seeds / name / stage for name in ("s1", "s2") for stage in STAGES]
    assert seed_groups(name_runs(runs)) == []  # two copies are not two samples
    change_manifests(seeds / "s2", with_seed(7))

    def other_rate(manifest: dict) -> dict:
        if manifest["stage"] == "sft":
            manifest["inputs"]["settings"]["trainer"]["learning_rate"] = 0.5
        return manifest

    change_manifests(seeds / "s2", other_rate)
    # What was made from the other sft is another recipe, too.
    assert [group.name for group in seed_groups(name_runs(runs))] == ["tokenizer", "corpus", "pretrain"]


def test_a_run_that_shares_its_parent_differs_by_its_own_seed(seeds):
    shutil.copytree(seeds / "s1" / "dpo", seeds / "s1" / "dpo-1")
    path = seeds / "s1" / "dpo-1" / "manifest.json"
    path.write_text(json.dumps(with_seed(1)(json.loads(path.read_text()))))
    runs = [seeds / "s1" / name for name in ("sft", "dpo", "dpo-1")]
    assert lineage_of(runs[1]).recipe == lineage_of(runs[2]).recipe
    [group] = seed_groups(name_runs(runs))
    assert group.members == {"dpo": 0, "dpo-1": 1} and group.name == "dpo"


def test_numbers_are_means_with_students_interval(two_seeds, seeds):
    for name, values in (("s1", (2.0, 0.7)), ("s2", (4.0, 0.8))):
        edit(
            seeds / name / "ppo", lambda row, values=values: row | {"score": values[0], "kl_interval": [0, 1]}
        )

        def win(row: dict, rate: float = values[1]) -> dict:
            row["models"]["dpo"]["win_rate"] |= {
                "estimate": rate,
                "low": 0.6,
                "high": 0.9,
                "verdict": "better",
            }
            return row

        edit(seeds / name / "evaluate", win)
    data, lesson = read_runs(two_seeds)
    ppo, dpo = data.stages["ppo"], data.stages["dpo"]
    expected = student_mean([2.0, 4.0])
    assert (ppo["score"], ppo["score_interval"]) == (3.0, expected.interval)
    rate = dpo["win_rate"]
    assert rate["estimate"] == pytest.approx(0.75) and rate["low"] < 0.5 < rate["high"]
    assert rate["verdict"] == "no verdict"  # two seeds do not tell, although each run has a verdict
    assert data.stages["evaluate"]["baseline"] == "sft" and "kept_steps" not in data.stages["pretrain"]
    assert [*data.stages] == [*STAGES]
    [table] = lesson.tables
    assert [row.model for row in table.rows if row.model] == ["pretrain", "sft", "dpo"]
    page = write_report(two_seeds, seeds / "report.html").read_text(encoding="utf-8")
    assert "Mean of 2 runs that differ only in their seeds (0, 7): tokenizer, corpus" in page
    assert "dpo (2 seeds)</th>" in page and "Each seed" in page and "s2/dpo</th>" in page


def test_three_seeds_decide(seeds):
    shutil.copytree(seeds / "s1", seeds / "s3")
    for seed, (name, rate) in enumerate((("s1", 0.74), ("s2", 0.75), ("s3", 0.76))):
        change_manifests(seeds / name, with_seed(seed))

        def win(row: dict, rate: float = rate) -> dict:
            row["models"]["dpo"]["win_rate"]["estimate"] = rate
            return row

        edit(seeds / name / "evaluate", win)
    data, _ = read_runs([seeds / name / stage for name in ("s1", "s2", "s3") for stage in STAGES])
    rate = data.stages["dpo"]["win_rate"]
    assert rate["verdict"] == "better" and 0.7 < rate["low"] < 0.75 < rate["high"] < 0.8


def test_curves_of_seeds_are_averaged_where_all_have_points():
    first = [{"step": step, "loss": float(step)} for step in (1, 2, 3)]
    second = [{"step": step, "loss": float(step + 2)} for step in (2, 3, 4)]
    line = mean_line("dpo", [first, second], Curve("Loss", "loss"))
    assert (line.x, line.y) == ([2, 3], [3.0, 4.0])
    assert line.band[0][0] == pytest.approx(student_mean([2.0, 4.0]).low)
    assert mean_line("dpo", [first], Curve("Loss", "loss")).band is None
    assert mean_line("dpo", [first, []], Curve("Loss", "loss")) is None


def test_other_runs_of_a_stage_are_drawn_in_one_plot(seeds):
    page = write_report([seeds / "s1" / "dpo", seeds / "s2" / "dpo"], seeds / "report.html").read_text(
        "utf-8"
    )
    assert "s1/dpo, s2/dpo: aligned by preferences" in page
    plot = page[page.index("Loss on training batches, nats per pair") :]
    plot = plot[: plot.index("</figure>")]
    assert "s1/dpo</text>" in plot and "s2/dpo</text>" in plot
