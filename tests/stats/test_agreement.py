"""Agreement matches scikit-learn, statsmodels and krippendorff; biases match hand-computed values."""

from __future__ import annotations

import json
import math

import krippendorff
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa, to_table

from toolkit.stats import agreement


def raters(n=150, seed=0):
    generator = np.random.default_rng(seed)
    truth = generator.choice(3, p=[0.5, 0.3, 0.2], size=n)
    return [np.where(generator.random(n) < 0.7, truth, generator.integers(0, 3, n)) for _ in range(3)]


def test_kappa_matches_scikit_learn_and_statsmodels():
    first, second, _ = raters()
    result = agreement.cohen_kappa(first.tolist(), second.tolist(), seed=0)
    table = cohens_kappa(to_table(np.stack([first, second], axis=1))[0])
    assert result.estimate == pytest.approx(cohen_kappa_score(first, second))
    assert result.estimate == pytest.approx(table.kappa)
    # statsmodels uses the delta method.
    assert result.interval == pytest.approx([table.kappa_low, table.kappa_upp], abs=0.02)
    assert result.n == 150
    same = agreement.accuracy(first.tolist(), second.tolist(), seed=0)
    assert same.estimate == pytest.approx(np.mean(first == second))


def test_alpha_matches_krippendorff_with_missing_ratings():
    ratings = np.array(raters(), dtype=float)
    ratings[np.random.default_rng(1).random(ratings.shape) < 0.3] = np.nan
    rows = [[None if math.isnan(value) else value for value in row] for row in ratings]
    result = agreement.krippendorff_alpha(rows, seed=0)
    assert result.estimate == pytest.approx(krippendorff.alpha(ratings, level_of_measurement="nominal"))
    assert result.n == ((~np.isnan(ratings)).sum(0) >= 2).sum()


def test_alpha_matches_krippendorffs_published_example():
    # Krippendorff (2011), table of observers A to D, nominal: 0.743
    text = ("1 2 3 3 2 1 4 1 2 - - -", "1 2 3 3 2 2 4 1 2 5 - 3",
            "- 3 3 3 2 3 4 2 2 5 1 -", "1 2 3 3 2 4 4 1 2 5 1 -")  # fmt: skip
    rows = [[None if word == "-" else word for word in line.split()] for line in text]
    assert agreement.krippendorff_alpha(rows, seed=0).estimate == pytest.approx(0.743, abs=5e-4)


def test_alpha_interval_is_close_to_item_bootstrap():
    ratings = np.array(raters(60), dtype=float)
    generator = np.random.default_rng(3)
    draws = [ratings[:, generator.integers(60, size=60)] for _ in range(400)]
    values = [krippendorff.alpha(each, level_of_measurement="nominal") for each in draws]
    result = agreement.krippendorff_alpha(ratings.tolist(), seed=0)
    assert result.interval == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.03)


def test_items_of_one_prompt_are_one_unit():
    """With groups, triplicated items do not narrow the interval; without groups they do."""
    first, second, third = (each.tolist() for each in raters(80))
    groups = list(range(80)) * 3
    wins, longer = [float(one == two) for one, two in zip(first, second, strict=True)], third
    for measure, given in (
        (agreement.accuracy, (first, second)),
        (agreement.cohen_kappa, (first, second)),
    ):
        once, thrice = measure(*given, seed=0), measure(*(each * 3 for each in given), seed=0, groups=groups)
        assert [thrice.estimate, *thrice.interval] == pytest.approx([once.estimate, *once.interval])
        alone = measure(*(each * 3 for each in given), seed=0)
        assert alone.high - alone.low < 0.7 * (once.high - once.low)
    once = agreement.krippendorff_alpha([first, second, third], seed=0)
    thrice = agreement.krippendorff_alpha([first * 3, second * 3, third * 3], seed=0, groups=groups)
    assert thrice.interval == pytest.approx(once.interval, abs=0.01) and thrice.n == once.n == 80
    for measure, given in (
        (agreement.length_bias, (wins, longer)),
        (agreement.position_bias, (wins, wins[::-1])),
    ):
        once, thrice = measure(*given, seed=0), measure(*(each * 3 for each in given), seed=0, groups=groups)
        for key in set(once) - {"n"}:
            assert thrice[key] == pytest.approx(once[key])


def test_agreement_is_undefined_without_variation():
    result = agreement.cohen_kappa(["a"] * 5, ["a"] * 5, seed=0)
    assert math.isnan(result.estimate) and result.interval == [None, None]
    assert result.as_json("kappa") == {"kappa": None, "kappa_interval": [None, None]}
    assert agreement.cohen_kappa([1, 2] * 20, [1, 2] * 20, seed=0).estimate == 1.0


@pytest.mark.parametrize("wrong", [[], [[1, 2], [1]], [[], []], [[1, None], [None, 2]]])
def test_incomparable_ratings_are_refused(wrong):
    with pytest.raises(ValueError):
        agreement.krippendorff_alpha(wrong, seed=0)
    if len(wrong) == 2:
        with pytest.raises(ValueError):
            agreement.cohen_kappa(*wrong, seed=0)


def test_position_bias_matches_hand_computed_values():
    """Of ten items, two follow the answer, six follow the first position, and two are ties in one order."""
    first = [1, 0] + [1] * 6 + [0.5, 1]
    second = [1, 0] + [0] * 6 + [0, 0.5]
    result = agreement.position_bias(first, second, seed=0)
    assert result["bias"] == pytest.approx((6 + 0.5 + 0.5) / 10) and result["inconsistent"] == pytest.approx(
        0.8
    )
    assert result["bias_interval"][0] > 0.3 and result["n"] == 10
    json.dumps(result, allow_nan=False)


def test_length_bias_matches_hand_computed_values():
    result = agreement.length_bias([1, 0, 0, 0.2, 1], [5, -3, -2, 9, 0], seed=0)
    assert result["longer_wins"] == pytest.approx((1 + 1 + 1 + 0.2) / 4) and result["n"] == 4
    assert agreement.length_bias([1.0], [0], seed=0) is None
