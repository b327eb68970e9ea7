"""The reward stage: end-of-text in answers, the score position, and measurements."""

from __future__ import annotations

import json

import pytest
import torch

from tests.chat_fixtures import (
    built_trainer,
    byte_tokenizer,
    first_batch,
    metrics,
    run_stage,
)
from toolkit.data.chat.pairs import encode
from toolkit.inference.reward_scores import reward_scores, score_ids
from toolkit.models.loading import load_reward_model
from toolkit.stages import reward

RECIPE = {"stage": "reward", "trainer": {"max_steps": 20, "learning_rate": 1e-3}}


def preference(question, chosen, rejected):
    answers = {"chosen": chosen, "rejected": rejected}
    return {"prompt": [{"role": "user", "content": question}],
            **{key: [{"role": "assistant", "content": text}] for key, text in answers.items()}}  # fmt: skip


def test_each_answer_has_exactly_one_end_of_text(folder, load, monkeypatch):
    trainer = built_trainer(monkeypatch, reward, folder, load("batch"))
    tokenizer, batch = trainer.processing_class, first_batch(trainer)
    assert batch["input_ids"].shape[0] == 16  # chosen, then rejected
    for place, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True)):
        text = tokenizer.decode(ids[mask.bool()])
        assert text.startswith("<|user|>the ") and text.count("<|user|>") == text.count("<|endoftext|>") == 1
        assert text.endswith("<|endoftext|>")
        assert ("yes, " in text) == (place < 8)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert trainer.model.config.pad_token_id == tokenizer.pad_token_id
    assert trainer.model.config.num_labels == 1


def test_score_is_read_at_end_of_text_regardless_of_padding(folder):
    model, tokenizer = load_reward_model((str(folder / "base"), None), new_head_seed=0)
    short, long = (
        pair.prompt + pair.chosen
        for pair in encode(
            [preference("a?", "b", "c"), preference("a?" * 9, "b" * 20, "c")], tokenizer, max_length=96
        )
    )
    together = score_ids(model, [short, long], pad_id=tokenizer.pad_token_id)
    alone = [score_ids(model, [row], pad_id=tokenizer.pad_token_id)[0] for row in (short, long)]
    assert together == pytest.approx(alone, abs=1e-5)
    with torch.no_grad():
        hidden = model.transformer(input_ids=torch.tensor([short])).last_hidden_state[0, -1]
    assert short[-1] == tokenizer.eos_token_id
    assert together[0] == pytest.approx(model.score(hidden).item(), abs=1e-5)
    asked = [[{"role": "user", "content": "a?"}]]
    assert together[0] == pytest.approx(
        reward_scores(model, tokenizer, asked, answers=["b"], ended=[True])[0], abs=1e-5
    )
    assert abs(together[0] - reward_scores(model, tokenizer, asked, answers=["b"], ended=[False])[0]) > 1e-4


def test_training_learns_the_preferred_answer(folder, load):
    path = run_stage(reward, folder, load("learn"))
    evaluation = json.loads((path / "evaluation.json").read_text())
    assert evaluation["accuracy"] == 1.0
    assert evaluation["accuracy_interval"][0] < 0.9  # few pairs
    assert evaluation["bayes_accuracy"] is None and evaluation["gold_accuracy"] is None
    assert evaluation["n"] >= 2 and evaluation["base"] == f"{folder}/base"
    assert evaluation["score_std"] > 0
    curve = [row for row in metrics(path) if "held_out_accuracy" in row]
    assert [row["step"] for row in curve] == [0, 4, 8, 12, 16, 20]
    assert curve[-1]["held_out_loss"] == pytest.approx(evaluation["held_out_loss"], rel=1e-4)
    assert {"loss", "accuracy", "margin", "learning_rate", "grad_norm"} <= curve[-1].keys()
    model, tokenizer = load_reward_model((str(path / "model"), None))
    scores = reward_scores(model, tokenizer, [[{"role": "user", "content": "the cat is red?"}]] * 2,
                           answers=["yes, red", "no"], ended=[True, True])  # fmt: skip
    assert scores[0] > scores[1]


