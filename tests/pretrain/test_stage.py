"""A complete pretraining on a small corpus: outputs, measurements, and resuming after a crash."""

from __future__ import annotations

import hashlib
import json
import math
import shutil

import numpy as np
import pytest
import torch

from tests.pretrain.conftest import write_part
from toolkit.base.errors import DataError, RecipeError, ToolkitError
from toolkit.config import loader
from toolkit.data.text.batch_order import Order, batch
from toolkit.data.text.shards import TokenShards
from toolkit.inference.logprobs import score_documents
from toolkit.models.loading import load_causal_lm
from toolkit.pretrain import loop, stage
from toolkit.pretrain.loss import TrainingLoss
from toolkit.pretrain.prefetch import Prefetcher
from toolkit.runs import checkpoint, metrics
from toolkit.runtime import devices


def digest(run, name="model/model.safetensors"):
    return hashlib.sha256((run / name).read_bytes()).hexdigest()


def rows_with(run, key):
    return [row for row in metrics.read(run / "metrics.jsonl") if key in row]


@pytest.mark.parametrize("keep", [True, False])
def test_keep_memory_follows_the_recipe(pretrain, monkeypatch, keep):
    asked = []
    monkeypatch.setattr(devices.allocator, "configure", lambda device, *, keep: asked.append(keep))
    pretrain(train_tokens=256, speed={"keep_memory": keep})
    assert asked == [keep]


def test_device_mps_trains_without_float64(pretrain, monkeypatch):
    """The path of an Apple GPU, computed on the CPU: sums are fp32; the steps have the same numbers."""
    usual = pretrain("cpu")
    monkeypatch.setattr(devices, "_mps", lambda: torch.device("cpu"))
    monkeypatch.setattr(devices, "sum_dtype", lambda on: torch.float32)
    other = pretrain("mps", device="mps")
    steps = [(run / "steps.jsonl").read_text() for run in (usual, other)]
    assert steps[0] == steps[1] and steps[0].count("\n") == 12
    bits = [json.loads((run / "evaluation.json").read_text())["bits_per_byte"] for run in (usual, other)]
    assert bits[0] == pytest.approx(bits[1], rel=1e-6)


def test_training_reduces_loss_and_writes_evaluation(pretrain, corpus):
    run = pretrain(train_tokens=256 * 60, optimizer={"name": "muon"})
    numbers = json.loads((run / "evaluation.json").read_text())
    model, _ = load_causal_lm((str(run / "model"), None))
    held_out = TokenShards.open(corpus / "held_out")
    nats = score_documents(
        model,
        [held_out.document(i) for i in range(30)],
        prefix_id=held_out.end_id,
        end_id=held_out.end_id,
        window=32,
    )
    bits = nats.sum() / math.log(2) / held_out.bytes
    assert numbers["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    low, high = numbers["bits_per_byte_interval"]
    assert (
        low < numbers["bits_per_byte"] < high
        and numbers["n"] == 30
        and numbers["interval_over"] == "documents"
    )
    # 261 entries padded to 320, and one end-of-text per document
    tokens = held_out.bytes + 30
    assert numbers["untrained_bits_per_byte"] == pytest.approx(
        math.log2(320) * tokens / held_out.bytes, rel=0.01
    )
    assert numbers["bits_per_byte"] < 0.6 * numbers["untrained_bits_per_byte"]
    assert numbers["entropy_floor_bits_per_byte"] == pytest.approx(1 / math.log(2))
    assert numbers["perplexity"] == pytest.approx(math.exp(nats.sum() / tokens), rel=1e-5)
    assert numbers["tokens"] == 256 * 60 and numbers["epochs"] > 1
    assert numbers["samples"][0]["prompt"] == "the " and 0 < numbers["mfu"] < 2
    losses = [row["loss"] for row in rows_with(run, "loss")]
    assert len(losses) == 30 and losses[-1] < 0.7 * losses[0]
    curve = [row["bits_per_byte"] for row in rows_with(run, "bits_per_byte")]
    assert len(curve) == 11 and curve[0] > 1.5 * curve[-1]  # at the start and ten times during training
    assert [row["tokens"] for row in rows_with(run, "tokens")][-1] == 256 * 60


def test_checkpoints_load_as_models(pretrain):
    run = pretrain()
    checkpoints = checkpoint.steps(run / "checkpoints")
    assert [step for step, _ in checkpoints] == [12] and checkpoint.is_whole(checkpoints[0][1])
    model, _ = load_causal_lm((str(checkpoints[0][1]), None))
    trained, _ = load_causal_lm((str(run / "model"), None))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained.parameters(), strict=True))
    assert "toolkit" not in (run / "model" / "config.json").read_text()


