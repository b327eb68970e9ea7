"""Estimates with their intervals; the names that most modules need are exported here.

`intervals` resamples units; `significance` tests, and computes power and sample sizes; `win_rates` compares
two models, `rankings` more than two, `sequential` while the data come in; `agreement` compares judges;
`calibration` compares probabilities with outcomes; `frontier` compares policies with the best utility at
their KL from the reference; `block_bootstrap` resamples blocks of one long text.
"""

from toolkit.stats.intervals import (
    Estimate,
    block_ratio,
    bootstrap_mean,
    bootstrap_share,
    estimate_text,
    interval_of,
    interval_text,
    kl_text,
    paired_difference,
    ratio_bootstrap,
    student_mean,
    wilson,
)
from toolkit.stats.significance import detectable_share, sign_test

__all__ = [
    "Estimate",
    "block_ratio",
    "bootstrap_mean",
    "bootstrap_share",
    "detectable_share",
    "estimate_text",
    "interval_of",
    "interval_text",
    "kl_text",
    "paired_difference",
    "ratio_bootstrap",
    "sign_test",
    "student_mean",
    "wilson",
]
