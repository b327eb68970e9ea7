"""Anomalies are detected before the weights change, stored as incidents, and skip the step or end the run."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.pretrain import trainings
from tests.pretrain.conftest import write_recipe
from toolkit.base.errors import ToolkitError
from toolkit.config import loader
from toolkit.config.schema.pretrain import GuardSettings
from toolkit.data.text import batch_order
from toolkit.pretrain import incidents, loop, optimizer, stage, step, step_log, training_state
from toolkit.pretrain.anomaly import Anomaly, AnomalyMonitor
from toolkit.pretrain.context import TrainingContext
from toolkit.pretrain.incidents import Incident
from toolkit.pretrain.loss import TrainingLoss
from toolkit.runs import checkpoint, metrics
from toolkit.runs.opening import open_run
from toolkit.runtime import devices

STEPS, SPIKE = 48, 41  # step of the spike, starting at 0; by then the loss has fallen from 5.8 to 3
SETTINGS = {
    "train_tokens": 256 * STEPS, "samples": {"prompts": []}, "evaluate_every_tokens": 256 * STEPS,
    "optimizer": {"learning_rate": 0.003}, "schedule": {"name": "constant"},
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 32, "dropout": 0.1},
    "guard": {"z_score": 6.0, "window": 20},
}  # fmt: skip
SKIP = SETTINGS | {"guard": SETTINGS["guard"] | {"action": "skip"}}
train_step = step.train_step


def corrupted(context, number, rows, monitor):
    """A batch of noise, as from a damaged file in the corpus."""
    if number == SPIKE:
        generator = torch.Generator().manual_seed(0)
        rows = torch.randint(0, 256, rows.shape, generator=generator)
    return train_step(context, number, rows, monitor)


def jumping(context, number, rows, monitor):
    """One step with 100 times the learning rate, which causes a spike in the next step."""
    for opt in context.optimizers:
        for group in opt.param_groups:
            group["peak_lr"] *= 100.0 if number == SPIKE - 1 else 1.0
    result = train_step(context, number, rows, monitor)
    for opt in context.optimizers:
        for group in opt.param_groups:
            group["peak_lr"] /= 100.0 if number == SPIKE - 1 else 1.0
    return result


def steep(context, number, rows, monitor):
    """The loss is unchanged, but its gradient is 1000 times as large."""
    if number == SPIKE:
        hooks = [p.register_hook(lambda grad: grad * 1000) for p in context.model.parameters()]
        result = train_step(context, number, rows, monitor)
        for hook in hooks:
            hook.remove()
        return result
    return train_step(context, number, rows, monitor)


class Blind(AnomalyMonitor):
    def check(self, *, loss, grad_norm):
        return None


def too_late(context, number, rows, monitor):
    """Planted fault: the monitor checks a step after the weights have changed."""
    noise = torch.randint(0, 256, rows.shape, generator=torch.Generator().manual_seed(0))
    result = train_step(context, number, noise if number == SPIKE else rows, Blind(monitor.settings, {}))
    anomaly = monitor.check(loss=float(result.loss), grad_norm=float(result.grad_norm))
    return dataclasses.replace(result, anomaly=anomaly)


def copies(context) -> dict[str, torch.Tensor]:
    tensors = dict(context.model.named_parameters()) | optimizer.state_tensors(
        context.optimizers, context.model
    )
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def equal(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def account(run: Path, number: int = SPIKE) -> dict:
    return json.loads((run / "incidents" / f"step-{number + 1:08d}" / "incident.json").read_text())


@pytest.mark.parametrize(
    ("disturbed", "what"), [(corrupted, "loss"), (jumping, "loss"), (steep, "gradient norm")]
)
def test_loss_spike_stops_the_run(pretrain, monkeypatch, tmp_path, disturbed, what):
    monkeypatch.setattr(loop, "train_step", disturbed)
    words = rf"the {what} [\d.e+]+ is [\d.]+ standard deviations above [\d.]+ at step 42 of 48"
    with pytest.raises(ToolkitError, match=words) as caught:
        pretrain(**SETTINGS)
    run = tmp_path / "runs" / "t" / "first"
    assert "learning_rate" in caught.value.fix and "--incident 42" in caught.value.fix
    kept = account(run)
    assert kept["what"] == what and kept["z_score"] > 6 and kept["step"] == 42
    rows = step_log.read(run / "steps.jsonl")
    assert [row.step for row in rows] == list(range(1, 43))
    assert [row.step for row in rows if row.skipped] == [42]
    assert float(kept["loss"]) == rows[-1].loss and float(kept["gradient_norm"]) == rows[-1].norm
    # earlier outputs are unchanged, and the same command hits the same spike
    assert trainings.newest(run) == 40 and not (run / "model").exists()
    with pytest.raises(ToolkitError, match=words):
        pretrain(**SETTINGS)
    assert account(run) == kept


def test_normal_run_has_no_incident(pretrain):
    """A normal run of twice the length does not trigger; a threshold of one standard deviation would."""
    run = pretrain(**SETTINGS | {"train_tokens": 256 * 96})
    assert not (run / "incidents").exists()
    assert not any(row.skipped for row in step_log.read(run / "steps.jsonl"))
    nervous = SKIP | {"guard": {"action": "skip", "z_score": 1.0, "window": 10, "max_skips": 48}}
    assert any(row.skipped for row in step_log.read(pretrain("nervous", **nervous) / "steps.jsonl"))


@pytest.mark.parametrize(("disturbed", "holds"), [(corrupted, True), (steep, True), (too_late, False)])
def test_skipped_step_leaves_weights_and_optimizer_unchanged(pretrain, monkeypatch, disturbed, holds):
    """The state of the incident and the state after the skip equal the state before the step bitwise."""
    seen = {}

    def watching(context, number, rows, monitor):
        if number in (SPIKE, SPIKE + 1):
            seen[number] = copies(context)
        return disturbed(context, number, rows, monitor)

    monkeypatch.setattr(loop, "train_step", watching)
    run = pretrain(**SKIP | {"optimizer": {"name": "muon"}})
    rows = step_log.read(run / "steps.jsonl")
    assert [row.step for row in rows if row.skipped] == [42] and rows[-1].step == 48
    folder = run / "incidents" / "step-00000042"
    assert checkpoint.is_whole(folder)
    kept = load_file(folder / "state" / training_state.WEIGHTS_FILE) | load_file(
        folder / "state" / training_state.OPTIMIZER_FILE
    )
    assert equal(kept, {name: seen[SPIKE][name] for name in kept}) is holds
    assert equal(seen[SPIKE], seen[SPIKE + 1]) is holds
    position = json.loads((run / "checkpoints" / "step-00000048" / training_state.STATE_FILE).read_text())
    assert position["skipped"] == [42] and position["step"] == 48
    losses = [row["loss"] for row in metrics.read(run / "metrics.jsonl") if "loss" in row]
    assert losses[20] == rows[40].loss  # in the line of steps 41 and 42, only step 41 counts


@pytest.mark.parametrize("seed", [0, 1])
def test_incident_contains_all_inputs_of_the_step(pretrain, monkeypatch, tmp_path, corpus, seed):
    """Recomputing the step from the folder gives identical loss and norm; another random stream does not."""
    monkeypatch.setattr(loop, "train_step", jumping)
    with pytest.raises(ToolkitError):
        pretrain(**SETTINGS)
    run = tmp_path / "runs" / "t" / "first"
    kept = account(run)
    loaded = loader.load(write_recipe(tmp_path, corpus, "again", **SETTINGS))
    with open_run(loaded, runs_dir=tmp_path / "runs") as opened:
        devices.configure(loaded.recipe)
        context = stage.prepare(loaded.recipe, opened)
        assert kept["corpus"] == context.shards.digest and kept["random"]["seed"] == 0
        assert kept["batch"] == batch_order.digest(np.array(kept["row_starts"]))
        assert kept["row_starts"] == context.order.starts(SPIKE, context.batch_rows).tolist()
        folder = run / "incidents" / "step-00000042"
        state = training_state.load_checkpoint(
            folder / kept["state"], model=context.model, optimizers=context.optimizers
        )
        assert state.step == SPIKE
        if seed:
            context.recipe = context.recipe.model_copy(update={"seed": seed})
        rows = torch.from_numpy(batch_order.read_rows(context.shards, kept["row_starts"], kept["row_tokens"]))
        context.model.train()
        with context.training_kernels():
            result = train_step(context, SPIKE, rows, AnomalyMonitor(context.recipe.guard, state.guard))
    same = repr(float(result.loss)) == kept["loss"] and repr(float(result.grad_norm)) == kept["gradient_norm"]
    assert same is (seed == 0)
    if seed == 0:
        assert str(result.anomaly) == kept["why"]


def crashing(context, number, rows, monitor):
    if number == SPIKE:
        raise ConnectionError
    return train_step(context, number, rows, monitor)


@pytest.mark.parametrize("forgets", [False, True])
def test_anomaly_statistics_survive_a_resume(pretrain, monkeypatch, tmp_path, forgets):
    """A run interrupted before the spike triggers after resuming, but not without the stored statistics."""
    monkeypatch.setattr(loop, "train_step", corrupted)
    with pytest.raises(ToolkitError):
        pretrain("whole", **SETTINGS)
    monkeypatch.setattr(loop, "train_step", crashing)
    with pytest.raises(ConnectionError):
        pretrain("broken", **SETTINGS)
    monkeypatch.setattr(loop, "train_step", corrupted)
    if forgets:
        load = training_state.load_checkpoint
        monkeypatch.setattr(
            training_state, "load_checkpoint",
            lambda *words, **more: dataclasses.replace(load(*words, **more), guard={}),
        )  # fmt: skip
        pretrain("broken", **SETTINGS)
        return
    with pytest.raises(ToolkitError, match="step 42 of 48"):
        pretrain("broken", **SETTINGS)
    runs = [tmp_path / "runs" / "t" / name for name in ("whole", "broken")]
    assert account(runs[0]) == account(runs[1])
    assert (runs[0] / "steps.jsonl").read_bytes() == (runs[1] / "steps.jsonl").read_bytes()


def spoil(monkeypatch, *calls):
    """Multiply the loss of these steps (starting at 1) with NaN."""
    forward, numbers = TrainingLoss.forward, iter(range(1, 1000))
    monkeypatch.setattr(
        TrainingLoss,
        "forward",
        lambda self, rows: forward(self, rows) * (math.nan if next(numbers) in calls else 1),
    )


def test_nan_is_skipped_without_z_score_and_skips_are_counted(pretrain, monkeypatch, tmp_path):
    spoil(monkeypatch, 3, 6)
    guard = {"action": "skip", "max_skips": 2}
    run = pretrain("two", guard=guard)
    rows = step_log.read(run / "steps.jsonl")
    assert [row.step for row in rows if row.skipped] == [3, 6] and math.isnan(rows[2].loss)
    assert rows[-1].step == 12 and math.isfinite(rows[-1].loss)
    monkeypatch.undo()
    spoil(monkeypatch, 3, 6, 9)
    with pytest.raises(ToolkitError, match="at step 9 of 12; 3 steps were skipped, more than guard.max"):
        pretrain("three", guard=guard)
    assert len(list((tmp_path / "runs" / "t" / "three" / "incidents").iterdir())) == 3


def test_skips_before_an_interruption_count(pretrain, monkeypatch):
    spoil(monkeypatch, 3, 6)
    guard = {"action": "skip", "max_skips": 2}
    monkeypatch.setattr(loop, "train_step", _crash_at(10))
    with pytest.raises(ConnectionError):
        pretrain(guard=guard)
    monkeypatch.undo()
    spoil(monkeypatch, 1)  # step 9, the first after the checkpoint
    with pytest.raises(ToolkitError, match="at step 9 of 12; 3 steps were skipped"):
        pretrain(guard=guard)


def _crash_at(crash_step):
    def crash(context, number, rows, monitor):
        if number == crash_step:
            raise ConnectionError
        return train_step(context, number, rows, monitor)

    return crash


def test_late_detection_on_an_asynchronous_device(pretrain, monkeypatch, tmp_path):
    """As on a GPU, the weights have changed; the run stops at the next log line and names a checkpoint."""
    monkeypatch.setattr(TrainingContext, "checks_every_step", property(lambda self: False))
    spoil(monkeypatch, 7)
    with pytest.raises(ToolkitError, match=r"the loss is not finite \(nan\) at step 7 of 12"):
        pretrain(log_every_steps=4, evaluate_every_tokens=256 * 12)
    run = tmp_path / "runs" / "t" / "first"
    kept = account(run, 6)
    assert kept["state"] is None and kept["step"] == 7
    folder = run / "incidents" / "step-00000007"
    assert (folder / kept["checkpoint"]).resolve() == (run / "checkpoints" / "step-00000004").resolve()
    assert checkpoint.is_whole(folder / kept["checkpoint"])
    assert [number for number, _ in checkpoint.steps(run / "checkpoints")] == [4]
    rows = step_log.read(run / "steps.jsonl")
    assert len(rows) == 8 and not rows[5].skipped and math.isfinite(rows[5].loss)


def test_late_detection_before_the_first_checkpoint(pretrain, monkeypatch, tmp_path):
    monkeypatch.setattr(TrainingContext, "checks_every_step", property(lambda self: False))
    spoil(monkeypatch, 2)
    with pytest.raises(ToolkitError, match="step 2 of 12"):
        pretrain()
    assert account(tmp_path / "runs" / "t" / "first", 1)["checkpoint"] is None


def test_anomaly_detection_changes_no_bits(pretrain, monkeypatch):
    watched = pretrain("watched", log_every_steps=5)
    monkeypatch.setattr(TrainingContext, "checks_every_step", property(lambda self: False))
    assert trainings.differing(watched, pretrain("lazy", log_every_steps=5)) == []


def test_z_scores_match_hand_computed_values():
    """1, 3, 1, 3 ... has mean 2 and deviation 1, so 5.5 has z-score 3.5; low values never trigger."""
    before = {"loss": [1.0, 3.0] * 5, "gradient norm": [0.0] * 10}
    monitor = AnomalyMonitor(GuardSettings(z_score=3.0, window=10), {})
    for loss in (1.0, 3.0) * 2:
        assert monitor.check(loss=loss, grad_norm=1.0) is None
    assert monitor.check(loss=50.0, grad_norm=1.0) is None  # fewer than half a window: no statistics yet
    monitor = AnomalyMonitor(GuardSettings(z_score=3.0, window=10), before)
    assert monitor.check(loss=4.9, grad_norm=1.0) is None
    assert monitor.state_dict()["loss"] == [3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 4.9]
    monitor = AnomalyMonitor(GuardSettings(z_score=3.0, window=10), before)
    assert monitor.check(loss=5.5, grad_norm=1.0) == Anomaly("loss", 5.5, 3.5, 2.0, 1.0)
    assert monitor.state_dict()["loss"] == [1.0, 3.0] * 5  # the spike is not part of the statistics
    assert monitor.check(loss=-50.0, grad_norm=1.0) is None
    assert monitor.check(loss=2.0, grad_norm=math.inf) == Anomaly("gradient norm", math.inf)


def test_only_non_finite_values_trigger_without_z_score():
    monitor = AnomalyMonitor(GuardSettings(), {})
    assert all(monitor.check(loss=10.0**number, grad_norm=10.0**number) is None for number in range(30))
    assert monitor.check(loss=math.nan, grad_norm=1.0).quantity == "loss" and monitor.state_dict() == {}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["last loss alone", "last loss alone, not shared"])
def test_two_processes_make_the_same_decision(tmp_path, corpus, fault):
    """Both processes skip a step whose anomaly only the last process sees; local checks would not."""
    recipe = write_recipe(tmp_path, corpus, **SKIP)
    run = trainings.finish(recipe, folder=tmp_path, processes=2, fault=fault)
    skipped = [row.step for row in step_log.read(run / "steps.jsonl") if row.skipped]
    if fault == "last loss alone":
        assert skipped == [SPIKE + 1] and account(run)["what"] == "loss"
    else:
        assert skipped == []


def test_only_the_main_process_writes_an_incident(monkeypatch, tmp_path):
    context = type("TrainingContext", (), {"run": type("Run", (), {"path": tmp_path, "is_main": False})})
    incidents.write(
        context, Incident(3, Anomaly("loss", math.nan), math.nan, 1.0), snapshot=None, exporter=None
    )
    assert list(tmp_path.iterdir()) == []
