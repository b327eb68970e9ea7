"""Sealed files hold no trace of the machine: two chains made in other surroundings are byte-equal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.base import files
from toolkit.proofs import reproduction
from toolkit.runs import layout, seal

ROOT = Path(__file__).parents[2]
TIMES = reproduction.TIMES - {"threads", "device", "versions", "local_files_only", "is_local"}
PAIRS = "data={name: storyworld, world: small, config: preferences, examples: 32, held_out_examples: 8}"
CHAIN = {
    "tokenizer": [
        "data=[{name: storyworld, world: small, config: stories, examples: 100}]",
        "vocab_size=400",
    ],
    "corpus": ["data.examples=300", "data.held_out_examples=20"],
    "pretrain": ["train_tokens=10240", "model.n_head=2", "model.n_embd=32", "checkpoint_every_tokens=5120"],
    "sft": ["data.examples=24", "data.held_out_examples=8"],
    "preferences": ["data.examples=16", "answers_per_prompt=2", "compare=in_turn", "workers=1"],
    "reward": ["trainer.max_steps=3", PAIRS],
    "dpo": ["trainer.max_steps=3", PAIRS],
    "ppo": ["trainer.episodes=16", "trainer.rollout_examples=8", "data.examples=16"],
    "evaluate": [
        "data.held_out_examples=8",
        "answers_per_sample=1",
        "samples=[Hello]",
        "win_rate.max_new_tokens=24",
    ],
}
UNTIMED = {layout.TIMING, layout.MANIFEST, layout.LOCK, layout.CHECKPOINT_SEAL}
"""Files that differ by time: seconds, when it was sealed, and hashes of files with times."""


def run_chain(runs: Path, *, cwd: Path, **variables: str | None) -> None:
    """Run every stage of recipes/tiny at toy size."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    environment = {name: value for name, value in environment.items() if value is not None}
    for stage, overrides in CHAIN.items():
        recipe = os.path.relpath(ROOT / "recipes" / "tiny" / f"{stage}.yaml", cwd)
        command = [sys.executable, "-m", "toolkit", "run", recipe, *overrides, "--runs-dir", str(runs)]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (stage, done.stderr)


def differences(first: Path, second: Path) -> list[str]:
    """Return the sealed files whose bytes differ, times of JSON files apart."""
    found = []
    for stage in CHAIN:
        before, after = first / "tiny" / stage, second / "tiny" / stage
        names = seal.outputs(before)
        assert names == seal.outputs(after)
        for name in (*names, layout.MANIFEST):
            one, two = (before / name).read_bytes(), (after / name).read_bytes()
            if (
                one != two
                and Path(name).name not in UNTIMED
                and timeless(before / name) != timeless(after / name)
            ):
                found.append(f"{stage}/{name}")
    return found


def timeless(path: Path) -> object:
    """Return the content of a file without the keys that are times."""
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()

    def without(value):
        if isinstance(value, dict):
            return {key: without(item) for key, item in value.items() if key not in TIMES}
        return [without(item) for item in value] if isinstance(value, list) else value

    return [without(json.loads(text)) for text in documents(path)]


def documents(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return text.splitlines() if path.suffix == ".jsonl" else [text]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_runs_made_in_other_surroundings_are_byte_equal(tmp_path):
    here, there, home = tmp_path / "here", tmp_path / "over" / "there", tmp_path / "home"
    for folder in (here, there, home):
        folder.mkdir(parents=True)
    run_chain(here / "runs", cwd=here, HF_HUB_OFFLINE="1", TZ="UTC")
    run_chain(
        there / "other", cwd=home, HF_HUB_OFFLINE=None, TZ="Asia/Tokyo", HOME=str(home), USER="somebody",
        LC_ALL="C", COLUMNS="40", TMPDIR=str(home),
    )  # fmt: skip
    assert differences(here / "runs", there / "other") == []
    for path in (here / "runs").rglob("*"):
        if path.is_file() and path.name != layout.IN_USE:
            content = path.read_bytes()
            assert str(tmp_path).encode() not in content and str(Path.home()).encode() not in content, path
    manifests = [
        files.read_json(runs / "tiny" / "dpo" / layout.MANIFEST) for runs in (here / "runs", there / "other")
    ]
    for manifest in manifests:
        manifest.pop("code")  # may be edited meanwhile
        manifest.pop("checksum")  # of the other keys
        for parent in manifest["inputs"]["parents"].values():
            parent.pop("digest")
    assert manifests[0] == manifests[1]
