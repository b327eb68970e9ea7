"""`toolkit plan` matches the parameters and operations of the models."""

import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.base.errors import UsageError
from toolkit.cli import main
from toolkit.config.loader import load_folder
from toolkit.config.schema import ModelSettings, PretrainRecipe
from toolkit.config.schema.pretrain import LengthSettings
from toolkit.models import shape
from toolkit.planning.plan import Plan, Question, StagePlan, plan, plan_recipes
from toolkit.runtime import hardware

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize(
    "settings,vocab_size",
    [
        (ModelSettings(n_layer=2, n_head=2, n_embd=32, n_positions=64), 300),
        (ModelSettings(n_layer=4, n_head=3, n_embd=192, n_positions=256), 2048),
    ],
)
def test_parameters_match_the_built_model(settings, vocab_size):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=shape.padded_vocabulary(vocab_size),
        n_layer=settings.n_layer,
        n_head=settings.n_head,
        n_embd=settings.n_embd,
        n_positions=settings.n_positions,
    )
    assert GPT2LMHeadModel(config).num_parameters() == shape.num_parameters(settings, vocab_size=vocab_size)


def test_gpt2_small_has_its_published_size():
    gpt2 = ModelSettings(n_layer=12, n_head=12, n_embd=768, n_positions=1024)
    padding = (shape.padded_vocabulary(50257) - 50257) * 768
    assert shape.num_parameters(gpt2, vocab_size=50257) - padding == 124_439_808


def test_flops_are_six_per_weight_and_attention():
    model = ModelSettings(n_layer=1, n_head=1, n_embd=2, n_positions=8)
    # A block of 12 * 4 weights, 9 * 2 biases and 4 * 2 in norms; the output's 64 * 2; the last norm's 4.
    weights = 48 + 18 + 8 + 128 + 4
    assert shape.flops_per_token(model, vocab_size=64, sequence_length=8) == 6 * weights + 12 * 1 * 2 * 8


def planned(path, *overrides, **question) -> tuple[dict[str, StagePlan], Plan]:
    """Return {stage: row} and the complete plan."""
    whole = plan_recipes(path, overrides, question=Question(**question))
    return {row.stage: row for row in whole.stages}, whole


def test_large_recipes_can_be_planned():
    rows, _ = planned(RECIPES / "gpt2-124m", probe=False)
    assert rows["pretrain"].tokens == 10_000_000_000
    assert 100e6 < rows["pretrain"].parameters < 130e6
    assert rows["pretrain"].flops > 6 * rows["pretrain"].tokens * 1e8
    assert rows["sft"].tokens is None and "examples" in rows["sft"].note
    assert rows["tokenizer"].parameters is None


def test_doubling_the_tokens_doubles_the_work():
    once, twice = (
        next(row for row in plan(folder, neighbours=folder) if row.stage == "pretrain")
        for folder in (
            load_folder(RECIPES / "storyworld-large", ["train_tokens=100000"]),
            load_folder(RECIPES / "storyworld-large", ["train_tokens=200000"]),
        )
    )
    assert twice.flops == 2 * once.flops > 0
    assert twice.parameters == once.parameters


def test_length_warmup_reduces_flops():
    """Half of the tokens are in rows of 64 instead of 256, each with 12 L w (256 - 64) fewer operations."""
    folder = load_folder(RECIPES / "storyworld-large", ["train_tokens=200000"])
    place = next(index for index, loaded in enumerate(folder) if loaded.recipe.stage == "pretrain")
    usual = plan(folder, neighbours=folder)[place]
    settings = folder[place].recipe.model_copy(
        update={"length_warmup": [LengthSettings(tokens=100000, sequence_length=64)]}
    )
    folder[place] = dataclasses.replace(folder[place], recipe=settings)
    warmed = plan(folder, neighbours=folder)[place]
    assert usual.flops - warmed.flops == pytest.approx(100000 * 12 * 2 * 192 * (256 - 64), rel=1e-9)


def test_training_from_a_run_has_the_shape_of_that_run(tmp_path):
    """Another checkpoint, which no recipe makes, is looked for on the disk."""
    folder = load_folder(RECIPES / "gpt2-or-llama")
    first = next(loaded for loaded in folder if loaded.name == "gpt2-or-llama/llama")
    further = {"model": "runs/gpt2-or-llama/llama", "sequence_length": 128, "train_tokens": 10240}
    recipe = PretrainRecipe(stage="pretrain", tokens=first.recipe.tokens, batch_tokens=1024, **further)
    loaded = dataclasses.replace(first, name="my/further", recipe=recipe)
    [row] = plan([loaded], neighbours=folder)
    assert row.parameters == shape.num_parameters(first.recipe.shape, vocab_size=917) and row.tokens == 10240
    per_token = shape.flops_per_token(first.recipe.shape, vocab_size=917, sequence_length=128)
    assert row.flops == 10240 * per_token
    foreign = recipe.model_copy(update={"model": "owner/model"})
    [row] = plan([dataclasses.replace(loaded, recipe=foreign)], neighbours=folder)
    assert row.parameters is None and "owner/model has no weights in safetensors on this disk" in row.note


