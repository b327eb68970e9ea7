"""Sampling answers from a language model; how its rows are decoded is in `toolkit.inference.decoding`.

All callers share these rules:

* The padding token and the entries in the model's `generation_config.suppress_tokens` (those beyond the
  tokenizer's vocabulary, which is padded to a multiple of 64) are never sampled, and log-probabilities are
  normalised over the other entries. A padding token that is also a stop token is sampled.
* Role tokens (`<|user|>` ...) are ordinary tokens: they stay in the ids and decode to their text.
* Any stop token (`toolkit.models.stop_tokens`) ends an answer and is not part of its ids; `stops` records
  which one was sampled.
* Each answer draws one number per token from its own random stream. Beyond rounding, it depends neither on
  the other answers of its batch nor on `max_new_tokens`.

Shapes: rows = answers in progress, vocab = entries of the vocabulary, width = padded length so far.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from toolkit.base.errors import ToolkitError, UsageError
from toolkit.base.rng import derive
from toolkit.inference import decoding
from toolkit.inference.decoding import decoding_mode
from toolkit.models.context_length import context_length
from toolkit.models.description import describe, vocabulary
from toolkit.runtime import devices

FORBIDDEN_LOGIT = -1e9
"""Gives a probability of exactly 0 in fp32, and unlike -inf keeps p * log p of an entropy finite."""
SETTLED_SHARE = 0.125
"""Ended rows are removed once they are this share of the batch, because removing copies the cache."""
EndIds = int | Collection[int] | None
"""The token that ends an answer, several of them, or none."""


@dataclass(frozen=True)
class SamplingSettings:
    """How the next token is chosen.

    Attributes:
        temperature: divides the logits; 0 takes the most probable token.
        top_k: sample from the k most probable tokens; 0 means all.
        top_p: of these, sample from the smallest set with at least this probability (Holtzman et al., 2020).
        batch_rows: answers in one batch; affects speed and memory only.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    batch_rows: int = 64

    def __post_init__(self) -> None:
        rules = [
            (self.max_new_tokens >= 1, "max_new_tokens", "at least 1"),
            (self.temperature >= 0, "temperature", "0 (the most probable token) or more"),
            (self.top_k >= 0, "top_k", "0 (all tokens) or more"),
            (0 < self.top_p <= 1, "top_p", "above 0, and 1 at most"),
            (self.batch_rows >= 1, "batch_rows", "at least 1"),
        ]
        for holds, name, bounds in rules:
            if not holds:
                raise UsageError(f"{name} is {getattr(self, name)}", fix=f"give {name} {bounds}")


@dataclass(frozen=True)
class SampledAnswers:
    """One answer for each prompt, in the order of the prompts.

    Attributes:
        ids: sampled tokens without the stop token.
        ended: whether a stop token was sampled.
        logprobs: log-probability in nats of each sampled token, the stop token included, (len(ids) + ended,);
            under softmax(logits / temperature) before top-k and top-p (temperature 0: softmax(logits)).
        stops: the stop token of each answer, None where it did not end.
    """

    ids: list[list[int]]
    ended: list[bool]
    logprobs: list[np.ndarray]
    stops: list[int | None]

    def ids_with_stops(self) -> list[list[int]]:
        """Return all sampled tokens of each answer, the stop token included."""
        return [ids if stop is None else [*ids, stop] for ids, stop in zip(self.ids, self.stops, strict=True)]


def _end_ids(end_id: EndIds) -> list[int]:
    return [] if end_id is None else [end_id] if isinstance(end_id, int) else list(end_id)


def forbidden_bias(model: nn.Module, *, pad_id: int | None, end_id: EndIds) -> torch.Tensor:
    """Return the bias that excludes forbidden tokens from sampling, fp32 (vocab,): 0 or -1e9."""
    bias = torch.zeros(vocabulary(model), device=model.device)
    suppressed = list(getattr(model.generation_config, "suppress_tokens", None) or [])
    if pad_id is not None and pad_id not in _end_ids(end_id):
        suppressed.append(pad_id)
    bias[[token for token in suppressed if token < len(bias)]] = FORBIDDEN_LOGIT
    return bias


