"""Held-out bits per byte: on some documents during training, on all of them at the end, with an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.base.errors import DataError
from toolkit.data.text.shards import TokenShards
from toolkit.inference.logprobs import score_documents, score_tokens
from toolkit.models.tokenizer_loading import tokenizer_digest
from toolkit.runtime import devices
from toolkit.stats import Estimate, block_bootstrap, ratio_bootstrap

FIRST_TOKENS = 512
"""Where `first_words` looks for a line."""
FIRST_WORDS, FIRST_CHARACTERS = 4, 24


@dataclass(frozen=True)
class HeldOutEvaluator:
    """Scores the held-out documents of a corpus; each process scores its share of them.

    Models must not be sharded (`sharding.full_model`): processes make different numbers of forward passes.

    Raises:
        DataError: the corpus has no held-out text.
    """

    shards: TokenShards
    accelerator: Accelerator
    tokenizer: PreTrainedTokenizerBase
    window: int
    bf16: bool

    def __post_init__(self) -> None:
        if not self.shards.documents or not self.shards.bytes:
            raise DataError(
                "the corpus has no held-out text to measure on", where=str(Path(self.shards.folder)),
                fix="give its data held_out: {documents: 0.1}, or {last_characters: 0.1} for one long text",
            )  # fmt: skip

    def first_words(self) -> str:
        """Return the first words of the second line of the held-out text, or of its only line.

        The first line may begin within a word, where the text was divided.
        """
        text = self.tokenizer.decode(self.shards.document(0)[:FIRST_TOKENS], skip_special_tokens=True)
        first, _, rest = text.partition("\n")
        words = " ".join((rest.split() or first.split())[:FIRST_WORDS])
        if len(words) <= FIRST_CHARACTERS:
            return words
        # Not every language puts spaces between its words.
        return words[: FIRST_CHARACTERS + 1].rpartition(" ")[0] or words[:FIRST_CHARACTERS]

    def first_rows(self, count: int) -> list[list[int]]:
        """Return the first tokens, at most a window, of the first documents."""
        documents = range(min(count, self.shards.documents))
        return [self.shards.document(index)[: self.window].tolist() for index in documents]

    def estimate(self, model: PreTrainedModel, *, documents: int, tokens: int) -> float:
        """Return bits per byte of the first `documents`, at most `tokens`, in the precision of the training.

        A document that exceeds the limit is scored up to it, without an end-of-text token, and counts the
        bytes of the scored tokens.
        """
        parts, sizes = self._first_documents(documents, tokens)
        nats = self._score(model, parts, bf16=self.bf16)
        return float(nats.sum() / math.log(2) / max(1.0, sum(sizes)))

    def _first_documents(self, documents: int, tokens: int) -> tuple[list[np.ndarray], list[float]]:
        """Return the documents up to the limits, the last one possibly truncated, and the bytes of each."""
        parts: list[np.ndarray] = []
        sizes: list[float] = []
        for index in range(min(documents, self.shards.documents)):
            document, num_bytes = self.shards.document(index), float(self.shards.document_bytes[index])
            part = document[:tokens]
            truncated = len(part) < len(document)
            if truncated:
                token_bytes = block_bootstrap.token_bytes(self.tokenizer, document, num_bytes)
                num_bytes = float(token_bytes[:tokens].sum())
            sizes.append(num_bytes)
            parts.append(part if truncated else np.append(part, self.shards.end_id))
            tokens -= len(part)
            if tokens <= 0:
                break
        return parts, sizes

    def _score(
        self, model: PreTrainedModel, parts: list[np.ndarray], *, bf16: bool, shown_as: str | None = None
    ) -> np.ndarray:
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        device = self.accelerator.device
        own = range(rank, len(parts), processes)
        nats = np.zeros(len(parts))
        if len(own):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                nats[own.start :: processes] = score_documents(
                    model, [parts[index] for index in own], prefix_id=self.shards.start_id,
                    end_id=None, window=self.window, shown_as=shown_as,
                )  # fmt: skip
        total = self.accelerator.reduce(devices.to_device(nats, device), reduction="sum")
        return total.cpu().numpy()

    def evaluate(
        self, model: PreTrainedModel, *, seed: int, shown_as: str | None = None
    ) -> tuple[np.ndarray, Estimate, str]:
        """Return the nats of every document, bits per byte with its interval, and the unit of resampling.

        Every process must call it and gets the same result.

        Args:
            shown_as: what a bar says if the pass takes more than a few seconds; None for no bar.
        """
        documents = [self.shards.document(index) for index in range(self.shards.documents)]
        end_id = self.shards.end_id
        if len(documents) >= block_bootstrap.FEW_DOCUMENTS:
            with_end = [np.append(document, end_id) for document in documents]
            nats = self._score(model, with_end, bf16=False, shown_as=shown_as)
            bits = nats / math.log(2)
            return nats, ratio_bootstrap(bits, self.shards.document_bytes, seed=seed), "documents"
        # so few documents are not worth distributing over processes
        start_id = self.shards.start_id
        scored = score_tokens(
            model, documents, prefix_id=start_id, end_id=end_id, window=self.window, shown_as=shown_as
        )
        sizes = [
            np.append(block_bootstrap.token_bytes(self.tokenizer, document, float(total)), 0.0)
            for document, total in zip(documents, self.shards.document_bytes, strict=True)
        ]
        tokens = np.concatenate(scored).astype(np.float64)
        laid = block_bootstrap.tiles(tokens, np.concatenate(sizes), np.ones(len(tokens)), window=self.window)
        nats = np.array([document_nats.sum(dtype=np.float64) for document_nats in scored])
        return nats, block_bootstrap.bits_per("bytes", laid, seed=seed), laid.block_name

    def describe(self, nats: np.ndarray) -> dict[str, Any]:
        """Return the perplexity per token (including ends) and how it was measured, by PretrainEvaluation's
        fields."""
        tokens = int(self.shards.document_tokens.sum()) + len(nats)
        return {
            "perplexity": math.exp(min(700.0, float(nats.sum()) / tokens)),
            "held_out_documents": len(nats), "held_out_tokens": tokens, "held_out_bytes": self.shards.bytes,
            "window": self.window, "stride": max(1, self.window // 2),
            "prefix": "end" if self.shards.begin_id is None else "bos", "end_scored": True,
            "packed": False, "dtype": "float32", "tokenizer_digest": tokenizer_digest(self.tokenizer),
            "held_out_lost_text": self.shards.lost_text,
        }  # fmt: skip