def test_counting_does_not_import_torch():
    code = (
        "import sys; from toolkit.cli import main; "
        "assert main.main(['plan', 'recipes/tiny', '--no-probe']) == 0; "
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=RECIPES.parent, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_money_is_price_times_processes_times_hours():
    """Without a probe, the time of a recipe for a GPU uses an assumed speed, with a note."""
    rows, total = planned(RECIPES / "gpt2-124m", probe=False, price=2.5, processes=8)
    row = rows["pretrain"]
    assert row.basis == "assumed" and "assumed 40%" in row.note and "each GPU" in row.note
    assert row.seconds == pytest.approx(row.flops / (8 * 0.4 * 989e12))
    assert row.tokens_per_second == pytest.approx(row.tokens / row.seconds)
    assert row.money == pytest.approx(row.seconds / 3600 * 8 * 2.5)
    assert rows["sft"].money is None and rows["evaluate"].seconds is None
    amounts = [row.money for row in rows.values() if row.money is not None]
    assert total.money == pytest.approx(sum(amounts))
    assert planned(RECIPES / "gpt2-124m", probe=False)[0]["pretrain"].money is None


def test_memory_follows_micro_batch_and_optimizer():
    path = RECIPES / "storyworld-large" / "pretrain.yaml"
    small = planned(path, "micro_batch_tokens=512", probe=False)[0]["pretrain"]
    large = planned(path, "batch_tokens=131072", probe=False)[0]["pretrain"]
    assert large.peak_bytes > 2 * small.peak_bytes
    assert small.memory["optimizer"] < 2 * small.memory["weights"]  # Muon's one moment
    assert small.state_bytes == sum(small.memory[key] for key in ("weights", "gradients", "optimizer"))


def test_batch_must_divide_by_processes():
    with pytest.raises(UsageError, match="batch_tokens 2048 is not a whole number of rows on each of 3"):
        planned(RECIPES / "storyworld-large" / "pretrain.yaml", probe=False, processes=3)
    with pytest.raises(UsageError, match="no amount of money"):
        planned(RECIPES / "storyworld-large", probe=False, price=-1.0)


def test_plan_json_output(capsys):
    assert main.main(["plan", str(RECIPES / "gpt2-124m"), "--no-probe", "--price", "2", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    rows, whole = planned(RECIPES / "gpt2-124m", probe=False, price=2.0)
    assert {row["stage"]: row for row in output["plan"]} == {
        name: dataclasses.asdict(row) for name, row in rows.items()
    }
    assert output["total"] == {"flops": whole.flops, "seconds": whole.seconds, "money": whole.money}


# The probe: real training steps

SMALL = ["batch_tokens=512", "model.n_embd=48", "model.n_layer=1"]


@pytest.fixture
def probed_here(monkeypatch, capsys):
    """Run the program of the probe here, on one thread: importing torch in another takes 9 s of CPU time."""
    from toolkit.planning import probe

    def run(command: list[str], *, input: str, **_) -> subprocess.CompletedProcess:
        assert command == [sys.executable, "-m", probe.__name__]
        monkeypatch.setattr(sys, "stdin", io.StringIO(input))
        probe.main()
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out, "")

    monkeypatch.setattr(hardware, "default_threads", lambda setting: 1)
    monkeypatch.setattr(subprocess, "run", run)


def test_probed_plan_table(capsys):
    """In a process of its own, as for a user."""
    assert (
        main.main(
            ["plan", str(RECIPES / "storyworld-large/pretrain.yaml"), *SMALL, "threads=1", "--price", "1"]
        )
        == 0
    )
    out, err = capsys.readouterr()
    assert out == "" and "timing a few training steps" in err and "money" in err
    assert re.search(r"pretrain: 2,344 steps; \d+ steps of \d+ tokens were timed\nin all [\d.]+ ", err), err


def test_other_stages_scale_the_probe_by_flops(probed_here):
    rows, total = planned(RECIPES / "storyworld-large", *SMALL)
    pretrain, sft = rows["pretrain"], rows["sft"]
    assert (pretrain.basis, sft.basis, rows["corpus"].basis) == ("measured", "scaled", None)
    rate = pretrain.flops / pretrain.tokens * pretrain.tokens_per_second
    assert sft.seconds == pytest.approx(sft.flops / rate)
    assert pretrain.seconds > pretrain.tokens / pretrain.tokens_per_second
    assert "scaled" in sft.note and total.seconds > pretrain.seconds


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
def test_missing_gpu_is_not_probed(probed_here):
    rows, _ = planned(RECIPES / "gpt2-124m" / "pretrain.yaml")
    assert rows["pretrain"].basis == "assumed"
    assert "no probe here: device: cuda, but PyTorch sees no GPU here" in rows["pretrain"].note


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_planned_time_matches_a_real_run(tmp_path):
    """Plans are made before and after the run, because the load may change; one must be close."""
    runs, path = tmp_path / "runs", RECIPES / "storyworld-large" / "pretrain.yaml"
    small = ["data.examples=2000"]
    call("run", RECIPES / "storyworld-large/tokenizer.yaml", *small, "vocab_size=1024", "--runs-dir", runs)
    call(
        "run",
        RECIPES / "storyworld-large/corpus.yaml",
        *small,
        "data.held_out_examples=100",
        "--runs-dir",
        runs,
    )
    # with other load on the cores, two threads took 100 times as long, and so did a probe
    overrides = ["train_tokens=204800", "threads=1"]
    before = planned(path, *overrides, runs_dir=runs)[0]["pretrain"]
    call("run", path, *overrides, "--runs-dir", runs)
    after = planned(path, *overrides, runs_dir=runs)[0]["pretrain"]
    real = json.loads((runs / "storyworld-large/pretrain/evaluation.json").read_text())["tokens_per_second"]
    seconds = json.loads((runs / "storyworld-large/pretrain/timing.json").read_text())["seconds"]
    for key, value in (("tokens_per_second", real), ("seconds", seconds)):
        low, high = sorted((getattr(before, key), getattr(after, key)))
        print(f"{key}: planned {low:.0f} to {high:.0f}, real {value:.0f}")
        assert low / 1.5 < value < high * 1.5


def call(*words):
    command = [sys.executable, "-m", "toolkit", *map(str, words)]
    done = subprocess.run(command, cwd=RECIPES.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
