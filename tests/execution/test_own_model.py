"""The path of docs/OWN_MODEL.md: the commands as written there, on other people's checkpoints and files."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from tests.chat_fixtures import COLOURS, THINGS
from tests.foreign_tokenizers import byte_level
from toolkit.cli import main
from toolkit.data.chat.template import CHATML_TEMPLATE, CHATML_TOKENS
from toolkit.models.loading import save_model
from toolkit.models.stored_dtypes import StoredDtypes
from toolkit.runs import seal

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "docs" / "OWN_MODEL.md", ROOT / "recipes" / "own-model" / "README.md", ROOT / "README.md")
CHATML = re.sub(r"{%- (end)?generation -%}", "", CHATML_TEMPLATE)
"""As checkpoints ship it: it does not mark what is learned."""
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
NUM_ROWS, NUM_HELD_OUT = 48, 5

IN_4_BITS = "lora.load_in_4bit=true"
"""Needs a GPU."""

pytestmark = pytest.mark.slow


def write_base(folder: Path) -> Path:
    """Write a random Llama in fp32 whose tokenizer has no chat template."""
    tokenizer = byte_level()
    return write_llama(folder, tokenizer)


def write_instruct(folder: Path) -> Path:
    """Write a random Llama in bf16 with ChatML, two ends, and sampling settings of its own."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"bos_token": "<s>", "pad_token": "<pad>"})
    tokenizer.add_tokens(list(CHATML_TOKENS), special_tokens=True)
    first_end, tokenizer.eos_token, tokenizer.chat_template = tokenizer.eos_token_id, "<|im_end|>", CHATML
    ends = {"eos_token_id": [tokenizer.eos_token_id, first_end]}
    return write_llama(folder, tokenizer, dtype=torch.bfloat16, **SAMPLING, **ends)


def write_llama(folder: Path, tokenizer, *, dtype: torch.dtype = torch.float32, **generation) -> Path:
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 5, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(dtype)
    model.generation_config.update(**generation)
    save_model(model, tokenizer, folder)
    return folder


def rows() -> list[tuple[str, str, str]]:
    """Return (prompt, chosen answer, rejected answer)."""
    return [
        (f"Is the {THINGS[i // 6]} {COLOURS[i % 6]}?", f"Yes, {COLOURS[i % 6]}.", "No" + "!" * (i % 3))
        for i in range(NUM_ROWS)
    ]


def write_rows(file: Path, contents: list[dict]) -> None:
    file.write_text("".join(json.dumps(content) + "\n" for content in contents))


def as_columns(file: Path) -> None:
    write_rows(file, [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in rows()])


def as_dialogues(file: Path) -> None:
    """Write the format of hh-rlhf."""
    sides = [{"chosen": f"{p}\n\nAssistant: {c}", "rejected": f"{p}\n\nAssistant: {r}"} for p, c, r in rows()]
    write_rows(file, [{name: f"\n\nHuman: {text}" for name, text in side.items()} for side in sides])


def commands(page: Path, *, model: str) -> list[list[str]]:
    """Return the `toolkit` commands of a page as words, with what stands in capitals filled in."""
    lines = re.findall(r"^    toolkit (.*?)(?:  +#.*)?$", page.read_text(encoding="utf-8"), re.MULTILINE)
    lines = [line.replace("NAME/MODEL", "me/aligned") for line in lines]
    return [shlex.split(re.sub(r"\bMODEL\b", model, line)) for line in lines]


@dataclass
class Shell:
    """A folder in which commands are given, each in its own process, as by a person."""

    folder: Path

    def toolkit(self, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "toolkit", *words], cwd=self.folder, input=typed, text=True,
            capture_output=True, env=environment, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, f"toolkit {' '.join(words)}\n{done.stderr}"
        return done

    def evaluation(self, stage: str) -> dict:
        return json.loads((self.folder / "runs" / "own-model" / stage / "evaluation.json").read_text())