class _Decoder:
    """A batch of rows in progress, which returns log-probabilities of what may be sampled."""

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: SamplingSettings,
        pad_id: int | None,
        end_id: EndIds,
    ):
        fill = pad_id if pad_id is not None and pad_id < describe(model).embedded else 0
        self.rows = decoding.Decoder(
            model, prompts, max_new_tokens=sampling.max_new_tokens, mode=decoding_mode(model), fill=fill
        )
        self.device, self.temperature = self.rows.device, sampling.temperature or 1.0
        self.forbidden = forbidden_bias(model, pad_id=pad_id, end_id=end_id) / self.temperature

    @torch.inference_mode()
    def logprobs(self, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Feed `ids` (rows,), or first the prompts, and return log-probabilities, fp32 (rows, vocab)."""
        return self.normalised(self.rows.logits(ids))

    @torch.inference_mode()
    def normalised(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of logits, (rows, vocab) -> (rows, vocab)."""
        return torch.log_softmax(logits / self.temperature + self.forbidden, dim=-1)

    def keep(self, rows: torch.Tensor) -> None:
        """Continue with these rows only."""
        self.rows.keep(rows)


def restrict(logprobs: torch.Tensor, *, top_k: int, top_p: float) -> torch.Tensor:
    """Set tokens excluded by top-k and then top-p to -inf, (rows, vocab); ties at the threshold stay."""
    if 0 < top_k < logprobs.shape[-1]:
        threshold = logprobs.topk(top_k, dim=-1).values[:, -1:]
        logprobs = logprobs.masked_fill(logprobs < threshold, -torch.inf)
    if top_p < 1:
        ordered = torch.softmax(logprobs, dim=-1).sort(dim=-1, descending=True)
        preceding = ordered.values.cumsum(dim=-1) - ordered.values
        excluded = torch.zeros_like(preceding, dtype=torch.bool)
        excluded = excluded.scatter(-1, ordered.indices, preceding >= top_p)
        logprobs = logprobs.masked_fill(excluded, -torch.inf)
    return logprobs


@torch.inference_mode()
def choose(logprobs: torch.Tensor, uniforms: torch.Tensor, sampling: SamplingSettings) -> torch.Tensor:
    """Sample by inverse CDF: the first token whose cumulative probability exceeds the row's uniform number.

    logprobs (rows, vocab), uniforms in [0, 1) (rows,) -> ids (rows,). Tokens of probability 0 are never
    chosen.
    """
    if sampling.temperature == 0:
        return logprobs.argmax(dim=-1)
    cumulative = restrict(logprobs, top_k=sampling.top_k, top_p=sampling.top_p).exp().cumsum(dim=-1)
    total = cumulative[:, -1:]
    # uniform * total may round up to total, which no entry exceeds
    below = torch.nextafter(total, torch.zeros_like(total))
    threshold = torch.minimum(uniforms[:, None].to(total) * total, below)
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)


def _uniforms(seed: int, count: int) -> np.ndarray:
    """Return the first `count` numbers in [0, 1) of a row's stream; a larger count extends a smaller one."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def _check_room(model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise ToolkitError if a prompt is empty, or if prompt and answer exceed the model's context."""
    limit = context_length(model)
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise ToolkitError(
                "the prompt has no token", where=f"prompt {number}", fix="start it with the end-of-text token"
            )
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise ToolkitError(
                f"{len(prompt)} prompt tokens and {max_new_tokens} new ones exceed the context of {limit}",
                where=f"prompt {number}",
                fix="shorten the prompt or lower max_new_tokens",
            )


def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    seed: int | Sequence[int],
    end_id: EndIds,
    pad_id: int | None,
    **settings,
) -> SampledAnswers:
    """Sample one answer for each prompt, in eval mode.

    4 layers of width 192, 64 prompts of 25 tokens, 96 new tokens, 2 cores: 0.9 s (`model.generate`: 2.2 s).

    Args:
        model: a causal language model of transformers, not wrapped for distributed training.
        prompts: token ids, of any lengths.
        seed: one for each prompt, or one from which a seed is derived for each position in the list.
        end_id: the stop token, or all of them: an answer ends at the first that is sampled.
        settings: fields of `SamplingSettings`.

    Raises:
        ToolkitError: an empty prompt, or one whose answer does not fit in the context.
    """
    sampling = SamplingSettings(**settings)
    _check_room(model, prompts, sampling.max_new_tokens)
    if isinstance(seed, int):
        seed = [derive(seed, "answer", row) for row in range(len(prompts))]
    if len(seed) != len(prompts):
        raise ValueError(f"{len(seed)} seeds for {len(prompts)} prompts")
    ids: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    logprobs: list[np.ndarray] = [np.zeros(0, np.float32)] * len(prompts)
    stops: list[int | None] = [None] * len(prompts)
    was_training = model.training
    model.eval()
    try:
        for batch in decoding.batches(prompts, mode=decoding_mode(model), batch_rows=sampling.batch_rows):
            decoder = _Decoder(
                model, [prompts[row] for row in batch], sampling=sampling, pad_id=pad_id, end_id=end_id
            )
            sampled, nats = _decode_batch(decoder, [seed[row] for row in batch], sampling, end_id)
            for index, row in enumerate(batch):
                tokens = sampled[index]
                found = np.flatnonzero(np.isin(tokens, _end_ids(end_id)))
                length = int(found[0]) if len(found) else len(tokens)
                ids[row], ended[row] = tokens[:length].tolist(), bool(len(found))
                stops[row] = int(tokens[length]) if len(found) else None
                logprobs[row] = nats[index, : length + ended[row]].copy()
    finally:
        model.train(was_training)
    return SampledAnswers(ids, ended, logprobs, stops)


