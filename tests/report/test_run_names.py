"""Runs with the same name in the summary, the terminal tables and the report page."""

from __future__ import annotations

import io
import json
import shutil

import pytest
from rich.console import Console

from tests.report.conftest import edit
from toolkit.base.errors import UsageError
from toolkit.cli import main, summary_tables
from toolkit.report.lesson import lesson_of
from toolkit.report.page import write_report
from toolkit.report.summary import comparisons, summarize

STAGES = ("tokenizer", "corpus", "pretrain", "sft", "reward", "dpo", "ppo", "evaluate")


def test_unique_runs_use_the_last_path_part(seeds):
    summary = summarize([seeds / "s1" / stage for stage in STAGES])
    assert list(summary["stages"]) == list(STAGES)
    [comparison] = comparisons(summary)
    assert (comparison.evaluation, comparison.baseline) == ("evaluate", "sft")
    assert list(comparison.rows) == ["pretrain", "sft", "dpo"]


def test_runs_with_the_same_name_keep_separate_numbers(seeds):
    runs = [seeds / seed / stage for stage in ("sft", "dpo", "ppo", "evaluate") for seed in ("s1", "s2")]
    stages = summarize([*runs, seeds / "s2" / "reward"])["stages"]
    expected = [f"{seed}/{stage}" for stage in ("sft", "dpo", "ppo", "evaluate") for seed in ("s1", "s2")]
    assert list(stages)[:9] == [*expected, "reward"]
    assert stages["s1/ppo"]["score"] != stages["s2/ppo"]["score"] == 9.25
    assert stages["s1/dpo"]["win_rate"]["estimate"] == 0.5
    assert stages["s2/dpo"]["win_rate"]["estimate"] == 0.75
    assert stages["s2/evaluate"]["baseline"] == "s2/sft"
    # The evaluate runs also measured these, but they are not in the list of runs.
    assert list(stages)[9:] == ["s1/pretrain", "s2/pretrain"]


def test_each_comparison_has_its_own_baseline(seeds):
    runs = [seeds / seed / stage for seed in ("s1", "s2") for stage in STAGES]
    summary = summarize(runs)
    assert [(item.baseline, list(item.win_rates)) for item in comparisons(summary)] == [
        ("s1/sft", ["s1/pretrain", "s1/dpo"]),
        ("s2/sft", ["s2/pretrain", "s2/dpo"]),
    ]
    text = io.StringIO()
    summary_tables.show(lesson_of(runs), console=Console(file=text, width=120))
    for words in ("against s1/sft", "against s2/sft", "s2/dpo", "75% [62, 88]"):
        assert words in text.getvalue()


def test_every_evaluate_run_of_a_model_has_its_own_table(seeds):
    """s1/again measured the models of s1/evaluate once more, against dpo."""
    shutil.copytree(seeds / "s1" / "evaluate", seeds / "s1" / "again")

    def against_dpo(numbers: dict) -> dict:
        models = numbers["models"]
        rate = models["dpo"].pop("win_rate") | {"estimate": 0.25, "low": 0.125, "high": 0.375}
        models["sft"] |= {"win_rate": rate, "kl_to_baseline": 0.5, "bits_per_byte": 7.125}
        del models["sft"]["is_baseline"], models["pretrain"]["kl_to_baseline"]
        return numbers | {"baseline": "dpo"}

    edit(seeds / "s1" / "again", against_dpo)
    runs = [seeds / "s1" / stage for stage in (*STAGES, "again")]
    summary = summarize(runs)
    stages = summary["stages"]
    assert (stages["dpo"]["evaluated_by"], stages["dpo"]["win_rate"]["estimate"]) == ("evaluate", 0.5)
    first, second = comparisons(summary)
    assert list(first.win_rates) == ["pretrain", "dpo"] and list(second.win_rates) == ["pretrain", "sft"]
    assert stages["evaluate"]["models"]["dpo"]["win_rate"] == first.win_rates["dpo"]
    assert stages["again"]["models"]["sft"]["win_rate"] == second.win_rates["sft"]
    assert "samples" not in stages["again"]["models"]["sft"]
    # A number that an evaluate run did not measure is not that of another one.
    assert "kl_to_baseline" in first.rows["pretrain"] and "kl_to_baseline" not in second.rows["pretrain"]
    text = io.StringIO()
    summary_tables.show(lesson_of(runs), console=Console(file=text, width=120))
    page = write_report(runs, seeds / "report.html").read_text(encoding="utf-8")
    for words in ("In numbers (evaluate): 8 prompts", "In numbers (again): 8 prompts", "against dpo"):
        assert words in text.getvalue()
    assert "25% [12, 38]*" in text.getvalue() and "7.125" in text.getvalue()
    for words in ("Who gives the better answer? (again)", "Who gives the better answer? (evaluate)"):
        assert words in page
    assert "25.0% [12.5,\N{NO-BREAK SPACE}37.5] (no verdict)</td>" in page


