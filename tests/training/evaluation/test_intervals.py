"""bootstrap: what the theory says of its width, what repeats, and what is refused."""

import math

import numpy as np
import pytest

from simpair.errors import InputError
from simpair.training.evaluation.metrics import average_precision, bootstrap, roc_auc, spearman


def mean(values):
    return float(values.mean())


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
    values = np.random.default_rng(3).normal(size=2000)
    low, high = bootstrap(mean, values)
    error = 1.96 * values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.1 * error)


def test_95_of_100_intervals_hold_the_true_mean():
    source = np.random.default_rng(5)
    held = [low <= 0 <= high for low, high in (bootstrap(mean, source.normal(size=80), rounds=200) for _ in range(200))]
    assert 0.90 <= np.mean(held) <= 0.98


def test_a_level_is_the_share_of_draws_inside():
    values = np.random.default_rng(3).normal(size=50)
    narrow, wide = (bootstrap(mean, values, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < values.mean() < narrow.high < wide.high


def test_the_seed_fixes_the_interval():
    x, y = np.random.default_rng(1).normal(size=(2, 60))
    assert bootstrap(spearman, x, y, rounds=50) == bootstrap(spearman, x, y, rounds=50, seed=0)
    assert bootstrap(spearman, x, y, rounds=50) != bootstrap(spearman, x, y, rounds=50, seed=1)


def test_rows_are_drawn_together():
    x = np.arange(50.0)
    assert bootstrap(spearman, x, x**3, rounds=50) == pytest.approx((1, 1))


def test_draws_without_a_metric_are_left_out_and_most_may_not_be():
    scores = np.linspace(0, 1, 40)
    one_positive = np.arange(40) == 39  # missing in a third of the draws
    assert bootstrap(average_precision, scores, one_positive) == pytest.approx((1, 1))
    with pytest.raises(InputError, match=r"not defined for 5\d\d of 1000 draws of 2 items"):
        bootstrap(spearman, [0, 1], [0, 1], seed=1)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(InputError, match="two items or more, got 1"):
        bootstrap(mean, [1.0])
    for arrays, options in [(([1, 2], [1]), {}), ((), {}), (([1, 2],), {"rounds": 0}), (([1, 2],), {"level": 1})]:
        with pytest.raises(ValueError, match="got arrays of"):
            bootstrap(mean, *arrays, **options)


@pytest.mark.slow
def test_ten_thousand_pairs_take_seconds():
    from time import process_time

    source = np.random.default_rng(0)
    scores = source.normal(size=10_000)
    labels = scores + source.normal(size=10_000) > 0
    start = process_time()
    for metric in (spearman, roc_auc):
        assert bootstrap(metric, scores, labels).low < metric(scores, labels)
    assert process_time() - start < 20
