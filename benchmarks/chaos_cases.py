"""The cases of `benchmarks/chaos.py`: a run is disturbed, resumed until it is finished, and compared."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import chaos_recipes
from benchmarks.chaos_process import LAUNCHER, LONGEST_SECONDS, Command, End, ForkServer
from toolkit.base import files
from toolkit.proofs import reproduction
from toolkit.runs import checkpoint, layout, seal
from toolkit.runtime import signals

ATTEMPTS = 4
"""A run that is not finished after so many undisturbed attempts never will be."""
RANK_SECONDS = 60.0
"""The longest time until a launch ends of which one process was killed."""
EQUAL, REFUSED, DIFFERS, TRACEBACK, NOT_FINISHED = "equal", "refused", "differs", "traceback", "not finished"
_TRACEBACK = re.compile(r'^(?: *\[rank\d\]:)? *File "[^"]*/toolkit/', re.M)
_MOUNT_MIB = 64


@dataclass(frozen=True)
class Reference:
    """An undisturbed run.

    Attributes:
        run: its directory.
        seconds: how long its command took.
        changes: numbers of changes of the disk, by the fields of `disk_faults.Changes`.
    """

    run: Path
    seconds: float
    changes: dict[str, int]


@dataclass(frozen=True)
class Case:
    """One disturbance of one recipe.

    Args:
        kind: a key of `KINDS`.
        recipe: a key of `chaos_recipes.RECIPES`.
        number: of the case in its cell of the table.
    """

    kind: str
    recipe: str
    number: int


@dataclass
class Outcome:
    """How a case ended.

    Attributes:
        verdict: `EQUAL`, or the worst that happened.
        kills: signals SIGKILL that ended a process of the run.
        notes: what was done, and what was wrong.
    """

    case: Case
    verdict: str = EQUAL
    kills: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return self.verdict not in (EQUAL, REFUSED)


class Wrong(Exception):
    """A verdict that ends a case."""

    def __init__(self, verdict: str, note: str):
        self.verdict, self.note = verdict, note
        super().__init__(note)


class Scene:
    """The folder of a case, and its commands.

    Args:
        work: the folder with the recipes and the references.
        folder: of the case; made here.
    """

    def __init__(self, case: Case, reference: Reference, *, work: Path, folder: Path, server: ForkServer):
        self.outcome = Outcome(case)
        self.reference, self.server, self.folder = reference, server, folder
        self.random = random.Random()
        self.runs_dir = folder / "runs"
        self.recipe = work / "recipes" / chaos_recipes.FOLDER / f"{chaos_recipes.stem(case.recipe)}.yaml"
        self.variables: dict[str, str] = {}
        self.processes = 1
        self._attempt = 0
        self.runs_dir.mkdir(parents=True)
        self.copy_parents(work)

    def copy_parents(self, work: Path) -> None:
        for name in chaos_recipes.ancestors(self.outcome.case.recipe):
            stem = f"{chaos_recipes.FOLDER}/{chaos_recipes.stem(name)}"
            if not (self.runs_dir / stem).exists():
                shutil.copytree(work / "runs" / stem, self.runs_dir / stem)

    @property
    def run(self) -> Path:
        return self.runs_dir / chaos_recipes.FOLDER / self.recipe.stem

    def note(self, text: str) -> None:
        self.outcome.notes.append(text)

    def start(self, fault: dict[str, Any] | None = None, *, fresh: bool = False) -> Command:
        """Start the command of the run."""
        self._attempt += 1
        output = self.folder / f"attempt-{self._attempt}.txt"
        arguments = [
            "run",
            str(self.recipe),
            "--runs-dir",
            str(self.runs_dir),
            *(["--fresh"] if fresh else []),
        ]
        if self.processes > 1 or self.variables:
            launcher = LAUNCHER if self.processes > 1 else ()
            return Command.start(arguments, output, variables=self.variables, launcher=launcher)
        return self.server.start(arguments, output, fault)

    def ended(self, end: End, *allowed: int) -> int:
        """Check the end of a command, and return its status.

        Raises:
            Wrong: it hung, printed a traceback, or ended with another status than 0, 1, 2 or an allowed one.
        """
        if end.status is None:
            raise Wrong(NOT_FINISHED, f"hung for {end.seconds:.0f} s: {_last_line(end.output)}")
        if _TRACEBACK.search(end.output) or (self.processes == 1 and "Traceback (most" in end.output):
            raise Wrong(TRACEBACK, _last_line(end.output))
        if end.status == -9:
            self.outcome.kills += 1
        if end.status not in (0, 1, 2, -9, *allowed):
            raise Wrong(TRACEBACK, f"exit status {end.status}: {_last_line(end.output)}")
        if end.status in (1, 2) and self.processes == 1 and not said(end.output):
            raise Wrong(TRACEBACK, f"exit status {end.status} without an error and its fix")
        return end.status

    def finish(self, *, fresh: bool = False) -> None:
        """Give the command until the run is finished, and compare it with the reference.

        Raises:
            Wrong: it is not finished, or differs.
        """
        for _ in range(ATTEMPTS):
            end = self.start(fresh=fresh).end()
            if self.ended(end) == 0:
                break
        else:
            raise Wrong(NOT_FINISHED, _last_line(end.output))
        self.compare()

    def compare(self) -> None:
        """Raise Wrong unless the run is sealed, whole, and equals the reference."""
        if not seal.is_sealed(self.run):
            raise Wrong(DIFFERS, "the command ended with status 0 but the run is not sealed")
        if problems := seal.changes(self.run):
            raise Wrong(DIFFERS, "; ".join(problems[:3]))
        try:
            compared = reproduction.compare(self.reference.run, self.run)
        except (ValueError, LookupError, TypeError) as error:  # a file is not what the stage writes
            raise Wrong(DIFFERS, f"cannot be compared: {error!r}") from error
        differing = [f"{file.name}: {file.note}" for file in compared if file.result == reproduction.DIFFERS]
        if differing:
            raise Wrong(DIFFERS, "; ".join(differing[:3]))


def said(output: str) -> bool:
    """Return whether an output says what is wrong and what to do about it."""
    return "fix: " in output or "the disk is full" in output


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"


def carry_out(case: Case, scene: Scene, *, seed: int) -> Outcome:
    """Disturb the run of a case, finish it, and return how it ended; everything follows from the seed."""
    scene.random = random.Random(f"{seed}/{case.kind}/{case.recipe}/{case.number}")
    try:
        KINDS[case.kind](scene)
    except Wrong as wrong:
        scene.outcome.verdict = wrong.verdict
        scene.note(wrong.note)
    return scene.outcome


def _killed_times(scene: Scene) -> int:
    return scene.random.choice((1, 1, 2, 3))


def kill_at_random(scene: Scene) -> None:
    """SIGKILL after a share of the reference's time; up to three times."""
    for _ in range(_killed_times(scene)):
        share = scene.random.uniform(0.05, 1.0)
        command = scene.start()
        command.wait(share * scene.reference.seconds)
        command.send(9)
        scene.note(f"killed after {share:.2f} of the time")
        scene.ended(command.end())
    scene.finish()


