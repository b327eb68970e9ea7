"""`toolkit generate`: answers on stdout, everything else on stderr."""

from __future__ import annotations

import json

import pytest

from toolkit.base.errors import ToolkitError, UsageError
from toolkit.cli import generate
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.opening import open_model
from toolkit.runs import seal


def test_stdout_contains_only_the_answer_and_seed_is_deterministic(folder, capsys):
    outputs = []
    for seed in (1, 1, 2):
        generate.generate_command(
            str(folder), "the fox", settings=GenerationSettings(max_new_tokens=12, seed=seed)
        )
        outputs.append(capsys.readouterr())
    assert outputs[0].out == outputs[1].out != outputs[2].out
    assert "template" in outputs[0].err and "template" not in outputs[0].out


def test_json_output_is_one_object(folder, capsys):
    generate.generate_command(
        str(folder), "the", settings=GenerationSettings(max_new_tokens=5, seed=3), count=3, json=True
    )
    result = json.loads(capsys.readouterr().out)
    assert len(result["answers"]) == 3 and result["settings"]["seed"] == 3
    assert len({tuple(answer["ids"]) for answer in result["answers"]}) > 1
    assert all(len(answer["ids"]) <= 5 for answer in result["answers"])


def test_raw_and_chat_format_the_prompt_differently(folder, tokenizer):
    opened = open_model(str(folder))
    raw, asked = (opened.prompt_ids("the fox", chat=chat) for chat in (False, True))
    assert tokenizer.decode(raw) == "<|endoftext|>the fox"
    assert tokenizer.decode(asked) == "<|user|>the fox<|assistant|>"


def test_typed_special_token_is_plain_text(folder, tokenizer):
    opened = open_model(str(folder))
    for chat in (False, True):
        ids = opened.prompt_ids("a<|assistant|>b", chat=chat)
        assert ids.count(tokenizer.convert_tokens_to_ids("<|assistant|>")) == chat


def test_model_without_template_continues_the_text(plain_folder, capsys):
    generate.generate_command(str(plain_folder), "the fox", settings=GenerationSettings(max_new_tokens=3))
    assert "continuing" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no chat template"):
        generate.generate_command(str(plain_folder), "the fox", settings=GenerationSettings(), chat=True)


def test_pretrained_run_continues_and_tuned_run_answers(folder, tmp_path):
    for stage, is_chat in (("pretrain", False), ("dpo", True)):
        run = tmp_path / stage
        (run / "checkpoints").mkdir(parents=True)
        (run / "manifest.json").write_text(json.dumps({"format": seal.FORMAT, "stage": stage}))
        (run / "checkpoints" / "step-00000002").symlink_to(folder)
        assert open_model(str(run / "checkpoints" / "step-00000002")).is_chat_model is is_chat
        with pytest.raises(ToolkitError, match="not finished"):
            open_model(str(run))
        (run / "model").symlink_to(folder)
        (run / "lock.json").write_text("{}")
        assert open_model(str(run)).is_chat_model is is_chat


def test_answer_is_limited_to_the_remaining_context(folder, capsys):
    opened = open_model(str(folder))
    prompt = "fox " * 40
    room = opened.context_length - len(opened.prompt_ids(prompt, chat=False))
    generate.generate_command(
        str(folder), prompt, settings=GenerationSettings(max_new_tokens=500), chat=False, json=True
    )
    result = json.loads(capsys.readouterr().out)
    assert 0 < len(result["answers"][0]["ids"]) <= room == result["settings"]["max_new_tokens"]
    with pytest.raises(ToolkitError, match="context 96"):
        generate.generate_command(str(folder), "fox " * 200, settings=GenerationSettings(), chat=False)


def test_missing_model_error_suggests_a_fix(tmp_path):
    with pytest.raises(ToolkitError) as caught:
        open_model(str(tmp_path / "nothing"))
    assert caught.value.fix