@pytest.mark.parametrize(("name", "precision"), [("adamw", "fp32"), ("muon", "bf16")])
def test_resume_after_crash_is_bitwise_identical(pretrain, monkeypatch, name, precision):
    settings = {
        "optimizer": {"name": name},
        "precision": precision,
        "model": {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 32, "dropout": 0.1},
        "log_every_steps": 5,
    }  # fmt: skip
    whole = pretrain("whole", **settings)
    train_step = loop.train_step

    def crash(context, number, rows, monitor):
        if number == 7:
            raise ConnectionError("the machine is gone")
        return train_step(context, number, rows, monitor)

    monkeypatch.setattr(loop, "train_step", crash)
    with pytest.raises(ConnectionError):
        pretrain("broken", **settings)
    monkeypatch.setattr(loop, "train_step", train_step)
    torch.rand(3)  # another state of the global generator
    broken = pretrain("broken", **settings)
    assert digest(broken) == digest(whole)
    last = "checkpoints/step-00000012/optimizer.safetensors"
    assert digest(broken, last) == digest(whole, last)
    timing = ("time", "tokens_per_second", "mfu")
    lines = [
        [
            {key: value for key, value in row.items() if key not in timing}
            for row in metrics.read(run / "metrics.jsonl")
        ]
        for run in (whole, broken)
    ]
    assert lines[0] == lines[1]  # including the mean loss of a line interrupted by the crash
    assert (whole / "steps.jsonl").read_bytes() == (broken / "steps.jsonl").read_bytes()


def test_stop_request_ends_after_the_current_step(pretrain, monkeypatch):
    whole = pretrain("whole")
    asked = iter([False] * 4 + [True] * 20)
    monkeypatch.setattr(loop.signals, "stop_requested", lambda: next(asked))
    with pytest.raises(KeyboardInterrupt):
        pretrain("stopped")
    monkeypatch.setattr(loop.signals, "stop_requested", lambda: False)
    stopped = whole.parent / "stopped"
    assert [step for step, _ in checkpoint.steps(stopped / "checkpoints")] == [5]
    assert digest(pretrain("stopped")) == digest(whole)


def test_micro_batches_change_only_rounding(pretrain):
    losses = []
    for name, micro in (("whole", None), ("parts", 64), ("rows", 32)):
        run = pretrain(name, log_every_steps=1, **({"micro_batch_tokens": micro} if micro else {}))
        losses.append([row["loss"] for row in rows_with(run, "loss")])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-4)


def test_token_order_does_not_depend_on_processes(corpus):
    """Tier A: the tokens of a step do not depend on the number of processes."""
    shards = TokenShards.open(corpus / "train")
    order = Order(shards.tokens, 32, seed=0, digest=shards.digest)
    whole = batch(shards, order, step=3, batch_rows=8)
    assert whole.shape == (8, 33)
    for processes in (1, 2, 4):
        parts = []
        for rank in range(processes):
            prefetcher = Prefetcher(shards, order, batch_rows=8, rank=rank, processes=processes)
            parts.append(dict(prefetcher.batches(2, 5))[3])
        assert torch.equal(torch.cat(parts), torch.from_numpy(whole))


def test_nan_loss_ends_the_run(pretrain, tmp_path):
    with pytest.raises(ToolkitError, match=r"not finite.* step \d+ of 12") as caught:
        pretrain(
            "diverged",
            optimizer={"learning_rate": 1e30},
            schedule={"name": "constant"},
            checkpoint_every_tokens=256,
        )
    run = tmp_path / "runs" / "t" / "diverged"
    assert "learning_rate" in caught.value.fix
    assert not (run / "model").exists() and not (run / "evaluation.json").exists()
    for _, path in checkpoint.steps(run / "checkpoints"):
        model, _ = load_causal_lm((str(path), None))
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_nan_gradient_is_detected_at_its_step(pretrain, monkeypatch):
    forward, calls = TrainingLoss.forward, iter(range(1, 100))
    monkeypatch.setattr(
        TrainingLoss,
        "forward",
        lambda self, rows: forward(self, rows) * (math.nan if next(calls) == 5 else 1),
    )
    with pytest.raises(ToolkitError, match=r"loss is not finite \(nan\) at step 5 of 12"):
        pretrain("broken", evaluate_every_tokens=256 * 12)


def test_infinite_weights_are_never_sealed(pretrain, monkeypatch, tmp_path):
    train_step = loop.train_step

    def overflow(context, number, rows, monitor):
        result = train_step(context, number, rows, monitor)
        if number == 7:
            context.model.transformer.wpe.weight.data[3, 4] = math.inf
        return result

    monkeypatch.setattr(loop, "train_step", overflow)
    with pytest.raises(ToolkitError, match="weights are not finite after step 8 of 12"):
        pretrain("broken", evaluate_every_tokens=256 * 12)
    checkpoints = checkpoint.steps(tmp_path / "runs" / "t" / "broken" / "checkpoints")
    assert [number for number, _ in checkpoints] == [4]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sequence_length": 64}, "sequence_length: 64 is more than n_positions 32"),
        ({"batch_tokens": 100}, "batch_tokens: 100 is not a multiple of the 32 tokens"),
        ({"micro_batch_tokens": 100}, "micro_batch_tokens: 100 is not a multiple"),
    ],
)
def test_invalid_recipes_are_refused(pretrain, settings, words):
    with pytest.raises(RecipeError, match=words):
        pretrain(**settings)