def _kill_at_changes(scene: Scene, kind: str) -> None:
    for _ in range(_killed_times(scene)):
        number = scene.random.randrange(max(1, scene.reference.changes[kind]))
        scene.note(f"killed before change {number} of {scene.reference.changes[kind]} ({kind})")
        scene.ended(scene.start({"kill_at": number, "kind": kind}).end())
    scene.finish()


def kill_at_change(scene: Scene) -> None:
    """SIGKILL before, or in the middle of, the n-th change of the disk."""
    _kill_at_changes(scene, "all")


def kill_at_save(scene: Scene) -> None:
    """SIGKILL before, or in the middle of, the n-th change of a checkpoint or of another saved state."""
    _kill_at_changes(scene, "saves")


def signalled(scene: Scene) -> None:
    """One of the signals that stop a run, after a share of the reference's time."""
    number = signals.STOPPING[scene.outcome.case.number % len(signals.STOPPING)]
    share = scene.random.uniform(0.1, 0.9)
    command = scene.start()
    command.wait(share * scene.reference.seconds)
    command.send(number)
    scene.note(f"{number.name} after {share:.2f} of the time")
    scene.ended(command.end(60), 130, -number)
    scene.finish()


def no_room(scene: Scene) -> None:
    """Every write fails from the n-th one on: ENOSPC."""
    number = scene.random.randrange(max(1, scene.reference.changes["growing"]))
    scene.note(f"no room from write {number} of {scene.reference.changes['growing']}")
    end = scene.start({"full_at": number, "below": str(scene.runs_dir)}).end()
    if scene.ended(end) == 0:
        scene.note("the run ended without the missing file")
    elif "the disk is full" not in end.output:
        raise Wrong(TRACEBACK, f"does not name the full disk: {_last_line(end.output)}")
    scene.finish()


