"""The repository of a finished run: model card and files, written offline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from toolkit.cli import main
from toolkit.publish import model_card
from toolkit.runs import seal

OLD_RUNS = Path(__file__).parents[1] / "fixtures" / "old_run" / "runs"


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Return a folder with one sealed run of every stage."""
    return Path(shutil.copytree(OLD_RUNS, tmp_path / "chain"))


def test_repository_loads_offline(chain, tmp_path, capsys):
    output = tmp_path / "repository"
    arguments = ["publish", str(chain / "dpo"), "someone/toy-dpo", "--dry-run", "--output", str(output)]
    assert main.main(arguments) == 0
    card = (output / "README.md").read_text(encoding="utf-8")
    rate = json.loads((chain / "evaluate" / "evaluation.json").read_text())["models"]["dpo"]["win_rate"]
    assert f"{rate['estimate']:.1%}" in card and "someone/toy-dpo" in card and "stage: dpo" in card
    assert "A model of the class `GPT2LMHeadModel`" in card
    assert AutoModelForCausalLM.from_pretrained(output).num_parameters() > 0
    assert AutoTokenizer.from_pretrained(output).chat_template
    capsys.readouterr()
    assert main.main(["generate", str(output), "a red fox", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out.strip()


def test_the_licence_is_the_one_that_is_given(chain, tmp_path, capsys):
    output = tmp_path / "repository"
    arguments = ["publish", str(chain / "dpo"), "someone/toy-dpo", "--dry-run", "--output", str(output)]
    assert main.main([*arguments, "--license", "Apache 2.0"]) == 2
    assert "is not an identifier of a licence" in capsys.readouterr().err and not output.exists()
    assert main.main([*arguments, "--license", "apache-2.0"]) == 0
    assert "states no licence" not in capsys.readouterr().err
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "\nlicense: apache-2.0\n" in card and "states the licence `apache-2.0`" in card
    shutil.rmtree(output)
    assert main.main(arguments) == 0
    assert "the card states no licence" in capsys.readouterr().err
    assert "\nlicense:" not in (output / "README.md").read_text(encoding="utf-8")


def test_unpublishable_runs_are_refused(chain, tmp_path, capsys):
    def refusal(*arguments: str) -> tuple[int, str]:
        status = main.main(["publish", *arguments])
        return status, capsys.readouterr().err

    status, message = refusal(str(tmp_path), "someone/x", "--dry-run")
    assert status == 1 and "not finished" in message
    status, message = refusal(str(chain / "corpus"), "someone/x", "--dry-run")
    assert status == 1 and "holds no model" in message
    status, message = refusal(str(chain / "dpo"), "no such name!", "--dry-run")
    assert status == 2 and "is not a name of a repository" in message
    status, message = refusal(str(chain / "dpo"), "someone/x")
    assert status == 1 and "cannot be reached" in message
    assert not (chain / "dpo-publish").exists()


def test_evaluations_of_a_run_are_found_under_any_name(tmp_path):
    """The evaluate run has models with equal names; a checkpoint of a run is a different model."""
    for seed in ("s1", "s2"):
        shutil.copytree(OLD_RUNS, tmp_path / seed)
    shutil.rmtree(tmp_path / "s1" / "evaluate")
    compare = (tmp_path / "s2" / "evaluate").rename(tmp_path / "s2" / "compare")
    content = json.loads((compare / "evaluation.json").read_text())
    first, second = content["models"]["sft"], content["models"]["dpo"]
    content["models"] = {"s1/dpo": first, "s2/dpo": second, "step-00000004": second}
    references = ["runs/exp/s1/dpo", "runs/exp/s2/dpo", "runs/exp/s2/dpo/checkpoints/step-00000004"]
    content |= {"baseline": "s1/dpo", "settings": {"models": references}}
    (compare / "evaluation.json").write_text(json.dumps(content))
    manifest = json.loads((compare / "manifest.json").read_text())
    for number, path in enumerate(["../../s1/dpo", "../dpo", "../dpo"]):
        manifest["inputs"]["parents"][f"models[{number}]"]["path"] = path
    (compare / "manifest.json").write_text(json.dumps(manifest))
    assert model_card._evaluations(tmp_path / "s2" / "dpo") == {compare: "s2/dpo"}
    assert model_card._evaluations(tmp_path / "s1" / "dpo") == {}


def test_runs_of_one_name_are_told_apart_in_the_card(tmp_path):
    """An evaluate run of a/ppo and b/ppo: both are named with their folder, the others by their last name."""
    experiment = tmp_path / "experiment"
    for folder in ("a", "b"):
        shutil.copytree(OLD_RUNS, experiment / folder)
    compare = (experiment / "a" / "evaluate").rename(experiment / "compare")
    manifest = json.loads((compare / "manifest.json").read_text())
    parents = manifest["inputs"]["parents"]
    digest = seal.digest
    manifest["inputs"]["parents"] = {
        f"models[{number}]": parents["models[0]"]
        | {"path": f"../{folder}/ppo", "digest": digest(experiment / folder / "ppo")}
        for number, folder in enumerate(("a", "b"))
    }
    (compare / "manifest.json").write_text(json.dumps(manifest))
    names = [made.name for made in model_card._chain(compare)]
    assert {"a/ppo", "b/ppo", "a/sft", "b/sft"} < set(names) and names[-1] == "compare"
    [*_, last] = [made.name for made in model_card._chain(experiment / "b" / "ppo")]
    assert last == "ppo"