def test_batch_not_divisible_by_processes_is_refused(tmp_path, corpus):
    from tests.pretrain.conftest import write_recipe
    from toolkit.config.process_counts import micro_rows

    recipe = loader.load(write_recipe(tmp_path, corpus)).recipe
    assert micro_rows(recipe, processes=4) == 2
    with pytest.raises(ToolkitError, match="not a multiple of 96") as caught:
        micro_rows(recipe, processes=3)
    assert caught.value.fix == "use 192"


def test_too_small_corpora_are_refused(pretrain, tmp_path, tiny_tokenizer, corpus):
    for part, texts in (("train", ["too short"]), ("held_out", ["x"])):
        write_part(tmp_path / "small" / part, tiny_tokenizer, texts)
    tiny_tokenizer.save_pretrained(tmp_path / "small" / "tokenizer")
    with pytest.raises(DataError, match="less than one row"):
        pretrain("small", tokens=tmp_path / "small")
    write_part(tmp_path / "empty" / "train", tiny_tokenizer, ["long enough " * 10])
    write_part(tmp_path / "empty" / "held_out", tiny_tokenizer, [])
    tiny_tokenizer.save_pretrained(tmp_path / "empty" / "tokenizer")
    with pytest.raises(DataError, match="no held-out text"):
        pretrain("empty", tokens=tmp_path / "empty")


def test_one_long_held_out_text_has_an_interval_over_blocks(pretrain, tmp_path, tiny_tokenizer, capsys):
    write_part(tmp_path / "long" / "train", tiny_tokenizer, ["the river sings to the moon. " * 40])
    write_part(
        tmp_path / "long" / "held_out", tiny_tokenizer, ["the moon sings to the river and the cat. " * 20]
    )
    tiny_tokenizer.save_pretrained(tmp_path / "long" / "tokenizer")
    numbers = json.loads((pretrain("long", tokens=tmp_path / "long") / "evaluation.json").read_text())
    low, high = numbers["bits_per_byte_interval"]
    assert low < numbers["bits_per_byte"] < high and numbers["interval_over"] == "blocks of 30 bytes"
    assert "is read 2.7 times" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("ends here.\nThe river sings to the moon.\nThe cat sleeps.", "The river sings to"),
        ("the moon sings to the river", "the moon sings to"),
        ("x\nIncomprehensibilities unquestionably happened", "Incomprehensibilities"),
        ("です。\n" + "昔々、" * 10, "昔々、" * 8),
    ],
)
def test_sample_prompt_from_the_held_out_text(pretrain, tmp_path, tiny_tokenizer, corpus, text, prompt):
    write_part(tmp_path / "own" / "held_out", tiny_tokenizer, [text])
    shutil.copytree(corpus / "train", tmp_path / "own" / "train")
    tiny_tokenizer.save_pretrained(tmp_path / "own" / "tokenizer")
    samples = {"prompts": None, "max_new_tokens": 4}
    run = pretrain("own", tokens=tmp_path / "own", train_tokens=256, samples=samples)
    [sample] = json.loads((run / "evaluation.json").read_text())["samples"]
    assert sample["prompt"] == prompt and sample["text"]
    assert all(row["samples"][0]["prompt"] == prompt for row in rows_with(run, "samples"))


def test_samples_that_fail_do_not_cost_the_training(pretrain, monkeypatch, capsys):
    def fails(*arguments, **settings):
        raise RuntimeError("no such cache")

    monkeypatch.setattr(loop, "generate", fails)
    run = pretrain(name="no-samples", train_tokens=256 * 2)
    numbers = json.loads((run / "evaluation.json").read_text())
    assert numbers["not_measured"] == {"samples": "RuntimeError: no such cache"}
    assert numbers["samples"] is None
    assert numbers["bits_per_byte"] > 0 and (run / "model/model.safetensors").exists()
    assert all(row["samples"] == [] for row in rows_with(run, "samples"))
    assert capsys.readouterr().err.count("warning: no samples, because sampling failed") == 1


def test_a_model_whose_logits_are_not_finite_is_not_written(pretrain, monkeypatch):
    def diverged(context):
        train(context)
        with torch.no_grad():
            context.model.transformer.ln_f.weight.fill_(1e20)
            context.model.transformer.wte.weight.mul_(1e20)

    train = stage.train
    monkeypatch.setattr(stage, "train", diverged)
    with pytest.raises(ToolkitError, match="logits are not finite after step 2"):
        pretrain(name="diverged", train_tokens=256 * 2)
