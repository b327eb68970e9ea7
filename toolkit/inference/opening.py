"""Opening a language model by any of its names: the way of evaluation, viewing commands and Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from toolkit.base import files
from toolkit.base.errors import ToolkitError, UsageError
from toolkit.config.messages import listed
from toolkit.config.registry import STAGES
from toolkit.data.chat import fitting, template
from toolkit.inference.logprobs import start_id
from toolkit.models.context_length import context_length
from toolkit.models.loading import DTYPES, Dtype, load_causal_lm
from toolkit.models.stop_tokens import StopTokens
from toolkit.runs import layout, references, seal
from toolkit.runs.hub import Reference
from toolkit.runtime import devices


@dataclass(frozen=True)
class OpenModel:
    """A loaded language model with its tokenizer, in eval mode.

    Attributes:
        is_chat_model: it has a chat template, and is not the model of a stage without conversations.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    is_chat_model: bool

    @property
    def context_length(self) -> int | None:
        """Tokens that the model attends to at most, None without a limit."""
        return context_length(self.model)

    @property
    def stop_tokens(self) -> StopTokens:
        """The tokens with which an answer or a text ends."""
        return StopTokens.of(self.model, self.tokenizer)

    def prompt_ids(self, text: str, *, chat: bool) -> list[int]:
        """Return the ids of a user's message in the chat template, or of text to continue."""
        if chat:
            return self.chat_ids([{"role": "user", "content": text}])
        return self.text_ids(text)

    def chat_ids(self, messages: list[dict[str, str]]) -> list[int]:
        """Return the ids of a conversation and the generation prompt."""
        return fitting.prompt_ids(self.tokenizer, messages)

    def text_ids(self, text: str) -> list[int]:
        """Return the ids of a document's beginning, after the token that starts a document.

        Special tokens spelled out in the text are encoded as text.

        Raises:
            ToolkitError: there is no token at all.
        """
        start = start_id(self.model, self.tokenizer)
        ids = [*([] if start is None else [start]), *template.encode_text(self.tokenizer, text)]
        if not ids:
            raise ToolkitError(
                "the text is empty and the tokenizer has no token that starts a text",
                fix="give at least one character",
            )
        return ids


def open_model(name: str, *, dtype: str = "fp32") -> OpenModel:
    """Open a sealed run, a checkpoint, a model folder or `hub-id[@revision]` on the best device.

    Args:
        dtype: of the weights, a name of `toolkit.models.loading.DTYPES`.

    Raises:
        UsageError: no such dtype.
        ToolkitError: nothing of that name, or not a language model.
    """
    if dtype not in DTYPES:
        raise UsageError(
            f"{dtype!r} is no precision of weights", where="dtype", fix=f"write {listed(DTYPES)}"
        )
    return open_reference(references.named_model(name), device=devices.select("auto"), dtype=DTYPES[dtype])


def open_reference(
    reference: Reference, *, device: torch.device | str, dtype: Dtype = torch.float32
) -> OpenModel:
    """Open a model folder or hub model.

    Raises:
        ToolkitError: as `toolkit.models.loading.load_causal_lm`.
    """
    disable_progress_bar()  # of loading weights
    model, tokenizer = load_causal_lm(reference, device=device, dtype=dtype)
    stage = stage_of(Path(reference[0]))
    # A model that was only pretrained has the chat template, too.
    converses = stage is None or (stage in STAGES and STAGES[stage].has_conversations)
    return OpenModel(model, tokenizer, bool(tokenizer.chat_template) and converses)


def stage_of(folder: Path) -> str | None:
    """Return the stage of the run that a model folder or a checkpoint belongs to, None outside of a run."""
    run = seal.run_of(folder) if folder.is_dir() else None
    return files.read_json(run / layout.MANIFEST)["stage"] if run else None
