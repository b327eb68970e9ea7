"""Model cards: the whole text for every stage and for foreign architectures, and its metadata."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

from tests.chat_fixtures import load_recipe, working_in, write_conversations, write_preferences
from tests.pretrain.conftest import write_part
from tests.pretrain.conftest import write_recipe as write_pretraining
from tests.stages.tiny_models import base_tokenizer, write_tiny
from toolkit.config import loader
from toolkit.inference.reward_scores import reward_scores
from toolkit.models.loading import load_reward_model
from toolkit.pretrain import stage as pretrain
from toolkit.publish.model_card import model_card
from toolkit.runs import seal
from toolkit.stages import dpo, reward, sft

GOLDEN = Path(__file__).parent / "golden"
OLD_RUNS = Path(__file__).parents[1] / "fixtures" / "old_run" / "runs"
REVISION = "0123456789abcdef0123456789abcdef01234567"


def require_golden(name: str, card: str) -> None:
    """Compare a card with its file; TOOLKIT_WRITE_GOLDEN=1 writes the file instead."""
    path = GOLDEN / f"{name}.md"
    if os.environ.get("TOOLKIT_WRITE_GOLDEN"):
        path.write_text(card, encoding="utf-8")
    assert card == path.read_text(encoding="utf-8")


def without_results(card: str, folder: Path) -> str:
    """Return a card without what depends on the machine: results, hashes, versions and temporary folders."""
    card = card.replace(str(folder), "FOLDER")
    card = re.sub(r"-?\b\d+\.\d{4}\b|\b\d+\.\d%", "X", card)
    card = re.sub(r"\| X, X \|", "| X |", re.sub(r"\b[0-9a-f]{64}\b|`[0-9a-f]{16}`", "HASH", card))
    return re.sub(r"Made with .*\.\n", "Made with PACKAGES\n", card)


def test_card_says_that_weights_were_in_4_bits(chain, tmp_path):
    """A run whose manifest says so: on this machine no training in 4 bits may run."""
    runs = Path(shutil.copytree(chain, tmp_path / "runs"))
    path = runs / "sft" / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["inputs"]["settings"]["lora"].pop("load_in_4bit") is False
    path.write_text(json.dumps(manifest))
    assert "4 bits" not in model_card(runs / "sft", "someone/model")  # as runs before the setting
    manifest["inputs"]["settings"]["lora"]["load_in_4bit"] = True
    path.write_text(json.dumps(manifest))
    card = model_card(runs / "sft", "someone/model")
    assert "rounded to 4 bits (NF4) during this training" in card and "all-linear; merged (4 bits)" in card


def metadata(card: str) -> dict:
    return ModelCard(card).data.to_dict()


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "dpo", "ppo"])
def test_card_of_every_stage(stage):
    require_golden(stage, model_card(OLD_RUNS / stage, "someone/model"))


def sealed(module, folder: Path, loaded: loader.LoadedRecipe) -> Path:
    """Run a stage in this process and seal its run."""
    with working_in(folder, loaded) as run:
        module.run(loaded.recipe, run)
        run.seal()
        return run.path


def tuned(module, folder: Path, model: str, **settings) -> Path:
    """Run a few steps of sft, reward or dpo with LoRA."""
    stage = module.__name__.rpartition(".")[2]
    data = "conversations" if stage == "sft" else "preferences"
    content = {
        "stage": stage, "model": model, "data": {"name": f"{folder}/{data}.jsonl"},
        "lora": {"r": 4, "target_modules": "all-linear"}, "batch_examples": 8, "device": "cpu",
        "precision": "fp32", "threads": 1, "trainer": {"max_steps": 2, "learning_rate": 1e-2}, **settings,
    }  # fmt: skip
    return sealed(module, folder, load_recipe(folder, stage, json.dumps(content)))


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Sealed sft, reward and dpo runs in ChatML that began with a Llama in bf16 from a local folder."""
    folder = tmp_path_factory.mktemp("chain")
    write_conversations(folder / "conversations.jsonl")
    write_preferences(folder / "preferences.jsonl")
    write_tiny(folder / "my-llama", "llama", base_tokenizer(), dtype=torch.bfloat16)
    tuned(sft, folder, str(folder / "my-llama"), chat_template="chatml")
    tuned(reward, folder, "runs/sft")
    tuned(dpo, folder, "runs/sft")
    return folder / "runs"


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])
def test_card_of_a_chain_from_a_local_llama(chain, stage):
    card = model_card(chain / stage, "someone/model")
    require_golden(f"llama_{stage}", without_results(card, chain.parent))
    assert "base_model" not in metadata(card) and "language" not in metadata(card)


