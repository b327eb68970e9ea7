"""Time to quality: recipes of the toolkit compared with nanoGPT's CPU recipe on the same text and machine.

    python benchmarks/time_to_quality.py --nanogpt DIR --text tinyshakespeare.txt
    python benchmarks/time_to_quality.py --nanogpt DIR --text FILE --repeat 3 recipes/shakespeare

DIR is a checkout of https://github.com/karpathy/nanoGPT, which is copied and not modified. nanoGPT trains a
character model as its README describes for a CPU ("I only have a macbook"). Seconds are the wall time of
whole commands from a cold start: data preparation or tokenizer and corpus, imports, compilation, training,
evaluations.

`others` is the number of cores that other processes kept busy. Ratios are reliable only if it is near 0 in
every row. CPU seconds (of all threads) do not help on a busy machine, because a thread spins while it waits
for another one that lost its core: with other load on 2 cores nanoGPT took 1.05 CPU s per iteration, and
0.11 s with one thread. On a busy machine compare CPU seconds of one thread:
taskset -c 0 python benchmarks/time_to_quality.py ...

Quality is bits per byte of the last 10% of the text, which is held out: every character is scored once, in
windows as long as the model's context that advance by half a window. toolkit/inference/logprobs.py does the
same over tokens, and also scores the end of the text.

Each round runs every system once, one after another. With --repeat the numbers are medians over the rounds,
and ratios are computed within a round.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import pickle
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

FOLDERS = ("recipes/shakespeare-16s", "recipes/shakespeare")
PEER = "nanoGPT"
PEER_DATA = Path("data/shakespeare_char")
PEER_COMMAND = (
    "train.py", "config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20",
    "--log_interval=1", "--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128",
    "--max_iters=2000", "--lr_decay_iters=2000", "--dropout=0.0",
)  # fmt: skip
"""https://github.com/karpathy/nanoGPT/blob/3adf61e1/README.md, under "I only have a macbook"."""
BLOCK_CHARACTERS = 256
"""Unit of the interval for nanoGPT; the toolkit's are as many tokens as its window, about as much text."""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; usage errors exit with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders", nargs="*", metavar="FOLDER",
        help=f"recipe folders that accept data.name=FILE, missing ones skipped; default: {' '.join(FOLDERS)}",
    )  # fmt: skip
    parser.add_argument("--nanogpt", metavar="DIR", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--text", metavar="FILE", type=Path, required=True, help="the text file, UTF-8")
    parser.add_argument("--repeat", metavar="N", type=int, default=1, help="number of rounds; default: 1")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(given)
    for name in ("train.py", "model.py", PEER_DATA / "prepare.py"):
        if not (args.nanogpt / name).is_file():
            parser.error(f"--nanogpt {args.nanogpt}: this folder has no {name}; "
                         "git clone https://github.com/karpathy/nanoGPT")  # fmt: skip
    if not args.text.is_file():
        parser.error(f"--text {args.text}: the file does not exist")
    if args.repeat < 1:
        parser.error(f"--repeat {args.repeat}: give at least 1")
    places = [Path(item) for item in args.folders] or [ROOT / item for item in FOLDERS]
    args.places = [place.resolve() for place in places if any(place.glob("*.yaml"))]
    for place in places:
        if place.resolve() not in args.places:
            say(f"{place}: skipped, because it contains no recipes")
    if not args.places:
        parser.error("give at least one folder with recipes")
    args.nanogpt, args.text = args.nanogpt.resolve(), args.text.resolve()
    return args


def windows(count: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, first scored) over a sequence of `count` ids; [start, end) is the model input.

    The predictions of the ids from `first scored` through `end` count; id 0 is only context. This is the
    policy of toolkit/inference/logprobs.py.
    """
    scored, last = 1, count - 1
    while scored <= last:
        end = min(window if scored == 1 else scored - 1 + stride, last)
        yield max(0, end - window), end, scored
        scored = end + 1


def score_characters(
    logits_of: Callable, ids: np.ndarray, *, prefix: int, window: int, rows: int = 128
) -> np.ndarray:
    """Return -log2 p of every id once, in order, float64 (count,).

    Args:
        logits_of: int64 tensor (rows, length) to logits (rows, length, vocabulary) of a causal model.
        ids: the held-out characters.
        prefix: context before the first character.
        window: characters per model input; windows advance by half of it.
        rows: windows per forward pass.
    """
    import torch

    sequence = torch.from_numpy(np.concatenate([[prefix], ids]).astype(np.int64))
    bits = np.full(len(sequence), np.nan)
    by_length: dict[int, list[tuple[int, int, int]]] = {}
    for item in windows(len(sequence), window, max(1, window // 2)):
        by_length.setdefault(item[1] - item[0], []).append(item)
    for group in by_length.values():
        for at in range(0, len(group), rows):
            batch = group[at : at + rows]
            inputs = torch.stack([sequence[start:end] for start, end, _ in batch])  # (rows, length)
            targets = torch.stack([sequence[start + 1 : end + 1] for start, end, _ in batch])
            with torch.no_grad():
                logprobs = logits_of(inputs).float().log_softmax(-1)
            of_targets = logprobs.gather(-1, targets[..., None])[..., 0].double().numpy()  # (rows, length)
            for row, (_, end, first) in zip(of_targets, batch, strict=True):
                assert np.isnan(bits[first : end + 1]).all(), "a character was scored twice"
                bits[first : end + 1] = -row[first - end - 1 :] / math.log(2)
    assert not np.isnan(bits[1:]).any(), "a character was not scored"
    return bits[1:]


def score_peer(copy: Path) -> dict:
    """Return parameters and bits per byte of the checkpoint in a trained copy of nanoGPT."""
    import torch

    from toolkit import stats

    described = importlib.util.spec_from_file_location("nanogpt_model", copy / "model.py")
    module = importlib.util.module_from_spec(described)
    sys.modules[described.name] = module  # required by its dataclass
    described.loader.exec_module(module)
    saved = torch.load(copy / "out-shakespeare-char" / "ckpt.pt", map_location="cpu", weights_only=True)
    with redirect_stdout(sys.stderr):  # stdout is reserved for the result
        model = module.GPT(module.GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    model.eval()
    train, held_out = (
        np.fromfile(copy / PEER_DATA / name, dtype=np.uint16) for name in ("train.bin", "val.bin")
    )
    characters = pickle.loads((copy / PEER_DATA / "meta.pkl").read_bytes())["itos"]
    num_bytes = np.array([len(characters[item].encode()) for item in held_out], dtype=np.float64)
    window = saved["model_args"]["block_size"]
    bits = score_characters(
        lambda inputs: model(inputs, targets=inputs)[0],  # without targets it returns only the last position
        held_out, prefix=int(train[-1]), window=window,
    )  # fmt: skip
    result = stats.block_ratio(bits, num_bytes, block=BLOCK_CHARACTERS, seed=0)
    return {
        "parameters": sum(item.numel() for item in model.parameters()),
        "bits_per_byte": result.estimate, "bits_per_byte_interval": [result.low, result.high],
        "held_out_bytes": int(num_bytes.sum()), "window": window, "iteration": saved["iter_num"],
    }  # fmt: skip


def timed(commands: list[list[str]], *, folder: Path, environment: dict[str, str]) -> dict:
    """Run commands in sequence; return their times, the load of others, and the stdout of the last."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    busy_before = busy_seconds()
    for command in commands:
        ended = subprocess.run(
            [sys.executable, *command], cwd=folder, env={**os.environ, **environment}, text=True,
            stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip
        if ended.returncode:
            last = "\n".join((ended.stdout + ended.stderr).splitlines()[-20:])
            raise SystemExit(f"{' '.join(command)}: exited with status {ended.returncode}:\n{last}")
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    others = None if busy_before is None else max(0.0, busy_seconds() - busy_before - used) / seconds
    return {"seconds": seconds, "cpu_seconds": used, "other_cores": others, "stdout": ended.stdout}


def busy_seconds() -> float | None:
    """Return the busy seconds summed over all cores, or None if the system does not report them."""
    try:
        ticks = [int(item) for item in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except FileNotFoundError:
        return None
    idle = ticks[3] + ticks[4]  # idle, and waiting for a disk
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")


def run_peer(args: argparse.Namespace, scratch: Path) -> dict:
    """Run nanoGPT's recipe in a copy of its checkout and score the saved model."""
    copy = scratch / "nanogpt"
    shutil.copytree(args.nanogpt, copy, ignore=shutil.ignore_patterns(".git", "out*", "*.bin", "meta.pkl"))
    shutil.copyfile(args.text, copy / PEER_DATA / "input.txt")  # otherwise prepare.py downloads it
    commands = [[str(PEER_DATA / "prepare.py")], list(PEER_COMMAND)]
    result = timed(commands, folder=copy, environment={"PYTHONUTF8": "1"})
    return {**result, **score_peer(copy)}


def run_folder(place: Path, args: argparse.Namespace, scratch: Path) -> dict:
    """Run a recipe folder from a cold start, including compilation, and return its measurements."""
    command = ["-m", "toolkit", "run", str(place), f"data.name={args.text}"]
    command += ["--runs-dir", str(scratch / "runs"), "--json"]
    environment = {"PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(scratch / "compiled")}
    result = timed([command], folder=ROOT, environment=environment)
    stages = json.loads(result["stdout"])["stages"].values()
    measured = [stage for stage in stages if stage.get("bits_per_byte") is not None and "parameters" in stage]
    if not measured:
        raise SystemExit(f"{place}: no stage measured bits_per_byte")
    names = ("parameters", "bits_per_byte", "bits_per_byte_interval", "held_out_bytes", "window", "tokens")
    return {**result, **{name: measured[-1].get(name) for name in names}}


def measure(args: argparse.Namespace) -> dict[str, list[dict]]:
    """Run the rounds and return the results of each system per round."""
    systems: dict[str, Callable[[Path], dict]] = {PEER: lambda scratch: run_peer(args, scratch)}
    for place in args.places:
        systems[label(place)] = lambda scratch, place=place: run_folder(place, args, scratch)
    rounds: dict[str, list[dict]] = {name: [] for name in systems}
    for number in range(args.repeat):
        for name, run in systems.items():
            say(f"round {number + 1} of {args.repeat}: {name} ...")
            load = os.getloadavg()[0]
            with tempfile.TemporaryDirectory(prefix="time-to-quality-") as scratch:
                result = {"load_before": load, **run(Path(scratch)), "load_after": os.getloadavg()[0]}
            del result["stdout"]
            rounds[name].append(result)
            say(f"    {result['seconds']:.1f} s, {result['bits_per_byte']:.4f} bits per byte, "
                f"load {result['load_before']:.1f} to {result['load_after']:.1f}")  # fmt: skip
            if result["held_out_bytes"] != rounds[PEER][0]["held_out_bytes"]:
                raise SystemExit(f"{name} holds out {result['held_out_bytes']} bytes, {PEER} "
                                 f"{rounds[PEER][0]['held_out_bytes']}: not comparable")  # fmt: skip
    return rounds


def label(place: Path) -> str:
    """Return the path of a folder relative to the current directory."""
    return str(place.relative_to(ROOT)) if place.is_relative_to(ROOT) else str(place)


def results(rounds: dict[str, list[dict]]) -> list[dict]:
    """Return one row per system: medians over the rounds, and medians of the time ratios within rounds."""
    rows = []
    for name, result in rounds.items():
        middle = statistics.median_low([item["bits_per_byte"] for item in result])
        best = next(item for item in result if item["bits_per_byte"] == middle)
        pairs = list(zip(result, rounds[PEER], strict=True))
        row = {"system": name, "parameters": best["parameters"]}
        for key in ("seconds", "cpu_seconds"):
            row[key] = statistics.median(item[key] for item in result)
            row[f"{key}_ratio"] = statistics.median(item[key] / peer[key] for item, peer in pairs)
        others = [item["other_cores"] for item in result]
        row["other_cores"] = None if None in others else statistics.median(others)
        row |= {key: best[key] for key in ("bits_per_byte", "bits_per_byte_interval", "window")}
        rows.append({**row, "rounds": result})
    return rows


def show(rows: list[dict], about: dict) -> None:
    """Print the table."""
    from toolkit.stats import interval_text

    print(f"{about['text']}, {about['held_out_bytes']:,} bytes held out; {about['hardware']}, "
          f"torch {about['torch']}; rounds: {about['repeat']}")  # fmt: skip
    print(f"{'system':28s} {'parameters':>11s} {'seconds':>8s} {'CPU s':>8s} "
          f"{'bits per byte [95%]':>24s} {'time':>7s} {'CPU':>7s} {'others':>7s}")  # fmt: skip
    for row in rows:
        others = "-" if row["other_cores"] is None else f"{row['other_cores']:.2f}"
        print(f"{row['system']:28s} {row['parameters']:11,} {row['seconds']:8.1f} {row['cpu_seconds']:8.1f} "
              f"{interval_text(row, 'bits_per_byte', digits=4):>24s} {row['seconds_ratio']:6.2f}x "
              f"{row['cpu_seconds_ratio']:6.2f}x {others:>7s}")  # fmt: skip
    loads = [item[key] for row in rows for item in row["rounds"] for key in ("load_before", "load_after")]
    print(f"time, CPU: relative to {PEER}; others: cores that other processes kept busy; "
          f"load average between runs {min(loads):.1f} to {max(loads):.1f}")  # fmt: skip


def about(args: argparse.Namespace, rows: list[dict]) -> dict:
    """Return the description of the measured configuration."""
    from importlib.metadata import version

    from toolkit.runtime.hardware import processor

    cores = len(os.sched_getaffinity(0))
    return {
        "text": args.text.name, "held_out_bytes": rows[0]["rounds"][0]["held_out_bytes"],
        "hardware": f"{processor()['name']}, {cores} cores", "cores": cores, "torch": version("torch"),
        "repeat": args.repeat, "nanogpt_command": " ".join(PEER_COMMAND),
    }  # fmt: skip


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    args = arguments()
    rows = results(measure(args))
    facts = about(args, rows)
    if args.json:
        print(json.dumps({**facts, "systems": rows}))
    else:
        show(rows, facts)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
