"""`/api/surprise`."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch

import toolkit as tk
from tests.architectures import build_architecture
from tests.playground.conftest import serving
from toolkit.data.chat import template
from toolkit.models.loading import save_model

TEXT = "A story about a fox who finds a key.\n"


@pytest.fixture(scope="module")
def folders(tiny_model, tiny_tokenizer, tmp_path_factory):
    """Return three models of the same tokenizer, and one of another."""
    found, root = [], tmp_path_factory.mktemp("stages")
    for number in range(4):
        model, tokenizer = copy.deepcopy(tiny_model), copy.deepcopy(tiny_tokenizer)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05 * number)
        if number == 3:
            tokenizer.add_tokens(["<new>"])
        save_model(model, tokenizer, root / str(number))
        found.append(str(root / str(number)))
    return found


def test_an_unexpected_error_is_the_last_event_of_the_stream(stages, folders, monkeypatch, capfd):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("toolkit.playground.rooms.surprise.surprise", fail)
    events = stages.events("/api/surprise", {"models": folders[:2], "text": TEXT})
    assert events[-1]["event"] == "error" and "out of memory" in events[-1]["error"]["what"]
    assert "out of memory" in capfd.readouterr().err


@pytest.fixture(scope="module")
def stages(folders, tmp_path_factory):
    with serving(folders, tmp_path_factory.mktemp("server")) as running:
        yield running


def read(server, **body):
    events = server.events("/api/surprise", {"text": TEXT, **body})
    assert events[-1]["event"] == "done", events[-1]
    return events[-1]


def test_bits_are_those_of_logprobs(stages, folders):
    found = read(stages, models=folders[1:2])
    (expected,) = tk.load(folders[1]).logprobs([TEXT])
    (row,) = found["models"]
    assert found["tokens"] == expected.tokens
    assert row["bits"] == pytest.approx([-value / math.log(2) for value in expected.logprobs], abs=1e-4)
    assert row["total_bits"] == pytest.approx(sum(row["bits"]), abs=1e-4)
    assert row["total_bits_per_byte"] == pytest.approx(row["total_bits"] / len(TEXT.encode()))
    assert row["total_perplexity"] == pytest.approx(2 ** (row["total_bits"] / len(found["tokens"])))
    assert row["divergences"] is None


@pytest.mark.slow  # imports the evaluation, 3 s
def test_with_the_end_the_total_is_that_of_toolkit_evaluate(stages, folders, tmp_path):
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
    (measured,) = tk.evaluate(folders[1], tmp_path / "text.jsonl").models.values()
    found = read(stages, models=folders[1:2], end=True)
    (row,) = found["models"]
    assert row["total_bits_per_byte"] == pytest.approx(measured.bits_per_byte.estimate, abs=1e-4)
    assert row["total_perplexity"] == pytest.approx(measured.perplexity.estimate, rel=1e-4)
    assert (found["ended"], len(found["tokens"])) == (True, measured.tokens)


def test_divergence_is_from_the_first_model_or_from_the_one_before(stages, folders):
    first = read(stages, models=folders[:3])
    previous = read(stages, models=folders[:3], against="previous")
    assert [row["divergences"] is None for row in first["models"]] == [True, False, False]
    assert first["models"][1]["divergences"] == previous["models"][1]["divergences"]
    alone = read(stages, models=folders[1:3])
    assert previous["models"][2]["divergences"] == pytest.approx(alone["models"][1]["divergences"], abs=1e-6)
    other = read(stages, models=[folders[0], folders[2]])
    assert first["models"][2]["divergences"] == pytest.approx(other["models"][1]["divergences"], abs=1e-6)
    assert first["models"][2]["divergences"] != pytest.approx(previous["models"][2]["divergences"], abs=1e-3)


def test_the_truth_is_beside_storyworld_text(stages, folders):
    truth = read(stages, models=folders[:1])["truth"]
    assert len(truth["bits"]) == len(TEXT)
    assert truth["total_bits"] == pytest.approx(sum(truth["bits"]), abs=1e-4)
    assert truth["bits"][-3] == 0  # the y of key
    assert read(stages, models=folders[:1], text=TEXT.replace("finds", "fnids"))["truth"] is None
    assert read(stages, models=folders[:1], prompt="Tell me a story.")["truth"] is None


def test_an_answer_stands_after_its_prompt(stages, folders):
    found = read(stages, models=folders[:1], text="A key.", prompt="What?", end=True)
    assert "".join(found["context"]) == "<|user|>What?<|assistant|>"
    assert "".join(found["tokens"]) == "A key.<|endoftext|>"


def test_japanese_is_in_bytes(stages, folders):
    found = read(stages, models=folders[:1], text="鍵")
    assert found["tokens"] == ["<E9>", "<8D>", "<B5>"]
    assert found["models"][0]["total_bytes"] == 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"models": [0, 3]}, "different tokenizers"),
        ({"text": "a" * 5000}, "at most 4096"),
        ({"models": ["x"]}, "'x'"),
    ],
    ids=["tokenizers", "length", "unknown"],
)
def test_what_cannot_be_read_is_said(stages, folders, body, words):
    models = [folders[one] if isinstance(one, int) else one for one in body.get("models", [0])]
    events = stages.events("/api/surprise", {"text": TEXT, **body, "models": models})
    assert words in str(events[-1]["error"])


def test_limits_are_checked(stages, folders):
    for wrong in ({"models": []}, {"models": ["x"] * 9}, {"text": ""}, {"against": "last"}):
        assert (
            stages.request("POST", "/api/surprise", {"models": folders[:1], "text": TEXT, **wrong})[0] == 422
        )


@pytest.fixture(scope="module")
def strangers(bos_tokenizer, tmp_path_factory):
    """Serve a Llama with a chat template of its own, and one that is for plain text only."""
    root = tmp_path_factory.mktemp("strangers")
    for name, chat_template in (("chat", template.CHATML_TEMPLATE), ("plain", None)):
        tokenizer = copy.deepcopy(bos_tokenizer)
        tokenizer.chat_template = chat_template
        build_architecture("llama", tokenizer).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    with serving([str(root / "chat"), str(root / "plain")], root) as running:
        yield running, str(root / "chat"), str(root / "plain")


def test_a_checkpoint_with_its_own_template_and_one_without(strangers):
    server, chat, plain = strangers
    for model in (chat, plain):
        row = read(server, models=[model], end=True)["models"][0]
        (expected,) = tk.load(model).logprobs([TEXT])
        assert row["bits"][:-1] == pytest.approx(
            [-value / math.log(2) for value in expected.logprobs], abs=1e-4
        )
        following = server.post("/api/next", {"model": model, "text": TEXT})
        assert following["tokens"][0] == "<s>"
        assert sum(following["drawn"]["p"]) + following["drawn"]["rest"] == pytest.approx(1)
    answered = read(server, models=[chat], text="A key.", prompt="What?")
    assert "".join(answered["context"]) == "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    asked = server.post("/api/next", {"model": chat, "text": "What?", "chat": True})
    assert "".join(asked["tokens"]) == "".join(answered["context"])
    events = server.events("/api/surprise", {"models": [plain], "text": TEXT, "prompt": "What?"})
    assert "no chat template" in events[-1]["error"]["what"]
