"""Perplexity and bits per byte for `evaluate.load`: the numbers of `toolkit evaluate`."""

from __future__ import annotations

import math

import datasets
import evaluate

from toolkit.base.errors import DataError
from toolkit.evaluate.perplexity import HeldOutText, ScoringSettings
from toolkit.evaluate.perplexity import measure as measure_text
from toolkit.evaluate.perplexity import summarize as summarize_text
from toolkit.models.loading import DTYPES, load_causal_lm
from toolkit.runs import references
from toolkit.runtime import devices

DESCRIPTION = """Perplexity of texts under a causal language model: each token is scored exactly once, in
windows, with log-probabilities in fp32. Bits per byte counts the bytes of the original text."""
INPUTS = """
Args:
    predictions: texts, one a document.
    model_id: a run of toolkit, a model folder, or `hub-id[@revision]`.
    window, stride: tokens per window, and tokens that the window advances (default: half a window).
    prefix: what stands before a document: "bos", "end" (end-of-text), "none" or "auto".
    score_end: whether end-of-text is scored (default True).
    packed: whether all documents are read as one text (default False).
    precision: "fp32", "bf16", "fp16" or "auto" (of the checkpoint), of the weights.
    device: "auto", "cpu" or "cuda".
    seed: of the bootstrap.
Returns:
    perplexities: of each document (None where no token of it was scored).
    perplexity, bits_per_byte, each with `_interval`; word_perplexity, character_perplexity, byte_perplexity;
    tokens, documents, bytes, window, stride, prefix, dtype, tokenizer_digest and what else decides.
Example:
    >>> import evaluate
    >>> from toolkit.evaluate import metrics
    >>> metric = evaluate.load(metrics.folder("perplexity"))
    >>> metric.compute(predictions=["Once there was a fox."], model_id="runs/tiny/pretrain")["bits_per_byte"]
"""


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, INPUTS)
class Perplexity(evaluate.Metric):
    """A module of the evaluate library."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            module_type="metric",
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(
        self,
        predictions: list[str],
        *,
        model_id: str,
        precision: str = "fp32",
        device: str = "auto",
        seed: int = 0,
        **scoring: object,
    ) -> dict[str, object]:
        text = HeldOutText("predictions", texts=list(predictions))
        if not text.bytes.sum():
            raise DataError("no text to measure on", where="predictions", fix="give at least one byte")
        model, tokenizer = load_causal_lm(
            references.named_model(model_id), device=devices.select(device), dtype=DTYPES[precision]
        )
        measured = measure_text(model, tokenizer, text, settings=ScoringSettings(**scoring))
        pairs = zip(measured.nats, measured.tokens, strict=True)
        perplexities = [math.exp(min(nats / count, 700.0)) if count else None for nats, count in pairs]
        return {"perplexities": perplexities, **summarize_text(measured, text, seed=seed).to_json()}
