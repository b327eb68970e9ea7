"""The sealed model is the trained one: configuration, dtype, finite weights, samples that fail, adapters."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTTrainer

from tests.chat_fixtures import (
    byte_tokenizer,
    load_recipe,
    metrics,
    run_stage,
    write_conversations,
    write_preferences,
)
from tests.stages.tiny_models import ARCHITECTURES, base_tokenizer, write_tiny
from toolkit.base.console import tell_once
from toolkit.base.errors import ToolkitError
from toolkit.config.schema import SftRecipe
from toolkit.data.chat.report import ReadingReport
from toolkit.models import saving
from toolkit.models.loading import load_causal_lm, load_reward_model
from toolkit.models.saving import ModelWriter
from toolkit.models.soundness import probe_logits, require_finite
from toolkit.models.stored_dtypes import StoredDtypes
from toolkit.stages import adapters, dpo, reward, sft

STAGES = {"sft": sft, "dpo": dpo, "reward": reward}
ADDED_BY_SFT = {"suppress_tokens"}
ADDED_BY_REWARD = {"architectures", "id2label", "label2id", "score_mean", "score_std", "pad_token_id"}
slow = pytest.mark.slow
LORA = {"target_modules": "all-linear", "r": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sealed")
    write_conversations(path / "conversations.jsonl")
    write_preferences(path / "preferences.jsonl")
    return path


@pytest.fixture
def train(folder):
    """Run four steps of a stage from a model folder, and return the run's folder."""

    def run(stage, model, *, name=None, held_out=None, **settings):
        data = "conversations" if stage == "sft" else "preferences"
        source = {"name": f"{folder}/{data}.jsonl", "held_out": held_out}
        content = {
            "stage": stage, "model": str(model), "data": source,
            "batch_examples": 8, "device": "cpu", "precision": "fp32", "threads": 1,
            "trainer": {"max_steps": 4, "learning_rate": 1e-2}, **settings,
        }  # fmt: skip
        tell_once.cache_clear()
        loaded = load_recipe(folder, name or f"{model.name}-{stage}", json.dumps(content))
        return run_stage(STAGES[stage], folder, loaded)

    return run


def changed_settings(before, after):
    """Return the keys of config.json and generation_config.json that differ between two model folders."""
    changed = set()
    for file in ("config.json", "generation_config.json"):
        if (after / file).exists():
            first, second = (json.loads((path / file).read_text()) for path in (before, after))
            changed |= {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    return changed


def evaluation_of(path):
    return json.loads((path / "evaluation.json").read_text())


# Configuration


@pytest.mark.parametrize(
    ("name", "stage", "expected"),
    [
        ("mixtral", "sft", ADDED_BY_SFT),
        pytest.param("mixtral", "dpo", set(), marks=slow),
        pytest.param("qwen2", "dpo", set(), marks=slow),
        pytest.param("llama", "reward", ADDED_BY_REWARD, marks=slow),
    ],
)
def test_the_configuration_is_that_of_the_checkpoint(folder, train, name, stage, expected):
    """Trainer and TRL set use_cache, router logits and the special tokens of the tokenizer."""
    base = write_tiny(folder / f"{name}-as-it-was-{stage}", name, byte_tokenizer(), bos_token_id=3)
    path = train(stage, base)
    assert changed_settings(base, path / "model") == expected


@slow
def test_the_configuration_survives_adapters_and_checkpointing(folder, train):
    base = write_tiny(folder / "checkpointed", "mixtral", byte_tokenizer(), bos_token_id=3)
    trainer = {"max_steps": 2, "activation_checkpointing": True, "router_aux_loss_coef": 0.5}
    path = train("sft", base, lora=LORA, trainer=trainer)
    assert changed_settings(base, path / "model") == ADDED_BY_SFT


# Generation config


@pytest.mark.parametrize(
    ("given", "written", "said"),
    [
        ({"temperature": 0.9, "top_p": 0.6}, {"do_sample": True, "temperature": 0.9, "top_p": 0.6}, "true"),
        ({"top_k": 5, "do_sample": False}, {"do_sample": False}, "top_k removed"),
        ({"temperature": 0.0}, {}, "temperature removed"),
        ({"early_stopping": True}, {}, "early_stopping removed"),
    ],
)
def test_an_invalid_generation_config_is_repaired_before_the_training(folder, capsys, given, written, said):
    base = write_tiny(folder / f"invalid-{'-'.join(given)}", "llama", byte_tokenizer(), generation=given)
    model, tokenizer = load_causal_lm((str(base), None))
    tell_once.cache_clear()
    writer = ModelWriter(model, tokenizer, reference=(str(base), None), rows=[[5, 6, 7]])
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "repaired" in line and said in line]) == 1
    writer.write(model, tokenizer, folder / "repaired/model", step=1)
    found = json.loads((folder / "repaired/model/generation_config.json").read_text())
    assert {key: found[key] for key in found if key in {*given, "do_sample"}} == written


