"""Held-out bits per byte: while a model learns on some documents, at the end on all, with an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.data.tokens import TokenShards
from toolkit.recipe.errors import DataError
from toolkit.scoring import score_documents, score_tokens
from toolkit.stats import Estimate, block_ratio, ratio_bootstrap

FEW_DOCUMENTS = 10
"""Below so many documents the interval is over blocks of tokens: resampling 3 documents says nothing."""


@dataclass(frozen=True)
class HeldOut:
    """The held-out part of a corpus, on every process; each scores its share of the documents.

    Models must be whole (`sharding.whole_model`): processes make different numbers of forward passes.

    Raises:
        DataError: there is none.
    """

    shards: TokenShards
    accelerator: Accelerator
    window: int
    bf16: bool

    def __post_init__(self) -> None:
        if not self.shards.documents or not self.shards.bytes:
            raise DataError(
                "the corpus has no held-out text to measure on", where=str(Path(self.shards.folder)),
                fix="give its data held_out: {documents: 0.1}, or {last_characters: 0.1} for one long text",
            )  # fmt: skip

    def quick(self, model: PreTrainedModel, documents: int) -> float:
        """Return bits per byte of the first `documents`, in the precision of the training."""
        count = min(documents, self.shards.documents)
        nats = self._score(model, count, bf16=self.bf16)
        return float(nats.sum() / math.log(2) / max(1, int(self.shards.document_bytes[:count].sum())))

    def full(self, model: PreTrainedModel) -> np.ndarray:
        """Return the nats of every document in fp32, (documents,), the same on every process."""
        return self._score(model, self.shards.documents, bf16=False)

    def _score(self, model: PreTrainedModel, count: int, *, bf16: bool) -> np.ndarray:
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        device = self.accelerator.device
        own = range(rank, count, processes)
        nats = np.zeros(count)
        if len(own):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                nats[own.start :: processes] = score_documents(
                    model, [self.shards.document(index) for index in own], prefix_id=self.shards.end_id,
                    end_id=self.shards.end_id, window=self.window,
                )  # fmt: skip
        total = self.accelerator.reduce(torch.from_numpy(nats).to(device), reduction="sum")
        return total.cpu().numpy()

    def estimate(
        self, model: PreTrainedModel, nats: np.ndarray, *, tokenizer: PreTrainedTokenizerBase, seed: int
    ) -> tuple[Estimate, str]:
        """Return bits per byte with its bootstrap interval, and what was resampled."""
        if len(nats) >= FEW_DOCUMENTS:
            bits = np.asarray(nats) / math.log(2)
            return ratio_bootstrap(bits, self.shards.document_bytes, seed=seed), "documents"
        documents = [self.shards.document(index) for index in range(self.shards.documents)]
        end_id = self.shards.end_id
        scored = score_tokens(model, documents, prefix_id=end_id, end_id=end_id, window=self.window)
        sizes = [
            token_bytes(tokenizer, document, float(total))
            for document, total in zip(documents, self.shards.document_bytes, strict=True)
        ]
        tokens = np.concatenate(scored).astype(np.float64) / math.log(2)
        estimate = block_ratio(tokens, np.concatenate(sizes), block=self.window, seed=seed)
        return estimate, f"blocks of {self.window} tokens"

    def numbers(self, nats: np.ndarray) -> dict[str, Any]:
        """Return what the measurement was made on, and the perplexity per token (ends included)."""
        tokens = int(self.shards.document_tokens.sum()) + len(nats)
        return {
            "perplexity": math.exp(min(700.0, float(nats.sum()) / tokens)),
            "held_out_documents": len(nats), "held_out_tokens": tokens, "held_out_bytes": self.shards.bytes,
            "window": self.window, "stride": max(1, self.window // 2),
        }  # fmt: skip


def token_bytes(tokenizer: PreTrainedTokenizerBase, document: np.ndarray, total: float) -> np.ndarray:
    """Return the bytes of each token of a document and of its end (0), (tokens + 1,).

    A byte-level tokenizer's pieces have one character a byte; of others the lengths are in proportion.
    """
    unique, places = np.unique(document, return_inverse=True)
    pieces = tokenizer.convert_ids_to_tokens(unique.tolist())
    sizes = np.array([len(piece) for piece in pieces], dtype=np.float64)[places]
    return np.append(sizes * (total / max(1.0, sizes.sum())), 0.0)
