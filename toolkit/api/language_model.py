"""A loaded language model: `toolkit.load`. It answers, scores texts, and shows what it expects next."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.base.errors import ToolkitError, UsageError
from toolkit.data.chat.template import encode_text
from toolkit.data.text.lost_text import LossCounter, sentence
from toolkit.inference import next_token
from toolkit.inference.generation import GeneratedAnswer, GenerationSettings, generate_answers
from toolkit.inference.logprobs import score_tokens, start_id
from toolkit.inference.opening import OpenModel, open_model
from toolkit.inference.token_text import token_text, visible
from toolkit.runs.evaluation import LostText

Messages = Sequence[dict[str, str]]
"""A conversation, oldest message first: `[{"role": "user", "content": "..."}]`."""


class SamplingKeywords(TypedDict, total=False):
    """Keywords of `LanguageModel.generate` and `answers`.

    max_new_tokens (200); temperature, 0 takes the most probable token; top_k, 0: all; top_p, 1: all;
    seed (0): the same seed gives the same answer. Where the model's generation_config.json has sampling
    settings, they are the defaults; else temperature is 0.8, and all tokens can be drawn.
    """

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int


@dataclass(frozen=True)
class TextLogprobs:
    """Log-probabilities of one text.

    Attributes:
        text: what was scored.
        tokens: the text of each scored token, (tokens,).
        logprobs: log p of each token given all before it, nats, (tokens,) float32.
        lost_text: what the tokenizer does not keep of the text, None if it keeps everything.
    """

    text: str
    tokens: list[str]
    logprobs: np.ndarray
    lost_text: LostText | None = None

    @property
    def total(self) -> float:
        """log p of the whole text, nats."""
        return float(self.logprobs.sum(dtype=np.float64))

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs for a byte of the text in UTF-8.

        Raises:
            ToolkitError: the tokenizer loses some of the text; the number would be that of a poorer text.
        """
        if self.lost_text is not None:
            raise ToolkitError(
                sentence(self.lost_text, documents=1), where="bits_per_byte",
                fix="use `total`, which is that of the tokens",
            )  # fmt: skip
        return -self.total / np.log(2) / len(self.text.encode())


@dataclass(frozen=True)
class TokenProbability:
    """A token that may come next, its id and its probability."""

    token: str
    id: int
    probability: float


@dataclass(frozen=True)
class NextToken:
    """What a model expects after a text.

    Attributes:
        text: what came before.
        top: the most probable tokens, in that order.
        rest: the probability of all others together.
        entropy_bits: of the whole distribution.
    """

    text: str
    top: list[TokenProbability]
    rest: float
    entropy_bits: float

    def _repr_html_(self) -> str:
        """A table with a bar a token, for a notebook."""
        rows = [(visible(entry.token), entry.probability) for entry in self.top]
        body = "".join(_bar_row(token, share) for token, share in [*rows, ("(others)", self.rest)])
        caption = f"after {html.escape(repr(self.text))}: entropy {self.entropy_bits:.2f} bits"
        return f"<table><caption>{caption}</caption><tbody>{body}</tbody></table>"


def _bar_row(token: str, share: float) -> str:
    bar = f'<div style="background:#2f6db3;height:0.8em;width:{200 * share:.1f}px"></div>'
    return (
        f'<tr><td style="text-align:left"><code>{html.escape(token)}</code></td>'
        f'<td>{share:.2%}</td><td style="width:200px">{bar}</td></tr>'
    )


class LanguageModel:
    """A language model on the device of this machine. Made by `load`.

    Attributes:
        name: the name that it was loaded by.
        opened: the model with what the toolkit knows of it.
    """

    def __init__(self, name: str, opened: OpenModel):
        self.name, self.opened = name, opened

    def __repr__(self) -> str:
        kind = "conversations" if self.opened.is_chat_model else "text"
        return f"<LanguageModel {self.name}: {self.model.num_parameters():,} parameters, {kind}>"

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model."""
        return self.opened.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The transformers tokenizer."""
        return self.opened.tokenizer

    def generate(
        self, prompt: str | Messages, *, chat: bool | None = None, **settings: Unpack[SamplingKeywords]
    ) -> str:
        """Return one answer to a prompt or to a conversation.

        Args:
            prompt: a text, or the messages of a conversation.
            chat: put a text into the chat template, or continue it as plain text; by default the former with
                a model that was trained on conversations. Messages always use the template.
            **settings: see SamplingKeywords.

        Raises:
            ToolkitError: the prompt is too long, a setting is out of range, there is no chat template.
        """
        return self.answers(prompt, 1, chat=chat, **settings)[0].text

    def answers(
        self,
        prompt: str | Messages,
        count: int,
        *,
        chat: bool | None = None,
        **settings: Unpack[SamplingKeywords],
    ) -> list[GeneratedAnswer]:
        """Return several answers with token ids and whether each ended with end-of-text; see `generate`."""
        ids = self._prompt_ids(prompt, chat)
        return generate_answers(self.opened, ids, settings=GenerationSettings(**settings), count=count)[0]

    def logprobs(self, texts: Sequence[str]) -> list[TextLogprobs]:
        """Score texts exactly: each token once, with as much context as the model takes.

        A text stands after the token that begins a document; without such a token its first token is not
        scored.

        Raises:
            UsageError: `texts` is one string.
        """
        if isinstance(texts, str):
            raise UsageError("texts is one string", where="logprobs", fix="give a list of texts")
        ids = [encode_text(self.tokenizer, text) for text in texts]
        prefix = start_id(self.model, self.tokenizer)
        window = self.opened.context_length or max((len(row) for row in ids), default=0) + 1
        losses = LossCounter(self.tokenizer)
        nats = score_tokens(self.model, ids, prefix_id=prefix, end_id=None, window=window)
        return [
            TextLogprobs(
                text,
                [token_text(self.tokenizer, token) for token in row[len(row) - len(loss) :]],
                -loss,
                losses.lost(text, row),
            )
            for text, row, loss in zip(texts, ids, nats, strict=True)
        ]

    def next(self, text: str, *, top: int = 10, chat: bool = False) -> NextToken:
        """Return the distribution of the next token after a text, or after a question with `chat`."""
        ids = self._prompt_ids(text, chat)
        prediction = next_token.follow(self.opened, ids, top=top, steps=1, temperature=0.0, seed=0)[0]
        entries = [
            TokenProbability(token_text(self.tokenizer, token), token, share)
            for token, share in zip(prediction.tokens, prediction.probabilities, strict=True)
        ]
        return NextToken(text, entries, prediction.rest, prediction.entropy_bits)

    def _prompt_ids(self, prompt: str | Messages, chat: bool | None) -> list[int]:
        if not self.tokenizer.chat_template and (chat or not isinstance(prompt, str)):
            raise UsageError(
                "the model has no chat template", where=self.name, fix="give a text, and not chat"
            )
        if not isinstance(prompt, str):
            return self.opened.chat_ids(list(prompt))
        return self.opened.prompt_ids(prompt, chat=self.opened.is_chat_model if chat is None else chat)


def load(model: str | os.PathLike[str], *, dtype: str = "fp32") -> LanguageModel:
    """Load a finished run, a checkpoint, a model folder, or `hub-id[@revision]`.

    Args:
        dtype: of the weights: `fp32`, `bf16`, `fp16`, or `auto`, that of the checkpoint.

    Raises:
        ToolkitError: nothing of that name, or not a language model.
    """
    name = os.fspath(model)
    return LanguageModel(name, open_model(name, dtype=dtype))
