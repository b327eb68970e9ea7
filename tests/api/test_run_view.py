"""Tests of `toolkit.Run` and `toolkit.list_runs`."""

from __future__ import annotations

import html.parser
import json
import math
import os
import shutil

import pytest

import toolkit as tk
from tests.runs import small_runs
from tests.runs.test_index import unfinished
from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.runs.evaluation import DpoEvaluation, ModelComparison


def test_sealed_run_attributes(dpo, old_runs):
    assert (dpo.stage, dpo.state, dpo.reference, dpo.exists) == ("dpo", "sealed", "dpo", True)
    assert dpo.recipe.trainer["beta"] == 0.5 and isinstance(dpo.recipe, tk.DpoRecipe)
    assert dpo.parents == {"model": tk.Run(old_runs / "sft")}
    assert dpo.seconds == json.loads((dpo.path / "timing.json").read_text())["seconds"]
    assert (dpo.model_dir / "model.safetensors").is_file()
    assert "dpo" in repr(dpo) and "sealed" in repr(dpo)
    assert os.fspath(dpo) == str(old_runs / "dpo")


def test_parents_trace_back_to_the_tokenizer(old_runs):
    run, stages = tk.Run(old_runs / "ppo"), set()
    waiting = [run]
    while waiting:
        run = waiting.pop()
        stages.add(run.stage)
        waiting += run.parents.values()
    assert stages == {"ppo", "reward", "sft", "pretrain", "corpus", "tokenizer"}


def test_run_states(runs):
    run = tk.Run(runs / "t" / "tokenizer")
    assert run.state == "new" and not run.exists and "new" in repr(run)
    with pytest.raises(RunError, match="no such run"):
        run.stage  # noqa: B018
    unfinished(runs)
    assert run.state == "unfinished" and run.stage == "tokenizer"
    with pytest.raises(RunError, match="not finished"):
        run.evaluation  # noqa: B018
    with pytest.raises(RunError, match="no model yet"):
        run.model_dir  # noqa: B018


# Numbers


def test_evaluation_merges_stage_and_evaluate_run(dpo):
    evaluation = dpo.evaluation
    assert isinstance(evaluation, DpoEvaluation) and evaluation.accuracy.high == 0.975
    assert (evaluation.win_rate.low, evaluation.win_rate.high, evaluation.win_rate.n) == (0.0, 1.0, 8)
    assert evaluation.compared.bits_per_byte.estimate == pytest.approx(5.13, abs=0.01)
    assert evaluation.to_json() == json.loads((dpo.path / "evaluation.json").read_text())


def test_evaluation_ignores_other_runs(old_runs):
    recorded = json.loads((old_runs / "evaluate" / "evaluation.json").read_text())["models"]
    for name in ("pretrain", "sft", "dpo"):
        compared = tk.Run(old_runs / name).evaluation.compared
        assert compared.to_json() == recorded[name]


def test_baseline_and_uncompared_runs_have_no_win_rate(old_runs):
    for name in ("sft", "ppo"):
        with pytest.raises(RunError, match="win rate"):
            tk.Run(old_runs / name).evaluation.win_rate  # noqa: B018


def test_evaluation_of_changed_weights_is_ignored(old_runs, tmp_path):
    """If a run is recreated, a comparison of the old weights does not apply to it."""
    place = tmp_path / "runs"
    shutil.copytree(old_runs, place)
    assert tk.Run(place / "dpo").evaluation.compared is not None
    lock = files.read_json(place / "dpo" / "lock.json")
    files.write_json(place / "dpo" / "lock.json", {**lock, "sealed": "2030-01-01T00:00:00+00:00"})
    assert tk.Run(place / "dpo").evaluation.compared is None


def test_evaluate_run_returns_a_comparison(old_runs):
    comparison = tk.Run(old_runs / "evaluate").evaluation
    assert isinstance(comparison, ModelComparison)
    assert [*comparison.models] == ["pretrain", "sft", "dpo"] and comparison.baseline == "sft"


def test_metrics_are_a_data_frame(dpo):
    frame = dpo.metrics()
    rows = [json.loads(line) for line in (dpo.path / "metrics.jsonl").read_text().splitlines()]
    assert len(frame) == len(rows) and {*frame.columns} == {key for row in rows for key in row}
    assert frame.loc[1, "loss"] == rows[1]["loss"] and math.isnan(frame.loc[0, "loss"])


def test_null_metric_is_nan_in_a_float_column(runs):
    path = small_runs.make(small_runs.tokenizer(), runs)
    (path / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 1.5}\n{"step": 2, "loss": "nan"}\n{"step": 3, "loss": "inf"}\n'
    )
    loss = tk.Run(path).metrics()["loss"]
    assert loss.dtype == float and math.isnan(loss[1]) and loss[2] == math.inf


def test_pretraining_steps(old_runs):
    assert len(tk.Run(old_runs / "pretrain").steps()) == 12
    assert len(tk.Run(old_runs / "tokenizer").steps()) == 0


def test_verify_reports_a_changed_file(old_runs, tmp_path):
    place = tmp_path / "runs"
    shutil.copytree(old_runs, place)
    run = tk.Run(place / "sft")
    assert run.verify() == []
    (place / "pretrain" / "model" / "config.json").write_text("{}")
    assert any("config.json" in problem for problem in run.verify())


# In a notebook


class Tags(html.parser.HTMLParser):
    """Collects the tags of a page and checks that they are properly nested."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.seen, self.texts = [], [], []
        self.feed(text)
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_data(self, data):
        self.texts.append(data.strip())


@pytest.mark.parametrize(
    "stage", ["tokenizer", "corpus", "pretrain", "sft", "reward", "dpo", "ppo", "evaluate"]
)
def test_html_view_has_table_and_curves(old_runs, stage):
    tags = Tags(tk.Run(old_runs / stage)._repr_html_())
    assert tags.seen.count("table") == 1
    assert ("svg" in tags.seen) == (stage in ("pretrain", "sft", "reward", "dpo", "ppo"))
    assert stage in tags.texts and "sealed" in tags.texts


def test_table_shows_intervals(dpo):
    texts = Tags(dpo._repr_html_()).texts
    assert texts[texts.index("accuracy") + 1] == "0.000 [0.000, 0.975]"
    assert texts[texts.index("win rate") + 1] == "0.500 [0.000, 1.000], no verdict"


def test_html_view_of_unfinished_and_missing_runs(runs):
    assert "unfinished" in Tags(tk.Run(unfinished(runs))._repr_html_()).texts
    assert "new" in tk.Run(runs / "absent")._repr_html_()


def test_names_are_html_escaped(runs):
    path = unfinished(runs)
    content = files.read_json(path / "manifest.json")
    files.write_json(path / "manifest.json", {**content, "name": "<script>x</script>"})
    assert "script" not in Tags(tk.Run(path)._repr_html_()).seen


def test_html_view_does_not_change_the_matplotlib_backend(dpo):
    import matplotlib

    before = dict(matplotlib.rcParams)
    dpo._repr_html_()
    assert dict(matplotlib.rcParams) == before


# Lists


def test_list_runs_filters_by_stage_and_state(old_runs, runs):
    assert [run.stage for run in tk.list_runs(old_runs, stage="dpo")] == ["dpo"]
    assert len(tk.list_runs(old_runs)) == 8
    small_runs.make(small_runs.tokenizer("a/tokenizer"), runs)
    unfinished(runs, name="b/tokenizer")
    assert tk.list_runs(runs, state="unfinished") == [tk.Run(runs / "b" / "tokenizer")]
