"""Numbers that travel with their intervals; what is used everywhere is named here.

`intervals` resamples units; `significance` tests and counts what is needed; `win_rates` compares two models,
`rankings` more than two, `sequential` while the data come in; `agreement` compares judges, `calibration`
probabilities with what happened.
"""

from toolkit.stats.intervals import (
    Estimate,
    block_ratio,
    bootstrap_mean,
    bootstrap_share,
    interval_of,
    interval_text,
    kl_text,
    paired_difference,
    ratio_bootstrap,
    wilson,
)
from toolkit.stats.significance import detectable_share, sign_test

__all__ = [
    "Estimate",
    "block_ratio",
    "bootstrap_mean",
    "bootstrap_share",
    "detectable_share",
    "interval_of",
    "interval_text",
    "kl_text",
    "paired_difference",
    "ratio_bootstrap",
    "sign_test",
    "wilson",
]
