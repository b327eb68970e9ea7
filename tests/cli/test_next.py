"""The table of `toolkit next` matches the logits of the model."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from toolkit.base.errors import UsageError
from toolkit.cli import next
from toolkit.inference import next_token
from toolkit.inference.opening import open_model


@pytest.fixture(scope="module")
def opened(folder):
    return open_model(str(folder))


def read(capsys):
    out = capsys.readouterr()
    return json.loads(out.out), out.err


def test_json_matches_the_model(folder, opened, capsys):
    assert next.next_command(str(folder), "the fox", top=5, json=True) == 0
    result, _ = read(capsys)
    ids = [opened.tokenizer.eos_token_id, *opened.tokenizer("the fox")["input_ids"]]
    logits = opened.model(torch.tensor([ids])).logits[0, -1].detach().double()
    allowed = [i for i in range(len(opened.tokenizer)) if i != opened.tokenizer.pad_token_id]
    expected = torch.softmax(logits, 0)  # as in scoring, the vocabulary padding counts
    top = expected[allowed].topk(5)
    assert [candidate["id"] for candidate in result["candidates"]] == [
        allowed[i] for i in top.indices.tolist()
    ]
    np.testing.assert_allclose(
        [candidate["probability"] for candidate in result["candidates"]], top.values, rtol=1e-4
    )
    assert result["entropy_bits"] == pytest.approx(-(expected * expected.log2()).sum().item(), rel=1e-4)
    assert result["rest"] == pytest.approx(1 - top.values.sum().item(), abs=1e-5)
    assert result["chosen"]["rank"] == 1


def test_steps_continue_from_the_chosen_token(folder, opened, capsys):
    next.next_command(str(folder), "the fox", steps=4, json=True)
    result, _ = read(capsys)
    text = "the fox"
    for step in result["steps"]:
        next.next_command(str(folder), text, json=True)
        alone, _ = read(capsys)
        assert alone["candidates"][0]["id"] == step["chosen"]["id"]
        text += opened.tokenizer.decode([step["chosen"]["id"]])
        if "\ufffd" in text or opened.tokenizer.eos_token in text:
            break


def test_temperature_sampling_is_seeded(opened):
    ids = opened.text_ids("the")

    def path(seed, temperature=3.0):
        steps = next_token.follow(opened, ids, top=3, steps=12, temperature=temperature, seed=seed)
        return [step.chosen for step in steps]

    assert path(1) == path(1) != path(2)
    assert path(1, 0.0) == path(2, 0.0)


def test_choose_matches_hand_computed_values():
    generator = np.random.default_rng(0)
    result = next_token.choose(np.array([0.25, 0.5, 0.125, 0.125]), top=2, temperature=0, generator=generator)
    assert (result.tokens, result.probabilities) == ([1, 0], [0.5, 0.25])
    assert result.entropy_bits == pytest.approx(1.75) and result.rest == pytest.approx(0.25)
    draws = [
        next_token.choose(np.array([0.2, 0.8]), top=1, temperature=0.5, generator=generator).chosen
        for _ in range(2000)
    ]
    assert np.mean(draws) == pytest.approx(0.64 / 0.68, abs=0.02)  # squared, and scaled to sum to one


def test_padding_is_listed_but_never_chosen():
    allowed = np.array([True, False, True])
    for temperature in (0, 1):
        result = next_token.choose(
            np.array([0.3, 0.6, 0.1]), top=3, temperature=temperature,
            generator=np.random.default_rng(0), allowed=allowed,
        )  # fmt: skip
        assert result.tokens == [0, 2] and result.probabilities == [0.3, 0.1] and result.chosen in (0, 2)
        assert result.rest == pytest.approx(0.6)


def test_deterministic_model_has_zero_entropy():
    result = next_token.choose(np.array([0.0, 1.0]), top=5, temperature=1, generator=np.random.default_rng(0))
    assert result.entropy_bits == 0 and result.rest == 0 and result.chosen == 1


def test_probability_bars():
    assert next.bar(1.0, 4) == "████" and next.bar(0.5, 4) == "██"
    assert next.bar(0.0) == "" and next.bar(1e-9) == "▏"
    assert next.bar(0.375, 1) == "▍"


def test_table_shows_spaces_and_remaining_probability(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    next.next_command(str(folder), "the fox\n", top=280, steps=2)
    text = capsys.readouterr().out
    for sign in ("the·fox↵", "·the", "others", "entropy", "surprise", "bits together"):
        assert sign in text


def test_empty_text_starts_a_document(folder, opened, capsys):
    next.next_command(str(folder), "", json=True)
    result, _ = read(capsys)
    assert math.isclose(
        sum(candidate["probability"] for candidate in result["candidates"]) + result["rest"], 1
    )


def test_long_text_is_truncated_at_the_beginning(opened):
    ids = opened.text_ids("the fox and the bear " * 40)
    assert len(ids) > opened.context_length
    assert len(next_token.follow(opened, ids, top=1, steps=3, temperature=0, seed=0)) >= 1


def test_invalid_numbers_are_refused(folder):
    with pytest.raises(UsageError):
        next.next_command(str(folder), "the", top=0)


def test_the_truth_stands_beside_the_model(folder, opened, capsys, monkeypatch):
    text = "A story about a fox who finds a key."
    next.next_command(str(folder), text, truth=True, steps=2, temperature=1.0, json=True)
    result, _ = read(capsys)
    ids = {opened.tokenizer(word)["input_ids"][0] for word in (" The", " It", "\n")}
    assert set(map(int, result["truth"])) == ids
    assert sum(result["truth"].values()) == pytest.approx(1.0)
    assert len(result["steps"]) == 2 and result["steps"][0]["truth"] == result["truth"]
    monkeypatch.setenv("COLUMNS", "100")
    next.next_command(str(folder), text, truth=True)
    out = capsys.readouterr().out
    assert "truth" in out and "; the truth: " in out


def test_a_tokenizer_for_which_the_truth_is_not_known_is_said():
    opened = SimpleNamespace(tokenizer=SimpleNamespace(is_fast=False, eos_token_id=0))
    with pytest.raises(UsageError, match="--truth: the tokenizer does not split texts") as caught:
        next.true_chances(opened, "A story", [])
    assert caught.value.fix == "leave out --truth"


def test_tokens_outside_the_world_have_no_truth(folder, opened, capsys):
    """An untrained model soon leaves the world; the table goes on without the truth."""
    next.next_command(str(folder), "A story about a", truth=True, steps=4, temperature=1.0, json=True)
    result, _ = read(capsys)
    assert result["truth"] and result["steps"][-1]["truth"] is None


def test_a_text_of_another_world_has_no_truth(folder):
    with pytest.raises(UsageError, match="no document of the small storyworld begins like this"):
        next.next_command(str(folder), "The fox", truth=True)
    with pytest.raises(UsageError, match="not of answers"):
        next.next_command(str(folder), "A story", truth=True, chat=True)
