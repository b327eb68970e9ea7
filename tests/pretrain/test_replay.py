"""Replays compare steps bitwise with the recorded ones and detect a single different bit."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.pretrain.conftest import write_recipe
from toolkit.base import files
from toolkit.cli import main
from toolkit.cli.run import run_command
from toolkit.data.text.batch_order import Order
from toolkit.proofs import rebuild, replay
from toolkit.runs import checkpoint, layout


def run_of(folder: Path, corpus: Path, name: str, **settings) -> Path:
    recipe = write_recipe(
        folder, corpus, name, samples={"prompts": []}, evaluate_every_tokens=10**6, **settings
    )
    assert run_command(recipe, runs_dir=folder / "runs") == 0
    return folder / "runs" / "t" / name


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus) -> Path:
    """A run of 12 steps with checkpoints after 4, 8 and 12, dropout, and a length warm-up."""
    return run_of(
        tmp_path_factory.mktemp("finished"), corpus, "whole", keep_checkpoints=9, optimizer={"name": "muon"},
        model={"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 32, "dropout": 0.1},
        length_warmup=[{"tokens": 256 * 3, "sequence_length": 16}],
    )  # fmt: skip


@pytest.fixture
def copy(finished, request) -> Path:
    """Copy the run next to itself, so that its parents resolve."""
    path = finished.parent / request.node.name.replace("/", "_")
    shutil.copytree(finished, path)
    return path


def bytes_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns)
            for name in files.list_files(folder)}  # fmt: skip


def verify(run: Path, steps: int, capfd) -> tuple[int, dict, str]:
    status = main.main(["verify", str(run), "--replay", str(steps), "--json"])
    captured = capfd.readouterr()
    return status, json.loads(captured.out), captured.err


@pytest.mark.parametrize(
    ("steps", "begin", "states"), [(4, 8, ["12"]), (6, 4, ["08"]), (12, 0, ["04", "08", "12"])]
)
def test_replay_from_checkpoint_and_from_start_is_bitwise_identical(finished, capfd, steps, begin, states):
    before = bytes_of(finished)
    status, output, shown = verify(finished, steps, capfd)
    found = output["replay"]
    assert status == 0 and output["same"] and output["whole"] and found["tier"] == "B"
    assert found["from"] == begin and found["checkpoint"] == (f"step-{begin:08d}" if begin else None)
    assert [row["step"] for row in found["losses"]] == list(range(begin + 1, begin + steps + 1))
    assert all(row["loss"] == row["recorded_loss"] for row in found["losses"])
    compared = {row["what"]: row["tensors"] for row in found["states"]}
    assert [name[-10:-8] for name in compared if name.endswith(" weights") and "/" in name] == states
    assert ("model weights" in compared) == ("12" in states)
    assert all(count > 10 for name, count in compared.items() if "position" not in name)
    assert "tier B" in shown and shown.index("tier B") < shown.index("replay: ")
    assert bytes_of(finished) == before


def spoil_loss(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    lines[9]["loss"] = math.nextafter(lines[9]["loss"], 0)
    (run / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def spoil_batch(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    lines[10]["batch"] = lines[9]["batch"]
    (run / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def flip(file: Path) -> None:
    """Flip the last bit of one number of one tensor."""
    tensors = load_file(file)
    name = sorted(tensors)[3]
    tensors[name].view(torch.int32).view(-1)[7] ^= 1
    save_file(tensors, file, metadata={"format": "pt"})


FAULTS = {
    "loss": (spoil_loss, "step 10: loss was "),
    "batch": (spoil_batch, "step 11: batch was "),
    "weight": (lambda run: flip(run / "checkpoints/step-00000012/model.safetensors"),
               "checkpoints/step-00000012 weights: transformer.h.0.attn.c_proj.weight: 1 of 1024 "),
    "optimizer": (lambda run: flip(run / "checkpoints/step-00000012/optimizer.safetensors"),
                  "checkpoints/step-00000012 optimizer: "),
    "model": (lambda run: flip(run / "model/model.safetensors"), "model weights: "),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_replay_detects_one_changed_bit(copy, capfd, fault):
    (copy / "lock.json").unlink()  # otherwise the hashes would reveal it
    spoil, message = FAULTS[fault]
    spoil(copy)
    status, output, shown = verify(copy, 4, capfd)
    assert status == 1 and not output["same"]
    assert output["replay"]["first_difference"].startswith(message) and f"first: {message}" in shown


def test_replay_compares_batch_digests(copy, capfd):
    (copy / "evaluation.json").write_text("{}")
    status, output, _ = verify(copy, 1, capfd)
    assert status == 1 and not output["whole"] and output["same"]


def test_replay_detects_a_changed_batch_order(finished, capfd, monkeypatch):
    starts = Order.starts
    monkeypatch.setattr(Order, "starts", lambda self, step, rows: np.flip(starts(self, step, rows)))
    status, output, _ = verify(finished, 2, capfd)
    assert status == 1 and output["replay"]["first_difference"].startswith("step 9: batch was ")


def test_replay_detects_other_random_numbers(finished, capfd, monkeypatch):
    """The batch is the same and dropout differs, so only loss and norm can differ."""
    monkeypatch.setattr("toolkit.pretrain.step.derive", lambda *names: 1)
    status, output, _ = verify(finished, 2, capfd)
    assert status == 1 and output["replay"]["first_difference"].startswith("step 9: loss was ")


def test_replay_does_not_start_from_a_damaged_checkpoint(copy, capfd):
    (copy / "lock.json").unlink()
    flip(copy / "checkpoints/step-00000008/model.safetensors")
    status, output, shown = verify(copy, 4, capfd)
    assert output["replay"]["from"] == 4 and "step-00000008: not used" in shown
    assert status == 1 and "checkpoints/step-00000008 weights" in output["replay"]["first_difference"]


def change_manifest(run: Path, change) -> None:
    content = files.read_json(run / layout.MANIFEST)
    change(content)
    files.write_json(run / layout.MANIFEST, content)
    (run / "lock.json").unlink(missing_ok=True)


def test_replay_reports_environment_differences_and_continues(copy, capfd):
    change_manifest(copy, lambda content: content["versions"].update(torch="1.0"))
    status, output, shown = verify(copy, 1, capfd)
    assert status == 0 and output["replay"]["tier"] == "A"
    assert output["replay"]["environment"][0].startswith('versions.torch: "1.0" -> ')
    assert shown.index("only the same tokens are promised (tier A)") < shown.index("replay: ")
    assert "hashes can only be checked of the runs it was made from" in shown


@pytest.mark.parametrize(
    ("change", "steps", "status", "message"),
    [
        (lambda content: content.update(world_size=2), 2, 1, "was trained on 2 processes"),
        (lambda content: content.update(stage="corpus"), 2, 2, "is a run of the stage corpus"),
        (lambda content: None, 13, 2, "13 steps cannot be replayed: steps.jsonl has 12"),
        (lambda content: content["inputs"]["parents"]["tokens"].update(digest="0" * 64), 2, 1,
         "is not what the run was made from"),
        (lambda content: content["inputs"]["settings"].update(later=1), 2, 1,
         "later is not one of this version"),
    ],
)  # fmt: skip
def test_non_replayable_runs_are_refused(copy, capsys, change, steps, status, message):
    change_manifest(copy, change)
    assert main.main(["verify", str(copy), "--replay", str(steps)]) == status
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err and shown.out == ""


def test_an_exact_run_of_several_processes_is_replayed_on_one(tmp_path, corpus, capfd):
    run = run_of(tmp_path, corpus, "exact", exact=True, micro_batch_tokens=64, train_tokens=256 * 4)
    change_manifest(run, lambda content: content.update(world_size=2))
    status, output, _ = verify(run, 4, capfd)
    assert status == 0 and output["replay"]["tier"] == "C"


def test_replay_uses_the_recorded_decisions(copy):
    def undecided(content):
        content["inputs"]["settings"].update(threads=None, precision="auto", device="auto")
        content["facts"].update(threads=2, precision="bf16")

    change_manifest(copy, undecided)
    recipe = rebuild.recipe(copy)
    assert (recipe.threads, recipe.precision, recipe.device, recipe.compile) == (2, "bf16", "cpu", False)


def test_replay_uses_the_recorded_threads(copy):
    change_manifest(copy, lambda content: content["inputs"]["settings"].update(threads=None))
    change_manifest(copy, lambda content: content["facts"].update(threads=2))
    with replay.training_context(copy):
        assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


# Incidents


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, corpus) -> tuple[Path, str]:
    """Return (incident, output) of a run that stops at the first loss above the mean."""
    folder = tmp_path_factory.mktemp("held up")  # the printed command must quote this path
    with pytest.raises(Exception, match="standard deviations above") as error:
        run_of(
            folder, corpus, "nervous", guard={"z_score": 1e-6, "window": 10}, keep_checkpoints=9,
            optimizer={"learning_rate": 1e-9}, train_tokens=256 * 40, checkpoint_every_tokens=256 * 3,
        )  # fmt: skip
    (incident,) = (folder / "runs" / "t" / "nervous" / "incidents").iterdir()
    return incident, str(error.value)


@pytest.fixture
def incident(stopped, request) -> Path:
    run = stopped[0].parents[1]
    path = run.with_name(request.node.name)
    shutil.copytree(run, path)
    return path / "incidents" / stopped[0].name


def rewrite(incident: Path, **values) -> None:
    account = files.read_json(incident / "incident.json")
    files.write_json(incident / "incident.json", account | values)
    checkpoint.seal_folder(incident)


def verify_incident(incident: Path, *more: str) -> int:
    step = str(int(incident.name.removeprefix("step-")))
    return main.main(["verify", str(incident.parents[1]), "--incident", step, *more])


def replayed(incident: Path, capfd) -> tuple[int, dict]:
    status = verify_incident(incident, "--json")
    result = json.loads(capfd.readouterr().out)
    assert result["same"] == result["incident"]["reproduced"]
    return status, result["incident"]


def test_printed_incident_command_replays_the_step(stopped, capfd):
    incident, message = stopped
    before = bytes_of(incident.parents[1])
    command = shlex.split(message.split("`")[1])
    assert command[0] == "toolkit" and main.main([*command[1:], "--json"]) == 0
    result = json.loads(capfd.readouterr().out)["incident"]
    recorded = files.read_json(incident / "incident.json")
    assert result["reproduced"] and result["step"] == recorded["step"] and result["steps_before"] == 0
    assert repr(result["loss"]) == recorded["loss"] and repr(result["norm"]) == recorded["gradient_norm"]
    assert bytes_of(incident.parents[1]) == before


def test_step_without_incident_is_refused(stopped, capfd):
    run = stopped[0].parents[1]
    step = files.read_json(stopped[0] / "incident.json")["step"]
    assert main.main(["verify", str(run), "--incident", str(step + 1)]) == 2
    assert f"its incidents are at the steps {step}\n" in capfd.readouterr().err
    assert main.main(["verify", str(run), "--incident", str(step), "--replay", "1"]) == 2


def test_removed_option_names_its_replacement(stopped, capfd):
    incident = stopped[0]
    step = files.read_json(incident / "incident.json")["step"]
    for file in (incident, incident / "incident.json"):
        assert main.main(["run", "--replay-incident", str(file)]) == 2
        command = f"toolkit verify {shlex.quote(str(incident.parents[1]))} --incident {step}\n"
        assert command in capfd.readouterr().err
    assert main.main(["run", "r.yaml", "--replay-incident", "incident.json"]) == 2
    assert "toolkit verify RUN --incident STEP" in capfd.readouterr().err


def test_incident_without_stored_state_starts_from_the_checkpoint(incident, capfd):
    step = files.read_json(incident / "incident.json")["step"]
    newest = [number for number, _ in checkpoint.steps(incident.parents[1] / "checkpoints") if number < step][
        -1
    ]
    shutil.rmtree(incident / "state")
    rewrite(incident, state=None, checkpoint=f"../../checkpoints/step-{newest:08d}")
    status, output = replayed(incident, capfd)
    assert status == 0 and output["steps_before"] == step - newest - 1
    rewrite(incident, checkpoint=None)  # and from the initial weights if there was no checkpoint yet
    status, output = replayed(incident, capfd)
    assert status == 0 and output["steps_before"] == step - 1
    rewrite(incident, checkpoint="../../checkpoints/step-99999999")
    assert verify_incident(incident) == 1
    assert "the checkpoint before the step cannot be used: missing" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
def test_changed_incident_number_is_not_reproduced(incident, capfd, name):
    recorded = float(files.read_json(incident / "incident.json")[name])
    rewrite(incident, **{name: repr(math.nextafter(recorded, 0))})
    status, output = replayed(incident, capfd)
    assert status == 1 and not output["reproduced"]


def test_changed_incident_state_is_refused_or_not_reproduced(incident, capfd):
    weights = load_file(incident / "state/model.safetensors")
    weights["transformer.wte.weight"][97] += 0.5
    save_file(weights, incident / "state/model.safetensors", metadata={"format": "pt"})
    assert verify_incident(incident) == 1
    message = "the incident changed since it was sealed: state/model.safetensors: changed"
    assert message in capfd.readouterr().err
    checkpoint.seal_folder(incident)
    assert replayed(incident, capfd)[0] == 1


def test_incident_of_a_different_plan_is_refused(incident, capfd):
    rewrite(incident, batch="0" * 16, micro_rows=3)
    assert verify_incident(incident) == 1
    assert "batch, micro_rows differ" in capfd.readouterr().err


def test_tensors_are_compared_bytewise():
    nan = torch.tensor([math.nan, 0.0])
    assert replay.tensor_differences({"a": nan}, {"a": nan.clone()}) == []
    assert replay.tensor_differences({"a": nan}, {"a": torch.tensor([math.nan, -0.0])}) == [
        "a: 1 of 2 numbers differ"
    ]
    assert replay.tensor_differences({"a": nan}, {"a": nan.double(), "b": nan}) == [
        "b: is on one side only", "a: torch.float32 (2,) -> torch.float64 (2,)"
    ]  # fmt: skip
    step = torch.tensor(3.0)
    assert replay.tensor_differences({"step": step}, {"step": step + 1}) == ["step: 1 of 1 numbers differ"]
    turned = torch.arange(6.0).reshape(2, 3)
    assert replay.tensor_differences({"a": turned}, {"a": turned.T.contiguous().T}) == []
