"""Tests of `toolkit.load`: generation, scoring and next token match the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import toolkit as tk
from toolkit.base.errors import ToolkitError, UsageError
from toolkit.cli.main import main


@pytest.fixture(scope="module")
def lm(old_runs):
    return tk.load(old_runs / "dpo")


def test_run_path_and_model_folder_load_the_same_model(lm, dpo):
    for model in (dpo, str(dpo.path), dpo.model_dir):
        other = tk.load(model)
        same = zip(lm.model.parameters(), other.model.parameters(), strict=True)
        assert all(torch.equal(first, second) for first, second in same)
    assert dpo.load().name == str(dpo.path)


def test_answers_match_the_command_line(lm, dpo, capfd):
    command = [
        "generate",
        str(dpo.path),
        "Once",
        "--max-new-tokens",
        "8",
        "--seed",
        "3",
        "--n",
        "2",
        "--json",
    ]
    assert main(command) == 0
    printed = json.loads(capfd.readouterr().out)["answers"]
    answers = lm.answers("Once", 2, max_new_tokens=8, seed=3)
    assert [(answer.text, answer.ids, answer.ended) for answer in answers] == [
        (answer["text"], answer["ids"], answer["ended"]) for answer in printed
    ]
    assert lm.generate("Once", max_new_tokens=8, seed=3) == printed[0]["text"]


def test_text_for_a_chat_model_becomes_a_message(lm):
    settings = {"max_new_tokens": 8, "seed": 1}
    asked = lm.generate([{"role": "user", "content": "Once"}], **settings)
    assert lm.generate("Once", **settings) == asked
    ids = lm.opened.prompt_ids("Once", chat=True)
    assert ids != lm.opened.prompt_ids("Once", chat=False)
    several = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert isinstance(lm.generate(several, **settings), str)


@pytest.mark.parametrize("settings", [{"temperature": -1.0}, {"top_p": 0.0}, {"max_new_tokens": 0}])
def test_out_of_range_setting_is_refused(lm, settings):
    with pytest.raises(ToolkitError):
        lm.generate("Once", **settings)
    with pytest.raises(TypeError):
        lm.generate("Once", temprature=1.0)


def test_logprobs_match_the_model(lm):
    text = "Once there was a fox"
    (scored,) = lm.logprobs([text])
    ids = lm.opened.text_ids(text)
    with torch.no_grad():
        logits = lm.model(torch.tensor([ids])).logits[0].double()
    expected = torch.log_softmax(logits, -1)[range(len(ids) - 1), ids[1:]].numpy()
    np.testing.assert_allclose(scored.logprobs, expected, rtol=1e-5)
    assert scored.total == pytest.approx(expected.sum(), rel=1e-5)
    assert scored.bits_per_byte == pytest.approx(-expected.sum() / np.log(2) / len(text), rel=1e-5)
    assert "".join(scored.tokens) == text and len(scored.tokens) == len(scored.logprobs)


def test_logprobs_of_texts_are_independent(lm):
    texts = ["a fox", "", "Once there was a bear who lived in a house. " * 60]
    together = lm.logprobs(texts)
    assert [len(scored.logprobs) for scored in together][1] == 0
    for text, scored in zip(texts, together, strict=True):
        np.testing.assert_allclose(scored.logprobs, lm.logprobs([text])[0].logprobs, rtol=1e-4)
    assert len(together[2].logprobs) > lm.opened.context_length  # longer than the context


def test_string_instead_of_list_is_refused(lm):
    with pytest.raises(UsageError, match="one string"):
        lm.logprobs("Once")


def test_next_token_matches_the_command_line(lm, dpo, capfd):
    assert main(["next", str(dpo.path), "Once there was a", "--top", "4", "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    expected = lm.next("Once there was a", top=4)
    assert [(entry.id, entry.token, entry.probability) for entry in expected.top] == [
        (entry["id"], entry["token"], entry["probability"]) for entry in printed["candidates"]
    ]
    assert (expected.entropy_bits, expected.rest) == (printed["entropy_bits"], printed["rest"])
    assert sum(entry.probability for entry in expected.top) + expected.rest == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        (["next", "Once "], True),
        (["next", "Once"], False),
        (["generate", "Once ", "--raw", "--max-new-tokens", "2"], True),
        (["generate", "Once ", "--max-new-tokens", "2"], False),  # in the chat template
    ],
)
def test_text_that_ends_in_a_space_gets_a_warning(dpo, capfd, arguments, warned):
    verb, *rest = arguments
    assert main([verb, str(dpo.path), *rest]) == 0
    assert ("the text ends in a space" in capfd.readouterr().err) == warned


def test_next_token_html_has_one_bar_per_token(lm):
    shown = lm.next("Once <b>", top=3)._repr_html_()
    assert shown.count("<tr>") == 4 and shown.count("width:200px") == 4
    assert "<b>" not in shown  # escaped


def test_chat_requires_a_chat_template(lm, monkeypatch):
    monkeypatch.setattr(lm.tokenizer, "chat_template", None)
    for prompt, chat in (([{"role": "user", "content": "Once"}], None), ("Once", True)):
        with pytest.raises(UsageError, match="chat template"):
            lm.generate(prompt, chat=chat)


def test_non_language_model_is_refused(old_runs, tmp_path):
    for name in (old_runs / "tokenizer", tmp_path):
        with pytest.raises(ToolkitError):
            tk.load(name)