@slow
def test_a_llama_2_chat_model_trains_and_is_sealed(folder, train):
    base = write_tiny(
        folder / "llama2", "llama", byte_tokenizer(), generation={"temperature": 0.9, "top_p": 0.6}
    )
    path = train("dpo", base)
    assert changed_settings(base, path / "model") == {"do_sample"}


def test_what_cannot_be_written_is_refused_before_the_first_step(folder, train):
    base = write_tiny(folder / "hopeless", "llama", byte_tokenizer(), generation={"output_scores": True})
    with pytest.raises(ToolkitError, match="could not write the trained model: .*output_scores") as caught:
        train("dpo", base)
    assert "generation_config.json" in caught.value.fix
    assert not (folder / "runs/hopeless-dpo/metrics.jsonl").exists()


# dtype


@pytest.mark.parametrize(
    ("stage", "dtype", "lora"),
    [
        pytest.param("sft", torch.bfloat16, None, marks=slow),
        ("reward", torch.bfloat16, LORA),
        pytest.param("dpo", torch.float16, None, marks=slow),
    ],
)
def test_the_model_has_the_dtype_of_its_checkpoint(folder, train, stage, dtype, lora):
    name = str(dtype).removeprefix("torch.")
    base = write_tiny(folder / f"{name}-{stage}", "llama", byte_tokenizer(), dtype=dtype)
    path = train(stage, base, lora=lora)
    assert {tensor.dtype for tensor in load_file(path / "model/model.safetensors").values()} == {dtype}
    assert json.loads((path / "model/config.json").read_text())["dtype"] == name
    assert json.loads((path / "manifest.json").read_text())["facts"]["stored_dtype"] == name


def test_the_numbers_are_those_of_the_model_as_written(folder, train, monkeypatch):
    """In bf16 the held-out loss differs from that of the weights as trained."""
    base = write_tiny(folder / "rounded", "llama", byte_tokenizer(), dtype=torch.bfloat16)
    path = train("sft", base)
    evaluation, last = evaluation_of(path), metrics(path)[-1]
    held_out = sft.held_out_conversations(
        SftRecipe(stage="sft", model=str(base), data={"name": f"{folder}/conversations.jsonl"}),
        byte_tokenizer(), 256, report=ReadingReport(),
    )  # fmt: skip
    written, _ = load_causal_lm((str(path / "model"), None))
    nats = sft.token_nats(written, held_out)
    loss = sum(float(row.sum()) for row in nats) / sum(len(row) for row in nats)
    assert evaluation["held_out_loss"] == pytest.approx(loss, rel=1e-6)
    assert evaluation["held_out_loss"] != pytest.approx(last["held_out_loss"], rel=1e-6)