@dataclass
class Walk(Shell):
    """What is left once all commands of the page were given.

    Attributes:
        said: stdout and stderr of each command by its verb.
        checkpoint: the checkpoint that it began with.
    """

    said: dict[str, str]
    checkpoint: Path

    @property
    def aligned(self) -> Path:
        return self.folder / "runs" / "own-model" / "dpo" / "model"


CASES = {"base": (write_base, as_columns), "instruct": (write_instruct, as_dialogues)}


@pytest.fixture(scope="module", params=CASES)
def walked(request, tmp_path_factory) -> Walk:
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint, write_pairs = CASES[request.param]
    write_pairs(folder / "pairs.jsonl")
    path = Walk(folder, {}, write_checkpoint(folder / "my-llama"))
    for words in commands(PAGES[0], model="my-llama"):
        if words[0] not in main.VERBS or "recipes/own-model/sft.yaml" in words or IN_4_BITS in words:
            continue
        done = path.toolkit(*words, typed="Is the cat red?\n")
        path.said[words[0]] = done.stdout + done.stderr
    return path


def test_all_pages_give_the_same_five_commands():
    page, own, readme = ({tuple(words) for words in commands(page, model="m")} for page in PAGES)
    assert own < page and own < readme and [words[0] for words in commands(PAGES[1], model="m")] == [
        "inspect", "data", "run", "chat", "publish",
    ]  # fmt: skip


def test_every_command_of_the_page_was_carried_out(walked):
    assert {"data", "run", "report", "chat", "publish"} <= walked.said.keys()
    assert f"used      {NUM_ROWS}" in walked.said["data"]
    assert walked.said["chat"].strip() and "nothing was uploaded" in walked.said["publish"]


def test_a_tenth_of_the_rows_is_held_out_the_same_in_every_recipe(walked):
    for stage in ("sft", "reward", "dpo"):
        [source] = walked.evaluation(stage)["data"]["sources"]
        assert (source["read"], source["used"], source["other_part"]) == (
            NUM_ROWS, NUM_ROWS - NUM_HELD_OUT, NUM_HELD_OUT,
        )  # fmt: skip
        assert walked.evaluation(stage)["n"] == NUM_HELD_OUT
    evaluation = walked.evaluation("evaluate")
    assert evaluation["models"]["dpo"]["win_rate"]["n"] == NUM_HELD_OUT
    assert not any(
        count for counts in evaluation.get("also_in_training", {}).values() for count in counts.values()
    )


def test_the_report_shows_the_numbers_that_the_page_names(walked):
    page = (walked.folder / "runs" / "own-model" / "report.html").read_text(encoding="utf-8")
    assert f"{walked.evaluation('sft')['held_out_loss']:.3f}" in page
    assert f"{walked.evaluation('reward')['accuracy']:.1%}" in page
    assert f"{walked.evaluation('evaluate')['models']['dpo']['win_rate']['estimate']:.1%}" in page


def test_the_same_command_again_does_nothing(walked):
    before = {
        path: seal.digest(path) for path in (walked.folder / "runs" / "own-model").iterdir() if path.is_dir()
    }
    done = walked.toolkit("run", "recipes/own-model", "model=my-llama", "data.name=pairs.jsonl")
    assert "steps" not in done.stderr
    assert before == {path: seal.digest(path) for path in before}


def test_template_ends_sampling_and_dtype_survive(walked):
    tokenizer, given = (AutoTokenizer.from_pretrained(path) for path in (walked.aligned, walked.checkpoint))
    settings, before = (
        GenerationConfig.from_pretrained(path) for path in (walked.aligned, walked.checkpoint)
    )
    assert StoredDtypes.of((str(walked.aligned), None)) == StoredDtypes.of((str(walked.checkpoint), None))
    assert tokenizer.eos_token == given.eos_token and tokenizer.chat_template
    if given.chat_template:
        assert tokenizer.chat_template == given.chat_template
        assert {key: getattr(settings, key) for key in SAMPLING} == SAMPLING
        assert set(settings.eos_token_id) == set(before.eos_token_id)
    changed = {"vocab_size", "pad_token_id", "eos_token_id", "bos_token_id"}
    configs = [json.loads((path / "config.json").read_text()) for path in (walked.aligned, walked.checkpoint)]
    assert {key for key in configs[0] | configs[1] if configs[0].get(key) != configs[1].get(key)} <= changed