def full_disk(scene: Scene) -> None:
    """The runs directory is on a small file system that fills up; later it has room."""
    rest = scene.random.uniform(0.02, 0.98)
    moved = scene.folder / "parents"
    scene.runs_dir.rename(moved)
    scene.runs_dir.mkdir()
    mount(scene.runs_dir)
    try:
        shutil.copytree(moved, scene.runs_dir, dirs_exist_ok=True)
        sizes = [path.stat().st_size for path in scene.reference.run.rglob("*") if path.is_file()]
        free = int(rest * sum(size + 4096 for size in sizes))
        status = os.statvfs(scene.runs_dir)
        with (scene.runs_dir / "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, status.f_bavail * status.f_frsize - free)
        scene.note(f"{free:,} bytes are free, {rest:.2f} of what the run needs")
        end = scene.start().end()
        if scene.ended(end) != 0 and "the disk is full" not in end.output:
            raise Wrong(TRACEBACK, f"does not name the full disk: {_last_line(end.output)}")
        (scene.runs_dir / "ballast").unlink()
        scene.finish()
    finally:
        subprocess.run(["umount", "--lazy", str(scene.runs_dir)], check=True)


def mount(folder: Path) -> None:
    """Mount a small file system in memory; needs the privileges of root."""
    size = f"size={_MOUNT_MIB}m"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True, capture_output=True
    )


def can_mount(folder: Path) -> bool:
    """Return whether this process may mount a file system."""
    folder.mkdir(parents=True)
    try:
        mount(folder)
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


