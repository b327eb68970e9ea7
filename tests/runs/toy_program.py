"""The toolkit with toy stages in its registry; tests start it as a subprocess or under torchrun.

usage: toy_program.py run RECIPE [key=value ...] --runs-dir DIR [--fresh] [--json] [--jobs N] [--processes N]
`TOY_WITHOUT_TORCH=1` replaces the parts that import torch and matplotlib (3 s) by stubs; other `TOY_*`
variables plant the conditions of a test. The machine has two cores.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from toolkit.base.errors import DataError, ToolkitError
from toolkit.base.progress import Progress
from toolkit.cli.run import run_command
from toolkit.config.registry import STAGES
from toolkit.execution import launching
from toolkit.runs import checkpoint
from toolkit.runtime import hardware, signals

STEPS = 3
hardware.cores = lambda: 2
started_with = dict(os.environ)


def without_torch() -> None:
    stand_in = types.ModuleType("toolkit.runtime.devices")
    stand_in.select = lambda setting="auto": types.SimpleNamespace(type="cpu")
    stand_in.default_threads = lambda recipe: recipe.threads or 1
    stand_in.configure = lambda recipe, threads=None: None
    stand_in.accelerators = lambda: []
    sys.modules["toolkit.runtime.devices"] = stand_in
    import toolkit.report
    import toolkit.runtime

    toolkit.runtime.devices = stand_in
    page = types.ModuleType("toolkit.report.page")
    page.write_report = lambda runs, output: output.write_text(f"{len(runs)} runs")
    sys.modules["toolkit.report.page"] = toolkit.report.page = page


def tokenizer(recipe, run):
    """Count to STEPS with a sealed checkpoint per step; the model is the sum."""
    if os.environ.get("TOY_DATA_ERROR"):
        raise DataError("a toy's complaint", where="toy.txt", fix="none")
    with Progress(run.name, STEPS) as progress:
        _count(run, recipe.seed, progress)


def _count(run, seed, progress):
    newest = checkpoint.latest(run)
    step, total = (newest[0], int((newest[1] / "state").read_text())) if newest else (0, 0)
    run.metrics.truncate(step)
    while step < STEPS:
        step, total = step + 1, total + seed + step
        run.metrics.log(step, total=total)
        text = str(total)
        checkpoint.save(run, step, lambda folder, text=text: (folder / "state").write_text(text), keep=1)
        progress.update(step, total=total)
        if os.environ.get("TOY_MEET_AT") == str(step):
            meet(run)
        if os.environ.get("TOY_FAIL") == run.name and step == 2:
            raise DataError("a toy's complaint", where="toy.txt", fix="none")
        if os.environ.get("TOY_STOP_AT") == str(step):
            print(f"at step {step}", file=sys.stderr, flush=True)
            wait_for("go")
        if os.environ.get("TOY_FULL_AT") == str(step):
            raise OSError(28, "No space left on device")
    print("a library that prints on stdout")
    run.write_text("model/weights.txt", f"{total}\n")
    run.write_json("evaluation.json", {"total": total, "steps_here": STEPS - (newest[0] if newest else 0)})


def wait_for(file):
    """Wait up to a minute for a file of the working directory."""
    for _ in range(1200):
        if Path(file).exists():
            return
        time.sleep(0.05)


def meet(run):
    """Wait until another stage is here, too."""
    (run.path.parent / f"{run.path.name}.here").touch()
    for _ in range(2000):
        if len(list(run.path.parent.glob("*.here"))) == 2:
            return
        time.sleep(0.05)
    raise DataError("no other stage runs", where=run.name, fix="none")


def corpus(recipe, run):
    """Read the parent run."""
    text = (run.reference(recipe.tokenizer) / "model" / "weights.txt").read_text()
    run.write_text("model/weights.txt", text * 2)
    run.write_json("evaluation.json", {"documents": 1})


def pretrain(recipe, run):
    """Sum the ranks over all processes, which requires that all take part."""
    if os.environ.get("TOY_WITHOUT_TORCH"):
        run.write_json("evaluation.json", {"preloaded": launching.WAIT in started_with})
        return
    import torch

    if os.environ.get("TOY_FAIL") == f"rank {os.environ.get('RANK')}":
        raise DataError("a toy's complaint", where="toy.txt", fix="none")
    if os.environ.get("TOY_DIE") == os.environ.get("RANK"):
        os.kill(os.getpid(), signal.SIGKILL)
    value = torch.tensor([run.seed + int(os.environ.get("RANK", "0")) + 1])
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    run.write_text("model/weights.txt", f"{value.item()}\n")
    run.write_json("evaluation.json", {"sum": value.item()})


for name in ("tokenizer", "corpus", "pretrain"):
    STAGES[name] = replace(STAGES[name], entry=f"__main__:{name}")


def main(arguments: list[str]) -> int:
    flags = {word for word in arguments if word in ("--fresh", "--json")}
    numbers = {"--jobs": None, "--processes": 1}
    for option in numbers:
        if option in arguments:
            place = arguments.index(option)
            numbers[option] = int(arguments[place + 1])
            del arguments[place : place + 2]
    place = arguments.index("--runs-dir")
    words = [word for word in arguments[1:place] + arguments[place + 2 :] if word not in flags]
    launching.PROGRAM = (__file__,)
    if os.environ.get("TOY_WITHOUT_TORCH"):
        without_torch()
    try:
        return run_command(
            words[0],
            words[1:],
            runs_dir=arguments[place + 1],
            fresh="--fresh" in flags,
            jobs=numbers["--jobs"],
            processes=numbers["--processes"],
            json="--json" in flags,
        )
    except ToolkitError as error:
        print(error, file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    status = signals.exit_status(main(sys.argv[1:]))
    if os.environ.get("WORLD_SIZE", "1") != "1":  # gloo's threads, as in toolkit/__main__.py
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