def test_weights_that_a_checkpoint_stores_in_fp32_stay_in_fp32(tmp_path):
    """As the bias of DeepSeek-V3's router, whose digits decide which expert is chosen."""
    base = write_tiny(tmp_path / "mixed", "deepseek_v3", byte_tokenizer(), dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith("e_score_correction_bias"):
            parameter.data = torch.rand(parameter.shape)
    model.save_pretrained(base)
    stored = load_file(base / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16, torch.float32}
    dtypes = StoredDtypes.of((str(base), None))
    trained, _ = load_causal_lm((str(base), None))
    dtypes.cast(trained)
    trained.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again/model.safetensors")
    assert again.keys() == stored.keys()
    assert all(torch.equal(again[name], stored[name]) for name in stored)
    assert all(again[name].dtype == stored[name].dtype for name in stored)


def test_the_dtype_is_found_in_shards_in_the_cache_of_the_hub_and_behind_adapters(tmp_path, monkeypatch):
    base = write_tiny(tmp_path / "base", "llama", byte_tokenizer(), dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    cached = tmp_path / "cache/models--a--b"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("0" * 40)
    shutil.copytree(base, cached / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "adapter").mkdir()
    content = {"base_model_name_or_path": str(base)}
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(content))
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf/model.gguf").touch()
    for name in (str(base), str(tmp_path / "shards"), "a/b", str(tmp_path / "adapter")):
        assert StoredDtypes.of((name, None)).name == "bfloat16", name
    for name in ("a/unknown", str(tmp_path / "gguf")):
        assert StoredDtypes.of((name, None)).name == "float32", name


# Samples and measurements that fail


@pytest.mark.parametrize(
    ("stage", "missing"), [("sft", {"samples"}), pytest.param("dpo", {"kl", "samples"}, marks=slow)]
)
def test_samples_that_fail_do_not_cost_the_training(folder, train, monkeypatch, capsys, stage, missing):
    def fails(*arguments, **settings):
        raise ValueError("too many values to unpack")

    base = write_tiny(folder / f"samples-{stage}", "llama", byte_tokenizer())
    monkeypatch.setattr(STAGES[stage], "generate", fails)
    evaluation = evaluation_of(train(stage, base))
    assert evaluation["not_measured"] == dict.fromkeys(missing, "ValueError: too many values to unpack")
    assert all(evaluation[key] is None for key in missing)
    assert evaluation["held_out_loss"] > 0
    warning = f"warning: no {' and '.join(sorted(missing))}, because sampling failed"
    assert capsys.readouterr().err.count(warning) == 1


@slow
def test_bloom_which_cannot_be_sampled_yet_is_sealed(folder, train):
    """Where sampling works one day, nothing is missing; either way the run has its model and its loss."""
    evaluation = evaluation_of(train("sft", write_tiny(folder / "alibi", "bloom", byte_tokenizer())))
    assert evaluation["held_out_loss"] > 0
    assert (evaluation["samples"] is None) == ("not_measured" in evaluation)


@slow
@pytest.mark.parametrize("lora", [None, LORA])
def test_a_measurement_that_fails_is_repeated_without_training_again(folder, train, monkeypatch, lora):
    base = write_tiny(folder / f"measured-{bool(lora)}", "llama_tied", base_tokenizer())
    whole = train("sft", base, name=f"whole-{bool(lora)}", lora=lora)
    with monkeypatch.context() as patch:
        patch.setattr(sft, "held_out_loss", lambda *rows, seed: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train("sft", base, lora=lora)
    cut = folder / f"runs/{base.name}-sft"
    assert (cut / "model/model.safetensors").exists() and not (cut / "evaluation.json").exists()
    monkeypatch.setattr(sft.CpuSFTTrainer, "training_step", lambda *inputs: pytest.fail("it trains again"))
    assert train("sft", base, lora=lora) == cut
    for name in ("model/model.safetensors", "model/config.json", "evaluation.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    assert metrics(cut) == metrics(whole)


# Not a number


@pytest.mark.parametrize(
    ("stage", "held_out"),
    [("sft", "none"), *(pytest.param(stage, None, marks=slow) for stage in ("dpo", "reward"))],
)
def test_the_last_update_is_looked_at(folder, train, stage, held_out):
    """The loss of the only step is finite, and the weights are finite but as large as the learning rate."""
    base = write_tiny(folder / f"diverged-{stage}", "llama", byte_tokenizer())
    trainer = {"max_steps": 1, "learning_rate": 1e30, "lr_scheduler_type": "constant", "max_grad_norm": 1.0}
    with pytest.raises(ToolkitError, match="not finite.* after step 1|is nan at step 1") as caught:
        train(stage, base, trainer=trainer, held_out=held_out)
    assert caught.value.fix.startswith(("lower the learning rate", "lower trainer.learning_rate"))
    assert not (folder / f"runs/diverged-{stage}-{stage}/model").exists()


def test_weights_that_are_no_numbers_are_not_kept_as_a_checkpoint(folder, train, monkeypatch):
    base = write_tiny(folder / "nan", "llama", byte_tokenizer())
    step = torch.optim.AdamW.step

    def spoiled(self, *arguments, **settings):
        done = step(self, *arguments, **settings)
        self.param_groups[0]["params"][0].data[0] = float("nan")
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", spoiled)
    with pytest.raises(ToolkitError, match="the weights are not finite after step 1"):
        train("sft", base, trainer={"max_steps": 1}, held_out="none")  # nothing is measured
    assert not list((folder / "runs/nan-sft").glob("checkpoints/step-*"))


def test_logits_that_are_no_numbers_are_found(tiny_model):
    require_finite(tiny_model, [[1, 2, 3]], step=4, where="a run")
    spoiled = AutoModelForCausalLM.from_config(tiny_model.config)
    with torch.no_grad():
        spoiled.transformer.ln_f.weight.fill_(1e20)
        spoiled.transformer.wte.weight.fill_(1e20)
    with pytest.raises(ToolkitError, match="a run: the model's logits are not finite after step 4"):
        require_finite(spoiled, [[1, 2, 3]], step=4, where="a run")
    with torch.no_grad():
        spoiled.transformer.ln_f.weight.fill_(float("inf"))
    with pytest.raises(ToolkitError, match=r"the weights are not finite after step 4 \(transformer.ln_f"):
        require_finite(spoiled, [], step=4, where="a run")


# Adapters


def lora_recipe(**settings):
    return SftRecipe(stage="sft", model="m", data={"name": "d"}, lora=settings)


@pytest.mark.parametrize(
    ("name", "target", "shared"),
    [
        ("gpt2", "wte", "lm_head"), ("gpt2", "lm_head", "transformer.wte"),
        ("qwen2", "embed_tokens", "lm_head"), ("llama_tied", "lm_head", "model.embed_tokens"),
    ],
)  # fmt: skip
def test_adapters_on_tied_embeddings_are_refused_before_the_training(folder, train, name, target, shared):
    base = write_tiny(folder / f"tied-{name}-{target}", name, byte_tokenizer())
    with pytest.raises(ToolkitError, match=f"{target} shares its weight with {shared}") as caught:
        train("dpo", base, lora={"target_modules": [target]})
    assert caught.value.where == "lora.target_modules"
    assert not (folder / f"runs/{base.name}-dpo/metrics.jsonl").exists()


@pytest.mark.parametrize("stage", ["sft", pytest.param("dpo", marks=slow)])
def test_a_merged_model_that_is_not_the_trained_one_is_not_sealed(folder, train, monkeypatch, stage):
    """Without the refusal, adapters of a tied embedding would be merged into the head, too."""
    monkeypatch.setattr(adapters, "_refuse_shared_weights", lambda model, targets: None)
    base = write_tiny(folder / f"merged-{stage}", "llama_tied", byte_tokenizer())
    with pytest.raises(ToolkitError, match="other logits than the trained one") as caught:
        train(stage, base, lora={"target_modules": ["embed_tokens"]})
    run = folder / f"runs/merged-{stage}-{stage}"
    assert "checkpoints/" in caught.value.fix and list(run.glob("checkpoints/step-*"))
    assert not (run / "model").exists()


def test_adapters_of_the_head_are_refused(tmp_path):
    model, _ = load_causal_lm((str(write_tiny(tmp_path / "head", "llama", byte_tokenizer())), None))
    with pytest.raises(ToolkitError, match="lm_head is the head"):
        adapters.lora(lora_recipe(target_modules=["q_proj", "lm_head"]), model, "CAUSAL_LM")


@slow
@pytest.mark.parametrize("target", ["embed_tokens", "self_attn.q_proj"])
def test_adapters_on_untied_embeddings_are_merged(folder, train, target):
    base = write_tiny(folder / f"untied-{target}", "llama", byte_tokenizer())
    path = train("sft", base, lora={"target_modules": [target]})
    before, after = (load_file(file / "model.safetensors") for file in (base, path / "model"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(f"{target}.weight" in name for name in changed)
    assert metrics(path)[-1]["held_out_loss"] == pytest.approx(evaluation_of(path)["held_out_loss"], rel=1e-5)


def test_a_weight_that_is_written_wrongly_is_not_sealed(folder, train, monkeypatch):
    def forgets(model, tokenizer, folder):
        with torch.no_grad():
            model.model.embed_tokens.weight[0] += 1  # the row of a token that no text contains
            write(model, tokenizer, folder)
            model.model.embed_tokens.weight[0] -= 1

    write = saving.write_model
    base = write_tiny(folder / "forgotten", "llama", base_tokenizer())
    monkeypatch.setattr(saving, "write_model", forgets)
    with pytest.raises(ToolkitError, match="1 written weights differ .* model.embed_tokens.weight"):
        train("sft", base)
    assert not (folder / "runs/forgotten-sft/model").exists()


def test_every_target_module_must_exist(tiny_model):
    recipe = lora_recipe(target_modules=["c_attn", "c_atn"])
    with pytest.raises(ToolkitError, match="no module named c_atn") as caught:
        adapters.lora(recipe, tiny_model, "CAUSAL_LM")
    assert caught.value.fix == "set all-linear, or some of c_attn, c_fc, c_proj, lm_head"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", {"c_attn", "c_fc", "c_proj"}),
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("phi", {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"}),
        ("mamba", {"in_proj", "x_proj", "dt_proj"}),
    ],
)
@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_CLS"])
def test_all_linear_has_every_linear_layer_but_the_head(tmp_path, name, expected, task):
    import peft

    if (name, task) == ("mamba", "SEQ_CLS"):
        return
    base = (str(write_tiny(tmp_path / name, name, byte_tokenizer())), None)
    model, _ = load_causal_lm(base) if task == "CAUSAL_LM" else load_reward_model(base, new_head_seed=0)
    config = adapters.lora(lora_recipe(target_modules="all-linear"), model, task)
    adapted = peft.get_peft_model(model, config)
    found = {
        key.split(".lora_A")[0].rpartition(".")[2] for key, _ in adapted.named_modules() if "lora_A" in key
    }
    assert found == expected


# New tokens under LoRA


@pytest.mark.parametrize(
    "name", ["llama_tied", *(pytest.param(name, marks=slow) for name in ("llama", "gptj", "gpt2"))]
)
def test_only_the_rows_of_new_tokens_are_trained(folder, train, name):
    """GPT-J's head has a bias, so that PEFT can train only the whole of it."""
    base = write_tiny(folder / f"rows-{name}", name, base_tokenizer())
    path = train("sft", base, lora=LORA)
    tokenizer = AutoTokenizer.from_pretrained(path / "model")
    assert tokenizer.eos_token == "</s>"
    new = {tokenizer.convert_tokens_to_ids(token) for token in ("<|user|>", "<|assistant|>", "<|system|>")}
    start, _ = load_causal_lm((str(base), None))
    sft.make_conversational(start, base_tokenizer(), chat_template="auto", seed=0)
    trained, _ = load_causal_lm((str(path / "model"), None))
    for before, after in (
        (start.get_input_embeddings().weight, trained.get_input_embeddings().weight),
        (start.get_output_embeddings().weight, trained.get_output_embeddings().weight),
    ):
        changed = set((before != after).any(dim=1).nonzero().flatten().tolist())
        assert changed and (changed <= new or name == "gptj")


@slow
def test_the_loss_of_trl_sees_the_new_rows_of_the_head(folder, train, monkeypatch):
    """On GPUs TRL computes the loss from the weight of the head, without calling it."""
    monkeypatch.setattr(sft, "CpuSFTTrainer", SFTTrainer)
    base = write_tiny(folder / "rows-trl", "llama", base_tokenizer())
    path = train("sft", base, lora=LORA, chat_template="chatml")
    end = AutoTokenizer.from_pretrained(path / "model").convert_tokens_to_ids("<|im_end|>")
    start, _ = load_causal_lm((str(base), None))
    sft.make_conversational(start, base_tokenizer(), chat_template="chatml", seed=0)
    trained, _ = load_causal_lm((str(path / "model"), None))
    before, after = (model.get_output_embeddings().weight[end] for model in (start, trained))
    assert not torch.equal(before, after)


@slow
def test_rows_of_new_tokens_resume_bitwise(folder, train, monkeypatch):
    base = write_tiny(folder / "rows-resumed", "llama", base_tokenizer())
    settings = {"lora": LORA, "checkpoint_every_steps": 2}
    whole = train("sft", base, name="rows-whole", **settings)
    step, calls = sft.CpuSFTTrainer.training_step, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(sft.CpuSFTTrainer, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train("sft", base, **settings)
    monkeypatch.undo()
    resumed = train("sft", base, **settings)
    first, second = ((path / "model/model.safetensors").read_bytes() for path in (whole, resumed))
    assert first == second and metrics(whole) == metrics(resumed)


@slow
@pytest.mark.parametrize("name", ["llama", "llama_tied"])
def test_answers_end_under_lora_with_a_new_end_token(folder, train, name):
    """ChatML's `<|im_end|>` is not in the vocabulary of the base model."""
    base = write_tiny(folder / f"ends-{name}", name, base_tokenizer())
    trainer = {"max_steps": 40, "learning_rate": 2e-2}
    path = train("sft", base, lora={**LORA, "r": 8}, trainer=trainer, chat_template="chatml")
    model, tokenizer = load_causal_lm((str(path / "model"), None))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "the cat is red?"}, {"role": "assistant", "content": "yes, red!!!!"}],
        tokenize=False,
    ).removesuffix("<|im_end|>\n")
    (logits,) = probe_logits(model, [tokenizer(text, add_special_tokens=False)["input_ids"][-60:]])
    assert int(logits[-1].argmax()) == end


# Architectures


@slow
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("stage", ["sft", "dpo", "reward"])
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_is_trained_and_sealed_or_refused(folder, train, name, stage, lora):
    base = folder / f"base-{name}"
    if not base.exists():
        write_tiny(base, name, byte_tokenizer())
    run_name = f"{name}-{stage}-{'lora' if lora else 'full'}"
    if (name, stage) == ("mamba", "reward"):
        with pytest.raises(ToolkitError, match="SequenceClassification|cannot be a reward model"):
            train(stage, base, name=run_name, lora=lora)
        return
    path = train(stage, base, name=run_name, lora=lora)
    allowed = {"sft": ADDED_BY_SFT, "dpo": set(), "reward": ADDED_BY_REWARD}[stage]
    assert changed_settings(base, path / "model") <= allowed
    before, after = (load_file(file / "model.safetensors") for file in (base, path / "model"))
    assert any(not torch.equal(before[key], after[key]) for key in before.keys() & after.keys())
    key = "held_out_loss"
    assert metrics(path)[-1][key] == pytest.approx(evaluation_of(path)[key], rel=1e-4)
