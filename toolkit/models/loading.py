"""Loading and saving model folders: weights from safetensors only, and no remote code."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    GenerationConfig,
    GgufConfig,
    GPT2LMHeadModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from toolkit.base.errors import ToolkitError
from toolkit.base.files import atomic_folder
from toolkit.base.rng import derive
from toolkit.data.chat import answer_end, template
from toolkit.models import adapters, checkpoint_folder, checks, four_bit
from toolkit.models.description import describe, text_config
from toolkit.models.load_errors import not_loadable
from toolkit.models.tokenizer_loading import load_tokenizer
from toolkit.runs.hub import Reference

Dtype = torch.dtype | Literal["auto"]
"""The dtype of the weights; `auto` is that of the checkpoint."""
DTYPES: dict[str, Dtype] = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "auto": "auto",
}  # fmt: skip
"""The dtype of the weights by its name in recipes and on the command line."""


def load_causal_lm(
    reference: Reference,
    *,
    device: torch.device | str = "cpu",
    dtype: Dtype = torch.float32,
    quantization: BitsAndBytesConfig | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a language model of any architecture built into transformers, and its tokenizer.

    The model is in eval mode. A tokenizer without a padding token pads with end-of-text; attention masks, not
    token ids, mark the padding.

    Args:
        quantization: of the linear layers, to train adapters (`toolkit.models.four_bit`).

    Raises:
        ToolkitError: no such folder, not a model folder, weights missing or not in safetensors, no
            tokenizer, a reward model, an encoder, or a hub model that cannot be downloaded.
    """
    model, loading = _load(AutoModelForCausalLM, reference, dtype, **_quantized(quantization, device))
    tokenizer = load_tokenizer(reference)
    if any(key.startswith(("score.", "classifier.")) for key in loading["unexpected_keys"]):
        raise ToolkitError(
            "is a reward model, not a language model", where=reference[0],
            fix="give a run of the pretrain, sft, dpo or ppo stage",
        )  # fmt: skip
    model = model.to(device).eval()
    if type(model) is not GPT2LMHeadModel:  # causal by construction, and loaded in most runs
        checks.require_causal(model, where=reference[0])
    if loading["missing_keys"]:
        raise _incomplete(reference, loading["missing_keys"])
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= describe(model).embedded:
        tokenizer.pad_token = tokenizer.eos_token
    checks.allow_unreadable_tokens(model, tokenizer, where=reference[0])
    # transformers cannot infer the loss from the class name: it falls back to this one with a warning
    model.loss_type = model.loss_type or "ForCausalLM"
    return model, tokenizer


