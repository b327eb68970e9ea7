import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs.small_runs import killed_at, tokenizer
from toolkit.base import files, system_errors
from toolkit.base.errors import RunError
from toolkit.runs import seal

ROOT = Path(__file__).parents[2]


def test_kill_during_write_leaves_old_or_new_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    seen = set()
    for number in range(20):
        killed = killed_at(number, lambda: files.write_atomic(path, "new"))
        seen.add(path.read_text())
        if not killed:
            break
        path.write_text("old")
    assert seen == {"old", "new"} and number > 1
    files.remove_temporaries(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_folder_write_is_atomic(tmp_path):
    place = tmp_path / "model"
    with pytest.raises(ValueError), files.atomic_folder(place) as folder:
        (folder / "half").write_text("x")
        raise ValueError
    assert list(tmp_path.iterdir()) == []
    for text in ("one", "two"):
        with files.atomic_folder(place) as folder:
            (folder / "state").write_text(text)
            assert not place.exists() or (place / "state").read_text() == "one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert (place / "state").read_text() == "two"


def test_json_contains_no_nan(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_disk_full_errors_are_recognized():
    assert system_errors.disk_full(OSError(errno.ENOSPC, "x"))
    assert system_errors.disk_full(OSError(errno.EDQUOT, "x"))
    assert system_errors.disk_full(
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    )
    try:
        try:
            raise OSError(errno.ENOSPC, "x")
        except OSError as error:
            raise RuntimeError("saving failed") from error
    except RuntimeError as error:
        assert system_errors.disk_full(error)
    assert not system_errors.disk_full(OSError(errno.EACCES, "x")) and not system_errors.disk_full(
        ValueError("x")
    )


WRITER = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
import numpy, safetensors.numpy
from tests.runs.small_runs import tokenizer
from toolkit.base import files, system_errors
from toolkit.runs import checkpoint
from toolkit.runs.opening import open_run
{limit}
try:
    with open_run(tokenizer(), runs_dir=Path({runs!r})) as run:
        for step in range(1, 100):
            checkpoint.save(run, step, lambda folder: safetensors.numpy.save_file(
                {{"w": numpy.ones(step * 20_000, "float32")}}, folder / "model.safetensors"), keep=1)
        run.seal()
except BaseException as error:
    print(type(error).__name__, error)
    sys.exit(3 if system_errors.disk_full(error) else 1)
"""


def write_until_full(runs: Path, limit: str = "") -> None:
    code = WRITER.format(root=str(ROOT), runs=str(runs), limit=limit)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 3, (done.returncode, done.stdout, done.stderr)
    from toolkit.runs import checkpoint

    path = runs / tokenizer().name
    assert not seal.is_sealed(path)
    (kept,) = checkpoint.steps(path / "checkpoints")
    assert kept[0] >= 2 and checkpoint.is_whole(kept[1]), "the last whole checkpoint is still there"
    assert not [entry for entry in (path / "checkpoints").iterdir() if files.is_temporary(entry.name)]


def test_full_disk_raises_a_clear_error(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here; the limit on file sizes is tested")
    try:
        write_until_full(place / "runs")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_file_size_limit_raises_a_clear_error(runs):
    assert resource.RLIMIT_FSIZE is not None and os.name == "posix"
    write_until_full(runs, "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))")


def test_changed_content_of_a_checked_file_is_refused(tmp_path):
    path = tmp_path / "a.json"
    files.write_checked_json(path, {"b": [1, 2.5, "é"], "a": None})
    assert files.read_checked_json(path) == {"b": [1, 2.5, "é"], "a": None}
    path.write_text(path.read_text().replace("2.5", "2.7"))
    with pytest.raises(RunError, match="was changed since it was written"):
        files.read_checked_json(path)
    files.write_json(path, {"a": 1})  # of an older version
    assert files.read_checked_json(path) == {"a": 1}
    for text in ("[1]", "{"):
        path.write_text(text)
        with pytest.raises(RunError) as caught:
            files.read_checked_json(path)
        assert caught.value.fix