def test_card_of_a_llama_from_random_weights(tmp_path, tiny_tokenizer):
    texts = [f"the cat sings {'again ' * (i % 5)}" for i in range(60)]
    for part, documents in (("train", texts[:50]), ("held_out", texts[50:])):
        write_part(tmp_path / "corpus" / part, tiny_tokenizer, documents)
    tiny_tokenizer.save_pretrained(tmp_path / "corpus" / "tokenizer")
    llama = {"architecture": "llama", "n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 32}
    recipe = write_pretraining(tmp_path, tmp_path / "corpus", "llama", model=llama, train_tokens=512)
    card = model_card(sealed(pretrain, tmp_path, loader.load(recipe)), "someone/llama")
    require_golden("llama_pretrain", without_results(card, tmp_path))


def test_card_names_the_base_model_and_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    storage = tmp_path / "cache" / "models--someone--base"
    write_tiny(storage / "snapshots" / REVISION, "llama", base_tokenizer())
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(REVISION)
    write_conversations(tmp_path / "conversations.jsonl")
    card = model_card(tuned(sft, tmp_path, "someone/base", lora=None), "someone/tuned", license="apache-2.0")
    assert metadata(card)["base_model"] == "someone/base" and metadata(card)["license"] == "apache-2.0"
    assert f"(https://huggingface.co/someone/base) at revision `{REVISION}`" in card
    assert "LoRA" not in card and "| sft | sft | someone/base |" in card


def test_metadata_has_what_is_known_and_nothing_else():
    assert metadata(model_card(OLD_RUNS / "reward", "someone/model")) == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "language": "en",  # the storyworld's
        "tags": ["toolkit", "reward"],
    }


def test_metadata_names_data_sets_of_the_hub(tmp_path):
    """The settings of a run name them; its rows are not read again."""
    from toolkit.publish import model_card as module

    manifest = {
        "inputs": {"settings": {"data": [{"name": "a/b@main"}, {"name": "mine.jsonl"}]}, "parents": {}}
    }
    run = module.MadeRun(tmp_path, "sft", {**manifest, "stage": "sft"}, {})
    content = module._metadata([run], is_classifier=False, license=None)
    assert "datasets:\n- a/b\n" in content and "mine" not in content and "language" not in content


def python_block(card: str) -> str:
    return re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)


def test_the_score_of_the_card_is_the_one_that_was_trained(chain, capsys):
    """Also where the chat template writes more after the token that ends an answer."""
    folder = chain / "reward" / "model"
    code = python_block(model_card(chain / "reward", str(folder)))
    code = code.replace('"..."', '"Is it?"', 1).replace('"..."', '"Yes."')
    exec(code, {})
    model, tokenizer = load_reward_model((str(folder), None))
    expected = reward_scores(model, tokenizer, [[{"role": "user", "content": "Is it?"}]], answers=["Yes."],
                             ended=[True])  # fmt: skip
    printed = float(re.search(r"\[\[(\S+?)[\],]", capsys.readouterr().out).group(1))
    assert printed == pytest.approx(expected[0], abs=1e-2)  # the card's model is in bf16


@pytest.mark.parametrize("stage", ["sft", "pretrain"])
def test_the_example_of_the_card_writes_text(stage, capsys):
    exec(python_block(model_card(OLD_RUNS / stage, str(OLD_RUNS / stage / "model"))), {})
    assert capsys.readouterr().out.strip()


def test_results_of_a_card_follow_from_the_records(chain):
    numbers = json.loads((chain / "dpo" / "evaluation.json").read_text())
    card = model_card(chain / "dpo", "someone/model")
    assert f"nats per pair | {numbers['held_out_loss']:.4f} |  | {numbers['n']} pairs |" in card
    assert seal.digest(chain / "dpo") in card
