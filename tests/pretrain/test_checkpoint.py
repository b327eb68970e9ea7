"""Training goes on from a checkpoint of any architecture: what holds for it, and what is refused."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests.pretrain import trainings
from tests.pretrain.conftest import SETTINGS, write_part, write_recipe
from toolkit.base.errors import RecipeError, ToolkitError
from toolkit.cli.run import run_command
from toolkit.config import loader
from toolkit.config.schema import OptimizerSettings, PretrainRecipe
from toolkit.data.text.shards import TokenShards
from toolkit.execution import dag
from toolkit.inference.logprobs import score_documents
from toolkit.models.loading import load_causal_lm
from toolkit.pretrain import initial_model, loop, optimizer
from toolkit.pretrain.levers import Levers
from toolkit.pretrain.loss import should_compile
from toolkit.pretrain.preflight import random_rows
from toolkit.proofs import replay
from toolkit.runs import metrics, seal

SIZES = {
    "vocab_size": 320, "hidden_size": 32, "n_embd": 32, "d_model": 32, "num_hidden_layers": 2, "n_layer": 2,
    "n_layers": 2, "num_attention_heads": 2, "n_head": 2, "n_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 64, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64,
    "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip
"""The sizes by the names of several configurations."""
OWN = {
    "phi": {"num_key_value_heads": 2}, "gptj": {"rotary_dim": 8}, "mixtral": {"num_local_experts": 4},
    "deepseek_v3": {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "q_lora_rank": 16,
        "first_k_dense_replace": 1, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 16, "moe_intermediate_size": 16, "num_key_value_heads": 2, "head_dim": 8,
    },
}  # fmt: skip


def foreign(name: str, **settings):
    """Return a small model of an architecture, with random weights so large that attention matters."""
    config = CONFIG_MAPPING[name](**SIZES | OWN.get(name, {}) | settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    return model


@pytest.fixture(scope="module")
def save(tmp_path_factory, tiny_tokenizer):
    """Return a function that writes a small foreign model with the tokenizer of the corpus."""
    folder, written = tmp_path_factory.mktemp("models"), {}

    def write(name: str, tokenizer=tiny_tokenizer, **settings) -> str:
        key = (name, id(tokenizer), str(settings))
        if key not in written:
            path = folder / f"{name}-{len(written)}"
            foreign(name, **settings).save_pretrained(path)
            tokenizer.save_pretrained(path)
            written[key] = str(path)
        return written[key]

    return write


@pytest.fixture
def go_on(pretrain):
    """Return `pretrain` with rows of 32 tokens from a checkpoint."""

    def run(model: str, name: str = "first", **settings):
        return pretrain(name, **{"model": model, "sequence_length": 32, "train_tokens": 256 * 4, **settings})

    return run


def numbers_of(run) -> dict:
    return json.loads((run / "evaluation.json").read_text())


def test_a_checkpoint_is_measured_trained_and_written(go_on, save, corpus):
    path = save("llama")
    run = go_on(path, train_tokens=256 * 20, optimizer={"learning_rate": 0.003})
    numbers, held_out = numbers_of(run), TokenShards.open(corpus / "held_out")
    documents = [held_out.document(i) for i in range(held_out.documents)]
    for folder, key in ((path, "checkpoint_bits_per_byte"), (str(run / "model"), "bits_per_byte")):
        model, _ = load_causal_lm((folder, None))
        nats = score_documents(model, documents, prefix_id=0, end_id=0, window=32)
        assert numbers[key] == pytest.approx(nats.sum() / math.log(2) / held_out.bytes, rel=1e-5)
    assert "untrained_bits_per_byte" not in numbers and numbers["window"] == 32
    assert numbers["bits_per_byte"] < 0.7 * numbers["checkpoint_bits_per_byte"]
    assert numbers["flops_per_token"] > 0 and numbers["samples"][0]["text"]
    config, before = (json.loads(Path(folder, "config.json").read_text()) for folder in (run / "model", path))
    assert config == before  # nothing of training's attention stays in it
    assert AutoTokenizer.from_pretrained(run / "model").chat_template


def test_a_bf16_checkpoint_is_trained_in_fp32_and_written_in_bf16(go_on, save, corpus, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(save("llama"), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "bf16")
    AutoTokenizer.from_pretrained(save("llama")).save_pretrained(tmp_path / "bf16")
    run = go_on(str(tmp_path / "bf16"), optimizer={"learning_rate": 0.003})
    written = load_file(run / "model/model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    assert json.loads((run / "model/config.json").read_text())["dtype"] == "bfloat16"
    newest = max(run.glob("checkpoints/step-*/model.safetensors"))  # a resumed training goes on exactly
    masters = load_file(newest)
    assert {tensor.dtype for tensor in masters.values()} == {torch.float32}
    assert all(torch.equal(masters[name].bfloat16(), tensor) for name, tensor in written.items())
    held_out = TokenShards.open(corpus / "held_out")
    documents = [held_out.document(i) for i in range(held_out.documents)]
    loaded, _ = load_causal_lm((str(run / "model"), None))
    nats = score_documents(loaded, documents, prefix_id=0, end_id=0, window=32)
    expected = nats.sum() / math.log(2) / held_out.bytes
    assert numbers_of(run)["bits_per_byte"] == pytest.approx(expected, rel=1e-6)


def test_the_first_step_starts_from_the_checkpoint(go_on, save):
    run = go_on(save("qwen2"), train_tokens=256, optimizer={"learning_rate": 1e-9})
    before, _ = load_causal_lm((save("qwen2"), None))
    after, _ = load_causal_lm((str(run / "model"), None))
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(old, new, atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gpt2", {"separate_documents": True}),  # its configuration has dropout
        pytest.param("mixtral", {"precision": "bf16"}, marks=pytest.mark.slow),
        pytest.param("gemma2", {}, marks=pytest.mark.slow),
        pytest.param("qwen3", {"optimizer": {"name": "muon"}}, marks=pytest.mark.slow),
        pytest.param("llama", {"exact": True, "micro_batch_tokens": 64}, marks=pytest.mark.slow),
    ],
)
def test_resumed_is_bitwise_the_uninterrupted_training_and_replays(
    go_on, save, monkeypatch, name, settings, corpus
):
    path, settings = save(name), {"train_tokens": 256 * 6, "checkpoint_every_tokens": 512, **settings}
    assert name != "gpt2" or AutoConfig.from_pretrained(path).resid_pdrop == 0.1
    whole, train_step = go_on(path, "whole", **settings), loop.train_step

    def crash(context, number, rows, monitor):
        if number == 3:
            raise ConnectionError("the machine is gone")
        return train_step(context, number, rows, monitor)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", crash)
        with pytest.raises(ConnectionError):
            go_on(path, "broken", **settings)
    torch.rand(3)  # another state of the global generator, from which dropout would draw
    broken = go_on(path, "broken", **settings)
    for file in ("model/model.safetensors", "steps.jsonl"):
        assert (whole / file).read_bytes() == (broken / file).read_bytes(), file
    assert numbers_of(whole)["checkpoint_bits_per_byte"] == numbers_of(broken)["checkpoint_bits_per_byte"]
    replayed = replay.replay_run(whole, 6)
    assert replayed.differences == [] and "model weights" in [state.name for state in replayed.states]


def test_the_manifest_names_the_checkpoint_and_its_run(tmp_path, corpus, save):
    settings = {"train_tokens": 256, "samples": {"prompts": []}}
    first = write_recipe(tmp_path, corpus, "first", **settings)
    longer = {**settings, "model": "runs/t/first", "sequence_length": 16}
    second = write_recipe(tmp_path, corpus, "second", **longer)
    foreign_folder = {**settings, "model": save("llama"), "sequence_length": 16}
    third = write_recipe(tmp_path, corpus, "third", **foreign_folder)
    ordered = dag.order([loader.load(path) for path in (second, first)])
    assert [loaded.name for loaded in ordered] == ["t/first", "t/second"]
    for path in (first, second, third):
        assert run_command(path, runs_dir=tmp_path / "runs") == 0
    runs = tmp_path / "runs" / "t"
    parents = {
        name: {key: (str(folder), is_run) for key, folder, _, is_run in seal.parents(runs / name)}
        for name in ("second", "third")
    }
    assert parents["second"]["model"] == (str(runs / "first"), True)
    assert parents["third"]["model"] == (save("llama"), False)
    before = numbers_of(runs / "first")["bits_per_byte"]
    # the second measures in windows of 16 tokens instead of 32
    assert numbers_of(runs / "second")["checkpoint_bits_per_byte"] == pytest.approx(before, rel=0.05)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_exact_weights_from_a_checkpoint_are_the_same_on_two_processes(tmp_path, corpus, save):
    settings = {
        "model": save("gpt2"), "sequence_length": 32, "exact": True, "micro_batch_tokens": 64,
        "train_tokens": 256 * 4,
    }  # fmt: skip
    runs = [
        trainings.finish(write_recipe(tmp_path, corpus, name, **settings), folder=tmp_path, processes=number)
        for name, number in (("one", 1), ("two", 2))
    ]
    assert not {"weights", "optimizer", "steps"} & set(trainings.differing(*runs))
    one, two = (numbers_of(run)["checkpoint_bits_per_byte"] for run in runs)
    assert one == pytest.approx(two, rel=1e-6)


WINDOW = "its attention has a setting of its own, sliding_window"
HEAD = "its logits are not only a matrix times the last hidden states"
FIXED = "it cannot be replaced in this architecture"


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("gpt2", {}, {}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, {}),
        ("llama", {}, {}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}, {}),
        ("mistral", {"sliding_window": 4096}, {}),
        ("mistral", {"sliding_window": 8}, {"causal_attention": WINDOW}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
         {"causal_attention": WINDOW}),
        ("qwen3", {"head_dim": 24}, {}),
        ("gemma2", {"head_dim": 16},
         {"causal_attention": "its attention has a setting of its own, softcap", "plain_head": HEAD}),
        ("gpt_oss", {"num_local_experts": 4, "head_dim": 16},
         {"causal_attention": "its attention has a setting of its own, s_aux"}),
        ("granite", {"logits_scaling": 8.0}, {"plain_head": HEAD}),
        ("cohere", {}, {"plain_head": HEAD}),
        ("phi", {}, {"plain_head": HEAD}),  # its head has a bias
        ("opt", {}, {}),
        ("gpt_neox", {}, {}),
        ("gptj", {}, {"causal_attention": FIXED, "plain_head": HEAD}),
        ("bloom", {}, {"causal_attention": FIXED}),
        ("mamba", {"state_size": 4, "num_heads": 2}, {"causal_attention": FIXED}),
    ],
)  # fmt: skip
def test_fast_paths_that_a_model_does_not_compute_itself_are_switched_off(name, settings, expected):
    model = foreign(name, **settings)
    recipe = PretrainRecipe(stage="pretrain", tokens="x", train_tokens=8192, model="m", sequence_length=32)
    implementation = model.config._attn_implementation
    assert initial_model._reasons(model, random_rows(32, 261, 0), recipe) == expected
    assert model.config._attn_implementation == implementation


def test_a_lever_that_is_off_is_said_and_recorded(go_on, save, capsys):
    run = go_on(save("gemma2", head_dim=16), train_tokens=256)
    shown = capsys.readouterr().err
    assert "t/first: trains with the checkpoint's own attention: its attention has a setting" in shown
    assert f"t/first: computes the logits of all positions at once: {HEAD}" in shown
    facts = json.loads((run / "manifest.json").read_text())["facts"]
    assert facts["levers"] == {"causal_attention": False, "plain_head": False}
    assert numbers_of(run)["flops_per_token"] is None and numbers_of(run)["mfu"] is None


def test_auto_compiles_a_checkpoint_only_with_trainings_attention():
    recipe = PretrainRecipe(stage="pretrain", tokens="x", train_tokens=8192, model="m", sequence_length=32)
    gpu = torch.device("cuda")
    assert should_compile(recipe, gpu) and not should_compile(recipe, gpu, Levers(causal_attention=False))
    assert not should_compile(recipe, torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("bert", {}, "language model: its .* depend on later tokens"),
        ("gptj", {"separate_documents": True}, "cannot be kept separate .*cannot be replaced"),
        ("mistral", {"separate_documents": True}, "cannot be kept separate .*sliding_window"),
        ("gemma2", {"speed": {"head_block_tokens": 8}}, "cannot be computed in blocks"),
        ("phi", {"optimizer": {"name": "muon"}}, "muon does not know the matrix self_attn.dense"),
        ("mixtral", {"optimizer": {"name": "muon"}}, "muon does not know the matrix mlp"),
        ("deepseek_v3", {}, "would not change 1 weights of .*e_score_correction_bias"),
        ("llama", {"sequence_length": 128, "batch_tokens": 128}, "128 is more than the 64 positions"),
    ],
)
def test_what_an_architecture_cannot_do_is_refused_by_name(go_on, save, name, settings, words):
    more = {"mistral": {"sliding_window": 8}, "gemma2": {"head_dim": 16}}.get(name, {})
    with pytest.raises(ToolkitError, match=words):
        go_on(save(name, **more), **settings)


def test_nan_weights_are_refused_before_the_first_step(go_on, save, tmp_path, tiny_tokenizer):
    model, _ = load_causal_lm((save("llama"), None))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = math.nan
    model.save_pretrained(tmp_path / "broken")
    tiny_tokenizer.save_pretrained(tmp_path / "broken")
    with pytest.raises(ToolkitError, match="are not finite"):
        go_on(str(tmp_path / "broken"))
    assert not list(tmp_path.glob("runs/t/first/metrics.jsonl"))


def other_vocabulary(tokenizer):
    tokenizer.add_tokens(["river"])


def other_end(tokenizer):
    tokenizer.eos_token = "<|user|>"


@pytest.mark.parametrize("change", [other_vocabulary, other_end])
def test_a_corpus_of_another_tokenizer_is_refused(go_on, save, tiny_tokenizer, change):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    change(tokenizer)
    path = save("llama", tokenizer)
    with pytest.raises(ToolkitError, match="was tokenized by another tokenizer than that of") as caught:
        go_on(path)
    assert f"tokenizer: {path} in the corpus recipe" in caught.value.fix


def test_a_checkpoint_needs_a_sequence_length(tmp_path, corpus):
    with pytest.raises(RecipeError, match="sequence_length: is required with a checkpoint"):
        loader.load(write_recipe(tmp_path, corpus, model="owner/model"))
    with pytest.raises(RecipeError, match="logistic_gelu"):
        loader.load(write_recipe(tmp_path, corpus, model="owner/model", sequence_length=32,
                                 speed={"logistic_gelu": True}))  # fmt: skip


def test_default_learning_rates_are_lower_from_a_checkpoint():
    model = foreign("llama")
    for name, rates in (("adamw", [1e-4]), ("muon", [3e-4, 2e-3])):
        optimizers = optimizer.build(model, OptimizerSettings(name=name), from_checkpoint=True)
        assert [each.param_groups[0]["peak_lr"] for each in optimizers] == pytest.approx(rates)
    (given,) = optimizer.build(model, OptimizerSettings(learning_rate=0.5), from_checkpoint=True)
    assert given.param_groups[0]["peak_lr"] == 0.5


def test_what_was_measured_of_the_checkpoint_is_logged_at_step_0(go_on, save):
    run = go_on(save("llama"), train_tokens=256)
    rows = [row for row in metrics.read(run / "metrics.jsonl") if "checkpoint_bits_per_byte" in row]
    assert [row["step"] for row in rows] == [0]
    assert rows[0]["checkpoint_bits_per_byte"] == numbers_of(run)["checkpoint_bits_per_byte"]


def test_documents_that_begin_with_a_token_are_read_so(go_on, save, tmp_path, bos_tokenizer):
    """With a beginning-of-text, it is the context of the first token, and separates documents."""
    folder = tmp_path / "bos"
    for part, texts in (("train", ["the moon sings"] * 40), ("held_out", ["the cat sleeps", "a river"] * 10)):
        write_part(folder / part, bos_tokenizer, texts, begin_id=bos_tokenizer.bos_token_id)
    bos_tokenizer.save_pretrained(folder / "tokenizer")
    path = save("llama", bos_tokenizer)
    run = go_on(path, tokens=folder, train_tokens=256, separate_documents=True)
    numbers, held_out = numbers_of(run), TokenShards.open(folder / "held_out")
    model, _ = load_causal_lm((path, None))
    documents = [held_out.document(i) for i in range(held_out.documents)]
    bos = bos_tokenizer.bos_token_id
    nats = score_documents(model, documents, prefix_id=bos, end_id=held_out.end_id, window=32)
    bits = nats.sum() / math.log(2) / held_out.bytes
    assert numbers["checkpoint_bits_per_byte"] == pytest.approx(bits, rel=1e-5) and numbers["prefix"] == "bos"
    assert held_out.begin_id == bos and bos not in documents[0]


def test_settings_of_a_shape_are_not_read_for_a_checkpoint(tmp_path, corpus):
    recipe = loader.load(write_recipe(tmp_path, corpus, model="owner/model@main", sequence_length=32)).recipe
    assert recipe.checkpoint == "owner/model@main" and recipe.window == 32 and recipe.dropout == 0
    assert SETTINGS["model"] and recipe.row_tokens() == 32