def _decode_batch(
    decoder: _Decoder, seeds: Sequence[int], sampling: SamplingSettings, end_id: EndIds
) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and their log-probabilities, (rows, max_new_tokens); undefined after a stop token."""
    steps, device = sampling.max_new_tokens, decoder.device
    ends = torch.tensor(_end_ids(end_id), dtype=torch.long, device=device)
    uniforms = devices.to_device(np.stack([_uniforms(seed, steps) for seed in seeds]), device)
    tokens = torch.full((len(seeds), steps), -1, device=device)
    nats = torch.zeros((len(seeds), steps), device=device)
    rows = torch.arange(len(seeds), device=device)  # the original row of each row in progress
    open_rows = torch.ones(len(seeds), dtype=torch.bool, device=device)
    chosen = None
    for step in range(steps):
        logprobs = decoder.logprobs(chosen)
        chosen = choose(logprobs, uniforms[rows, step], sampling)
        tokens[rows, step] = chosen
        nats[rows, step] = logprobs.gather(-1, chosen[:, None]).squeeze(-1)
        if not len(ends):
            continue
        open_rows &= ~torch.isin(chosen, ends)
        settled = len(rows) - int(open_rows.sum())
        if settled == len(rows):
            break
        if settled >= max(1, SETTLED_SHARE * len(rows)):
            kept = open_rows.nonzero().squeeze(-1)
            decoder.keep(kept)
            rows, chosen, open_rows = rows[kept], chosen[kept], open_rows[kept]
    return tokens.cpu().numpy(), nats.cpu().numpy()


@dataclass(frozen=True)
class Step:
    """A sampled token.

    Attributes:
        id: of the token.
        ends: it is a stop token, and the last step.
        logits: of the model before temperature and restrictions, fp32 (vocab,).
    """

    id: int
    ends: bool
    logits: torch.Tensor

    @torch.inference_mode()
    def logprobs(self, top: int) -> tuple[float, list[tuple[int, float]]]:
        """Return log p of the token in nats, and the `top` most probable tokens with theirs, in order.

        These are the probabilities of `toolkit.inference.logprobs`: of the whole vocabulary, whatever the
        temperature.
        """
        logprobs = torch.log_softmax(self.logits, dim=-1)
        best = logprobs.topk(min(top, len(logprobs)))
        return float(logprobs[self.id]), list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def steps(
    model: nn.Module, ids: Sequence[int], *, seed: int, end_id: EndIds, pad_id: int | None, **settings
) -> Iterator[Step]:
    """Yield the answer of `generate(model, [ids], seed=[seed])` step by step, a stop token included.

    Ends with a stop token, after `max_new_tokens`, or when the context is full.

    Raises:
        ToolkitError: the prompt is empty or fills the context.
    """
    sampling = SamplingSettings(**settings)
    _check_room(model, [ids], 1)
    count = int(min(sampling.max_new_tokens, (context_length(model) or np.inf) - len(ids)))
    uniforms = devices.to_device(_uniforms(seed, sampling.max_new_tokens), model.device)
    model.eval()
    decoder = _Decoder(model, [ids], sampling=sampling, pad_id=pad_id, end_id=end_id)
    chosen, ends = None, _end_ids(end_id)
    for step in range(count):
        logits = decoder.rows.logits(chosen)
        chosen = choose(decoder.normalised(logits), uniforms[step : step + 1], sampling)
        yield Step(int(chosen), int(chosen) in ends, logits[0])
        if int(chosen) in ends:
            return


def stream(model: nn.Module, ids: Sequence[int], **settings) -> Iterator[int]:
    """Yield the ids of `steps` without the stop token."""
    return (step.id for step in steps(model, ids, **settings) if not step.ends)
