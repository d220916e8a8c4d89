"""metrics: equal to values worked by hand, to plain loops and to scikit-learn; invariants that hold for any input."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from simpair.errors import InputError
from simpair.training.evaluation.metrics import (
    accuracy_at_k,
    accuracy_at_threshold,
    average_precision,
    best_threshold,
    f1_at_threshold,
    mrr_at_k,
    ndcg_at_k,
    ndcg_by_query,
    pearson,
    recall_at_k,
    roc_auc,
    spearman,
)

BINARY = [average_precision, roc_auc]
CORRELATIONS = [spearman, pearson]

# --- correlations


def test_spearman_with_ties_by_hand():
    # the ranks of x are 1, 2.5, 2.5, 4 and those of y 1, 2, 4, 3; their deviations from 2.5 give the rest
    x, y = [10, 20, 20, 90], [0.1, 0.2, 0.9, 0.4]
    covariance = (-1.5 * -1.5) + 0 * -0.5 + 0 * 1.5 + 1.5 * 0.5
    by_hand = covariance / math.sqrt((1.5**2 + 1.5**2) * (1.5**2 + 0.5**2 + 1.5**2 + 0.5**2))
    assert spearman(x, y) == pytest.approx(by_hand)


def test_pearson_by_hand():
    x, y = [1, 2, 3], [1, 2, 9]  # deviations -1, 0, 1 and -3, -2, 5
    assert pearson(x, y) == pytest.approx((3 + 5) / math.sqrt(2 * (9 + 4 + 25)))


def test_spearman_depends_on_the_order_only_and_pearson_on_the_values():
    x = np.arange(1, 9)
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)
    assert pearson(x, 3 * x - 7) == pytest.approx(1)
    assert pearson(x, np.exp(x)) < 0.9


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=20))
def test_correlations_agree_with_numpy(points):
    x, y = np.array(points).T
    if len(set(x)) == 1 or len(set(y)) == 1:
        for correlation in CORRELATIONS:
            with pytest.raises(InputError, match="a correlation needs two different values"):
                correlation(x, y)
        return

    def ranks(values):  # the mean place of equal values in the sorted series
        return [np.mean(np.flatnonzero(np.sort(values) == value)) for value in values]

    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert spearman(x, y) == pytest.approx(np.corrcoef(ranks(x), ranks(y))[0, 1])


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1, 1, 1], [1, 2, 3], "x are all 1; "),
        ([1, 2, 3], [0.5, 0.5, 0.5], r"y are all 0\.5; "),
        ([1, 2, 3], [1, 2], "got series of 3 and 2 values; "),
        ([1], [2], r"x have the shape \(1,\); a correlation needs a series of two values"),
        ([], [], r"x have the shape \(0,\); "),
        ([[1, 2]], [1, 2], r"x have the shape \(1, 2\); "),
        ([1, float("nan")], [1, 2], "x must be finite, got nan"),
        ([1, 2], [1, float("-inf")], "y must be finite, got -inf"),
    ],
)
@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_an_undefined_correlation_is_an_input_error(correlation, x, y, reason):
    with pytest.raises(InputError, match=reason):
        correlation(x, y)


# --- two classes

SCORES, LABELS = [0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 1, 0]


def test_average_precision_by_hand():
    assert average_precision(SCORES, LABELS) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)  # at the first, third and fourth
    assert average_precision([0.5, 0.5, 0.1], [1, 0, 1]) == pytest.approx((1 / 2 + 2 / 3) / 2)  # a tie is one step


def test_roc_auc_by_hand():
    assert roc_auc(SCORES, LABELS) == pytest.approx((2 + 1 + 1) / (3 * 2))  # negatives below 0.9, 0.7 and 0.6
    assert roc_auc([0.5, 0.5, 0.1], [1, 0, 1]) == pytest.approx((1 / 2 + 0) / 2)  # a tie counts one half


def test_the_best_threshold_by_hand():
    # from 0.6 on: three positives and one negative, one negative left, 4 of 5; from 0.9 on or 0.7 on only 3
    found = best_threshold(SCORES, LABELS)
    assert found.threshold == pytest.approx(0.55)
    assert found.accuracy == pytest.approx(4 / 5)
    assert found.f1 == pytest.approx(2 * 3 / (4 + 3))
    assert best_threshold([0.1, 0.9], [1, 0]).accuracy == 1 / 2  # none and all are equally good: the highest
    assert 0.9 < best_threshold([0.1, 0.9], [1, 0]).threshold < 0.9 + 1e-9
    assert best_threshold([0.2, 0.1, 0.9], [1, 1, 0]).threshold == 0.1  # all are classified as positive


def test_accuracy_and_f1_at_a_threshold_by_hand():
    assert accuracy_at_threshold(SCORES, LABELS, 0.7) == pytest.approx(3 / 5)  # the score itself is above
    assert f1_at_threshold(SCORES, LABELS, 0.7) == pytest.approx(2 * 2 / (3 + 3))
    assert f1_at_threshold(SCORES, LABELS, 1) == 0
    assert accuracy_at_threshold([0.3], [0], 0.5) == 1


@st.composite
def classified(draw, *, ties=True):
    """Scores and labels of both classes, in units that no transform below makes equal."""
    number = draw(st.integers(2, 20))
    scores = draw(st.lists(st.integers(-30, 30), min_size=number, max_size=number, unique=not ties).map(np.array))
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), min_size=number - 2, max_size=number - 2))]
    return scores / 8, np.array(draw(st.permutations(labels)))


@settings(deadline=None)
@given(classified())
def test_the_metrics_of_two_classes_agree_with_plain_loops(data):
    scores, labels = data
    pairs = [(a, b) for a in scores[labels == 1] for b in scores[labels == 0]]
    assert roc_auc(scores, labels) == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]))
    precision, recall = 0.0, 0.0
    for score in sorted(set(scores), reverse=True):
        reached = scores >= score
        now = labels[reached].sum() / labels.sum()
        precision += (now - recall) * labels[reached].mean()
        recall = now
    assert average_precision(scores, labels) == pytest.approx(precision)


@settings(deadline=None)
@given(classified(), st.floats(-1, 1))
def test_accuracy_and_f1_agree_with_scikit_learn(data, threshold):
    scores, labels = data
    reached = scores >= threshold
    assert accuracy_at_threshold(scores, labels, threshold) == sklearn_metrics.accuracy_score(labels, reached)
    expected = sklearn_metrics.f1_score(labels, reached, zero_division=0)
    assert f1_at_threshold(scores, labels, threshold) == pytest.approx(expected)


@settings(deadline=None)
@given(classified())
def test_no_threshold_is_better_than_the_best(data):
    scores, labels = data
    found = best_threshold(scores, labels)
    assert found.accuracy == accuracy_at_threshold(scores, labels, found.threshold)
    assert found.f1 == f1_at_threshold(scores, labels, found.threshold)
    for threshold in np.arange(-31, 33) / 8 - 1 / 16:
        assert accuracy_at_threshold(scores, labels, threshold) <= found.accuracy
        if (scores >= threshold).sum() < (scores >= found.threshold).sum():
            assert accuracy_at_threshold(scores, labels, threshold) < found.accuracy


@pytest.mark.parametrize("low", [1.0, 5e-324, 1e300, -1.0])
def test_a_threshold_separates_neighbouring_floats(low):
    high = np.nextafter(low, np.inf)
    assert best_threshold([low, high], [0, 1]) == (high, 1, 1)


@pytest.mark.slow
@settings(deadline=None)
@given(classified(), st.randoms())
def test_rank_metrics_ignore_the_order_of_items_and_the_scale_of_scores(data, source):
    scores, labels = data
    order = source.sample(range(len(scores)), len(scores))
    for metric in BINARY:
        value = metric(scores, labels)
        assert metric(scores[order], labels[order]) == pytest.approx(value)
        assert metric(np.exp(scores), labels) == pytest.approx(value)
        assert metric(3 * scores - 7, labels) == pytest.approx(value)
    assert best_threshold(scores[order], labels[order]) == best_threshold(scores, labels)
    if len(set(scores)) > 1:
        assert spearman(np.exp(scores), labels) == pytest.approx(spearman(scores, labels))
        assert spearman(scores[order], labels[order]) == pytest.approx(spearman(scores, labels))


@settings(deadline=None)
@given(classified(ties=False))
def test_a_perfect_ranking_scores_one_and_its_reverse_zero(data):
    scores, labels = data
    scores[np.argsort(labels, kind="stable")] = np.sort(scores)  # every positive above every negative
    assert [metric(scores, labels) for metric in BINARY] == pytest.approx([1, 1])
    assert best_threshold(scores, labels)[1:] == (1, 1)
    assert roc_auc(-scores, labels) == pytest.approx(0)


def test_constant_scores_give_the_values_of_chance():
    assert roc_auc([0.5] * 4, [1, 0, 0, 0]) == 1 / 2
    assert average_precision([0.5] * 4, [1, 0, 0, 0]) == 1 / 4


@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        ([], [], r"shapes \(0,\) and \(0,\)"),
        ([1, 2], [1], r"shapes \(2,\) and \(1,\)"),
        ([[1, 2]], [[1, 0]], r"shapes \(1, 2\)"),
        ([1, float("nan")], [1, 0], "scores must be finite, got nan"),
        ([1, 2], [1, 0.5], r"labels must be 0 or 1, got 0\.5"),
        ([1, 2], [1, float("nan")], "labels must be 0 or 1, got nan"),
        ([1, 2], [0, 0], "no label is 1"),
    ],
)
@pytest.mark.parametrize("metric", [*BINARY, best_threshold, lambda *given: f1_at_threshold(*given, 1.0)])
def test_classes_without_a_defined_metric_are_an_input_error(metric, scores, labels, reason):
    with pytest.raises(InputError, match=reason):
        metric(scores, labels)


def test_a_missing_class_is_named():
    for metric in (roc_auc, best_threshold):
        with pytest.raises(InputError, match="no label is 0"):
            metric([1, 2], [1, 1])
    assert average_precision([1, 2], [1, 1]) == 1
    with pytest.raises(InputError, match="the threshold is nan"):
        accuracy_at_threshold([1, 2], [1, 0], float("nan"))


# --- ranks

RELEVANT = [[False, True, True], [True, False, False], [False, False, False], [False, False, True]]
TOTALS = [2, 4, 1, 1]


def test_mrr_by_hand():
    assert mrr_at_k(RELEVANT, 3) == pytest.approx((1 / 2 + 1 + 0 + 1 / 3) / 4)
    assert mrr_at_k(RELEVANT, 2) == pytest.approx((1 / 2 + 1) / 4)
    assert mrr_at_k(RELEVANT, 10) == mrr_at_k(RELEVANT, 3)


def test_accuracy_by_hand():
    assert [accuracy_at_k(RELEVANT, k) for k in (1, 2, 3, 10)] == [1 / 4, 2 / 4, 3 / 4, 3 / 4]


def test_recall_by_hand():
    assert recall_at_k(RELEVANT, TOTALS, 3) == pytest.approx((2 / 2 + 1 / 4 + 0 + 1) / 4)
    assert recall_at_k(RELEVANT, TOTALS, 2) == pytest.approx((1 / 2 + 1 / 4) / 4)
    assert recall_at_k(RELEVANT, TOTALS, 10) == recall_at_k(RELEVANT, TOTALS, 3)


def test_ndcg_by_hand():
    second = 1 / math.log2(3)
    assert ndcg_at_k([[1, 0, 0]], [[1]], 3) == 1
    assert ndcg_at_k([[0, 1, 0]], [[1]], 3) == pytest.approx(second)
    assert ndcg_at_k([[1, 2, 0]], [[2, 1]], 3) == pytest.approx((1 + 2 * second) / (2 + second))
    assert ndcg_at_k([[1], [0]], [[1, 1, 1], [1]], 1) == pytest.approx(0.5)
    assert ndcg_by_query([[0, 1, 0], [1, 0, 0]], [[1], [1]], 3) == pytest.approx([second, 1])


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 0, 1, 2]), min_size=2, max_size=10), st.integers(1, 12))
def test_ndcg_agrees_with_scikit_learn(gains, k):
    gains = [*gains, 1]
    falling = -np.arange(len(gains))  # the hits are all documents, in their order
    expected = sklearn_metrics.ndcg_score([gains], [falling], k=k)
    assert ndcg_at_k([gains], [[gain for gain in gains if gain]], k) == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 0, 1, 2]), min_size=2, max_size=10), st.data())
def test_ndcg_is_a_fraction_and_never_falls_when_a_better_hit_moves_up(gains, data):
    relevant = [gain for gain in gains if gain] or [1]
    before = ndcg_at_k([gains], [relevant], 10)
    place = data.draw(st.integers(1, len(gains) - 1))
    gains[place - 1 : place + 1] = sorted(gains[place - 1 : place + 1], reverse=True)
    assert 0 <= before <= ndcg_at_k([gains], [relevant], 10) <= 1 + 1e-12


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1), st.integers(1, 6), st.randoms())
def test_rank_metrics_are_ordered_and_ignore_the_order_of_queries(relevant, k, source):
    totals = [max(1, sum(row)) for row in relevant]
    order = source.sample(range(len(relevant)), len(relevant))
    assert accuracy_at_k(relevant, 1) <= mrr_at_k(relevant, k) <= accuracy_at_k(relevant, k) <= 1
    assert recall_at_k(relevant, totals, k) <= accuracy_at_k(relevant, k)
    shuffled, counted = [relevant[row] for row in order], [totals[row] for row in order]
    assert mrr_at_k(shuffled, k) == pytest.approx(mrr_at_k(relevant, k))
    assert recall_at_k(shuffled, counted, k) == pytest.approx(recall_at_k(relevant, totals, k))


def test_relevant_hits_first_score_one():
    perfect = [[True, True, False], [True, False, False]]
    assert (mrr_at_k(perfect, 3), accuracy_at_k(perfect, 1)) == (1, 1)
    assert (recall_at_k(perfect, [2, 1], 3), ndcg_at_k(perfect, [[1, 1], [1]], 3)) == (1, 1)


@pytest.mark.parametrize(("hits", "k"), [([], 1), ([[]], 1), ([[[True]]], 1), ([[True]], 0)])
def test_hits_of_another_shape_are_an_input_error(hits, k):
    for metric in (mrr_at_k, accuracy_at_k):
        with pytest.raises(InputError, match=r"got hits of the shape .* expected \(Q, K\)"):
            metric(hits, k)
    with pytest.raises(InputError):
        recall_at_k(hits, [1], k)
    with pytest.raises(InputError):
        ndcg_at_k(hits, [[1]], k)


def test_a_query_without_a_relevant_document_is_an_input_error():
    with pytest.raises(InputError, match="query 1 has no relevant document"):
        ndcg_at_k([[1], [0]], [[1], []], 1)
    with pytest.raises(InputError, match="hits of 1 queries and the gains of 2"):
        ndcg_at_k([[1]], [[1], [1]], 1)
    with pytest.raises(InputError, match="query 0 has 0 relevant documents and 0 relevant hits"):
        recall_at_k([[False]], [0], 1)
    with pytest.raises(InputError, match="query 0 has 1 relevant documents and 2 relevant hits"):
        recall_at_k([[True, True]], [1], 2)
    with pytest.raises(InputError, match="one number for each of 1 queries"):
        recall_at_k([[True]], [1, 1], 1)
