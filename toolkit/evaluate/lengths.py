"""Win rates by the difference in length, which show whether a judge prefers longer answers."""

from __future__ import annotations

import numpy as np

from toolkit import stats
from toolkit.runs.evaluation import LengthBin

BINS = 5
FEWEST_IN_A_BIN = 10


def wins_by_length(outcomes: np.ndarray, longer: np.ndarray) -> list[LengthBin]:
    """Return the win rate in bins of equal size, from much shorter to much longer than the baseline's answer.

    Args:
        outcomes: 1 win, 0.5 tie, 0 loss, (prompts,).
        longer: tokens of the answer less those of the baseline's, (prompts,).

    Returns:
        One row for each bin. Prompts with the same difference share a bin; with fewer than 20 prompts there
        is one bin.
    """
    outcomes, longer = np.asarray(outcomes, dtype=float), np.asarray(longer)
    count = max(1, min(BINS, len(longer) // FEWEST_IN_A_BIN))
    edges = np.quantile(longer, np.linspace(0, 1, count + 1)[1:-1], method="lower")
    bin_indices = np.searchsorted(edges, longer, side="left")
    rows = []
    for bin_index in np.unique(bin_indices):
        inside = bin_indices == bin_index
        rate = stats.wilson(float(outcomes[inside].sum()), int(inside.sum()))
        ends = [int(longer[inside].min()), int(longer[inside].max())]
        mean = float(longer[inside].mean())
        rows.append(LengthBin(longer=ends, mean_longer=mean, n=rate.n, win_rate=rate))
    return rows
