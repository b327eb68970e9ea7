"""Early stopping by a held-out judge: its evaluations, stopping and the kept weights."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tests.ppo.training import run_stage, run_twice
from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.ppo.early_stopping import EarlyStopping
from toolkit.ppo.state import Progression
from toolkit.runs import metrics, seal

SETTINGS = {"schedule": "constant", "learning_rate": 3e-3, "episodes": 48}


def weights(path):
    return load_file(path / "model" / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def stopping(judge, **changes):
    return {"judge": judge, "every_rollouts": 1, "prompts": 3, "patience": 1, **changes}


def test_first_evaluation_in_bf16_uses_the_reference(opened, recipe, judge):
    settings = recipe(early_stopping=stopping(judge), **{**SETTINGS, "episodes": 8})
    path = run_stage(opened, settings.model_copy(update={"precision": "bf16"}), "bf16")
    assert json.loads((path / "evaluation.json").read_text())["looks"][0]["kl"] == 0


def test_evaluation_changes_no_weight_and_is_recorded(opened, recipe, judge):
    plain = run_stage(opened, recipe(**SETTINGS), "plain")
    looked = recipe(early_stopping=stopping(judge, every_rollouts=2, patience=None), **SETTINGS)
    path = run_stage(opened, looked, "looked")
    assert same(weights(plain), weights(path))
    evaluation = json.loads((path / "evaluation.json").read_text())
    looks = evaluation["looks"]
    assert [look["rollout"] for look in looks] == [0, 2, 4, 6] and evaluation["kept_rollout"] == 6
    assert looks[0]["kl"] == pytest.approx(0, abs=1e-4) and abs(looks[-1]["kl"]) > 1e-3
    rows = [row for row in metrics.read(path / "metrics.jsonl") if "held_out_score" in row]
    assert [row["held_out_score"] for row in rows] == [look["score"] for look in looks]
    assert [row["step"] for row in rows] == [0, 8, 16, 24]
    assert looks[0]["proxy"] != looks[0]["score"]  # the reward model's score of the same answers
    assert evaluation["episodes"] == 48 and evaluation["n"] == 8  # the last rollout's, whose weights are kept


def test_early_stopping_keeps_the_best_weights(opened, recipe, judge, monkeypatch):
    scores = iter([0.0, 3.0, 2.0])
    measure = EarlyStopping._measure

    def planned(self, number):
        measured = self.trainer.evaluation_episodes

        def fixed(dataset):
            episodes, score = measured(dataset), next(scores)
            for episode in episodes:
                episode.score = score
            return episodes

        self.trainer.evaluation_episodes = fixed
        measure(self, number)
        self.trainer.evaluation_episodes = measured

    monkeypatch.setattr(EarlyStopping, "_measure", planned)
    path = run_stage(opened, recipe(early_stopping=stopping(judge), **SETTINGS), "stopped")
    evaluation = json.loads((path / "evaluation.json").read_text())
    assert [look["rollout"] for look in evaluation["looks"]] == [0, 1, 2] and evaluation["kept_rollout"] == 1
    best = evaluation["looks"][1]
    assert (evaluation["score"], evaluation["score_interval"]) == (best["proxy"], best["proxy_interval"])
    assert [evaluation[name] for name in ("kl", "length", "n")] == [best["kl"], best["length"], 3]
    assert evaluation["episodes"] == 16 and "kept weights of rollout 1" in evaluation["measured_on"]
    monkeypatch.undo()
    shorter = run_stage(opened, recipe(**{**SETTINGS, "episodes": 8}), "shorter")
    assert same(weights(path), weights(shorter))


@pytest.mark.parametrize("lora", [None, {"r": 2, "target_modules": ["c_attn"]}])
def test_resumed_run_makes_the_same_early_stopping_decisions(opened, recipe, judge, monkeypatch, lora):
    settings = recipe(
        early_stopping=stopping(judge, patience=9), checkpoint_every_steps=2, lora=lora, **SETTINGS
    )
    whole, resumed = run_twice(opened, settings, monkeypatch)
    assert (whole / "evaluation.json").read_text() == (resumed / "evaluation.json").read_text()
    assert same(weights(whole), weights(resumed))


def test_run_killed_between_model_and_seal_finishes(opened, recipe, judge):
    settings = recipe(early_stopping=stopping(judge), **SETTINGS)
    path = run_stage(opened, settings)
    before = weights(path)
    assert run_stage(opened, settings) == path and same(before, weights(path))
    with opened(settings) as run:
        assert run.scratch.is_dir()
        run.seal()
    assert not run.scratch.exists() and seal.verify(path) == []


def test_best_weights_referenced_by_the_last_checkpoint_are_kept(opened, recipe, judge, monkeypatch):
    """They are kept until the next checkpoint is sealed, because a resumed run may need them again."""
    settings = recipe(early_stopping=stopping(judge, patience=9), checkpoint_every_steps=2, **SETTINGS)
    needed = []
    begin = EarlyStopping.on_train_begin

    def noted(self, *arguments, **options):
        begin(self, *arguments, **options)
        needed.append((self._needed, self._file(self.best)))
        digest = self.trainer.progression.kept["best_weights"]
        assert digest == files.sha256_file(self._file(self.best))

    monkeypatch.setattr(EarlyStopping, "on_train_begin", noted)
    run_twice(opened, settings, monkeypatch)
    assert [kept == best for kept, best in needed] == [False, False, True]  # uninterrupted, killed, resumed


def test_damaged_best_weights_are_refused(tmp_path):
    path = tmp_path / "rollout-3.safetensors"
    path.write_bytes(b"weights")
    early = EarlyStopping.__new__(EarlyStopping)
    early.trainer = SimpleNamespace(progression=Progression(kept={"best_weights": files.sha256_file(path)}))
    early._require_unchanged(path)
    path.write_bytes(b"weighty")
    with pytest.raises(RunError, match="was changed since it was written"):
        early._require_unchanged(path)
    early.trainer.progression.kept.clear()  # of an older version
    early._require_unchanged(path)
