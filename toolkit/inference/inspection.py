"""What a checkpoint is and whether it does what the toolkit assumes, for `toolkit inspect`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.base.errors import ToolkitError
from toolkit.config.registry import STAGES
from toolkit.config.schema import ALL_LINEAR, LoraSettings
from toolkit.data.chat import answer_end, template
from toolkit.data.chat.turns import TemplateTurns, turns_of
from toolkit.data.text.lost_text import lost_text
from toolkit.inference.decoding import tried_mode
from toolkit.inference.generation import DEFAULTS, NOT_APPLIED, own_sampling
from toolkit.inference.logprobs import start_id
from toolkit.models import checkpoint_folder, checkpoint_shape, checks, safetensors_files
from toolkit.models.checkpoint_shape import CheckpointShape
from toolkit.models.context_length import default_length
from toolkit.models.description import describe, position_key
from toolkit.models.loading import (
    Dtype,
    is_classifier,
    load_causal_lm,
    load_reward_model,
    without_weights,
)
from toolkit.models.safetensors_files import StoredTensor
from toolkit.models.stop_tokens import named_ends
from toolkit.models.tokenizer_loading import load_tokenizer
from toolkit.runs import hub
from toolkit.runs.evaluation import LostText
from toolkit.runs.hub import Reference
from toolkit.runtime.host_memory import available_memory

LORA = LoraSettings(r=16, alpha=32, target_modules=ALL_LINEAR)
"""The adapters whose training is estimated, as in `recipes/own-model`."""
INFERENCE_BYTES = {"fp32": 4, "bf16": 2}
LOADING = 0.8
"""Share of the available memory that weights may take, because loading and a few texts need some, too."""
SAMPLE = {
    "English": "The quick brown fox — it's 3.14 metres away — jumps over “lazy” dogs.",
    "French, German": "Où est l'œuf ? Straße, Größe, naïve façade.",
    "Greek": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "Russian": "Съешь ещё этих мягких французских булок.",
    "Arabic": "نص حكيم له سر قاطع.",
    "Hebrew": "דג סקרן שט בים מאוכזב.",
    "Hindi": "ऋषियों को सताने वाले दुष्ट राक्षस।",
    "Thai": "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "Chinese": "视野无限广窗外有蓝天。",
    "Japanese": "いろはにほへと、チリヌルヲ。漢字。",
    "Korean": "키스의 고유조건은 입술끼리 만나야 한다.",
    "emoji": "👍🏽 👨‍👩‍👧 🇫🇷",
    "code": "def f(x):\n\treturn {\n    'a':  x ** 2,  \n    }\n\n\n",
}
"""Short texts in several scripts, by what they are."""


@dataclass(frozen=True)
class NamedToken:
    """A token, and who names it."""

    id: int
    text: str
    named_by: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Inspection:
    """A model and its tokenizer as the toolkit sees them.

    Attributes:
        model: its folder or hub id.
        kind: `language model`, or `reward model`.
        adapter_of: the base model of an adapter, which is merged into it.
        file: the GGUF file that the weights are read from, None for safetensors.
        parameters: numbers that a full training changes.
        stored: numbers by their dtype in the files, as safetensors names it; empty for GGUF.
        stored_bytes: of the files' weights.
        positions: tokens of the longest text, None without a limit; `position_key` names it in config.json.
        default_length: tokens of a text by default.
        stop_tokens: every token that ends an answer or a text.
        template: what the chat template writes, None without one.
        template_refusal: why the chat template cannot be used.
        start: the token that stands before a text, None if there is none.
        tokenizer_adds: tokens that the tokenizer would put around a text; the toolkit puts `start` before it.
        pad: the padding token.
        entries, rows, logits: of the tokenizer, the input embedding, and a row of logits.
        unreadable: tokens of the tokenizer that have no row.
        lost: what the tokenizer loses of `SAMPLE`, by its text; empty if nothing.
        causal: the predictions do not depend on later tokens. None: not checked, see `unchecked`.
        cached: decoding with a cache gives the logits of passes over whole texts.
        batched: rows of different lengths can share a batch.
        unchecked: why the weights were not loaded; None if they were.
        sampling: settings with which the toolkit samples by default.
        own_sampling: whether they are those of the model's generation_config.json.
        not_applied: sampling settings of generation_config.json that the toolkit does not have.
        inference_bytes: of the weights by precision.
        training_bytes: of weights, gradients and optimizer by stage, for all weights (`full`) and for `lora`,
            which is left out for models with experts.
    """

    model: str
    kind: str
    class_name: str
    model_type: str
    adapter_of: str | None
    file: str | None
    parameters: int
    stored: dict[str, int]
    stored_bytes: int
    positions: int | None
    position_key: str | None
    default_length: int
    stop_tokens: list[NamedToken]
    template: TemplateTurns | None
    template_refusal: str | None
    start: NamedToken | None
    tokenizer_adds: list[NamedToken]
    pad: NamedToken | None
    entries: int
    rows: int
    logits: int
    unreadable: list[str]
    lost: dict[str, LostText]
    causal: bool | None
    cached: bool | None
    batched: bool | None
    unchecked: str | None
    sampling: dict[str, float | int]
    own_sampling: bool
    not_applied: dict[str, Any]
    inference_bytes: dict[str, int]
    training_bytes: dict[str, dict[str, int]]

    def as_json(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return {**asdict(self), "lost": {name: lost.to_json() for name, lost in self.lost.items()}}


def inspect_model(reference: Reference, *, memory: int | None = None) -> Inspection:
    """Load a language model or a reward model once, check it, and describe it.

    Weights that do not fit in memory are not loaded, and what needs them is not checked.

    Args:
        memory: bytes that may be used; default: what is available.

    Raises:
        ToolkitError: the model cannot be used; as `load_causal_lm` and `load_reward_model`.
    """
    is_reward = is_classifier(reference)
    stored = _stored(reference)
    dtype, unchecked = _dtype(stored, available_memory() if memory is None else memory)
    if unchecked:
        model, tokenizer = without_weights(reference), load_tokenizer(reference)
        checks.allow_unreadable_tokens(model, tokenizer, where=reference[0])
        causal, mode = None, None
    else:
        load = load_reward_model if is_reward else load_causal_lm
        model, tokenizer = load(reference, dtype=dtype)
        if not is_reward:  # of GPT-2 this is not checked at other times: it is causal by construction
            checks.require_causal(model, where=reference[0])
        causal, mode = True, None if is_reward else tried_mode(model)
    return Inspection(
        model=reference[0], kind="reward model" if is_reward else "language model",
        stored=dict(stored.dtypes) if stored else {}, stored_bytes=stored.bytes if stored else 0,
        causal=causal, cached=mode and mode.cached, batched=mode and mode.padded, unchecked=unchecked,
        **_origin(reference), **_described(model), **_tokens(model, tokenizer), **_template(tokenizer),
        **_memory(model, is_reward=is_reward),
    )  # fmt: skip


def _stored(reference: Reference) -> CheckpointShape | None:
    """Return what the headers of the weights say, which are downloaded first; None for GGUF."""
    folder = checkpoint_folder.located(reference).folder
    if folder is None:
        folder = hub.download(reference, ["*.json"])
        hub.download(reference, [path.name for path in safetensors_files.named_files(folder)])
    if checkpoint_folder.is_adapter(folder):
        return _stored(checkpoint_folder.base_of_adapter(folder))
    return checkpoint_shape.of_folder(folder)


def _dtype(stored: CheckpointShape | None, memory: int) -> tuple[Dtype, str | None]:
    """Return in which dtype the weights fit, fp32 first, and a sentence if they fit in none."""
    room = LOADING * memory
    if stored is None or 4 * stored.parameters <= room:
        return torch.float32, None
    if stored.bytes <= room:
        return "auto", None
    return "auto", f"its weights need {_gib(stored.bytes)}, and {_gib(memory)} of memory are available"


def _gib(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"


def _origin(reference: Reference) -> dict[str, Any]:
    folder = checkpoint_folder.located(reference).folder
    if folder and checkpoint_folder.is_adapter(folder):
        return {"adapter_of": checkpoint_folder.base_of_adapter(folder)[0], "file": None}
    return {"adapter_of": None, "file": checkpoint_folder.gguf_option(folder).get("gguf_file")}


def _described(model: PreTrainedModel) -> dict[str, Any]:
    description, config = describe(model), getattr(model, "generation_config", None)
    not_applied = {name: getattr(config, name, None) for name in NOT_APPLIED}
    return {
        "class_name": description.class_name, "model_type": description.model_type,
        "positions": description.positions, "position_key": position_key(model.config),
        "default_length": default_length(model), "rows": description.embedded,
        "logits": description.vocabulary, "sampling": dict(own_sampling(config)),
        "own_sampling": any(getattr(config, name, None) is not None for name in DEFAULTS),
        "not_applied": {name: value for name, value in not_applied.items() if value},
        "unreadable": sorted(checks.unreadable_tokens(model).values()),
    }  # fmt: skip


def _tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    def token(number: int | None, named_by: list[str] | None = None) -> NamedToken | None:
        if number is None:
            return None
        return NamedToken(number, str(tokenizer.convert_ids_to_tokens(number)), named_by or [])

    ends = named_ends(model, tokenizer)
    ids = dict.fromkeys(number for numbers in ends.values() for number in numbers)
    texts = list(SAMPLE.values())
    lost = {
        name: found
        for name, text in SAMPLE.items()
        if (found := lost_text(tokenizer, [text], [template.encode_text(tokenizer, text)])) is not None
    }
    plain = template.encode_text(tokenizer, texts[0])
    added = [number for number in tokenizer(texts[0])["input_ids"] if number not in plain]
    return {
        "stop_tokens": [token(n, [source for source, named in ends.items() if n in named]) for n in ids],
        "start": token(start_id(model, tokenizer)), "pad": token(tokenizer.pad_token_id),
        "tokenizer_adds": [token(number) for number in added], "entries": len(tokenizer), "lost": lost,
    }  # fmt: skip


def _template(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    turns = None
    try:
        turns = turns_of(tokenizer)
        if turns is not None:
            answer_end.require_answers(tokenizer)
    except ToolkitError as error:
        return {"template": turns, "template_refusal": error.what}
    return {"template": turns, "template_refusal": None}


def _memory(model: PreTrainedModel, *, is_reward: bool) -> dict[str, Any]:
    tensors = {
        name: StoredTensor("F32", tuple(parameter.shape), 4 * parameter.numel())
        for name, parameter in model.named_parameters()
    }
    count = sum(tensor.numbers for tensor in tensors.values())
    shape = checkpoint_shape.of_tensors(model.config.to_dict(), tensors)
    stages = [stage for stage in STAGES.values() if stage.cost and not (is_reward and stage.name != "reward")]
    training = {}
    for stage in stages if shape else []:
        full = shape.state_bytes(stage.cost.bytes_per_parameter)
        training[stage.name] = {"full": full}
        if "lora" in stage.recipe.model_fields and not shape.has_experts:
            training[stage.name]["lora"] = shape.state_bytes(stage.cost.bytes_per_parameter, lora=LORA)
    return {
        "parameters": count,
        "inference_bytes": {name: size * count for name, size in INFERENCE_BYTES.items()},
        "training_bytes": training,
    }
