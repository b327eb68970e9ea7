"""The recipes for 124M parameters run at toy size with overrides, followed by the verbs on the runs."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.cli import main
from toolkit.config import loader
from toolkit.report.page import write_report
from toolkit.report.summary import summarize

ROOT = Path(__file__).parents[2]
WORDS = "the a red small old fox bird river tree stone song light under over sings sleeps runs finds".split()
TOY = {
    "tokenizer": ["vocab_size=300"],
    "corpus": ["data.held_out={documents: 0.1}"],
    "pretrain": [
        "model={n_layer: 2, n_head: 2, n_embd: 32, n_positions: 128}",
        "batch_tokens=512",
        "micro_batch_tokens=512",
        "train_tokens=4096",
        "schedule.warmup_tokens=1024",
        "checkpoint_every_tokens=2048",
    ],
    "sft": [
        "trainer.max_length=128",
        "data.examples=24",
        "data.held_out={documents: 0.2}",
        "batch_examples=8",
        "micro_batch_examples=8",
        "trainer.warmup_steps=0",
    ],
    "reward": [
        "trainer.max_length=128",
        "data.examples=24",
        "data.held_out={documents: 0.2}",
        "batch_examples=8",
        "micro_batch_examples=8",
    ],
    "dpo": [
        "trainer.max_length=128",
        "data.examples=24",
        "data.held_out={documents: 0.2}",
        "batch_examples=8",
        "micro_batch_examples=8",
    ],
    "ppo": [
        "data.held_out={documents: 0.2}",
        "trainer.episodes=16",
        "trainer.rollout_examples=8",
        "trainer.minibatches=2",
        "trainer.max_prompt_tokens=64",
        "trainer.max_new_tokens=16",
        "micro_batch_examples=4",
    ],
    "evaluate": [
        "data.held_out={documents: 0.2}",
        "win_rate.max_prompt_tokens=64",
        "win_rate.max_new_tokens=16",
    ],
}


def sentence(generator: random.Random) -> str:
    return " ".join(generator.choice(WORDS) for _ in range(8)) + "."


def write_hub_like_files(folder: Path) -> dict[str, Path]:
    """Write files with the columns of FineWeb-Edu, UltraChat and UltraFeedback-binarized."""
    generator = random.Random(0)
    say = lambda role: {"role": role, "content": sentence(generator)}  # noqa: E731
    web = [
        {"text": " ".join(sentence(generator) for _ in range(12)), "id": str(i), "url": "", "score": 3.5}
        for i in range(120)
    ]
    chats, feedback = [], []
    for i in range(60):
        messages = [say("user"), say("assistant"), say("user"), say("assistant")]
        chats.append({"prompt": messages[0]["content"], "prompt_id": str(i), "messages": messages})
        question = say("user")
        feedback.append(
            {
                "prompt": question["content"],
                "prompt_id": str(i),
                "chosen": [question, say("assistant")],
                "rejected": [question, say("assistant")],
                "messages": [question, say("assistant")],
                "score_chosen": 8.0,
                "score_rejected": 3.0,
            }
        )
    paths = {}
    for name, rows in (("web", web), ("chats", chats), ("feedback", feedback)):
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths


ALL_IN_ONE = """
import json, sys
from toolkit.cli.main import main
for arguments in json.loads(sys.argv[1]):
    if status := main(arguments):
        sys.exit(f"exit status {status}: {arguments}")
