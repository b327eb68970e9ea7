"""Errors of the operating system are one line with the place and the fix."""

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from toolkit.base import system_errors
from toolkit.base.errors import RunError, ToolkitError
from toolkit.cli.main import main

ROOT = Path(__file__).parents[2]
LONG = "a" * 300
TOKENIZER = "stage: tokenizer\ndata: {name: storyworld, examples: 3}\n"


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder with a file, a loop of links and a link that leads nowhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(TOKENIZER)
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop-2")
    (tmp_path / "loop-2").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("is-not-here")
    return tmp_path


@pytest.mark.parametrize(
    ("runs_dir", "place", "what"),
    [
        ("file", "file", "is a file, and a folder is needed here"),
        ("file/deeper", "file", "is a file, and a folder is needed here"),
        ("loop", "loop", "is a link that leads back to itself"),
        ("nowhere", "nowhere", "there is no such file or folder"),
        (LONG, "a" * 25, "the name is too long for a file"),
        ("/sys/runs", "/sys", "there is no permission"),
    ],
)
def test_runs_dir_that_cannot_be_used_is_one_line_before_the_stage_begins(
    places, capsys, monkeypatch, runs_dir, place, what
):
    monkeypatch.setattr("toolkit.execution.runner._work", lambda *_: pytest.fail("the stage began"))
    assert main(["run", "recipe.yaml", "--runs-dir", runs_dir]) == 1
    error = capsys.readouterr().err
    head, found, _ = error.partition(what)
    assert found and place in head and "\n" not in head
    assert "\n  fix: " in error and "Traceback" not in error


@pytest.mark.parametrize("name", ["file", "file/deeper", "loop", "nowhere", LONG, f"{LONG}/deeper"])
@pytest.mark.parametrize(
    "command",
    [
        ["check", "{}"],
        ["plan", "{}"],
        ["run", "{}"],
        ["run", "recipe.yaml", "--launch", "{}"],
        ["data", "{}"],
        ["runs", "{}"],
        ["verify", "{}"],
        ["batch", "{}", "--step", "1"],
        ["reproduce", "{}"],
        ["publish", "{}", "a/b", "--dry-run"],
        ["report", "{}"],
        ["generate", "{}", "x"],
        ["next", "{}", "x"],
        ["evaluate", "{}", "--data", "storyworld"],
    ],
    ids=" ".join,
)
def test_every_verb_names_a_place_that_cannot_be_read(places, capsys, monkeypatch, command, name):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if command[0] == "data" and name == "file":
        pytest.skip("a text file is data")
    assert main([word.format(name) for word in command]) in (1, 2)
    error = capsys.readouterr().err
    assert name[:20] in error and "Traceback" not in error and len(error) < 1000


def test_meaning_place_and_cause_of_an_error(tmp_path):
    def told(number, *names, where=None):
        return system_errors.explained(OSError(number, "x", *names), where)

    assert told(errno.ENOSPC, "a/b", where="runs/t").where == "runs/t"
    assert told(errno.ENOENT, str(tmp_path / "no" / "way")).where == str(tmp_path / "no")
    assert "read-only" in told(errno.EROFS, "a/b").what and "ulimit -n" in told(errno.EMFILE).fix
    temporary = tmp_path / ".page.html.tmp-12-0"
    assert told(errno.EACCES, str(temporary)).where == str(tmp_path)
    assert told(errno.EDOM, "a").what == os.strerror(errno.EDOM), "an error that has no words of its own"
    # Not about the machine: a fault of the program keeps its traceback.
    assert system_errors.explained(ValueError("x")) is None
    assert told(errno.ENOENT) is None and system_errors.explained(OSError("a library's words")) is None
    with pytest.raises(RunError, match="as it is"), system_errors.explain("place"):
        raise RunError("as it is")
    with pytest.raises(ToolkitError, match="no permission") as caught, system_errors.explain("place"):
        raise PermissionError(errno.EACCES, "x", "a")
    assert isinstance(caught.value.__cause__, PermissionError)


WITHOUT_SHARED_MEMORY = """
    import multiprocessing, multiprocessing.synchronize, sys, torch
    from toolkit.base import system_errors
    from toolkit.execution import machine_checks
    assert not machine_checks._has_shared_memory()
    try:
        multiprocessing.get_context("fork").Queue()
    except OSError as error:
        print(system_errors.explained(error, "runs/t"))
    try:
        torch.zeros(9).share_memory_()
    except RuntimeError as error:
        print(system_errors.explained(error, "runs/t"))
"""


def test_missing_shared_memory_is_named():
    command = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o ro tmpfs /dev/shm || exit 9; exec "$@"', "sh"]
    code = textwrap.dedent(WITHOUT_SHARED_MEMORY)
    done = subprocess.run([*command, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if done.returncode in (1, 9) and "Error" not in done.stderr:
        pytest.skip("mounting is not permitted here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("runs/t: worker processes have no shared memory") == 2
