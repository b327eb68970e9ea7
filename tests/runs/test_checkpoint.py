import os
import signal
from pathlib import Path

import pytest

from tests.runs.small_runs import killed_at, tokenizer
from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.runs import checkpoint, layout
from toolkit.runs.opening import open_run


@pytest.fixture
def run(runs: Path):
    with open_run(tokenizer(), runs_dir=runs) as opened:
        yield opened


def writer(text: str):
    def write(folder: Path) -> None:
        (folder / "state").write_text(text)
        (folder / "random").mkdir()
        (folder / "random" / "rank-0").write_text(text)

    return write


def state(run) -> tuple[int, str] | None:
    newest = checkpoint.latest(run)
    return (newest[0], (newest[1] / "state").read_text()) if newest else None


def test_newest_checkpoint_is_found_and_older_ones_are_removed(run):
    assert checkpoint.latest(run) is None
    for step in (1, 2, 10):
        checkpoint.save(run, step, writer(str(step)), keep=2)
    assert [step for step, _ in checkpoint.steps(run.checkpoints)] == [2, 10]
    assert state(run) == (10, "10")


def test_kill_during_save_leaves_old_or_new_checkpoint(run, capsys):
    checkpoint.save(run, 1, writer("one"), keep=1)
    outcomes = []
    for number in range(200):
        killed = killed_at(number, lambda: checkpoint.save(run, 2, writer("two"), keep=1))
        newest = state(run)
        assert newest in ((1, "one"), (2, "two")), (number, newest)
        assert "not what was sealed" not in capsys.readouterr().err, "a cut-off save has a checkpoint's name"
        assert not [path for path in run.checkpoints.iterdir() if files.is_temporary(path.name)]
        outcomes.append(newest[0])
        if not killed:
            break
        # Repeat from the same state.
        for _, path in checkpoint.steps(run.checkpoints):
            if path.name != "step-00000001":
                files.remove(path)
        if not checkpoint.is_whole(run.checkpoints / "step-00000001"):
            checkpoint.save(run, 1, writer("one"), keep=1)
    else:
        pytest.fail("the save never ended")
    assert outcomes[0] == 1 and outcomes[-1] == 2 and len(outcomes) > 10


def test_kill_while_the_stage_writes_a_checkpoint(run):
    checkpoint.save(run, 1, writer("one"), keep=1)
    pid = os.fork()
    if pid == 0:

        def write(folder: Path) -> None:
            (folder / "state").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

        checkpoint.save(run, 2, write, keep=1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert [entry.name for entry in run.checkpoints.iterdir()] != ["step-00000001"]
    assert state(run) == (1, "one")
    assert [entry.name for entry in run.checkpoints.iterdir()] == ["step-00000001"]


def test_error_while_writing_leaves_no_checkpoint(run):
    def write(folder: Path) -> None:
        (folder / "state").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        checkpoint.save(run, 1, write, keep=1)
    assert list(run.checkpoints.iterdir()) == []


@pytest.mark.parametrize("harm", ["flip", "cut", "missing", "added", "no seal", "bad seal"])
def test_damaged_checkpoint_is_skipped_with_a_message(run, capsys, harm):
    checkpoint.save(run, 1, writer("one"), keep=2)
    path = checkpoint.save(run, 2, writer("two"), keep=2)
    {
        "flip": lambda: (path / "state").write_text("twO"),
        "cut": lambda: (path / "state").write_text("tw"),
        "missing": lambda: (path / "random" / "rank-0").unlink(),
        "added": lambda: (path / "adapter_config.json").write_text("{}"),
        "no seal": lambda: (path / layout.CHECKPOINT_SEAL).unlink(),
        "bad seal": lambda: (path / layout.CHECKPOINT_SEAL).write_text("[]"),
    }[harm]()
    assert state(run) == (1, "one")
    assert "step-00000002: not used" in capsys.readouterr().err
    checkpoint.save(run, 2, writer("again"), keep=1)
    assert state(run) == (2, "again")


def test_damaged_newer_checkpoint_is_removed_when_overwritten(run):
    checkpoint.save(run, 1, writer("one"), keep=1)
    broken = run.checkpoints / "step-00000009"
    broken.mkdir()
    checkpoint.save(run, 2, writer("two"), keep=1)
    assert not broken.exists() and state(run) == (2, "two")


def test_third_party_checkpoint_folder_is_sealed_in_place(run):
    folder = run.checkpoints / "checkpoint-7"
    folder.mkdir(parents=True)
    writer("seven")(folder)
    assert not checkpoint.is_whole(folder) and checkpoint.latest(run) is None
    checkpoint.seal_folder(folder)
    assert checkpoint.is_whole(folder) and state(run) == (7, "seven")


def test_other_ranks_write_nothing(run):
    run.is_main = False
    path = checkpoint.save(run, 1, writer("one"), keep=1)
    assert path.name == "step-00000001" and not run.checkpoints.exists()


def test_log_that_changed_since_the_checkpoint_is_refused(run):
    run.metrics.log(1, loss=1.5)
    run.metrics.log(2, loss=1.25)
    checkpoint.save(run, 2, writer("two"), keep=1)
    run.metrics.log(3, loss=1.0)  # after the checkpoint: a resumed run writes it again
    path = run.path / layout.METRICS
    content = path.read_text()
    assert state(run) == (2, "two")
    path.write_text(content.replace("1.25", "1.35"))
    with pytest.raises(RunError, match="was changed since the checkpoint step-00000002 was saved"):
        checkpoint.latest(run)
    path.write_text(content[: content.index("\n") + 1])
    with pytest.raises(RunError, match="metrics.jsonl: was changed|was changed"):
        checkpoint.latest(run)
    path.unlink()  # the user's decision
    assert state(run) == (2, "two")


def test_line_of_a_later_step_in_the_log_is_no_part_of_a_checkpoint(run):
    """As of a checkpoint that is written in the background while the training goes on."""
    run.metrics.log(1, loss=1.5)
    run.metrics.log(2, loss=1.25)
    checkpoint.save(run, 1, writer("one"), keep=1)
    run.metrics.truncate(1)
    run.metrics.log(2, loss=3.0)
    assert state(run) == (1, "one")


def test_damaged_older_checkpoint_is_deleted_before_the_run_seals_it(run, capsys):
    for step in (1, 2):
        checkpoint.save(run, step, writer(str(step)), keep=2)
    (run.checkpoints / "step-00000001" / "state").write_text("x")
    assert state(run) == (2, "2")
    assert "step-00000001: deleted, because it changed since it was sealed" in capsys.readouterr().err
    assert [step for step, _ in checkpoint.steps(run.checkpoints)] == [2]
