"""sft, reward and dpo with chat templates of other checkpoints: models learn to stop; all stages read the
same ids."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoTokenizer, GenerationConfig

from tests.chat_fixtures import (
    built_trainer,
    first_batch,
    load_recipe,
    run_stage,
    write_conversations,
    write_preferences,
)
from tests.data.chat_templates import FORMATS
from toolkit.base.errors import ToolkitError
from toolkit.config.schema import ModelSettings
from toolkit.data.chat import answer_end, fitting, template
from toolkit.data.chat.dates import with_fixed_date
from toolkit.models.gpt2 import build
from toolkit.models.loading import save_model
from toolkit.stages import dpo, reward, sft

IN_EVERY_RUN = "chatml, other eos"


@pytest.fixture(
    scope="module",
    params=[name if name == IN_EVERY_RUN else pytest.param(name, marks=pytest.mark.slow) for name in FORMATS],
)
def chat_format(request):
    return FORMATS[request.param]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, chat_format):
    path = tmp_path_factory.mktemp("template")
    tokenizer = chat_format.tokenizer()
    settings = ModelSettings(n_layer=2, n_head=2, n_embd=32, n_positions=128)
    model = build(settings, vocab_size=len(tokenizer), seed=0, end_id=tokenizer.eos_token_id, pad_id=1)
    save_model(model, tokenizer, path / "base")
    write_conversations(path / "conversations.jsonl")
    write_preferences(path / "preferences.jsonl")
    return path


def load(folder, stage, name, **settings):
    data = "conversations" if stage == "sft" else "preferences"
    content = {
        "stage": stage, "model": f"{folder}/base", "data": {"name": f"{folder}/{data}.jsonl"},
        "batch_examples": 8, "device": "cpu", "precision": "fp32", "threads": 1, **settings,
    }  # fmt: skip
    return load_recipe(folder, name, json.dumps(content))


@pytest.fixture(scope="module")
def tuned(folder):
    recipe = load(folder, "sft", "sft", trainer={"max_steps": 60, "learning_rate": 1e-2})
    return run_stage(sft, folder, recipe)


def test_fine_tuned_model_stops_at_the_end_of_an_answer(chat_format, tuned):
    samples = json.loads((tuned / "evaluation.json").read_text())["samples"]
    assert samples and all(sample["ended"] for sample in samples)
    tokenizer = AutoTokenizer.from_pretrained(tuned / "model")
    end = tokenizer.convert_tokens_to_ids(chat_format.end)
    named = GenerationConfig.from_pretrained(tuned / "model").eos_token_id
    assert end in (named if isinstance(named, list) else [named])
    assert tokenizer.chat_template == with_fixed_date(chat_format.template)
    assert tokenizer.eos_token == chat_format.eos
    facts = json.loads((tuned / "manifest.json").read_text())["facts"]
    assert facts["stop_tokens"] == {token: tokenizer.get_vocab()[token] for token in facts["stop_tokens"]}
    assert {chat_format.end, chat_format.eos} == set(facts["stop_tokens"])
    prints_date = "strftime_now" in chat_format.template
    assert facts.get("chat_template_date") == ("2024-07-26" if prints_date else None)


def test_batches_end_with_the_token_that_ends_an_answer(chat_format, folder, tuned, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(tuned / "model")
    end = tokenizer.convert_tokens_to_ids(chat_format.end)
    question = template.render(tokenizer, [{"role": "user", "content": "Q"}], generation_prompt=True)
    model = {"model": str(shutil.copytree(tuned / "model", folder / "tuned"))}
    recipe = load(folder, "dpo", "dpo", trainer={"max_steps": 60, "beta": 0.5}, **model)
    with monkeypatch.context() as patch:
        pairs = built_trainer(patch, dpo, folder, recipe).train_dataset
    recipe = load(folder, "reward", "reward", trainer={"max_steps": 60}, **model)
    with monkeypatch.context() as patch:
        trainer = built_trainer(patch, reward, folder, recipe)
    scored, batch = trainer.train_dataset, first_batch(trainer)
    for side in ("chosen_ids", "rejected_ids"):
        trained = {tuple(row["prompt_ids"] + row[side]) for row in pairs}
        assert trained == {tuple(ids) for ids in scored[side]} and len(trained) > 20
        assert all(
            row[-1] == end and row.count(end) == 1 + question.count(chat_format.end) for row in trained
        )
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        assert ids[mask.bool()][-1] == end
    head = fitting.prompt_ids(tokenizer, [{"role": "user", "content": "the ball is red?"}])
    assert any(ids[: len(head)] == head for ids in scored["chosen_ids"])


def test_template_without_an_end_is_refused_before_training(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    bad = folder / "bad.jinja"
    bad.write_text("{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n{% endfor %}### assistant\n")
    recipe = load(folder, "sft", "bad", chat_template=str(bad), trainer={"max_steps": 1})
    with pytest.raises(ToolkitError, match="after an answer, which contains no special token"):
        run_stage(sft, folder, recipe)
    assert tokenizer.chat_template


@pytest.mark.parametrize("choice", ["chatml", "toolkit"])
def test_chosen_template_replaces_that_of_the_model(folder, choice):
    recipe = load(folder, "sft", f"to-{choice}", chat_template=choice, trainer={"max_steps": 1})
    own_end = AutoTokenizer.from_pretrained(folder / "base").eos_token
    tokenizer = AutoTokenizer.from_pretrained(run_stage(sft, folder, recipe) / "model")
    end = "<|im_end|>" if choice == "chatml" else own_end
    assert answer_end.turn_end_id(tokenizer) == tokenizer.convert_tokens_to_ids(end)
