"""bootstrap: its width agrees with theory, it is reproducible, and it refuses what it cannot resample."""

import math

import numpy as np
import pytest

from simpair.errors import InputError
from simpair.training.evaluation.intervals import bootstrap
from simpair.training.evaluation.metrics import average_precision, roc_auc, spearman


def mean(values):
    return float(values.mean())


def test_the_interval_of_a_mean_has_the_width_of_the_normal_approximation():
    values = np.random.default_rng(3).normal(size=2000)
    low, high = bootstrap(mean, values)
    error = 1.96 * values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.1 * error)


def test_95_of_100_intervals_contain_the_true_mean():
    source = np.random.default_rng(5)
    held = [low <= 0 <= high for low, high in (bootstrap(mean, source.normal(size=80), rounds=200) for _ in range(200))]
    assert 0.90 <= np.mean(held) <= 0.98


def test_the_level_is_the_fraction_of_draws_inside():
    values = np.random.default_rng(3).normal(size=50)
    narrow, wide = (bootstrap(mean, values, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < values.mean() < narrow.high < wide.high


def test_the_seed_determines_the_interval():
    x, y = np.random.default_rng(1).normal(size=(2, 60))
    assert bootstrap(spearman, x, y, rounds=50) == bootstrap(spearman, x, y, rounds=50, seed=0)
    assert bootstrap(spearman, x, y, rounds=50) != bootstrap(spearman, x, y, rounds=50, seed=1)


def test_the_same_rows_of_all_arrays_are_drawn():
    x = np.arange(50.0)
    assert bootstrap(spearman, x, x**3, rounds=50) == pytest.approx((1, 1))


def test_undefined_draws_are_left_out_unless_they_are_most():
    scores = np.linspace(0, 1, 40)
    one_positive = np.arange(40) == 39  # missing in a third of the draws
    assert bootstrap(average_precision, scores, one_positive) == pytest.approx((1, 1))
    with pytest.raises(InputError, match=r"undefined for 5\d\d of 1000 draws of 2 items"):
        bootstrap(spearman, [0, 1], [0, 1], seed=1)


def test_too_few_items_and_wrong_arguments_are_refused():
    with pytest.raises(InputError, match="got 1 items; an interval needs two or more"):
        bootstrap(mean, [1.0])
    for arrays, options in [(([1, 2], [1]), {}), ((), {}), (([1, 2],), {"rounds": 0}), (([1, 2],), {"level": 1})]:
        with pytest.raises(ValueError, match="got arrays of"):
            bootstrap(mean, *arrays, **options)


@pytest.mark.slow
def test_ten_thousand_pairs_take_less_than_20_seconds():
    from time import process_time

    source = np.random.default_rng(0)
    scores = source.normal(size=10_000)
    labels = scores + source.normal(size=10_000) > 0
    start = process_time()
    for metric in (spearman, roc_auc):
        assert bootstrap(metric, scores, labels).low < metric(scores, labels)
    assert process_time() - start < 20
