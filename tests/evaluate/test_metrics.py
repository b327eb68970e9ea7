"""`evaluate.load` of our folders, offline: the numbers are those of `toolkit evaluate`."""

from __future__ import annotations

import json
import math
import subprocess
import tomllib
from functools import partial
from pathlib import Path

import evaluate
import numpy as np
import pytest

from toolkit.base.errors import DataError
from toolkit.cli import main
from toolkit.evaluate import judges, metrics, perplexity, rates
from toolkit.evaluate.perplexity import HeldOutText
from toolkit.models.loading import load_causal_lm


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """evaluate.load, whose copies of modules and inputs go to a temporary folder."""
    cache, init = tmp_path_factory.mktemp("cache"), evaluate.loading.init_dynamic_modules
    with pytest.MonkeyPatch.context() as patch:
        elsewhere = partial(init, hf_modules_cache=str(cache / "modules"))
        patch.setattr(evaluate.loading, "init_dynamic_modules", elsewhere)
        yield lambda name: evaluate.load(metrics.folder(name), cache_dir=str(cache / "metrics"))


def test_perplexity_is_that_of_the_command_line(load, folders, stories, tmp_path, capsys):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in stories))
    arguments = [
        "evaluate",
        str(folders / "first"),
        "--data",
        str(path),
        "--window",
        "64",
        "--prefix",
        "none",
    ]
    assert main.main([*arguments, "--no-score-end", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["models"]["first"]
    metric = load("perplexity")
    result = metric.compute(
        predictions=stories, model_id=str(folders / "first"), window=64, prefix="none", score_end=False
    )
    assert {key: result[key] for key in expected} == expected
    model, tokenizer = load_causal_lm((str(folders / "first"), None))
    whole = metric.compute(predictions=stories[:2], model_id=str(folders / "first"))
    measured = perplexity.measure(model, tokenizer, HeldOutText("two", texts=stories[:2]))
    for found, nats, count in zip(whole["perplexities"], measured.nats, measured.tokens, strict=True):
        assert found == pytest.approx(math.exp(nats / count))
    assert metric.features["predictions"].dtype == "string" and "model_id" in metric.inputs_description
    with pytest.raises(DataError, match="no text"):
        metric.compute(predictions=[""], model_id=str(folders / "first"))
    with pytest.raises(TypeError, match="add_start_token"):
        metric.compute(predictions=["x"], model_id=str(folders / "first"), add_start_token=True)


def test_win_rate_is_that_of_the_evaluation(load):
    metric = load("win_rate")
    result = metric.compute(predictions=[1.0, 2.0, 3.0, 0.0], references=[0.5, 2.0, 1.0, 1.0])
    assert (result["wins"], result["ties"], result["losses"], result["win_rate"]) == (2, 1, 1, 0.625)
    assert result["p_value"] == 1 and result["verdict"] == "no verdict"
    generator = np.random.default_rng(0)
    own, other = generator.normal(0.4, 1, 200), generator.normal(0, 1, 200)
    result = metric.compute(predictions=own, references=other, tie=0.1, seed=3)
    outcomes = {"model": judges.compare(own, other, tie=0.1)}
    expected = rates.rate_all(outcomes, {"model": np.zeros(200)}, seed=3, samples=2000)["model"]
    for key in ("n", "wins", "ties", "losses", "p_value", "verdict"):
        assert result[key] == getattr(expected, key), key
    assert result["win_rate"] == expected.estimate
    assert result["win_rate_interval"] == expected.interval
    assert result["verdict"] == "better"


def test_the_modules_are_in_the_wheel():
    """hatch packs all of a package that git does not ignore."""
    root = Path(__file__).parents[2]
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["toolkit"] and not {"include", "exclude", "only-include"} & wheel.keys()
    for name in ("perplexity", "win_rate"):
        module = Path(metrics.folder(name), f"{name}.py")
        assert module.relative_to(root).parts[0] == "toolkit" and module.is_file()
        ignored = subprocess.run(["git", "-C", str(root), "check-ignore", str(module)], capture_output=True)
        assert ignored.returncode != 0, ignored.stdout
