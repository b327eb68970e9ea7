"""A byte tokenizer, a 2-layer GPT-2 and synthetic conversations for the stages with TRL's trainers."""

from __future__ import annotations

import json
import textwrap
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from toolkit.config import loader
from toolkit.config.schema import ModelSettings
from toolkit.data.chat import template
from toolkit.models.gpt2 import build
from toolkit.models.loading import save_model
from toolkit.runs.opening import open_run
from toolkit.runtime import devices

COLOURS = ["red", "green", "blue", "black", "white", "brown"]
THINGS = ["ball", "boat", "house", "apple", "door", "cat", "hat", "star"]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte and the special tokens of the chat format."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*template.SPECIAL_TOKENS, *letters])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=template.END_OF_TEXT, bos_token=template.END_OF_TEXT,
        pad_token=template.PAD,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": list(template.ROLE_TOKENS.values())})
    template.configure(tokenizer)
    return tokenizer


def write_model(folder: Path, *, n_positions: int = 96, dropout: float = 0.0) -> Path:
    """Write an untrained GPT-2 with the byte tokenizer, and return the folder."""
    tokenizer = byte_tokenizer()
    settings = ModelSettings(n_layer=2, n_head=2, n_embd=32, n_positions=n_positions, dropout=dropout)
    model = build(settings, vocab_size=len(tokenizer), seed=0, end_id=tokenizer.eos_token_id,
                  pad_id=tokenizer.pad_token_id)  # fmt: skip
    save_model(model, tokenizer, folder)
    return folder


def write_conversations(path: Path, count: int = 48) -> Path:
    """Write JSON lines of `messages`; each question has one right answer."""
    with path.open("w") as file:
        for i in range(count):
            colour, thing = COLOURS[i % len(COLOURS)], THINGS[(i // len(COLOURS)) % len(THINGS)]
            messages = [{"role": "user", "content": f"the {thing} is {colour}?"},
                        {"role": "assistant", "content": f"yes, {colour}" + "!" * (i % 5)}]  # fmt: skip
            print(json.dumps({"messages": messages}), file=file)
    return path


def write_preferences(path: Path, count: int = 48) -> Path:
    """Write JSON lines of `prompt`, `chosen`, `rejected`: the polite answer is the chosen one."""
    with path.open("w") as file:
        for i in range(count):
            colour, thing = COLOURS[i % len(COLOURS)], THINGS[(i // len(COLOURS)) % len(THINGS)]
            prompt = [{"role": "user", "content": f"the {thing} is {colour}?"}]
            answers = [
                [{"role": "assistant", "content": text}] for text in (f"yes, {colour}" + "." * (i % 4), "no")
            ]
            print(json.dumps({"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}), file=file)
    return path


def load_recipe(folder: Path, name: str, text: str) -> loader.LoadedRecipe:
    """Write recipes/<name>.yaml below a folder and read it."""
    path = folder / "recipes" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return loader.load(path)


@contextmanager
def working_in(folder: Path, loaded: loader.LoadedRecipe):
    """Open the run of a recipe in folder/runs and configure this process as for a real run."""
    devices.configure(loaded.recipe)
    with open_run(loaded, runs_dir=folder / "runs") as run:
        yield run


def run_stage(module, folder: Path, loaded: loader.LoadedRecipe) -> Path:
    """Run a stage in this process without sealing it and return its run directory."""
    with working_in(folder, loaded) as run:
        module.run(loaded.recipe, run)
        return run.path


class Caught(Exception):
    """Raised instead of training; carries the trainer that the stage built."""


def built_trainer(monkeypatch, module, folder: Path, loaded: loader.LoadedRecipe):
    """Return the trainer of a stage before training."""

    def caught(trainer, run, writer, *, measure=None):
        raise Caught(trainer)

    monkeypatch.setattr(module, "fit", caught)
    try:
        run_stage(module, folder, loaded)
    except Caught as error:
        return error.args[0]
    raise AssertionError("the stage did not come to train")


def first_batch(trainer) -> dict:
    """Return the first collated micro-batch of training."""
    return next(iter(trainer.get_train_dataloader()))


def metrics(run_path: Path) -> list[dict]:
    """Return the rows of a run's metrics.jsonl without times."""
    rows = [json.loads(line) for line in (run_path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "time"} for row in rows]