def test_lora_trains_the_new_head_and_is_merged(folder, load):
    trainer = RECIPE["trainer"] | {"learning_rate": 1e-2}
    path = run_stage(reward, folder, load("lora", lora={"r": 4}, trainer=trainer))
    evaluation = json.loads((path / "evaluation.json").read_text())
    assert evaluation["accuracy"] == 1.0
    assert metrics(path)[-1]["held_out_loss"] == pytest.approx(evaluation["held_out_loss"], rel=1e-4)
    before, _ = load_reward_model((str(folder / "base"), None), new_head_seed=0)
    after, _ = load_reward_model((str(path / "model"), None))
    assert before.state_dict().keys() == after.state_dict().keys()
    assert not torch.equal(before.score.weight, after.score.weight)
    assert torch.equal(before.transformer.wte.weight, after.transformer.wte.weight)


def test_pair_keeps_complete_answers_and_one_prompt_or_is_skipped():
    tokenizer = byte_tokenizer()
    rows = [
        preference("q" * 30, "a" * 5, "b" * 12),
        preference("q", "a" * 30, "b"),
        preference("q", "a", "b"),
    ]
    first, second, third = encode(rows, tokenizer, max_length=30)
    assert tokenizer.decode(first.prompt) == "<|user|>" + "q" * 15 + "<|assistant|>"
    assert tokenizer.decode(first.chosen) == "aaaaa<|endoftext|>"
    assert tokenizer.decode(first.rejected) == "b" * 12 + "<|endoftext|>"
    assert second is None
    assert tokenizer.decode(third.prompt + third.chosen) == "<|user|>q<|assistant|>a<|endoftext|>"


def test_what_does_not_fit_is_said_before_training(folder, load, capsys):
    rows = []
    for i in range(60):
        long = "the " * (12 if i % 4 == 0 else 1)
        prompt = [{"role": "user", "content": f"{i}?"}]
        sides = {side: [{"role": "assistant", "content": f"{long}{side}"}] for side in ("chosen", "rejected")}
        rows.append(json.dumps({"prompt": prompt, **sides}) + "\n")
    (folder / "long.jsonl").write_text("".join(rows))
    trainer = {**RECIPE["trainer"], "max_steps": 1, "max_length": 40}
    recipe = load("long", data={"name": f"{folder}/long.jsonl"}, trainer=trainer)
    evaluation = json.loads((run_stage(reward, folder, recipe) / "evaluation.json").read_text())
    error = capsys.readouterr().err
    found = evaluation["data"]
    trained, held_out = found["lengths"], found["held_out_lengths"]
    assert trained["rows"] + held_out["rows"] == 60 and trained["left_out"] + held_out["left_out"] == 15
    assert evaluation["examples"] == trained["rows"] - trained["left_out"]
    text = "longer than 40 tokens: {left_out} of {rows} rows left out; raise trainer.max_length"
    assert f"  {text.format(**trained)}" in error
    assert ("held out, " in error) is (held_out["left_out"] > 0)


def test_without_held_out_rows_nothing_is_measured(folder, load, capsys):
    data = {"name": f"{folder}/preferences.jsonl", "held_out": "none"}
    path = run_stage(reward, folder, load("none", data=data, trainer={"max_steps": 1}))
    evaluation = json.loads((path / "evaluation.json").read_text())
    assert (evaluation["n"], evaluation["examples"]) == (0, 48)
    assert [evaluation[key] for key in ("accuracy", "bayes_accuracy")] == [None, None]
    assert capsys.readouterr().err.count("no held-out rows (held_out: none)") == 1
    assert not any(key.startswith("held_out") for row in metrics(path) for key in row)


def test_margin_reaches_the_loss(folder, load, monkeypatch):
    rows = [json.loads(line) for line in (folder / "preferences.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {"margin": float(number)} if number % 2 else {}
    (folder / "margins.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = load("margins", data={"name": f"{folder}/margins.jsonl"})
    trainer = built_trainer(monkeypatch, reward, folder, recipe)
    tokenizer, dataset = trainer.processing_class, trainer.train_dataset
    by_text = {
        row["chosen"][0]["content"] + row["prompt"][0]["content"]: row.get("margin", 0.0) for row in rows
    }
    for row in list(dataset)[:48]:
        question, _, answer = tokenizer.decode(row["chosen_ids"]).partition("<|assistant|>")
        text = answer.removesuffix("<|endoftext|>") + question.removeprefix("<|user|>")
        assert row["margin"] == by_text[text]
    batch = first_batch(trainer)
    scores = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    chosen, rejected = scores.chunk(2)
    wanted = -torch.nn.functional.logsigmoid(chosen - rejected - batch["margin"]).mean()
    assert batch["margin"].max() > 1
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
