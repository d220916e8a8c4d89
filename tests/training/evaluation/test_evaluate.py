"""evaluate: metrics worked by hand, with an encoder whose embeddings are known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simpair.errors import InputError
from simpair.files import texts
from simpair.training.data.pairs import RetrievalPair, ScoredPair
from simpair.training.evaluation.evaluate import (
    PairScores,
    evaluate_bitext,
    evaluate_pairs,
    evaluate_records,
    evaluate_retrieval,
    metrics_by_name,
    pair_scores,
)
from simpair.training.evaluation.intervals import bitext_intervals, bootstrap, pair_intervals, retrieval_intervals
from simpair.training.evaluation.metrics import average_precision, roc_auc, spearman
from simpair.training.evaluation.predictions import PairSeries, rank_bitext, rank_pairs, score_pairs


class CompassEncoder:
    """Encodes an angle in degrees as a unit vector of that direction; a document "30 south" points to 30 + 180."""

    def __init__(self):
        self.calls = []

    def _embed(self, role, texts, offset=0.0):
        self.calls.append((role, list(texts)))
        angles = np.radians([float(text.split()[0]) + (offset if "south" in text else 0.0) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def encode(self, texts):
        return self._embed(None, texts)

    def encode_query(self, texts):
        return self._embed("query", texts)

    def encode_document(self, texts):
        return self._embed("document", texts, offset=180.0)


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
    swapped = [ScoredPair(pair.text2, pair.text1, pair.label) for pair in pairs]
    assert evaluate_pairs(CompassEncoder(), swapped) == pytest.approx(scores)


def test_pairs_without_a_defined_correlation_are_an_input_error():
    with pytest.raises(InputError, match=r"labels have the shape \(0,\)"):
        evaluate_pairs(CompassEncoder(), [])
    with pytest.raises(InputError, match="labels are all 1; "):
        evaluate_pairs(CompassEncoder(), [ScoredPair("0", "1", 1.0), ScoredPair("0", "2", 1.0)])
    with pytest.raises(InputError, match="scores are all 1; "):
        evaluate_pairs(CompassEncoder(), [ScoredPair("0", "0", 0.0), ScoredPair("0", "0.0", 1.0)])


# --- pairs of two classes


def at_angle(angle, label):
    """A pair whose score is the cosine of the angle."""
    return ScoredPair("0", str(angle), label)


TEST = [at_angle(10, 1), at_angle(30, 0), at_angle(40, 1), at_angle(50, 1), at_angle(80, 0)]
DEV = [at_angle(20, 1), at_angle(50.5, 1), at_angle(70, 0), at_angle(75, 1), at_angle(85, 0)]


def test_two_classes_by_hand():
    scores = evaluate_pairs(CompassEncoder(), TEST)
    assert scores.average_precision == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert scores.roc_auc == pytest.approx((2 + 1 + 1) / 6)
    assert scores.spearman == pytest.approx(spearman([5, 4, 3, 2, 1], [1, 0, 1, 1, 0]))
    assert (scores.threshold, scores.accuracy, scores.f1) == (None, None, None)  # none was chosen on other pairs


def test_the_threshold_of_the_dev_pairs_is_applied_by_hand():
    scores = evaluate_pairs(CompassEncoder(), TEST, dev=DEV)
    # on dev, thresholds below the cosines of 50.5 and of 75 both classify 4 of 5 correctly; the higher one is chosen
    assert scores.threshold == pytest.approx((math.cos(math.radians(50.5)) + math.cos(math.radians(70))) / 2)
    assert scores.accuracy == pytest.approx(4 / 5)  # all but 30, which is classified as positive
    assert scores.f1 == pytest.approx(2 * 3 / (4 + 3))
    assert scores[:5] == evaluate_pairs(CompassEncoder(), TEST)[:5]


def test_the_threshold_depends_on_dev_alone():
    lower = [pair._replace(label=1.0) for pair in DEV[:4]] + DEV[4:]
    first, second = (evaluate_pairs(CompassEncoder(), TEST, dev=dev) for dev in (DEV, lower))
    assert second.threshold < first.threshold
    opposite = [pair._replace(label=1 - pair.label) for pair in TEST]
    assert evaluate_pairs(CompassEncoder(), opposite, dev=DEV).threshold == first.threshold
    assert evaluate_pairs(CompassEncoder(), opposite, dev=DEV).accuracy == pytest.approx(1 / 5)


def test_labels_between_0_and_1_have_no_threshold():
    graded = [*TEST, at_angle(60, 0.5)]
    assert evaluate_pairs(CompassEncoder(), graded)[3:] == (None,) * 5
    with pytest.raises(InputError, match=r"the pairs have the labels 0, 0\.5, 1; a threshold needs"):
        evaluate_pairs(CompassEncoder(), graded, dev=DEV)
    with pytest.raises(InputError, match=r"the dev pairs have the labels 0, 0\.5, 1; "):
        evaluate_pairs(CompassEncoder(), TEST, dev=graded)
    with pytest.raises(InputError, match="the dev pairs have the labels 1; "):
        evaluate_pairs(CompassEncoder(), TEST, dev=DEV[:2])


def test_a_threshold_is_not_chosen_on_the_evaluated_pairs():
    with pytest.raises(InputError, match="dev holds the evaluated pairs"):
        evaluate_pairs(CompassEncoder(), TEST, dev=list(TEST))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 80), st.sampled_from([0.0, 1.0])), min_size=2, max_size=12))
def test_no_metric_is_ever_nan(items):
    pairs = [at_angle(angle, label) for angle, label in items]
    try:
        scores = evaluate_pairs(CompassEncoder(), pairs)
    except InputError:
        assert len({pair.label for pair in pairs}) == 1 or len({pair.text2 for pair in pairs}) == 1
    else:
        assert all(-1 <= value <= 1 for value in (*scores[:2], *scores[3:5]))


def test_embeddings_that_are_not_finite_are_an_input_error():
    class Broken(CompassEncoder):
        def _embed(self, role, texts, offset=0.0):
            return super()._embed(role, texts, offset) * np.float32("nan")

    with pytest.raises(InputError, match="scores must be finite, got nan"):
        evaluate_pairs(Broken(), TEST)
    with pytest.raises(InputError, match="finite"):
        evaluate_retrieval(Broken(), [NEAR])


# --- retrieval

FAR = RetrievalPair("0", "90")  # found after 10 and 30
NEAR = RetrievalPair("12", "10")  # found first


def test_retrieval_by_hand():
    encoder = CompassEncoder()
    pairs = [FAR, NEAR, RetrievalPair("29", "30")]
    scores = evaluate_retrieval(encoder, pairs)
    assert scores.mrr_at_k == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert scores.accuracy_at_1 == pytest.approx(2 / 3)
    assert scores.accuracy_at_k == 1
    assert (scores.k, scores.queries, scores.documents) == (10, 3, 3)
    assert encoder.calls == [("document", ["90", "10", "30"]), ("query", ["0", "12", "29"])]


def test_only_k_hits_count():
    scores = evaluate_retrieval(CompassEncoder(), [FAR, NEAR, RetrievalPair("29", "30")], k=2)
    assert (scores.mrr_at_k, scores.accuracy_at_k) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_the_first_of_several_positives_counts_for_mrr():
    pairs = [FAR, NEAR, RetrievalPair("0", "30")]
    for ordered in (pairs, pairs[::-1]):
        scores = evaluate_retrieval(CompassEncoder(), ordered)
        assert scores.queries == 2
        assert scores.mrr_at_k == pytest.approx((1 / 2 + 1) / 2)


def test_the_corpus_adds_each_distractor_once():
    corpus = ["13", "10", "13"]
    scores = evaluate_retrieval(CompassEncoder(), [NEAR], corpus=corpus)
    assert (scores.mrr_at_k, scores.documents) == (1 / 2, 2)


def test_a_tie_with_a_distractor_does_not_count_as_found():
    scores = evaluate_retrieval(CompassEncoder(), [RetrievalPair("0", "10", ("10.000",))], corpus=["10.0", "10.00"])
    assert scores.mrr_at_k == pytest.approx(1 / 4)


def test_negatives_are_candidates_too():
    scores = evaluate_retrieval(CompassEncoder(), [RetrievalPair("0", "30", ("20", "40")), NEAR])
    assert (scores.mrr_at_k, scores.documents) == ((1 / 3 + 1) / 2, 4)


@pytest.mark.parametrize("given", ["test.csv", [("a", "b", 1.0)], [NEAR], [ScoredPair("a", "b", 1.0)]])
def test_records_of_another_kind_are_an_input_error(given):
    if not isinstance(given[0], ScoredPair):
        with pytest.raises(InputError, match="; expected scored pairs only, as read_pairs returns"):
            evaluate_pairs(CompassEncoder(), given)
    if given != [NEAR]:
        with pytest.raises(InputError, match="; expected retrieval pairs only, as read_pairs"):
            evaluate_retrieval(CompassEncoder(), given)


def test_anchors_are_queries_and_candidates_documents():
    scores = evaluate_retrieval(CompassEncoder(), [RetrievalPair("0 south", "180 south"), RetrievalPair("5", "90")])
    assert scores.accuracy_at_1 == 1 / 2  # "180 south" lies at 360 as a document: nearest to both queries


def test_ndcg_and_recall_by_hand():
    pairs = [FAR, NEAR, RetrievalPair("0", "30")]  # "0" finds 10, then 30, then 90; "12" finds 10 first
    third, second = 1 / math.log2(4), 1 / math.log2(3)
    scores = evaluate_retrieval(CompassEncoder(), pairs)
    assert scores.ndcg_at_k == pytest.approx(((second + third) / (1 + second) + 1) / 2)
    assert scores.recall_at_k == 1
    scores = evaluate_retrieval(CompassEncoder(), pairs, k=2)
    assert scores.ndcg_at_k == pytest.approx((second / (1 + second) + 1) / 2)
    assert scores.recall_at_k == pytest.approx((1 / 2 + 1) / 2)


def test_a_better_encoder_never_scores_less():
    perfect = evaluate_retrieval(CompassEncoder(), [RetrievalPair(str(a), f"{a}.0") for a in range(0, 180, 30)])
    assert perfect[:3] == (1, 1, 1)
    assert (perfect.ndcg_at_k, perfect.recall_at_k) == (1, 1)


# --- translations


def test_translations_by_hand():
    encoder = CompassEncoder()
    pairs = [RetrievalPair("0", "4"), RetrievalPair("10", "13"), RetrievalPair("20", "18"), RetrievalPair("23", "30")]
    scores = evaluate_bitext(encoder, pairs)
    assert scores == (3 / 4, 1, 4)  # 23 is nearer to 18 than to 30, and 30 finds 23
    assert encoder.calls == [(None, ["0", "10", "20", "23"]), (None, ["4", "13", "18", "30"])]


def test_the_directions_of_translations_differ():
    pairs = [RetrievalPair("0", "40"), RetrievalPair("30", "44")]  # both find 40; 40 and 44 find 30
    assert evaluate_bitext(CompassEncoder(), pairs)[:2] == (1 / 2, 1 / 2)
    pairs = [RetrievalPair("0", "40"), RetrievalPair("90", "44"), RetrievalPair("200", "170")]
    assert evaluate_bitext(CompassEncoder(), pairs)[:2] == (1, 2 / 3)  # 40 and 44 find 0


def test_any_of_several_translations_counts():
    pairs = [RetrievalPair("0", "1"), RetrievalPair("0", "50"), RetrievalPair("90", "80")]
    scores = evaluate_bitext(CompassEncoder(), pairs)
    assert scores == (1, 2 / 3, 3)  # 0 and 90 find theirs; of 1, 50 and 80, 50 finds 90


def test_translations_are_encoded_without_a_role():
    scores = evaluate_bitext(CompassEncoder(), [RetrievalPair("30 south", "31"), RetrievalPair("210", "212 south")])
    assert scores.accuracy_at_1_forward == 1
    with pytest.raises(InputError, match="got 0 pairs"):
        evaluate_bitext(CompassEncoder(), [])


# --- intervals


@pytest.mark.slow
def test_intervals_are_the_bootstrap_of_the_same_scores():
    series = score_pairs(CompassEncoder(), TEST * 8)
    found = pair_intervals(series, threshold=0.5)
    for name, metric in (("spearman", spearman), ("average_precision", average_precision), ("roc_auc", roc_auc)):
        interval = getattr(found, name)
        assert interval == bootstrap(metric, *series)
        assert interval.low < getattr(pair_scores(series), name) < interval.high
    assert found.accuracy.low < 4 / 5 < found.accuracy.high
    assert found.f1 is not None
    assert pair_intervals(series)[4:] == (None, None)


def test_graded_labels_have_intervals_of_correlations_only():
    series = score_pairs(CompassEncoder(), [at_angle(angle, angle / 90) for angle in range(0, 90, 5)])
    found = pair_intervals(series)
    assert found.spearman == pytest.approx((-1, -1))
    assert found[2:] == (None,) * 4
    with pytest.raises(InputError, match="the labels are not exactly 0 and 1; leave it out"):
        pair_intervals(series, threshold=0.5)


@pytest.mark.slow
def test_too_few_pairs_have_no_interval():
    series = PairSeries(np.array([0.1, 0.9]), np.array([0.0, 1.0]))
    assert pair_scores(series)[:5] == pytest.approx(PairScores(1, 1, 2, 1, 1)[:5])
    assert pair_intervals(series).spearman in (
        None,
        pytest.approx((1, 1)),
    )  # the correlation is undefined for half of the draws
    assert retrieval_intervals(rank_pairs(CompassEncoder(), [NEAR])) == (None,) * 5


def test_intervals_of_rankings_contain_their_metrics():
    pairs = [RetrievalPair(str(angle), str((angle * 7) % 90)) for angle in range(0, 90, 4)]
    ranking = rank_pairs(CompassEncoder(), pairs, k=5)
    scores, found = evaluate_retrieval(CompassEncoder(), pairs, k=5), retrieval_intervals(ranking)
    for name, interval in found._asdict().items():
        assert interval.low < getattr(scores, name) < interval.high, name
    both = bitext_intervals(rank_bitext(CompassEncoder(), pairs))
    translated = evaluate_bitext(CompassEncoder(), pairs)
    assert both.accuracy_at_1_forward.low <= translated.accuracy_at_1_forward <= both.accuracy_at_1_forward.high
    assert both.accuracy_at_1_backward.low <= translated.accuracy_at_1_backward <= both.accuracy_at_1_backward.high


# --- any of them


def test_records_are_evaluated_by_their_kind():
    scored = [ScoredPair("0", "0", 1.0), ScoredPair("0", "90", 0.1), ScoredPair("0", "60", 0.2)]
    retrieval = [RetrievalPair("30", "210 south"), RetrievalPair("90", "0")]
    assert evaluate_records(CompassEncoder(), scored) == evaluate_pairs(CompassEncoder(), scored)
    assert evaluate_records(CompassEncoder(), retrieval) == evaluate_retrieval(CompassEncoder(), retrieval)
    with pytest.raises(InputError):
        evaluate_records(CompassEncoder(), [])
    with pytest.raises(InputError, match="got 3 scored pairs and 2 retrieval pairs; expected scored pairs only"):
        evaluate_records(CompassEncoder(), scored + retrieval)
    assert evaluate_records(CompassEncoder(), TEST, dev=DEV) == evaluate_pairs(CompassEncoder(), TEST, dev=DEV)
    with pytest.raises(InputError, match="dev gives the threshold for scored pairs"):
        evaluate_records(CompassEncoder(), retrieval, dev=DEV)


def test_metrics_have_the_value_of_k_in_their_names():
    scores = evaluate_retrieval(CompassEncoder(), [NEAR], k=3)
    named = metrics_by_name(scores)
    assert named["mrr_at_3"] == scores.mrr_at_k
    assert list(named) == [
        "mrr_at_3", "accuracy_at_1", "accuracy_at_3", "queries", "documents", "ndcg_at_3", "recall_at_3",
    ]  # fmt: skip
    assert metrics_by_name(evaluate_pairs(CompassEncoder(), [at_angle(a, a / 90) for a in (0, 40, 90)])).keys() == {
        "spearman", "pearson", "pairs",
    }  # fmt: skip
    intervals = retrieval_intervals(rank_pairs(CompassEncoder(), [NEAR, FAR], k=3))
    assert "recall_at_3" in metrics_by_name(intervals, k=3)


@pytest.mark.parametrize("shown", [False, True])
def test_a_progress_bar_on_stderr_changes_no_metric(shown, monkeypatch, capsys):
    monkeypatch.setattr(texts, "BLOCK_TEXTS", 2)
    pairs = [FAR, NEAR, RetrievalPair("29", "30")]
    encoder = CompassEncoder()
    for evaluate, records in ((evaluate_pairs, TEST), (evaluate_retrieval, pairs), (evaluate_bitext, pairs)):
        assert evaluate(encoder, records, show_progress_bar=shown) == evaluate(CompassEncoder(), records)
    assert evaluate_records(encoder, pairs, show_progress_bar=shown) == evaluate_retrieval(CompassEncoder(), pairs)
    assert max(len(call) for _, call in encoder.calls) == (2 if shown else 6)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("3/3" in err) == ("6/6" in err) == shown


def test_retrieval_without_pairs_or_hits_is_an_input_error():
    with pytest.raises(InputError, match="got 0 pairs and k=10"):
        evaluate_retrieval(CompassEncoder(), [])
    with pytest.raises(InputError, match="got 1 pairs and k=0"):
        evaluate_retrieval(CompassEncoder(), [NEAR], k=0)