def test_adapters_are_merged_into_an_ordinary_model(walked):
    assert not list(walked.aligned.glob("adapter*"))
    weights, before = (AutoModelForCausalLM.from_pretrained(path).state_dict()
                       for path in (walked.aligned, walked.checkpoint))  # fmt: skip
    assert weights.keys() == before.keys()
    linear = [name for name in weights if "_proj" in name]
    assert len(linear) == 14 and all(not torch.equal(weights[name], before[name]) for name in linear)


def test_generate_writes_what_transformers_writes(walked):
    done = walked.toolkit(
        "generate", "runs/own-model/dpo", "Is the cat red?", "--temperature", "0", "--max-new-tokens", "12",
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(walked.aligned)
    model = AutoModelForCausalLM.from_pretrained(walked.aligned, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Is the cat red?"}], add_generation_prompt=True, return_tensors="pt",
        return_dict=True,
    )  # fmt: skip
    written = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert done.stdout.strip() == tokenizer.decode(written, skip_special_tokens=True).strip()


def test_the_published_folder_is_the_model_with_a_card(walked):
    published = walked.folder / "published"
    names = {path.name for path in walked.aligned.iterdir()}
    assert {path.name for path in published.iterdir()} == names | {"README.md", "provenance"}
    assert all((published / name).read_bytes() == (walked.aligned / name).read_bytes() for name in names)
    card = ModelCard.load(published / "README.md")
    assert (
        card.data.library_name == "transformers"
        and card.data.license is None
        and card.data.base_model is None
    )
    assert "`LlamaForCausalLM`" in card.text and "local folder `my-llama`" in card.text
    assert "all-linear) and merged them into the weights" in card.text
    rate = walked.evaluation("evaluate")["models"]["dpo"]["win_rate"]
    assert (
        f"{rate['estimate']:.1%}, 95% interval [{rate['low']:.1%}, {rate['high']:.1%}], 5 prompts"
        in card.text
    )


def test_conversations_alone_train_the_sft_recipe(tmp_path):
    write_base(tmp_path / "my-llama")
    turns = ({"role": "user"}, {"role": "assistant"})
    write_rows(
        tmp_path / "chats.jsonl",
        [{"messages": [{**turns[0], "content": p}, {**turns[1], "content": c}]} for p, c, _ in rows()],
    )
    shell = Shell(tmp_path)
    [words] = [words for words in commands(PAGES[0], model="my-llama") if words[1].endswith("sft.yaml")]
    shell.toolkit(*words)
    assert shell.evaluation("sft")["n"] == NUM_HELD_OUT
    assert shell.toolkit("generate", "runs/own-model/sft", "Is it?", "--max-new-tokens", "4").stdout.strip()


@pytest.mark.parametrize("setting", [
    "trainer.max_length=1024", "micro_batch_examples=1", "lora=null trainer.learning_rate=2e-5",
    "data.examples=2000", "trainer.activation_checkpointing=true",
])  # fmt: skip
def test_every_setting_that_the_page_names_is_accepted(setting, capsys):
    assert f"`{setting}`" in PAGES[0].read_text(encoding="utf-8")
    assert main.main(["check", "recipes/own-model", *setting.split()]) == 0, capsys.readouterr().err


def test_the_command_for_large_models_says_what_this_machine_lacks(capsys):
    [words] = [words for words in commands(PAGES[0], model="m") if IN_4_BITS in words]
    assert main.main(["check", *words[1:]]) == 2
    said = "".join(capsys.readouterr())
    assert said.count("lora.load_in_4bit: needs an NVIDIA GPU") == 1 and "1 problem" in said