def load_reward_model(
    reference: Reference,
    *,
    device: torch.device | str = "cpu",
    dtype: Dtype = torch.float32,
    new_head_seed: int | None = None,
    quantization: BitsAndBytesConfig | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a reward model, a sequence classifier with one label, and its tokenizer; in eval mode.

    The score is read at the last token that is not padding. The padding token therefore differs from
    end-of-text; a tokenizer without such a padding token gets one.

    Args:
        new_head_seed: a language model is accepted, too, and gets a new score head drawn from
            N(0, 1 / (width + 1)) (Huang et al., 2024, "The N+ implementation details of RLHF with PPO",
            detail 11).
        quantization: as in `load_causal_lm`.

    Raises:
        ToolkitError: as `load_causal_lm`, a language model without `new_head_seed`, or a classifier with
            several labels.
    """
    model, loading = _load(
        AutoModelForSequenceClassification, reference, dtype, num_labels=1, ignore_mismatched_sizes=True,
        **_quantized(quantization, device),
    )  # fmt: skip
    _check_classifier(model, loading, reference)
    tokenizer = load_tokenizer(reference)
    missing = set(loading["missing_keys"])
    head_missing = {key for key in missing if key.startswith("score.")}
    if head_missing and new_head_seed is None:
        raise ToolkitError(
            "is a language model, not a reward model: it has no score head", where=reference[0],
            fix="give a run of the reward stage",
        )  # fmt: skip
    if missing - head_missing:
        raise _incomplete(reference, sorted(missing - head_missing))
    if head_missing:
        generator = torch.Generator().manual_seed(derive(new_head_seed or 0, "score head"))
        std = (model.score.in_features + 1) ** -0.5
        with torch.no_grad():
            model.score.weight.copy_(torch.randn(model.score.weight.shape, generator=generator) * std)
    _ensure_padding(model, tokenizer)
    checks.allow_unreadable_tokens(model, tokenizer, where=reference[0])
    model = model.to(device).eval()
    checks.require_causal_scores(model, where=reference[0])
    return model, tokenizer


def without_weights(reference: Reference) -> PreTrainedModel:
    """Return a model of a checkpoint's configuration whose weights have shapes, but no numbers.

    It is a classifier if the checkpoint is one. Of an adapter it is the base model.

    Raises:
        ToolkitError: the configuration cannot be loaded, or transformers has no such model.
    """
    place = checkpoint_folder.located(reference)
    if place.folder and checkpoint_folder.is_adapter(place.folder):
        return without_weights(checkpoint_folder.base_of_adapter(place.folder))
    config = _config(reference)
    checkpoint_folder.check_config(config.to_dict(), where=reference[0])
    is_reward = checkpoint_folder.is_classifier_architecture(config.architectures)
    auto = AutoModelForSequenceClassification if is_reward else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            model = auto.from_config(config)
    except Exception as error:  # a file of other people may be wrong in any way
        raise _other_kind(auto, reference, error) or not_loadable(reference, error) from error
    with suppress(OSError):  # it has no generation_config.json
        model.generation_config = GenerationConfig.from_pretrained(place.name, **place.options)
    return model.eval()


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path | str) -> None:
    """Write a `from_pretrained` folder atomically: safetensors, configuration, tokenizer, chat template.

    An existing folder of that name is replaced.
    """
    with atomic_folder(Path(folder)) as temporary:
        write_model(model, tokenizer, temporary)


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the files of a model folder into an existing folder, not atomically."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def is_classifier(reference: Reference) -> bool:
    """Return whether a checkpoint is a sequence classifier, as reward models are, according to its files.

    Raises:
        ToolkitError: the configuration cannot be loaded.
    """
    folder = checkpoint_folder.located(reference).folder
    if folder and checkpoint_folder.is_adapter(folder):
        return checkpoint_folder.is_classifier(folder)
    return checkpoint_folder.is_classifier_architecture(_config(reference).architectures)


def _config(reference: Reference) -> PretrainedConfig:
    """Return the configuration of a checkpoint, after the checks that its files need no loading for."""
    place = checkpoint_folder.located(reference)
    if place.folder:
        checkpoint_folder.check(place.folder)
    else:
        checkpoint_folder.check_hub_model(reference)
    options = {**place.options, **checkpoint_folder.gguf_option(place.folder)}
    try:
        return AutoConfig.from_pretrained(place.name, trust_remote_code=False, **options)
    except Exception as error:  # a file of other people may be wrong in any way
        raise not_loadable(reference, error) from error


def _load(
    auto: type[AutoModelForCausalLM | AutoModelForSequenceClassification],
    reference: Reference,
    dtype: Dtype,
    **changes: Any,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the model and transformers' report of missing and unexpected weights.

    The weights of an adapter are merged into those of its base model.

    Args:
        changes: of the configuration; also options of `from_pretrained`.
    """
    place = checkpoint_folder.located(reference)
    folder = place.folder
    with torch.random.fork_rng(devices=[]):  # missing weights draw from the global generator
        if folder and checkpoint_folder.is_adapter(folder):
            _refuse_quantization(changes, reference, "an adapter")
            base = checkpoint_folder.base_of_adapter(folder)
            return adapters.merged(folder, *_load(auto, base, dtype, **changes))
        config = _config(reference)
        if (
            "num_labels" in changes
            and checkpoint_folder.is_classifier_architecture(config.architectures)
            and config.num_labels != 1
        ):
            raise ToolkitError(
                f"is a classifier with {config.num_labels} labels; a reward model has one, its score",
                where=reference[0], fix="give a reward model, or train one with the reward stage",
            )  # fmt: skip
        checkpoint_folder.check_config(config.to_dict(), where=reference[0])
        options = {**place.options, **changes, **checkpoint_folder.gguf_option(folder)}
        if options.get("local_files_only"):  # which AutoModel does not pass to its search for an adapter
            options["adapter_kwargs"] = {"local_files_only": True}
        if "gguf_file" in options:  # plain weights can be trained and saved
            _refuse_quantization(changes, reference, "a GGUF folder")
            options["quantization_config"] = GgufConfig(dequantize=True)
        try:
            model, report = auto.from_pretrained(
                place.name, dtype=dtype, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True, **options,
            )  # fmt: skip
        except Exception as error:  # a file of other people may be wrong in any way
            raise _other_kind(auto, reference, error) or not_loadable(reference, error) from error
    model.name_or_path = model.config.name_or_path = reference[0]
    if "quantization_config" in changes:
        four_bit.require_writable(model, where=reference[0])
    return model, report


def _quantized(quantization: BitsAndBytesConfig | None, device: torch.device | str) -> dict[str, Any]:
    """Return the options with which `from_pretrained` quantizes the weights on the device."""
    if quantization is None:
        return {}
    return {"quantization_config": quantization, "device_map": {"": device}}


def _refuse_quantization(options: dict[str, Any], reference: Reference, kind: str) -> None:
    if "quantization_config" in options:
        raise ToolkitError(
            f"is {kind}, whose weights cannot be loaded in 4 bits", where=reference[0],
            fix="leave out lora.load_in_4bit, or give a folder with plain weights",
        )  # fmt: skip


def _other_kind(
    auto: type[AutoModelForCausalLM | AutoModelForSequenceClassification],
    reference: Reference,
    error: Exception,
) -> ToolkitError | None:
    """Return the error for an architecture that transformers lacks in this form; None for another error."""
    found = re.search(r"Unrecognized configuration class .*?(\w+)Config'", str(error))
    if found is None:
        return None
    if auto is AutoModelForCausalLM:
        return ToolkitError(
            f"a {found.group(1)} model is not a causal language model", where=reference[0],
            fix="give a causal language model, such as a Llama or a GPT-2",
        )  # fmt: skip
    return ToolkitError(
        f"a {found.group(1)} model cannot be a reward model: transformers has no classifier of its kind",
        where=reference[0], fix="give a model of another architecture, such as a Llama or a GPT-2",
    )  # fmt: skip


def _check_classifier(model: PreTrainedModel, loading: dict[str, Any], reference: Reference) -> None:
    """Refuse classifiers whose scores would be meaningless."""
    name = type(model).__name__
    if not hasattr(model, "score"):
        raise ToolkitError(
            f"a {name} cannot be a reward model here: an encoder reads its score elsewhere than at the last "
            "token of a conversation, and was trained on pairs without a chat template",
            where=reference[0],
            fix="give a run of the reward stage, or a classifier of a causal language model",
        )  # fmt: skip
    for key, stored, expected in loading["mismatched_keys"]:
        if key.startswith("score.") and stored[1:] == expected[1:]:
            raise ToolkitError(
                f"is a classifier with {stored[0]} labels; a reward model has one, the score of an answer",
                where=reference[0], fix="give a run of the reward stage",
            )  # fmt: skip
        raise ToolkitError(
            f"cannot be loaded: {key} has the shape {[*stored]}, and config.json says {[*expected]}",
            where=reference[0], fix="check that the folder is complete",
        )  # fmt: skip


def _unused_token(tokenizer: PreTrainedTokenizerBase, *, rows: int) -> str | None:
    """Return a special token for padding that ends no conversation: one for padding or without a use, if any.

    Only its place matters: the score of a conversation is read at the last token that is not padding.
    """
    ends = {tokenizer.eos_token_id, tokenizer.bos_token_id, answer_end.end_id(tokenizer)}
    special = [
        token.content
        for index, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and index not in ends and index < rows
    ]
    known = [token for word in ("pad", "unused", "reserved") for token in special if word in token.lower()]
    unknown = [token for token in special if token == tokenizer.unk_token]
    return next(iter([*known, *unknown]), None)


def _incomplete(reference: Reference, missing: list[str] | set[str]) -> ToolkitError:
    names = sorted(missing)
    return ToolkitError(
        f"lacks {len(names)} of the model's weights, such as {names[0]}", where=reference[0],
        fix="save the model again: the file is truncated or of another architecture",
    )  # fmt: skip


def _ensure_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give model and tokenizer one padding id that is not end-of-text."""
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id, answer_end.end_id(tokenizer)):
        tokenizer.pad_token = _unused_token(tokenizer, rows=model.get_input_embeddings().num_embeddings)
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": template.PAD})
    if tokenizer.pad_token_id >= model.get_input_embeddings().num_embeddings:
        # the new rows' values have no effect: there is no softmax over them and padding is masked
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    # The second is another object in multimodal models, whose classifiers read it.
    model.config.pad_token_id = text_config(model.config).pad_token_id = tokenizer.pad_token_id
