"""A model by any of its names, ready to be asked."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from toolkit.base import files
from toolkit.base.errors import ToolkitError
from toolkit.config.registry import STAGES
from toolkit.data.chat import template
from toolkit.inference.logprobs import positions, start_id
from toolkit.models.loading import load_causal_lm
from toolkit.runs import layout, references, seal
from toolkit.runtime import devices


@dataclass(frozen=True)
class OpenModel:
    """A loaded language model, and what is known of it.

    Attributes:
        positions: tokens of its context, None without a limit.
        converses: it has a chat template, and no run says that it was never trained on conversations.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    converses: bool

    @property
    def positions(self) -> int | None:
        return positions(self.model)

    @property
    def end_id(self) -> int | None:
        return self.tokenizer.eos_token_id

    def prompt_ids(self, text: str, *, chat: bool) -> list[int]:
        """Ids of a question in the chat template, or of a text that begins a document.

        A document begins after end-of-text, in training and in scoring; so it does here.
        """
        if chat:
            return chat_ids(self.tokenizer, [{"role": "user", "content": text}])
        return self.text_ids(text)

    def text_ids(self, text: str) -> list[int]:
        """Ids of plain text after the token that begins a document; special tokens in it are plain text."""
        start = start_id(self.model, self.tokenizer)
        ids = [*([] if start is None else [start]), *template.encode_text(self.tokenizer, text)]
        if not ids:
            raise ToolkitError(
                "the text is empty and the tokenizer has no token that begins a text",
                fix="give at least one character",
            )
        return ids


def chat_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    """Ids of a conversation and the sign that the model is to answer."""
    return template.prompt_ids(tokenizer, messages)


def open_model(name: str) -> OpenModel:
    """Load a sealed run, a checkpoint, a model folder or `hub-id[@revision]`, onto the device that is there.

    Raises:
        ToolkitError: nothing of that name, or not a language model.
    """
    reference = references.named_model(name)
    disable_progress_bar()
    model, tokenizer = load_causal_lm(reference, device=devices.select("auto"))
    stage = stage_of(Path(reference[0]))
    # A model that was only pretrained has the chat template, too.
    converses = stage is None or (stage in STAGES and STAGES[stage].has_conversations)
    return OpenModel(model, tokenizer, bool(tokenizer.chat_template) and converses)


def stage_of(folder: Path) -> str | None:
    """The stage of the run that a model folder or a checkpoint lies in, None outside of a run."""
    run = seal.run_of(folder) if folder.is_dir() else None
    return files.read_json(run / layout.MANIFEST)["stage"] if run else None


def tell(message: str) -> None:
    """A message for the person; stdout is for answers."""
    print(message, file=sys.stderr, flush=True)
