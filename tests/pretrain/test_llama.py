"""Training a Llama: the loss is that of transformers, and the fast paths and guarantees of GPT-2 hold."""

from __future__ import annotations

import copy
import itertools
import json

import pytest
import torch
from torch import nn

from tests.pretrain.conftest import write_recipe
from toolkit.base.errors import RecipeError, ToolkitError
from toolkit.config import loader
from toolkit.config.schema import ModelSettings, OptimizerSettings, PretrainRecipe
from toolkit.models.architectures import build
from toolkit.models.loading import load_causal_lm
from toolkit.pretrain import loop, optimizer, preflight
from toolkit.pretrain import loss as loss_module
from toolkit.pretrain.loss import CAUSAL_ATTENTION, TrainingLoss, document_inputs, use_training_kernels
from toolkit.proofs import replay
from toolkit.runs import checkpoint, metrics

LLAMA = {"architecture": "llama", "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "n_positions": 32}
END = 0


@pytest.fixture(scope="module")
def llama():
    """A Llama with random weights ten times as large as at the start, so that attention matters; copy it."""
    model = build(ModelSettings(**LLAMA), vocab_size=261, seed=0, end_id=END).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    return model


def rows(count=3, length=32):
    drawn = torch.randint(1, 261, (count, length + 1), generator=torch.Generator().manual_seed(0))
    drawn[:, length // 2] = END
    return drawn


def test_loss_and_gradients_match_transformers(llama):
    model, reference = copy.deepcopy(llama), copy.deepcopy(llama)
    expected = reference(rows(), labels=rows()).loss
    expected.backward()
    with use_training_kernels(model):
        loss = TrainingLoss(model, bf16=False)(rows())
        loss.backward()
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-3)


def test_separate_documents_are_scored_as_each_alone(llama):
    model = copy.deepcopy(llama)
    loss = TrainingLoss(model, bf16=False, end_id=END)
    with torch.no_grad(), use_training_kernels(model):
        both = loss.hidden(rows())
        assert document_inputs(rows()[:, :-1], END)["position_ids"].max() == 15
    with torch.no_grad():
        for part in (slice(0, 16), slice(16, 32)):
            alone = model.model(input_ids=rows()[:, part]).last_hidden_state
            torch.testing.assert_close(both[:, part], alone, atol=1e-4, rtol=1e-4)


def test_chunked_cross_entropy_is_the_same_loss(llama):
    whole = TrainingLoss(copy.deepcopy(llama), bf16=False)
    blocks = TrainingLoss(copy.deepcopy(llama), bf16=False, head_block=7)
    first, second = whole(rows()), blocks(rows())
    (first * 2).backward()
    (second * 2).backward()
    torch.testing.assert_close(first, second)
    for a, b in zip(whole.parameters(), blocks.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("bf16", "apart"), [(False, False), (True, True)])
def test_preflight_passes(llama, bf16, apart, capsys):
    model = copy.deepcopy(llama)
    recipe = PretrainRecipe(
        stage="pretrain", tokens="x", train_tokens=8192, model=ModelSettings(**LLAMA),
        separate_documents=apart,
    )  # fmt: skip
    loss = TrainingLoss(model, bf16=bf16, end_id=END if apart else None)
    kernels = loss_module.training_kernels(recipe, model, compiled=True)
    preflight.check(loss, recipe, kernels, vocab_size=261, compiled=True, run_name="t/l", verbose=True)
    shown = capsys.readouterr().err
    assert ("a single graph, no dense mask" in shown) == (not apart)
    assert model.config._attn_implementation != CAUSAL_ATTENTION


def test_bf16_attention_on_a_cpu_is_plain_products_for_rotary_queries(llama, monkeypatch):
    """Rotary positions return fp32 under autocast, for which the plain products would not be used."""
    model, dtypes = copy.deepcopy(llama), set()
    matmul = loss_module._matmul_attention

    def watched(query, key, value, *rest):
        dtypes.update((query.dtype, key.dtype, value.dtype))
        return matmul(query, key, value, *rest)

    monkeypatch.setattr(loss_module, "_matmul_attention", watched)
    with use_training_kernels(model):
        rounded = TrainingLoss(model, bf16=True)(rows())
    assert dtypes == {torch.bfloat16}
    assert rounded.item() == pytest.approx(TrainingLoss(model, bf16=False)(rows()).item(), rel=0.02)


def test_muon_takes_every_matrix_of_the_blocks_and_matches_torch():
    """Linear layers are stored (outputs, inputs); queries, keys and values are separate matrices."""
    settings = ModelSettings(**LLAMA)
    ours, theirs = (build(settings, vocab_size=64, seed=1, end_id=0) for _ in range(2))
    muon = optimizer.build(ours, OptimizerSettings(name="muon", weight_decay=0.1, learning_rate=0.1))[1]
    taken = {id(p) for group in muon.param_groups for p in group["params"]}
    names = [name for name, p in ours.named_parameters() if id(p) in taken]
    assert len(names) == 2 * 7 and all(".layers." in name and name.endswith("_proj.weight") for name in names)
    matrices = [theirs.get_parameter(name) for name in names]
    reference = torch.optim.Muon(matrices, lr=0.1, weight_decay=0.1, momentum=optimizer.MUON_MOMENTUM)
    for seed in range(3):
        for name in names:
            generator = torch.Generator().manual_seed(seed)
            grad = torch.randn(ours.get_parameter(name).shape, generator=generator)
            ours.get_parameter(name).grad, theirs.get_parameter(name).grad = grad, grad.clone()
        muon.step()
        reference.step()
    # torch iterates in bf16; sides in the wrong order would give 0.05 and more for the sides 32 and 96
    for name in names:
        pair = ours.get_parameter(name).detach(), theirs.get_parameter(name).detach()
        torch.testing.assert_close(*pair, atol=1e-2, rtol=0)


def test_muon_refuses_a_matrix_that_may_be_several():
    model = build(ModelSettings(**LLAMA), vocab_size=64, seed=1, end_id=0)
    model.model.layers[0].self_attn.qkv_proj = nn.Linear(32, 64)
    with pytest.raises(ToolkitError, match="muon does not know the matrix self_attn.qkv_proj.weight"):
        optimizer.build(model, OptimizerSettings(name="muon"))


def digest(run):
    return (run / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
def test_resumed_training_is_bitwise_the_uninterrupted_one_and_replays(pretrain, monkeypatch, precision):
    settings = {"model": LLAMA, "optimizer": {"name": "muon"}, "precision": precision}
    settings |= {"separate_documents": True}
    whole = pretrain("whole", **settings)
    train_step = loop.train_step

    def crash(context, number, rows, monitor):
        if number == 7:
            raise ConnectionError("the machine is gone")
        return train_step(context, number, rows, monitor)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", crash)
        with pytest.raises(ConnectionError):
            pretrain("broken", **settings)
    torch.rand(3)  # another state of the global generator
    broken = pretrain("broken", **settings)
    assert digest(broken) == digest(whole)
    assert (whole / "steps.jsonl").read_bytes() == (broken / "steps.jsonl").read_bytes()
    last = "checkpoints/step-00000012/optimizer.safetensors"
    assert (whole / last).read_bytes() == (broken / last).read_bytes()
    replayed = replay.replay_run(whole, 12)
    assert replayed.differences == [] and "model weights" in [state.name for state in replayed.states]


def test_architectures_read_the_same_batches(pretrain):
    runs = [pretrain(name, model={**LLAMA, "architecture": name, **more}, train_tokens=1024)
            for name, more in (("llama", {}), ("gpt2", {"n_kv_head": None}))]  # fmt: skip
    first, second = ([json.loads(line) for line in (run / "steps.jsonl").open()] for run in runs)
    assert [row["batch"] for row in first] == [row["batch"] for row in second] and len(first) == 4
    assert first[0]["loss"] != second[0]["loss"]


def test_trained_llama_is_measured_written_and_loaded(pretrain):
    run = pretrain(model=LLAMA, train_tokens=256 * 40, optimizer={"name": "muon"})
    numbers = json.loads((run / "evaluation.json").read_text())
    assert numbers["bits_per_byte"] < 0.7 * numbers["untrained_bits_per_byte"]
    model, _ = load_causal_lm((str(run / "model"), None))
    assert numbers["parameters"] == sum(p.numel() for p in model.parameters())
    assert type(model).__name__ == "LlamaForCausalLM" and numbers["mfu"] > 0
    assert "toolkit" not in (run / "model" / "config.json").read_text()
    curve = [row["bits_per_byte"] for row in metrics.read(run / "metrics.jsonl") if "bits_per_byte" in row]
    assert curve[0] > 1.3 * curve[-1] and numbers["samples"][0]["text"]


def test_an_anomalous_step_is_kept_and_replayed(pretrain, monkeypatch):
    forward, calls = TrainingLoss.forward, itertools.count(1)
    with monkeypatch.context() as patch:
        patch.setattr(
            TrainingLoss, "forward",
            lambda self, rows: forward(self, rows) * (float("nan") if next(calls) == 5 else 1),
        )  # fmt: skip
        run = pretrain("skipped", model=LLAMA, guard={"action": "skip"})
    assert checkpoint.is_whole(run / "incidents" / "step-00000005")
    assert "skipped" in (run / "steps.jsonl").read_text() and (run / "model").is_dir()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"dropout": 0.1}, "model.dropout: has an effect only with architecture: gpt2: Llama has none"),
        ({"activation": "gelu_pytorch_tanh"}, "model.activation: has an effect only with architecture: gpt2"),
        ({"position_init": "sinusoidal"}, "model.position_init: .*Llama has no position embeddings"),
        ({"attention_init": "copy"}, "model.attention_init: has an effect only with architecture: gpt2"),
        ({"architecture": "gpt2", "n_kv_head": None, "n_inner": 64}, "model.n_inner: .*architecture: llama"),
        ({"architecture": "gpt2"}, "model.n_kv_head: has an effect only with architecture: llama"),
        ({"n_kv_head": 3}, "model.n_kv_head: 3 does not divide n_head 4"),
        ({"n_embd": 36, "n_head": 4}, "model.n_embd: 36 gives heads of 9: .* must be even"),
        ({"architecture": "qwen"}, "model.architecture: must be one of gpt2, llama, not 'qwen'"),
        ({"num_key_value_heads": 2}, "unknown key; did you mean n_kv_head"),
    ],
)
def test_settings_of_the_other_architecture_are_refused(tmp_path, corpus, model, words):
    with pytest.raises(RecipeError, match=words):
        loader.load(write_recipe(tmp_path, corpus, model={**LLAMA, **model}))


def test_every_mistake_of_an_architecture_is_reported_at_once(tmp_path, corpus):
    model = {**LLAMA, "dropout": 0.1, "activation": "relu", "position_init": "sinusoidal"}
    with pytest.raises(RecipeError) as caught:
        loader.load(write_recipe(tmp_path, corpus, model=model, speed={"logistic_gelu": False}))
    assert len(caught.value.problems) == 3


def test_an_override_takes_back_what_only_gpt2_has(tmp_path, corpus):
    path = write_recipe(tmp_path, corpus, model={**LLAMA, "architecture": "gpt2", "n_kv_head": None,
                                                 "position_init": "sinusoidal"})  # fmt: skip
    changed = loader.load(path, ["model.architecture=llama", "model.position_init=normal"])
    assert changed.recipe.shape.architecture == "llama"


def test_fused_gelu_is_only_for_gpt2(tmp_path, corpus):
    with pytest.raises(RecipeError, match="logistic_gelu: has an effect only with architecture: gpt2"):
        loader.load(write_recipe(tmp_path, corpus, model=LLAMA, speed={"logistic_gelu": True}))
