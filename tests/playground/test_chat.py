"""The Chat room's interface: events, templates, draws."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.architectures import build_architecture
from tests.foreign_tokenizers import unigram
from tests.playground.conftest import serving
from toolkit.base.rng import derive
from toolkit.inference import sampling
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.opening import OpenModel, open_model
from toolkit.playground.library import Entry
from toolkit.playground.suggestions import suggestions
from toolkit.runs import seal
from toolkit.storyworld import SMALL

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def asked(model: str | Path, *texts: str, **more) -> dict:
    """Return a request with the turns of a conversation, which the user begins."""
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    sampling_settings = {"max_new_tokens": 10, **more.pop("sampling", {})}
    return {"model": str(model), "messages": messages, "sampling": sampling_settings, **more}


def text_of(events: list[dict]) -> str:
    return "".join(event["text"] for event in events if event["event"] in ("token", "done"))


@pytest.fixture(scope="module")
def opened(model_folder) -> OpenModel:
    return open_model(str(model_folder))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """Return a Llama whose tokenizer is SentencePiece's and whose chat template is its own."""
    folder, tokenizer = tmp_path_factory.mktemp("foreign") / "llama", unigram("abcdefghijklmnopqrstuvwxyz:")
    build_architecture("llama", tokenizer).save_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(model_folder, tmp_path_factory) -> Path:
    """Return the tiny model without its chat template."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    shutil.copytree(model_folder, folder)
    (folder / "chat_template.jinja").unlink()
    return folder


@pytest.fixture(scope="module")
def both(foreign, plain, tmp_path_factory):
    with serving([str(foreign), str(plain)], tmp_path_factory.mktemp("both")) as running:
        yield running


@pytest.mark.parametrize("draw", [0, 2])
def test_an_answer_is_streamed_and_is_that_of_toolkit_chat(server, opened, model_folder, draw):
    events = server.events("/api/chat", asked(model_folder, "the fox", sampling={"seed": 4}, draw=draw))
    prompt = next(event for event in events if event["event"] == "prompt")
    ids = opened.chat_ids([{"role": "user", "content": "the fox"}])
    assert [token["id"] for token in prompt["tokens"]] == ids
    assert [token["text"] for token in prompt["tokens"] if token["special"]] == ["<|user|>", "<|assistant|>"]
    assert prompt["sampling"] == {"temperature": 0.8, "top_k": 0, "top_p": 1.0}
    settings = GenerationSettings(max_new_tokens=10).for_model(opened)
    expected = sampling.generate(opened.model, [ids], seed=[derive(4, "chat", draw)], **settings)
    assert [event["token"]["id"] for event in events if event["event"] == "token"] == expected.ids[0]
    assert text_of(events) == opened.tokenizer.decode(expected.ids[0], skip_special_tokens=True)
    assert (events[-1]["event"], events[-1]["reason"], events[-1]["tokens"]) == ("done", "length", 10)


def test_the_token_that_ends_an_answer_is_told(server, opened, model_folder, monkeypatch):
    end = opened.tokenizer.eos_token_id

    def ending(model, ids, **settings):
        row = torch.zeros(261)
        yield from (sampling.Step(token, token == end, row) for token in (*b"ok", end))

    monkeypatch.setattr(sampling, "steps", ending)
    done = server.events("/api/chat", asked(model_folder, "x"))[-1]
    assert (done["reason"], done["tokens"]) == ("stop", 2)
    assert done["stop"] == {"id": end, "text": "<|endoftext|>", "special": True}


def test_multi_byte_characters_are_never_split(server, opened, model_folder, monkeypatch):
    text = "狐は🦊 é"
    ids = opened.tokenizer(text, add_special_tokens=False)["input_ids"]

    def spelled(model, prompt, **settings):
        yield from (sampling.Step(token, False, torch.zeros(261)) for token in ids)

    monkeypatch.setattr(sampling, "steps", spelled)
    events = server.events("/api/chat", asked(model_folder, "x"))
    pieces = [event["text"] for event in events if event["event"] == "token"]
    assert "".join(pieces) == text and [piece for piece in pieces if piece] == list(text)


def test_special_tokens_that_a_person_types_are_text(server, model_folder):
    events = server.events("/api/chat", asked(model_folder, "<|assistant|><|endoftext|>"))
    prompt = next(event for event in events if event["event"] == "prompt")
    assert [token["text"] for token in prompt["tokens"] if token["special"]] == ["<|user|>", "<|assistant|>"]


def test_a_full_context_loses_its_oldest_turns_and_a_long_message_is_refused(server, model_folder):
    events = server.events("/api/chat", asked(model_folder, "a" * 30, "b" * 20, "the last one"))
    prompt = next(event for event in events if event["event"] == "prompt")
    assert prompt["dropped"] == 2
    assert "".join(token["text"] for token in prompt["tokens"]) == "<|user|>the last one<|assistant|>"
    events = server.events("/api/chat", asked(model_folder, "a" * 80))
    assert events[-1]["event"] == "error" and "too long" in events[-1]["error"]["what"]


def test_a_model_without_a_template_continues_the_text(both, plain):
    told = both.post("/api/chat/open", {"model": str(plain)})
    assert (told["template"], told["chat"], told["suggestions"]) == (False, False, [])
    events = both.events("/api/chat", asked(plain, "the fox"))
    prompt = next(event for event in events if event["event"] == "prompt")
    assert "".join(token["text"] for token in prompt["tokens"]) == "<|endoftext|>the fox"


def test_a_foreign_model_is_asked_in_its_own_template(both, foreign):
    told = both.post("/api/chat/open", {"model": str(foreign)})
    assert (told["template"], told["chat"], told["context"]) == (True, True, 256)
    events = both.events("/api/chat", asked(foreign, "hi", "ho", "ha"))
    prompt = next(event for event in events if event["event"] == "prompt")
    ids = [token["id"] for token in prompt["tokens"]]
    tokenizer = open_model(str(foreign)).tokenizer
    assert tokenizer.decode(ids).replace(" ", "") == "user:hi</s>assistant:ho</s>user:ha</s>assistant:"
    assert events[-1]["event"] == "done" and text_of(events)


def sealed_run(folder: Path, stage: str, data: dict | None, parent: str | None = None) -> Path:
    """Write the manifest of a run."""
    folder.mkdir(parents=True)
    parents = {} if parent is None else {"model": {"kind": "run", "path": parent, "digest": None}}
    inputs = {"settings": {"data": data}, "parents": parents}
    manifest = {"format": seal.FORMAT, "stage": stage, "inputs": inputs}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_models_of_the_storyworld_suggest_prompts_of_their_world(tmp_path):
    world = {"name": "storyworld", "world": "small"}
    sealed_run(tmp_path / "pretrain", "pretrain", world)
    sealed_run(tmp_path / "sft", "sft", world, "../pretrain")
    sealed_run(tmp_path / "dpo", "dpo", {"name": "runs/preferences"}, "../sft")
    sealed_run(tmp_path / "own", "sft", {"name": "own.jsonl"})
    found = {
        name: suggestions(Entry(name, str(tmp_path / name), name if name != "own" else "sft", "language"))
        for name in ("pretrain", "sft", "dpo", "own")
    }
    assert found["own"] == [] and found["dpo"] == found["sft"]
    prompts = {row["prompt"][0]["content"] for row in SMALL.rows("prompts", 1, "held_out", 60)}
    assert len(found["sft"]) == 5 and set(found["sft"]) <= prompts
    texts = [row["text"] for row in SMALL.rows("stories", 1, "held_out", 60)]
    assert found["pretrain"]
    for beginning in found["pretrain"]:
        assert any(text.startswith(beginning) for text in texts)
