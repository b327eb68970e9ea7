"""Exact log-probabilities of texts and answers under a causal language model, each token scored once.

Shapes: rows = texts of a batch, length = tokens of its longest text, scored = positions to score, vocabulary
= entries of the head. Rows are padded to the right, where a causal model does not attend, so no mask is
needed. The softmax includes the padded entries of the vocabulary: probability that the model assigns to them
is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.base.errors import ToolkitError
from toolkit.inference.heads import head_in_blocks
from toolkit.models import checks
from toolkit.models.context_length import context_length
from toolkit.models.description import forward, text_config, vocabulary
from toolkit.models.kernels import inference_gelu
from toolkit.models.shape import BLOCK_LOGITS, scored_at_once

PLAIN_HEADS = {"gpt2", "gpt_neo", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "olmo2", "phi3"}
"""Architectures whose logits are the head times the last hidden state; others may cap or scale logits, see
`toolkit.inference.heads`."""

BATCH_TOKENS, CPU_BATCH_TOKENS = 8192, 2048

_NOTHING = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True)
class _Row:
    """A row of a forward pass: `inputs` (length,), and the `targets` of its last positions."""

    inputs: np.ndarray
    targets: np.ndarray


def score_documents(
    model: PreTrainedModel, documents: Sequence[np.ndarray | list[int]], **settings: Any
) -> np.ndarray:
    """Return each document's sum of -log p in nats, (documents,) float64; `settings` as `score_tokens`."""
    nats = score_tokens(model, documents, **settings)
    return np.array([document.sum(dtype=np.float64) for document in nats], dtype=np.float64)


