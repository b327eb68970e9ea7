"""The training curves of one run, by stage: for the report and for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.report import figures

CURVES: dict[str, list[tuple[str, str, str | None]]] = {
    "sft": [("Training loss, nats per token", "loss", None)],
    "reward": [
        ("Training loss, nats per pair", "loss", None),
        ("Training accuracy", "accuracy", "bayes_accuracy"),
        ("Held-out accuracy", "held_out_accuracy", "bayes_accuracy"),
    ],
    "dpo": [
        ("Training loss, nats per pair", "loss", None),
        ("Accuracy of implicit rewards", "rewards/accuracies", None),
        ("Margin of implicit rewards", "rewards/margins", None),
    ],
    "ppo": [
        ("Score of the reward model", "score", None),
        ("KL to the start, nats an answer", "kl", None),
        ("Length of answers, tokens", "length", None),
        ("Share of answers that end", "ended", None),
        ("Share that was clipped", "clip_fraction", None),
        ("Entropy, nats per token", "entropy", None),
        ("Score of the held-out judge", "held_out_score", None),
    ],
}
"""Title, key of metrics.jsonl, and the key of evaluation.json that is drawn as a level beside it."""


def draw(stage: str, rows: Sequence[dict[str, Any]], numbers: Mapping[str, Any] | None = None) -> str | None:
    """Return the curves of a run as an `<svg>` element, None where its stage has none or nothing is logged.

    Args:
        stage: of the run.
        rows: of its metrics.jsonl.
        numbers: of its evaluation.json, for the levels; empty while the run is not finished.
    """
    numbers = dict(numbers or {})
    if stage == "pretrain":
        return figures.pretraining(rows, numbers)
    return figures.tuning(
        [
            (title, rows, key, numbers.get(level) if level else None)
            for title, key, level in CURVES.get(stage, ())
        ]
    )
