"""What a reward model likes besides the true utility: length and words, in units of the utility."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from toolkit import stats
from toolkit.base.rng import derive
from toolkit.runs.evaluation import ScoreBias
from toolkit.storyworld.annotator import words_in

RESAMPLES = 400
MIN_PAIRS = 30
"""Words in which fewer pairs differ are not looked at."""
REPORTED_WORDS = 5


def score_biases(
    margins: np.ndarray, utilities: np.ndarray, chosen: Sequence[str], rejected: Sequence[str], *, seed: int
) -> list[ScoreBias]:
    """Return what length and single words add to the scores, where that is not zero by chance.

    The margins of the scores are regressed on the differences of utility and length, and for each word also
    on its presence; a coefficient divided by that of the utility is how much utility the model gives up for
    the feature. A bias that was planted in the annotator has its planted value if the model learned both the
    bias and the utility, and a larger one if it learned the utility less well. The surest words come first.
    Intervals are normal, with the standard error of resampled pairs. Those of words are wider (Bonferroni),
    so that a twentieth of the audits reports a word by chance. The list is empty if the scores do not go with
    the utility.

    Args:
        margins: score of the chosen answer minus that of the rejected one, (pairs,).
        utilities: the same difference of the true utilities, (pairs,).
        chosen, rejected: the answers as text.
        seed: of the resampling.
    """
    answers = list(zip(chosen, rejected, strict=True))
    length = np.array([len(a.split()) - len(b.split()) for a, b in answers], dtype=float)
    present = [(words_in(a), words_in(b)) for a, b in answers]
    differing = Counter(word for a, b in present for word in a ^ b)
    frequent = sorted(word for word, count in differing.items() if count >= MIN_PAIRS)
    draws = np.random.default_rng(derive(seed, "score biases"))
    weights = draws.multinomial(len(margins), np.full(len(margins), 1 / len(margins)), RESAMPLES)
    biases = []
    for word in [None, *frequent]:
        columns = [utilities, length]
        if word is not None:
            columns.append(np.array([(word in a) - (word in b) for a, b in present], float))
        level = 0.95 if word is None else 1 - 0.05 / len(frequent)
        estimate = _per_utility(np.stack(columns, axis=1), margins, weights, level)
        if estimate is not None and (estimate.low > 0 or estimate.high < 0):
            biases.append(ScoreBias(word=word, bias=estimate, n=int((columns[-1] != 0).sum())))
    surest = sorted((bias for bias in biases if bias.word), key=lambda bias: -_distance_from_zero(bias.bias))
    return [bias for bias in biases if not bias.word] + surest[:REPORTED_WORDS]


def _distance_from_zero(bias: stats.Estimate) -> float:
    """Return the distance of an estimate from zero, in half widths of its interval."""
    return abs(bias.estimate) / (bias.high - bias.estimate)


def _per_utility(
    features: np.ndarray, margins: np.ndarray, weights: np.ndarray, level: float
) -> stats.Estimate | None:
    """Return the last feature's coefficient divided by that of the utility, the first feature.

    None if features are collinear, or if the coefficient of the utility may be zero or negative.
    """
    if np.linalg.matrix_rank(features) < features.shape[1]:
        return None
    weights = np.concatenate([np.ones((1, len(margins))), weights])
    products = features[:, :, None] * features[:, None, :]
    count = features.shape[1]
    squares = (weights @ products.reshape(len(margins), -1)).reshape(-1, count, count)
    targets = weights @ (features * margins[:, None])
    coefficients = np.linalg.solve(squares, targets[:, :, None])[:, :, 0]
    if np.quantile(coefficients[1:, 0], 0.025) <= 0:
        return None
    ratios = coefficients[:, -1] / coefficients[:, 0]
    reach = NormalDist().inv_cdf((1 + level) / 2) * float(ratios[1:].std())
    value = float(ratios[0])
    return stats.Estimate(value, value - reach, value + reach, len(margins), samples=RESAMPLES, level=level)