def score_tokens(
    model: PreTrainedModel,
    documents: Sequence[np.ndarray | list[int]],
    *,
    prefix_id: int | None,
    end_id: int | None,
    window: int,
    stride: int | None = None,
    batch_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """Return -log p in nats of each token of each document, in order, float32.

    Args:
        model: a causal language model; evaluated in eval mode.
        documents: token ids of each document, without end-of-text.
        prefix_id: the token before the first token of a document (end-of-text as start). With None the first
            token has no context and is not scored.
        end_id: the end of a document, scored as its last token; with None no end is scored.
        window: tokens per window, at most the context length of the model.
        stride: tokens by which the window moves (default: half the window). Every token after the first
            window has more than `window - stride` tokens of context. The last window ends with the document.
        batch_tokens: tokens of one forward pass, padding included (default 8192; on a CPU 2048, for its
            cache); the sums depend on it by rounding only.
        progress: called after each batch with the number of tokens scored so far.

    Raises:
        ToolkitError: a window longer than the context, or a stride longer than the window.
    """
    stride = stride or max(1, window // 2)
    limit = context_length(model)
    if limit is not None and window > limit:
        raise ToolkitError(f"a window of {window} tokens is longer than the model's {limit} positions",
                           fix=f"give a window of at most {limit}")  # fmt: skip
    if not 1 <= stride <= window:
        raise ToolkitError(f"a stride of {stride} tokens leaves gaps between windows of {window}",
                           fix=f"give a stride between 1 and {window}")  # fmt: skip
    rows: list[_Row] = []
    first_rows = [0]  # of each document, and the end
    prefix = [] if prefix_id is None else [prefix_id]
    end = [] if end_id is None else [end_id]
    for document in documents:
        sequence = np.concatenate([prefix, np.asarray(document), end]).astype(np.int64)
        rows.extend(_windows(sequence, window, stride))
        first_rows.append(len(rows))
    nats: list[np.ndarray] = [_NOTHING] * len(rows)
    for row, logprobs in _score_rows(model, rows, batch_tokens, progress):
        nats[row] = -logprobs
    return [
        np.concatenate([_NOTHING, *nats[first_rows[i] : first_rows[i + 1]]]) for i in range(len(documents))
    ]


@torch.no_grad()
def token_logits(
    model: PreTrainedModel,
    sequence: Sequence[int],
    *,
    window: int,
    start: int = 1,
    stop: int | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the tokens of sequence[start:stop], (scored,), and their logits, (scored, vocabulary), by blocks.

    The windows are those in which `score_tokens` reads the whole sequence, with a stride of half a window.

    Args:
        model: a causal language model in eval mode.
        sequence: token ids; the first is context.
        window: tokens per window, at most the context length of the model.
    """
    ids = np.asarray(sequence, dtype=np.int64)
    stop, position = len(ids) if stop is None else stop, 1
    checks.require_readable(model, int(ids.max(initial=0)))
    head = _head(model)
    with inference_gelu(model):
        for row in _windows(ids, window, max(1, window // 2)):
            end = position + len(row.targets)
            low, high = max(start, position), min(stop, end)
            if low < high:
                inputs = row.inputs[: len(row.inputs) - (end - high)]
                targets = row.targets[low - position : high - position]
                for logits, part in _batch_logits(model, [_Row(inputs, targets)], head):
                    yield part, logits
            position = end


def answer_logprobs(
    model: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    answer_ids: Sequence[Sequence[int]],
    *,
    batch_examples: int = 64,
) -> list[np.ndarray]:
    """Return log p in nats of every token of each answer given its prompt and the answer so far, float32.

    Raises:
        ToolkitError: an empty prompt, or prompt and answer together exceed the context.
    """
    limit = context_length(model)
    rows = []
    for index, (prompt, answer) in enumerate(zip(prompt_ids, answer_ids, strict=True)):
        if not len(prompt):
            raise ToolkitError(f"example {index} has an empty prompt", fix="give at least one token")
        sequence = np.concatenate([np.asarray(prompt), np.asarray(answer)]).astype(np.int64)
        if limit is not None and len(sequence) - 1 > limit:
            raise ToolkitError(
                f"example {index}: prompt and answer have {len(sequence)} tokens, the model takes {limit}",
                fix="shorten max_prompt_tokens or max_new_tokens",
            )
        rows.append(_Row(sequence[:-1], sequence[len(prompt) :]))
    longest = max((len(row.inputs) for row in rows), default=1)
    results: list[np.ndarray] = [_NOTHING] * len(rows)
    for row, logprobs in _score_rows(model, rows, batch_examples * longest):
        results[row] = logprobs
    return results


def start_id(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that precedes a text, None if the tokenizer has none.

    End-of-text if the model's configuration names it as the beginning of a document (GPT-2, and models
    pretrained here); otherwise the tokenizer's beginning-of-text, or end-of-text if there is none.
    """
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    configured = getattr(text_config(model.config), "bos_token_id", None)
    return end if begin is None or (end is not None and configured == end) else begin


def _windows(sequence: np.ndarray, window: int, stride: int) -> Iterator[_Row]:
    """Split a sequence into rows of at most `window` inputs; each of sequence[1:] is a target once.

    The last row is moved back until it is full, so that its tokens have as much context as possible.
    """
    last = len(sequence) - 1
    scored = 1  # the first target: position 0 is context
    while scored <= last:
        end = min(window if scored == 1 else scored - 1 + stride, last)
        yield _Row(sequence[max(0, end - window) : end], sequence[scored : end + 1])
        scored = end + 1


def _batches(rows: Sequence[_Row], batch_tokens: int) -> Iterator[list[int]]:
    """Group rows of similar length, longest first, so that insufficient memory fails immediately.

    A batch ends early if more than a fifth of its next row would be padding, but not with less than a
    quarter of its tokens, which would make matrix products inefficient.
    """
    order = sorted((index for index, row in enumerate(rows) if len(row.targets)),
                   key=lambda index: -len(rows[index].inputs))  # fmt: skip
    batch: list[int] = []
    for index in order:
        longest, length = len(rows[(batch or [index])[0]].inputs), len(rows[index].inputs)
        full = (len(batch) + 1) * longest > batch_tokens
        if batch and (full or (length < 0.8 * longest and 4 * len(batch) * longest >= batch_tokens)):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.no_grad()
def _score_rows(
    model: PreTrainedModel,
    rows: Sequence[_Row],
    batch_tokens: int | None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (row, log p of its targets) in any order; the model's mode is restored afterwards."""
    training, done = model.training, 0
    if batch_tokens is None:
        on_cpu = model.get_input_embeddings().weight.device.type == "cpu"
        batch_tokens = CPU_BATCH_TOKENS if on_cpu else BATCH_TOKENS
    largest_id = max((int(row.targets.max()) for row in rows if len(row.targets)), default=0)
    checks.require_readable(model, largest_id)
    model.eval()
    try:
        head = _head(model)
        if head is None:  # computes the logits of whole rows: use few rows
            batch_tokens = min(batch_tokens, BLOCK_LOGITS // vocabulary(model))
        with inference_gelu(model):
            for batch in _batches(rows, batch_tokens):
                parts = []
                for part in _score_batch(model, [rows[index] for index in batch], head):
                    parts.append(part)
                    done += len(part)
                    if progress:
                        progress(done)
                logprobs, offset = np.concatenate(parts), 0
                for index in batch:
                    count = len(rows[index].targets)
                    yield index, logprobs[offset : offset + count]
                    offset += count
    finally:
        model.train(training)


def _head(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return what computes logits from last hidden states, (scored, width) -> (scored, vocabulary).

    None if this architecture has to compute the logits of whole rows.
    """
    return model.get_output_embeddings() if model.config.model_type in PLAIN_HEADS else head_in_blocks(model)


def _score_batch(
    model: PreTrainedModel, batch: list[_Row], head: Callable[[torch.Tensor], torch.Tensor] | None
) -> Iterator[np.ndarray]:
    """Yield log p of the targets of all rows in order, (scored,) float32, a block of logits at a time."""
    for logits, targets in _batch_logits(model, batch, head):
        yield _target_logprobs(logits, targets).cpu().numpy()


def _batch_logits(
    model: PreTrainedModel, batch: list[_Row], head: Callable[[torch.Tensor], torch.Tensor] | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield blocks of the logits at the targets of all rows in order, and the targets."""
    length = max(len(row.inputs) for row in batch)
    # any id may stand to the right of the text; transformers warns about the padding id
    filler = 1 if getattr(text_config(model.config), "pad_token_id", None) == 0 else 0
    inputs = np.full((len(batch), length), filler, dtype=np.int64)
    positions = []
    for row_index, row in enumerate(batch):
        inputs[row_index, : len(row.inputs)] = row.inputs
        end = row_index * length + len(row.inputs)
        positions.append(np.arange(end - len(row.targets), end))
    device = model.get_input_embeddings().weight.device
    input_ids = torch.from_numpy(inputs).to(device)  # (rows, length)
    index = torch.from_numpy(np.concatenate(positions)).to(device)  # (scored,)
    targets = torch.from_numpy(np.concatenate([row.targets for row in batch])).to(device)  # (scored,)
    if head is None:
        values = _whole_logits(model, input_ids, index)
    else:
        values = model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state.flatten(0, 1)[index]
    block = scored_at_once(vocabulary(model), on_cpu=device.type == "cpu")
    block = min(block, max(1, BLOCK_LOGITS // vocabulary(model)))
    for at in range(0, len(targets), block):
        logits = values[at : at + block] if head is None else head(values[at : at + block])
        yield logits, targets[at : at + block]


def _whole_logits(model: PreTrainedModel, input_ids: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the logits of the flat positions `index` by the model's own head, (scored, vocabulary).

    Columns before the first of these positions are skipped if the model supports it.
    """
    first = int((index % input_ids.shape[1]).min())
    logits = forward(model, input_ids, use_cache=False, logits_to_keep=input_ids.shape[1] - first).logits
    skipped = input_ids.shape[1] - logits.shape[1]
    return logits[index // input_ids.shape[1], index % input_ids.shape[1] - skipped]


def _target_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return log softmax in fp32 at the targets, (scored, vocabulary), (scored,) -> (scored,)."""
    return -functional.cross_entropy(logits.float(), targets, reduction="none")