def test_runs_three_levels_deep(seeds):
    (seeds.parent / "other").mkdir()
    (seeds / "s1").rename(seeds.parent / "other" / "s2")
    runs = [seeds / "s2" / "ppo", seeds.parent / "other" / "s2" / "ppo"]
    assert list(summarize(runs)["stages"]) == ["exp/s2/ppo", "other/s2/ppo"]


def test_one_evaluation_of_two_runs_with_the_same_name(seeds):
    """Names follow evaluation.json; a checkpoint of a run is a different model."""

    def join(numbers: dict) -> dict:
        first, second = numbers["models"]["sft"], numbers["models"]["dpo"]
        models = {"s1/dpo": first, "s2/dpo": second, "step-00000004": second}
        references = ["runs/exp/s1/dpo", "runs/exp/s2/dpo", "runs/exp/s2/dpo/checkpoints/step-00000004"]
        return numbers | {"models": models, "baseline": "s1/dpo", "settings": {"models": references}}

    edit(seeds / "s2" / "evaluate", join)
    (seeds / "s2" / "evaluate").rename(seeds / "evaluate")
    manifest = json.loads((seeds / "evaluate" / "manifest.json").read_text())
    for number, path in enumerate(["../s1/dpo", "../s2/dpo", "../s2/dpo"]):
        manifest["inputs"]["parents"][f"models[{number}]"]["path"] = path
    (seeds / "evaluate" / "manifest.json").write_text(json.dumps(manifest))
    summary = summarize([seeds / "s1" / "dpo", seeds / "s2" / "dpo", seeds / "evaluate"])
    assert list(summary["stages"]) == ["s1/dpo", "s2/dpo", "evaluate", "step-00000004"]
    [comparison] = comparisons(summary)
    assert comparison.baseline == "s1/dpo" and list(comparison.win_rates) == ["s2/dpo", "step-00000004"]
    # With another baseline in the list, the names here differ from those of evaluation.json.
    alone = summarize([seeds / "s2" / "dpo", seeds / "evaluate"])
    assert alone["stages"]["evaluate"]["baseline"] == "s1/dpo"


def test_page_distinguishes_runs_with_the_same_name(seeds):
    runs = [seeds / seed / stage for seed in ("s1", "s2") for stage in STAGES]
    page = write_report(runs, seeds / "report.html").read_text(encoding="utf-8")
    assert "<h1>exp: from text to an aligned model</h1>" in page
    assert "<h2>s1/ppo, s2/ppo: aligned by reinforcement learning</h2>" in page  # one section for each stage
    for seed in ("s1", "s2"):
        assert f'scope="row">{seed}/ppo</th>' in page
        assert f"{seed}/dpo and {seed}/sft tied" in page or f"{seed}/dpo won against {seed}/sft" in page
        assert f"Each model and {seed}/sft answered" in page
        assert f'<section id="win-rates-{seed}/evaluate">' in page
    assert "75% [62,\N{NO-BREAK SPACE}88]" in page and "75.0% [62.5,\N{NO-BREAK SPACE}87.5]" in page
    assert page.count('"score": 9.25') + page.count("&#34;score&#34;: 9.25") == 1


def test_report_of_two_folders_is_in_their_common_parent(seeds, capsys, monkeypatch):
    monkeypatch.chdir(seeds.parent)
    assert main.main(["report", "exp/s1/ppo", "exp/s2", "exp/s2/ppo"]) == 0
    assert capsys.readouterr().out == "exp/report.html\n"
    page = (seeds / "report.html").read_text(encoding="utf-8")
    assert page.count("<h2>s1/ppo, s2/ppo: aligned") == 1
    assert main.main(["report", "exp/s1"]) == 0
    assert capsys.readouterr().out == "exp/s1/report.html\n"


def test_run_given_twice_is_an_error(seeds):
    with pytest.raises(UsageError, match="are the same"):
        summarize([seeds / "s1" / "ppo", seeds / "s2" / "ppo", seeds / "s1" / "ppo"])
