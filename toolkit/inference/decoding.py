"""Decoding of a batch of rows token by token, with a cache where the model's cache is right.

Architectures differ in what they cache, and whether padding on the left changes it. On first use of a model,
`decoding_mode` compares cached steps with passes over whole texts, and chooses the fastest mode with the same
logits.

Shapes: rows = answers in progress, vocab = entries of the vocabulary, width = padded length so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import DynamicCache, GPT2LMHeadModel
from transformers.cache_utils import DynamicLayer

from toolkit.base import console
from toolkit.models import checks
from toolkit.models.description import describe, forward
from toolkit.runtime.upstream_private import attention_implementation

PREALLOCATED = ("sdpa", "eager")
"""Attention implementations that take an additive mask of (rows, 1, queries, width)."""


@dataclass(frozen=True)
class DecodingMode:
    """How the rows of a batch are decoded.

    Attributes:
        cached: whether a step reads the new token and a cache, not the whole text again.
        padded: whether rows of different lengths share a batch, padded on the left.
        prepared_mask: whether the additive mask of all steps is made once, and the cache has its final size
            from the beginning.
    """

    cached: bool
    padded: bool
    prepared_mask: bool


MODES = (
    DecodingMode(cached=True, padded=True, prepared_mask=True),
    DecodingMode(cached=True, padded=True, prepared_mask=False),
    DecodingMode(cached=True, padded=False, prepared_mask=False),
    DecodingMode(cached=False, padded=False, prepared_mask=False),
)
"""From the fastest to the one that is right for every causal model."""

_modes: WeakKeyDictionary[nn.Module, DecodingMode] = WeakKeyDictionary()


class _PreallocatedLayer(DynamicLayer):
    """Keys and values of one layer in buffers of (rows, heads, capacity, head width).

    DynamicLayer copies all of them for each token.
    """

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity, self.filled = capacity, 0

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.key_buffer, self.value_buffer = map(self._buffer, (key_states, value_states))
        end = self.filled + key_states.shape[2]
        self.key_buffer[:, :, self.filled : end] = key_states
        self.value_buffer[:, :, self.filled : end] = value_states
        self.filled = end
        self.keys, self.values = self.key_buffer[:, :, :end], self.value_buffer[:, :, :end]
        return self.keys, self.values

    def _buffer(self, states: torch.Tensor) -> torch.Tensor:
        """Return an empty buffer; with latent attention, keys and values differ in their widths."""
        rows, heads, _, head_width = states.shape
        return states.new_empty(rows, heads, self.capacity, head_width)

    def keep(self, rows: torch.Tensor) -> None:
        self.key_buffer, self.value_buffer = self.key_buffer[rows], self.value_buffer[rows]
        self.keys = self.key_buffer[:, :, : self.filled]
        self.values = self.value_buffer[:, :, : self.filled]


class Decoder:
    """A batch of rows with their cache, which returns each row's logits of the next token.

    Args:
        prompts: token ids; of equal lengths unless the mode is padded.
        fill: the id of padding on the left, which is masked.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        mode: DecodingMode,
        fill: int = 0,
    ):
        longest = max(len(prompt) for prompt in prompts)
        self.capacity = longest + max_new_tokens
        self.model, self.device, self.mode, self.width = model, model.device, mode, 0
        padded = [[fill] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        self.ids = torch.tensor(padded, device=self.device)  # (rows, longest)
        self.preallocated = False
        if mode.padded:
            lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
            columns = torch.arange(self.capacity, device=self.device)
            self.mask = columns >= (longest - lengths)[:, None]  # (rows, capacity) real tokens
            self.positions = (columns - (longest - lengths)[:, None]).clamp(min=0)
        if mode.cached:
            self.cache_argument = describe(model).cache_argument or "past_key_values"
            self.cache = DynamicCache(config=model.config)
            plain = all(type(layer) is DynamicLayer for layer in self.cache.layers) and self.cache.layers
            if mode.prepared_mask and plain and attention_implementation(model) in PREALLOCATED:
                self._preallocate()

    def _preallocate(self) -> None:
        self.preallocated = True
        self.cache.layers = [_PreallocatedLayer(self.capacity) for _ in self.cache.layers]
        self.bias = torch.zeros(self.mask.shape, dtype=self.model.dtype, device=self.device)
        self.bias.masked_fill_(~self.mask, torch.finfo(self.model.dtype).min)

    @torch.inference_mode()
    def logits(self, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Feed `ids` (rows,), or first the prompts, and return the next token's logits, fp32 (rows, vocab).

        Raises:
            ToolkitError: they are not finite.
        """
        if ids is not None and not self.mode.cached:
            self.ids = torch.cat([self.ids, ids[:, None]], dim=1)
        whole = ids is None or not self.mode.cached
        inputs = self.ids if whole else ids[:, None]
        arguments = self._reading(inputs.shape[1]) if self.mode.cached else {"use_cache": False}
        logits = forward(self.model, inputs, **arguments, logits_to_keep=1).logits[:, -1].float()
        checks.require_finite(logits, self.model)
        return logits

    def _reading(self, count: int) -> dict[str, object]:
        """Return the cache, mask and positions for `count` more columns."""
        end = self.width + count
        arguments: dict[str, object] = {self.cache_argument: self.cache, "use_cache": True}
        if self.mode.padded:
            mask = self.mask[:, :end].long()
            if self.preallocated and self.width:
                mask = self.bias[:, None, None, :end]  # a prepared 4-D mask saves building one for each token
            arguments |= {"attention_mask": mask, "position_ids": self.positions[:, self.width : end]}
        self.width = end
        return arguments

    def keep(self, rows: torch.Tensor) -> None:
        """Continue with these rows only."""
        self.ids = self.ids[rows]
        if self.mode.padded:
            self.mask, self.positions = self.mask[rows], self.positions[rows]
        if self.preallocated:
            self.bias = self.bias[rows]
            for layer in self.cache.layers:
                layer.keep(rows)
        elif self.mode.cached:
            self.cache.reorder_cache(rows)


def batches(prompts: Sequence[Sequence[int]], *, mode: DecodingMode, batch_rows: int) -> Iterator[list[int]]:
    """Yield the indices of the prompts of each batch: of similar lengths, without padding of equal ones."""
    by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))  # less padding
    groups = [by_length]
    if not mode.padded:
        groups = [list(group) for _, group in groupby(by_length, key=lambda row: len(prompts[row]))]
    for group in groups:
        for start in range(0, len(group), batch_rows):
            yield group[start : start + batch_rows]


def decoding_mode(model: nn.Module) -> DecodingMode:
    """Return the first of `MODES` whose steps equal passes over whole texts; tried once for each model.

    A few tokens are read in eval mode; nothing is drawn. If only the last mode is right, a notice says so.

    Raises:
        ToolkitError: the model is not causal, or its logits are not finite.
    """
    if type(model) is GPT2LMHeadModel:  # what the first mode was made for, and tested with
        return MODES[0]
    if model not in _modes:
        checks.require_causal(model)
        _modes[model] = tried_mode(model)
        if not _modes[model].cached:
            console.tell_once(
                f"{describe(model).class_name} is sampled without a cache, because its cached steps fail or "
                "differ from whole passes: each token takes as long as the whole text"
            )
    return _modes[model]


def tried_mode(model: nn.Module) -> DecodingMode:
    """Return the first of `MODES` whose steps equal passes over whole texts; the model is causal."""
    return next(mode for mode in MODES if _is_right(model, mode))


def _is_right(model: nn.Module, mode: DecodingMode) -> bool:
    """Return whether a mode gives the logits of whole passes: of prompts, two tokens more, and kept rows."""
    if not mode.cached:
        return True
    tokens = checks.probe_ids(model, 8).tolist()
    texts = [tokens[:7], tokens[3:7], tokens[1:6]] if mode.padded else [tokens[:5], tokens[1:6], tokens[2:7]]
    # Foreign code fails in any way if a mode is not its own; the last mode remains.
    with suppress(Exception), torch.inference_mode():
        ids = [torch.tensor(text, device=model.device) for text in texts]
        whole = [forward(model, row[None], use_cache=False).logits[0] for row in ids]  # (length, vocab) each
        decoder = Decoder(model, [text[:-2] for text in texts], max_new_tokens=2, mode=mode)
        kept = torch.tensor([0, 2], device=model.device)
        steps = [decoder.logits(), decoder.logits(torch.stack([row[-2] for row in ids]))]
        decoder.keep(kept)
        steps.append(decoder.logits(torch.stack([ids[row][-1] for row in kept])))
        expected = [torch.stack([logits[place] for logits in whole]) for place in (-3, -2, -1)]
        expected[-1] = expected[-1][kept]
        return all(
            checks.agree(expected, step, model=model, within=checks.ROUNDING)
            for expected, step in zip(expected, steps, strict=True)
        )
    return False
