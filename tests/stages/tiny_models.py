"""Tiny random models of many architectures, and a tokenizer of a base model without chat tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.architectures import configuration
from toolkit.models.loading import save_model

TIED = {"tie_word_embeddings": True}
TRAINED = (
    "bloom", "deepseek_v3", "gemma2", "gemma3", "gpt2", "gpt_neox", "gptj", "llama", "mamba", "mistral",
    "mixtral", "mpt", "opt", "phi", "qwen3",
)  # fmt: skip
ARCHITECTURES: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in TRAINED},
    "llama_tied": ("llama", TIED),
    "qwen2": ("qwen2", TIED),
}
"""The name in `tests.architectures`, and further settings."""


def base_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token a byte and `</s>`, without a chat template, as of a base model."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *letters])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


def write_tiny(
    folder: Path,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype = torch.float32,
    generation: dict[str, object] | None = None,
    **config: object,
) -> Path:
    """Write a model of random weights, three rows larger than its tokenizer, and return the folder.

    Args:
        generation: settings of its generation config, valid or not.
        config: settings of its configuration, instead of the tokenizer's special tokens.
    """
    architecture, settings = ARCHITECTURES[name]
    settings = {"pad_token_id": None, "vocab_size": len(tokenizer) + 3, **settings, **config}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            configuration(architecture, tokenizer, **settings), dtype=dtype
        )
    save_model(model, tokenizer, folder)
    if generation is not None:
        for key, value in generation.items():
            setattr(model.generation_config, key, value)
        model.generation_config.to_json_file(folder / "generation_config.json", use_diff=True)
    return folder
