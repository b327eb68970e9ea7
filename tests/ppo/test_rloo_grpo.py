"""RLOO and GRPO in the ppo stage: TRL's trainers with fixes for left-padded GPT-2 inputs."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from safetensors.torch import load_file

from tests.architectures import build_architecture
from tests.ppo.training import Killed, run_stage
from toolkit.base.errors import ToolkitError
from toolkit.models.loading import load_causal_lm, save_model
from toolkit.ppo import rloo_grpo
from toolkit.runs import metrics
from toolkit.stages import trainer_runner

ALGORITHMS = ("rloo", "grpo")


@pytest.fixture
def grouped(recipe):
    def make(algorithm, **changes):
        return recipe(algorithm=algorithm, **{"answers_per_prompt": 2, "learning_rate": 3e-3, **changes})

    return make


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_run_outputs(opened, grouped, world, algorithm):
    path = run_stage(opened, grouped(algorithm))
    rows = metrics.read(path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [4, 8, 12, 16]
    assert all(
        row.keys() >= {"score", "length", "ended", "kl", "loss", "entropy", "clip_fraction"} for row in rows
    )
    if algorithm == "rloo":
        assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    evaluation = json.loads((path / "evaluation.json").read_text())
    assert evaluation["score"] == rows[-1]["score"] and evaluation["n"] == 8
    assert evaluation["reference"]["score"] == pytest.approx(rows[0]["score"], rel=1e-6)
    assert "critic" not in evaluation["settings"]
    before = load_file(world / "policy" / "model.safetensors")
    after = load_file(path / "model" / "model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_resumed_run_is_bitwise_identical(opened, grouped, world, monkeypatch, algorithm):
    """The run resumes in the second pass over six prompts, with four prompts per rollout."""
    data = {"name": str(world / "prompts.jsonl"), "examples": 6}
    settings = grouped(algorithm, checkpoint_every_steps=2, data=data)
    whole = run_stage(opened, settings, "whole")
    reward, calls = rloo_grpo._reward, []

    def cut_off(*arguments):
        inner = reward(*arguments)

        @functools.wraps(inner)
        def third(*args, **kwargs):
            calls.append(1)
            if len(calls) == 4:
                raise Killed
            return inner(*args, **kwargs)

        return third

    monkeypatch.setattr(rloo_grpo, "_reward", cut_off)
    with pytest.raises(Killed):
        run_stage(opened, settings, "cut")
    monkeypatch.undo()
    torch.manual_seed(99)
    resumed = run_stage(opened, settings, "cut")
    rows = [
        [{key: row[key] for key in row if "time" not in key} for row in metrics.read(path / "metrics.jsonl")]
        for path in (whole, resumed)
    ]
    for one, two in zip(*rows, strict=True):
        assert {key: (one[key], two[key]) for key in one if one[key] != two[key]} == {}
    first, second = (load_file(path / "model/model.safetensors") for path in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (whole / "evaluation.json").read_text() == (resumed / "evaluation.json").read_text()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_left_padded_rows_get_position_ids(opened, grouped, monkeypatch, algorithm):
    """TRL counts padding as positions for short prompts; the toolkit uses the positions of sampling."""
    read = []
    base = rloo_grpo.CLASSES[algorithm][1]
    inside = base._generate_and_score_completions

    def noted(self, inputs):
        output = inside(self, inputs)
        with torch.no_grad():
            ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
            mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
            width = output["completion_ids"].shape[1]
            logprobs = self._get_per_token_logps_and_entropies(self.model, ids, mask, width)[0]
        rows = []
        for row in range(len(ids)):
            prompt = output["prompt_ids"][row][output["prompt_mask"][row].bool()].tolist()
            kept = output["completion_mask"][row].bool()
            rows.append((prompt, output["completion_ids"][row][kept].tolist(), logprobs[row][kept]))
        read.append((rows, {name: tensor.clone() for name, tensor in self.model.state_dict().items()}))
        return output

    monkeypatch.setattr(base, "_generate_and_score_completions", noted)
    settings = grouped(algorithm, minibatches=1)
    run_stage(opened, settings)
    rows, state = read[-1]
    assert len({len(prompt) for prompt, _, _ in rows}) > 1  # otherwise there is no padding
    policy, _ = load_causal_lm((settings.model, None))
    policy.load_state_dict(state, strict=False)
    for prompt, answer, logprobs in rows:
        with torch.no_grad():
            logits = policy(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(answer)[:, None]).squeeze(1)
        torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=1e-4)


def test_objective_matches_the_ppo_reward(opened, grouped, monkeypatch):
    """Rewards are normalized by the first rollout, with a penalty of one for a missing end."""
    seen = []
    reward = rloo_grpo._reward

    def noted(*arguments):
        inner = reward(*arguments)

        def call(**kwargs):
            values = inner(**kwargs)
            seen.append((values, kwargs["completion_ids"]))
            return values

        return call

    monkeypatch.setattr(rloo_grpo, "_reward", noted)
    settings = grouped("rloo", missing_end_penalty=100.0)
    path = run_stage(opened, settings)
    _, tokenizer = load_causal_lm((settings.model, None))
    values, ids = seen[0]
    ended = [each[-1] == tokenizer.eos_token_id for each in ids]
    assert 0 < sum(ended) < len(ended)
    assert all((value > -50) == closed for value, closed in zip(values, ended, strict=True))
    raw = [value + 100 * (not closed) for value, closed in zip(values, ended, strict=True)]
    assert torch.tensor(raw).mean() == pytest.approx(0, abs=1e-5)
    assert torch.tensor(raw).std(correction=0) == pytest.approx(1, abs=1e-4)
    assert metrics.read(path / "metrics.jsonl")[0]["ended"] == sum(ended) / len(ended)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_metrics_of_two_rollouts_are_averaged(opened, grouped, algorithm):
    one, two = (
        run_stage(
            opened, grouped(algorithm, log_every_steps=every, checkpoint_every_steps=4), f"every-{every}"
        )
        for every in (1, 2)
    )
    each, pairs = (metrics.read(path / "metrics.jsonl") for path in (one, two))
    assert [row["step"] for row in pairs] == [4, 8, 16]  # the first rollout always has its own row
    for name in ("score", "length", "ended", "kl"):
        mean = (each[2][name] + each[3][name]) / 2
        assert pairs[-1][name] == pytest.approx(mean, rel=1e-5), name
    # With different lengths, the mean of products is not the product of means.
    assert each[2]["length"] != each[3]["length"]
    written = [json.loads((path / "evaluation.json").read_text()) for path in (one, two)]
    assert [evaluation["n"] for evaluation in written] == [8, 16]
    assert written[0]["reference"] == written[1]["reference"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_prompt_is_used_once_per_pass(opened, grouped, world, monkeypatch, algorithm):
    seen = []
    reward = rloo_grpo._reward

    def noted(*arguments):
        inner = reward(*arguments)

        def call(**kwargs):
            seen.append([prompt[-1]["content"] for prompt in kwargs["prompts"]])
            return inner(**kwargs)

        return call

    monkeypatch.setattr(rloo_grpo, "_reward", noted)
    data = {"name": str(world / "prompts.jsonl"), "examples": 6}
    run_stage(opened, grouped(algorithm, data=data, episodes=24))
    answered = [prompt for rollout in seen for prompt in rollout]
    assert answered[::2] == answered[1::2] and len(answered) == 24  # two answers per prompt
    first, second = answered[:12:2], answered[12::2]
    assert len(set(first)) == 6 and sorted(first) == sorted(second) and first != second


def test_prompts_repeat_if_fewer_than_a_rollout(opened, grouped, world):
    data = {"name": str(world / "prompts.jsonl"), "examples": 2}
    path = run_stage(opened, grouped("rloo", data=data, episodes=8))
    assert json.loads((path / "evaluation.json").read_text())["n"] == 8


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_reference_is_the_initial_policy(opened, grouped, world, monkeypatch, algorithm):
    """The reference is not reloaded by name, because a Hub id could have changed its revision."""
    base, noticed = rloo_grpo.CLASSES[algorithm][1], []
    begin = base.train

    def changed(self, *arguments, **options):
        own, reference = self.model.state_dict(), self.ref_model.state_dict()
        noticed.extend(torch.equal(own[name], reference[name]) for name in own)
        return begin(self, *arguments, **options)

    load = rloo_grpo.load_causal_lm

    def another_revision(*arguments, **options):
        policy, tokenizer = load(*arguments, **options)
        with torch.no_grad():
            policy.transformer.h[0].mlp.c_fc.weight.add_(0.01)
        return policy, tokenizer

    monkeypatch.setattr(base, "train", changed)
    monkeypatch.setattr(rloo_grpo, "load_causal_lm", another_revision)
    run_stage(opened, grouped(algorithm, episodes=8))
    assert noticed and all(noticed)


def test_answers_exceeding_the_context_are_refused_before_training(opened, grouped):
    with pytest.raises(
        ToolkitError, match="16 prompt tokens and 60 new ones exceed the policy's context of 64"
    ):
        run_stage(opened, grouped("rloo", max_new_tokens=60))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_model_that_padding_on_the_left_changes_is_refused(opened, grouped, algorithm, tmp_path, world):
    _, tokenizer = load_causal_lm((str(world / "policy"), None))
    save_model(build_architecture("rwkv", tokenizer), tokenizer, tmp_path / "rwkv")
    with pytest.raises(ToolkitError, match=f"{algorithm} pads prompts on the left, and a RwkvForCausalLM"):
        run_stage(opened, grouped(algorithm).model_copy(update={"model": str(tmp_path / "rwkv")}))


def test_stop_request_waits_for_the_end_of_the_rollout(opened, grouped, monkeypatch, tmp_path):
    steps = []
    monkeypatch.setattr(trainer_runner.signals, "stop_requested", lambda: steps.append(1) or len(steps) >= 5)
    with pytest.raises(KeyboardInterrupt):
        run_stage(opened, grouped("rloo"))
    assert [path.name for path in tmp_path.rglob("step-*")] == ["step-00000008"]