"""

TWO_CORES = """
import sys
from toolkit.runtime import hardware
hardware.cores, hardware.has_gpu = lambda: 2, lambda: False
from toolkit.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def start(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Start Python in a subprocess with the toolkit of this checkout."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def command(stage: str, files: dict[str, Path]) -> list[str]:
    """Return the arguments that run a recipe of recipes/gpt2-124m at toy size."""
    sources = {"tokenizer": "web", "corpus": "web", "sft": "chats"}
    words = ["run", str(ROOT / "recipes" / "gpt2-124m" / f"{stage}.yaml"), *TOY[stage], "threads=1"]
    if stage not in ("tokenizer", "corpus"):
        words.append("device=cpu")
    if stage != "pretrain":
        words += [f"data.name={files[sources.get(stage, 'feedback')]}", "data.split=null"]
    if stage in ("tokenizer", "corpus"):
        words.append("data.config=null")
    return words


@pytest.fixture(scope="module")
def toy_runs(tmp_path_factory) -> Path:
    """Run all stages in a single process, because importing torch and TRL takes 8 s of CPU time."""
    folder = tmp_path_factory.mktemp("toy")
    files = write_hub_like_files(folder)
    commands = [command(stage, files) for stage in TOY]
    done = start("-c", ALL_IN_ONE, json.dumps(commands), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "gpt2-124m"


@pytest.fixture
def toolkit(monkeypatch, capfd):
    """Run the command line in this process and return exit status, stdout and stderr."""

    def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
        monkeypatch.chdir(cwd)
        capfd.readouterr()
        status = main.main(list(arguments))
        captured = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, status, captured.out, captured.err)

    return run


def test_every_stage_is_sealed_and_verifies(toy_runs, toolkit):
    assert sorted(path.name for path in toy_runs.iterdir() if (path / "lock.json").exists()) == sorted(TOY)
    for last in ("dpo", "evaluate"):
        done = toolkit("verify", str(toy_runs / last), cwd=toy_runs.parent)
        assert done.returncode == 0, done.stderr


def test_summary_has_stable_keys(toy_runs):
    stages = summarize([toy_runs / name for name in TOY])["stages"]
    assert all(row["seconds"] > 0 for row in stages.values())
    assert stages["pretrain"]["bits_per_byte"] > 0
    low, high = stages["pretrain"]["bits_per_byte_interval"]
    assert low <= stages["pretrain"]["bits_per_byte"] <= high
    assert stages["pretrain"]["untrained_bits_per_byte"] > 0
    assert stages["pretrain"]["entropy_floor_bits_per_byte"] is None
    assert 0 <= stages["reward"]["accuracy"] <= 1
    for name in ("dpo", "ppo"):
        rate = stages[name]["win_rate"]
        assert 0 <= rate["low"] <= rate["estimate"] <= rate["high"] <= 1 and rate["n"] > 0


def test_report_is_self_contained(toy_runs, tmp_path):
    page = write_report([toy_runs / name for name in TOY], tmp_path / "report.html").read_text(
        encoding="utf-8"
    )
    assert page.count("<svg") >= 5
    assert "<script" not in page and "<link" not in page and "src=" not in page
    stages = summarize([toy_runs / name for name in TOY])["stages"]
    assert f"{stages['pretrain']['bits_per_byte']:.3f}" in page
    rates = [row["win_rate"] for row in stages.values() if row.get("win_rate")]
    undecided = sum(rate["verdict"] == "no verdict" for rate in rates)
    assert page.count("(no verdict)</td>") == 2 * undecided  # at the beginning, and in the table of wins


def test_report_labels_only_aligned_models_as_aligned(toy_runs, tmp_path):
    def title(*names):
        page = write_report([toy_runs / name for name in names], tmp_path / "report.html")
        return page.read_text(encoding="utf-8").split("<title>")[1].split("</title>")[0]

    assert title("corpus", "pretrain").endswith("from text to a language model")
    assert title("pretrain", "sft", "dpo").endswith("from text to an aligned model")


def test_verify_writes_nothing(toy_runs, toolkit):
    sealed = (toy_runs / "evaluate" / "lock.json").read_bytes()
    done = toolkit("verify", str(toy_runs / "evaluate"), "--json", cwd=toy_runs.parent)
    assert json.loads(done.stdout) and (toy_runs / "evaluate" / "lock.json").read_bytes() == sealed


@pytest.mark.slow
def test_stages_side_by_side_have_the_bytes_of_stages_one_after_another(toy_runs):
    """reward and dpo, of the same sft, on two cores and then one after another."""
    folder = toy_runs.parent.parent
    files = {name: folder / f"{name}.jsonl" for name in ("web", "chats", "feedback")}
    sealed = []
    for jobs in ("2", "1"):
        recipes = folder / "recipes" / f"jobs-{jobs}"
        recipes.mkdir(parents=True)
        for stage in ("reward", "dpo"):
            _, path, *overrides = command(stage, files)
            settings = loader.load(Path(path), overrides).recipe.model_dump(mode="json", exclude_unset=True)
            (recipes / f"{stage}.yaml").write_text(json.dumps(settings))  # JSON is YAML
        done = start("-c", TWO_CORES, "run", str(recipes), "--jobs", jobs, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert ("dpo    | 3/3 steps" in done.stderr) == (jobs == "2")
        locks = [json.loads((folder / "runs" / f"jobs-{jobs}" / stage / "lock.json").read_text())["files"]
                 for stage in ("reward", "dpo")]  # fmt: skip
        sealed.append(
            [{name: lock[name]["sha256"] for name in lock if name.endswith((".safetensors", ".pt", ".pth"))}
             for lock in locks]
        )  # fmt: skip
    assert sealed[0] == sealed[1] and all(len(hashes) >= 4 for hashes in sealed[0])


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "dpo", "ppo"])
def test_two_processes_produce_a_sealed_run(toy_runs, toolkit, stage):
    folder = toy_runs.parent.parent
    files = {name: folder / f"{name}.jsonl" for name in ("web", "chats", "feedback")}
    words = [*command(stage, files), f"run=two/{stage}"]
    if stage in ("sft", "reward", "dpo"):
        words.append("micro_batch_examples=4")
    if stage == "pretrain":
        words.append("micro_batch_tokens=256")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = start(*launcher, "-m", "toolkit", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    run = folder / "runs" / "two" / stage
    assert json.loads((run / "manifest.json").read_text())["world_size"] == 2
    assert toolkit("verify", str(run), cwd=folder).returncode == 0
    # The same batches give the same numbers up to rounding.
    ours, alone = (json.loads((path / "evaluation.json").read_text()) for path in (run, toy_runs / stage))
    for key in ("bits_per_byte", "held_out_loss"):
        if key in alone:
            assert ours[key] == pytest.approx(alone[key], rel=2e-3)


@pytest.mark.slow
def test_accelerate_launches_a_recipe(toy_runs):
    folder = toy_runs.parent.parent
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "accelerate_config.yaml")]
    words = [*command("pretrain", {}), "run=launched/pretrain"]
    done = start(*launcher, "-m", "toolkit", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    launched, alone = folder / "runs" / "launched" / "pretrain", toy_runs / "pretrain"
    weights = [(run / "model" / "model.safetensors").read_bytes() for run in (launched, alone)]
    assert weights[0] == weights[1]
