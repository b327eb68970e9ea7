"""DPO: end tokens of completions, the reference, and held-out implicit rewards."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from tests.chat_fixtures import (
    built_trainer,
    byte_tokenizer,
    first_batch,
    metrics,
    run_stage,
    write_preferences,
)
from tests.stages.tiny_models import write_tiny
from toolkit.data.chat.pairs import CONTEXTS, Pair
from toolkit.models.loading import load_causal_lm
from toolkit.stages import dpo

RECIPE = {
    "stage": "dpo",
    "log_every_steps": 1,
    "trainer": {"max_steps": 10, "learning_rate": 1e-3, "beta": 0.5},
}


def test_loss_covers_completions_with_one_end_token(folder, load, monkeypatch):
    trainer = built_trainer(monkeypatch, dpo, folder, load("batch"))
    tokenizer, batch = trainer.processing_class, first_batch(trainer)
    for place, ids in enumerate(batch["input_ids"]):
        mask, completion = batch["attention_mask"][place].bool(), batch["completion_mask"][place].bool()
        text, answer = tokenizer.decode(ids[mask]), tokenizer.decode(ids[completion])
        assert text.startswith("<|user|>the ") and text.partition("<|assistant|>")[2] == answer
        assert answer.endswith("<|endoftext|>") and text.count("<|endoftext|>") == 1
        assert answer.startswith("yes, " if place < 8 else "no")
    assert trainer.ref_model is not None and trainer.ref_model is not trainer.model


COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


def test_implicit_rewards_match_trl(folder, load, monkeypatch):
    assert_rewards_match(built_trainer(monkeypatch, dpo, folder, load("same")), folder, COLUMNS)


def assert_rewards_match(trainer, folder, columns):
    """Compare the margins that TRL and the held-out measurement compute for the first batch."""
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    trainer.model.eval()
    batch, rows = first_batch(trainer), trainer.train_dataset[:8]
    trainer.compute_loss(trainer.model, batch)
    theirs = trainer._metrics["eval"]["rewards/margins"][0]
    values = zip(*(rows[name] for name in columns), strict=True)
    pairs = [Pair(*row[:3], *([row[3:]] if row[3:] else [])) for row in values]
    reference, _ = load_causal_lm((str(folder / "base"), None))
    after, before = dpo.pair_logprobs(trainer.model, pairs), dpo.pair_logprobs(reference, pairs)
    ours = 0.5 * ((after[0] - before[0]) - (after[1] - before[1])).mean()
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert abs(ours) > 0.01


@pytest.mark.parametrize("is_precomputed", [False, True])
def test_implicit_rewards_of_several_answers_match_trl(folder, load, monkeypatch, is_precomputed):
    file = folder / "dialogues.jsonl"
    with file.open("w") as out:
        for i in range(40):
            texts = {"chosen": ("yes", "no, blue"), "rejected": ("no", "yes")}
            sides = {
                side: [
                    {"role": "assistant" if place % 2 else "user", "content": text}
                    for place, text in enumerate((f"the cat {i}?", first, "and red?", last))
                ]
                for side, (first, last) in texts.items()
            }
            print(json.dumps(sides), file=out)
    settings = RECIPE["trainer"] | {"precompute_ref_log_probs": is_precomputed}
    loaded = load(f"turns-{is_precomputed}", data={"name": str(file)}, trainer=settings)
    trainer = built_trainer(monkeypatch, dpo, folder, loaded)
    tokenizer, batch = trainer.processing_class, first_batch(trainer)
    answers = [
        tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    chosen, rejected = "yes<|endoftext|>no, blue<|endoftext|>", "no<|endoftext|>yes<|endoftext|>"
    assert answers == [chosen] * 8 + [rejected] * 8
    assert_rewards_match(trainer, folder, (*COLUMNS, *CONTEXTS))


def test_training_starts_at_the_reference_and_learns(folder, load):
    path = run_stage(dpo, folder, load("learn"))
    rows, evaluation = metrics(path), json.loads((path / "evaluation.json").read_text())
    assert rows[0] == {"step": 0, "held_out_accuracy": 0.5, "held_out_margin": 0.0,
                       "held_out_loss": pytest.approx(math.log(2))}  # fmt: skip
    assert rows[1]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert {"rewards/accuracies", "rewards/margins", "rewards/chosen", "learning_rate", "grad_norm"} <= rows[
        1
    ].keys()
    assert evaluation["accuracy"] == 1.0 and evaluation["margin"] > 0.05
    assert rows[-1]["held_out_margin"] == pytest.approx(evaluation["margin"], rel=1e-4)
    assert evaluation["held_out_loss"] == pytest.approx(rows[-1]["held_out_loss"], rel=1e-4)
    low, high = evaluation["margin_interval"]
    assert low <= evaluation["margin"] <= high
    assert evaluation["log_ratio_chosen"] > evaluation["log_ratio_rejected"]
    assert evaluation["beta"] == 0.5 and evaluation["kl_n"] == evaluation["n"]
    assert np.isfinite(evaluation["kl"]) and 0 <= evaluation["ended"] <= 1


@pytest.mark.parametrize(
    "lora", [None, {"r": 4, "target_modules": "all-linear"}], ids=["all weights", "lora"]
)
def test_a_bf16_training_starts_at_the_reference_to_the_last_bit(folder, load, lora):
    model, data = folder / "llama", write_preferences(folder / "many.jsonl", 200)
    write_tiny(model, "llama", byte_tokenizer())
    loaded = load(
        f"bf16-{bool(lora)}", model=str(model), data={"name": str(data)}, precision="bf16", lora=lora,
        trainer={"max_steps": 1, "max_length": 96},
    )  # fmt: skip
    row = metrics(run_stage(dpo, folder, loaded))[0]
    assert (row["held_out_accuracy"], row["held_out_margin"]) == (0.5, 0.0)


def test_lora_reference_is_the_base(folder, load):
    trainer = RECIPE["trainer"] | {"learning_rate": 1e-2}
    path = run_stage(dpo, folder, load("lora", lora={"r": 4}, trainer=trainer))
    rows, evaluation = metrics(path), json.loads((path / "evaluation.json").read_text())
    assert rows[1]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[-1]["held_out_margin"] == pytest.approx(evaluation["margin"], rel=1e-3)
    assert evaluation["accuracy"] == 1.0


def test_unchanged_policy_has_zero_rewards(folder, load):
    loaded = load("still").recipe
    model, tokenizer = load_causal_lm((str(folder / "base"), None))
    preferences = dpo.sources.preferences(loaded.data, part="held_out", seed=0)
    held_out = dpo.held_out_pairs(preferences, tokenizer, max_length=96)
    assert dpo.distance(model, model, tokenizer, held_out, seed=0, run_name="x").kl.estimate == 0
    metrics = dpo.held_out_metrics(model, model, held_out, beta=0.1, seed=0, run_name="x")
    assert metrics.accuracy.estimate == 0.5 and metrics.held_out_loss == pytest.approx(math.log(2))


def test_without_held_out_rows_nothing_is_measured(folder, load, capsys):
    data = {"name": f"{folder}/preferences.jsonl", "held_out": "none"}
    path = run_stage(dpo, folder, load("none", data=data, trainer={"max_steps": 1}))
    evaluation = json.loads((path / "evaluation.json").read_text())
    assert (evaluation["n"], evaluation["examples"]) == (0, 48)
    assert [evaluation[key] for key in ("accuracy", "kl")] == [None, None]
    assert capsys.readouterr().err.count("no held-out rows (held_out: none)") == 1
    assert not any(key.startswith("held_out") for row in metrics(path) for key in row)