def damaged(scene: Scene) -> None:
    """A bit of a file changes, or its end is lost; the run is interrupted, every third time finished."""
    finished = scene.outcome.case.number % 3 == 2
    fault = {}
    if not finished:
        count = scene.reference.changes["all"]
        fault = {"kill_at": scene.random.randrange(count // 2, count), "kind": "all"}
    scene.ended(scene.start(fault).end())
    if not (scene.run / layout.MANIFEST).exists():
        return scene.finish()
    name = damage(scene.run, scene.random)
    scene.note(f"{name} of the {'finished' if finished else 'interrupted'} run")
    end = scene.start().end()
    if scene.ended(end) == 0:
        return scene.compare()
    scene.outcome.verdict = REFUSED
    scene.note(_last_line(end.output))
    end = scene.start(fresh=True).end()
    if scene.ended(end) == 0:
        scene.compare()


def damage(run: Path, generator: random.Random) -> str:
    """Flip a bit of a random file of a run, or cut its end, and return what was done."""
    names = [name for name in files.list_files(run) if (run / name).stat().st_size and name != layout.IN_USE]
    name = generator.choice(names)
    content = bytearray((run / name).read_bytes())
    place = generator.randrange(len(content))
    if generator.random() < 0.5:
        content[place] ^= 1 << generator.randrange(7)
        what = f"bit flipped at byte {place} of {name}"
    else:
        del content[place:]
        what = f"{name} cut at byte {place}"
    (run / name).write_bytes(content)
    return what


VARIABLES: tuple[dict[str, str], ...] = (
    {"RANK": "abc"},
    {"WORLD_SIZE": "0"},
    {"LOCAL_RANK": "0"},
    {"RANK": "0", "WORLD_SIZE": "2"},
    {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"},
    {"ACCELERATE_MIXED_PRECISION": "bf16"},
    {"ACCELERATE_USE_FSDP": "true"},
    {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
    {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"},
    {"HF_HOME": "/nonexistent/cache"},
    {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"},
    {"TRANSFORMERS_VERBOSITY": "debug", "HF_DATASETS_CACHE": "/nonexistent/cache"},
    {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"},
    {"OMP_NUM_THREADS": "abc"},
    {"PYTHONHASHSEED": "7"},
    {"TZ": "Asia/Tokyo"},
    {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "tr_TR.UTF-8"},
    {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "2"},
    {"CUDA_VISIBLE_DEVICES": "7"},
    {"TMPDIR": "/nonexistent"},
    {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent/cache"},
    {"PYTHONWARNINGS": "error::DeprecationWarning"},
    {"PYTHONOPTIMIZE": "1", "TERM": "dumb", "COLUMNS": "1"},
)
"""Variables under which an interrupted run is resumed: each set is one case."""
PLACES = ("moved", "linked", "linked runs")


def other_environment(scene: Scene) -> None:
    """The run is killed and resumed where variables or places differ: the same bytes, or a refusal."""
    changes = scene.reference.changes["all"]
    number = scene.random.randrange(changes // 2, changes)
    scene.ended(scene.start({"kill_at": number, "kind": "all"}).end())
    which = scene.outcome.case.number
    if which >= len(VARIABLES):
        place = PLACES[which - len(VARIABLES)]
        scene.note(place)
        _move(scene, place)
    else:
        scene.variables = VARIABLES[which]
        scene.note(" ".join(f"{name}={value}" for name, value in scene.variables.items()))
    end = scene.start().end()
    if scene.ended(end) == 0:
        return scene.compare()
    scene.outcome.verdict = REFUSED
    scene.note(_last_line(end.output))
    scene.variables = {}
    scene.finish()


def _move(scene: Scene, place: str) -> None:
    if place == "moved":
        scene.runs_dir = scene.runs_dir.rename(scene.folder / "elsewhere")
    elif place == "linked":
        stored = scene.folder / "disk" / "run"
        stored.parent.mkdir()
        scene.run.rename(stored)
        scene.run.symlink_to(stored)
    else:
        stored = scene.runs_dir.rename(scene.folder / "disk")
        scene.runs_dir.symlink_to(stored)


def rank_killed(scene: Scene) -> None:
    """SIGKILL of one of two processes after a checkpoint: the launch ends, and resumes on two processes."""
    scene.processes = 2
    command = scene.start()
    deadline = time.monotonic() + LONGEST_SECONDS
    while not checkpoint.steps(scene.run / layout.CHECKPOINTS):
        if command.wait(0.02) or time.monotonic() > deadline:
            raise Wrong(NOT_FINISHED, _last_line(command.end(0).output))
    victim = scene.random.choice(signals.children(command.pid))
    os.kill(victim, 9)
    scene.outcome.kills += 1
    killed = time.monotonic()
    end = command.end(RANK_SECONDS)
    scene.note(f"one of two processes killed; the launch ended after {time.monotonic() - killed:.1f} s")
    if scene.ended(end) != 0 and not (said(end.output) or "interrupted" in end.output):
        raise Wrong(TRACEBACK, "no process says that another one has ended")
    scene.finish()


KINDS: dict[str, Callable[[Scene], None]] = {
    "kill": kill_at_random,
    "change": kill_at_change,
    "save": kill_at_save,
    "rank": rank_killed,
    "signal": signalled,
    "no-room": no_room,
    "full-disk": full_disk,
    "damage": damaged,
    "environment": other_environment,
}
"""Kind -> what is done to a run."""
