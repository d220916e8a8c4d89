"""evaluate: hand-worked metrics, and an encoder whose embeddings are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpair.errors import InputError
from simpair.training.evaluate import (
    accuracy_at_k,
    evaluate_pairs,
    evaluate_records,
    evaluate_retrieval,
    mrr_at_k,
    pearson,
    spearman,
)
from simpair.training.pairs import RetrievalPair, ScoredPair


class CompassEncoder:
    """Texts are angles in degrees, their embeddings that direction; "30 south" as a document lies at 30 + 180."""

    def __init__(self):
        self.calls = []

    def _embed(self, role, texts, turn=0.0):
        self.calls.append((role, list(texts)))
        angles = np.radians([float(text.split()[0]) + (turn if "south" in text else 0.0) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def encode(self, texts):
        return self._embed(None, texts)

    def encode_query(self, texts):
        return self._embed("query", texts)

    def encode_document(self, texts):
        return self._embed("document", texts, turn=180.0)


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


def test_spearman_takes_order_only_and_pearson_the_values():
    x = np.arange(1, 9)
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)
    assert pearson(x, 3 * x - 7) == pytest.approx(1)
    assert pearson(x, np.exp(x)) < 0.9


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=20))
def test_correlations_agree_with_numpy(points):
    x, y = np.array(points).T
    if len(set(x)) == 1 or len(set(y)) == 1:
        for correlation in (spearman, pearson):
            with pytest.raises(InputError, match="at least two different values"):
                correlation(x, y)
        return

    def ranks(values):  # the mean place of equal values in the sorted series
        return [np.mean(np.flatnonzero(np.sort(values) == value)) for value in values]

    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert spearman(x, y) == pytest.approx(np.corrcoef(ranks(x), ranks(y))[0, 1])


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1, 1, 1], [1, 2, 3], "x are all 1, "),
        ([1, 2, 3], [0.5, 0.5, 0.5], r"y are all 0\.5, "),
        ([1, 2, 3], [1, 2], "one length, got 3 and 2"),
        ([1], [2], r"two values or more, got x of shape \(1,\)"),
        ([], [], r"got x of shape \(0,\)"),
        ([[1, 2]], [1, 2], r"got x of shape \(1, 2\)"),
        ([1, float("nan")], [1, 2], "x must be finite numbers, got nan"),
        ([1, 2], [1, float("-inf")], "y must be finite numbers, got -inf"),
    ],
)
@pytest.mark.parametrize("correlation", [spearman, pearson])
def test_a_correlation_that_is_not_defined_is_an_input_error(correlation, x, y, reason):
    with pytest.raises(InputError, match=reason):
        correlation(x, y)


# --- ranks

RELEVANT = [[False, True, True], [True, False, False], [False, False, False], [False, False, True]]


def test_mrr_by_hand():
    assert mrr_at_k(RELEVANT, 3) == pytest.approx((1 / 2 + 1 + 0 + 1 / 3) / 4)
    assert mrr_at_k(RELEVANT, 2) == pytest.approx((1 / 2 + 1) / 4)
    assert mrr_at_k(RELEVANT, 10) == mrr_at_k(RELEVANT, 3)


def test_accuracy_by_hand():
    assert [accuracy_at_k(RELEVANT, k) for k in (1, 2, 3, 10)] == [1 / 4, 2 / 4, 3 / 4, 3 / 4]


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1), st.integers(1, 6))
def test_mrr_lies_between_accuracy_at_1_and_at_k(relevant, k):
    assert accuracy_at_k(relevant, 1) <= mrr_at_k(relevant, k) <= accuracy_at_k(relevant, k) <= 1


# --- pairs


def test_pairs_are_scored_by_the_inner_product():
    encoder = CompassEncoder()
    pairs = [ScoredPair("0", "60", 0.9), ScoredPair("0", "0", 0.5), ScoredPair("60", "240", 0.0)]
    scores = evaluate_pairs(encoder, pairs)
    assert scores.spearman == pytest.approx(0.5)  # the cosines 1/2, 1, -1 rank 2, 3, 1; the labels rank 3, 2, 1
    assert scores.pearson == pytest.approx(np.corrcoef([0.5, 1, -1], [0.9, 0.5, 0.0])[0, 1], abs=1e-6)
    assert scores.pairs == 3
    assert encoder.calls == [(None, ["0", "60", "240"])]  # each text once, in one call


def test_the_order_of_pairs_and_of_texts_changes_no_score():
    pairs = [ScoredPair(str(a), str(b), math.cos(math.radians(a - b)) + a / 500) for a, b in [(0, 9), (5, 50), (80, 9)]]
    scores = evaluate_pairs(CompassEncoder(), pairs)
    assert evaluate_pairs(CompassEncoder(), pairs[::-1]) == pytest.approx(scores)
    turned = [ScoredPair(pair.text2, pair.text1, pair.label) for pair in pairs]
    assert evaluate_pairs(CompassEncoder(), turned) == pytest.approx(scores)


def test_pairs_that_allow_no_correlation_are_an_input_error():
    with pytest.raises(InputError, match=r"labels of shape \(0,\)"):
        evaluate_pairs(CompassEncoder(), [])
    with pytest.raises(InputError, match="labels are all 1, "):
        evaluate_pairs(CompassEncoder(), [ScoredPair("0", "1", 1.0), ScoredPair("0", "2", 1.0)])
    with pytest.raises(InputError, match="scores are all 1, "):
        evaluate_pairs(CompassEncoder(), [ScoredPair("0", "0", 0.0), ScoredPair("0", "0.0", 1.0)])


# --- retrieval

FAR = RetrievalPair("0", "90")  # found after 10 and 30
NEAR = RetrievalPair("12", "10")  # found first


def test_retrieval_by_hand():
    encoder = CompassEncoder()
    pairs = [FAR, NEAR, RetrievalPair("29", "30", ("29 negative",))]
    scores = evaluate_retrieval(encoder, pairs)
    assert scores.mrr_at_k == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert scores.accuracy_at_1 == pytest.approx(2 / 3)
    assert scores.accuracy_at_k == 1
    assert (scores.k, scores.queries, scores.documents) == (10, 3, 3)
    assert encoder.calls == [("document", ["90", "10", "30"]), ("query", ["0", "12", "29"])]


def test_only_k_hits_count():
    scores = evaluate_retrieval(CompassEncoder(), [FAR, NEAR, RetrievalPair("29", "30")], k=2)
    assert (scores.mrr_at_k, scores.accuracy_at_k) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_of_several_positives_the_first_found_counts():
    pairs = [FAR, NEAR, RetrievalPair("0", "30")]
    for ordered in (pairs, pairs[::-1]):
        scores = evaluate_retrieval(CompassEncoder(), ordered)
        assert scores.queries == 2
        assert scores.mrr_at_k == pytest.approx((1 / 2 + 1) / 2)


def test_the_corpus_adds_distractors_and_repeats_nothing():
    corpus = ["13", "10", "13"]
    scores = evaluate_retrieval(CompassEncoder(), [NEAR], corpus=corpus)
    assert (scores.mrr_at_k, scores.documents) == (1 / 2, 2)


def test_a_tie_with_a_distractor_is_no_find():
    scores = evaluate_retrieval(CompassEncoder(), [RetrievalPair("0", "10")], corpus=["10.0", "10.00"])
    assert scores.mrr_at_k == pytest.approx(1 / 3)


def test_anchors_are_queries_and_candidates_documents():
    scores = evaluate_retrieval(CompassEncoder(), [RetrievalPair("0 south", "180 south"), RetrievalPair("5", "90")])
    assert scores.accuracy_at_1 == 1 / 2  # "180 south" lies at 360 as a document: nearest to both queries


def test_records_get_the_metrics_of_their_kind():
    scored = [ScoredPair("0", "0", 1.0), ScoredPair("0", "90", 0.1), ScoredPair("0", "60", 0.2)]
    retrieval = [RetrievalPair("30", "210 south"), RetrievalPair("90", "0")]
    assert evaluate_records(CompassEncoder(), scored) == evaluate_pairs(CompassEncoder(), scored)
    assert evaluate_records(CompassEncoder(), retrieval) == evaluate_retrieval(CompassEncoder(), retrieval)
    with pytest.raises(InputError):
        evaluate_records(CompassEncoder(), [])


def test_retrieval_without_pairs_or_hits_is_an_input_error():
    with pytest.raises(InputError, match="got 0 pairs and k=10"):
        evaluate_retrieval(CompassEncoder(), [])
    with pytest.raises(InputError, match="got 1 pairs and k=0"):
        evaluate_retrieval(CompassEncoder(), [NEAR], k=0)
