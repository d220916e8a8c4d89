"""mining: it chooses what a brute-force search over all candidates chooses, and never a positive."""

import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simpair.errors import DataError, InputError
from simpair.training.data.pairs import RetrievalPair, ScoredPair
from simpair.training.evaluation import mining
from simpair.training.evaluation.mining import mine_negatives, retrieval_pairs


class GridEncoder:
    """Encodes two whole numbers, such as "3 -1", as that vector; what follows them only makes another text."""

    def __init__(self):
        self.calls = []

    def _embed(self, role, texts):
        self.calls.append((role, list(texts)))
        return np.array([text.split()[:2] for text in texts], np.float32).reshape(-1, 2)

    def encode(self, texts):
        raise AssertionError("mining has two roles")

    def encode_query(self, texts):
        return self._embed("query", texts)

    def encode_document(self, texts):
        return self._embed("document", texts)


def line_of(*scores):
    """Return texts that have these scores for the anchor "1 0"."""
    return [f"{score} 0" for score in scores]


def form(text):
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def brute_force(pairs, corpus, *, count, margin, skip):
    """Compare every pair with every candidate, following the docstring of mine_negatives."""
    candidates = []
    for text in [pair.positive for pair in pairs] + list(corpus) + [text for pair in pairs for text in pair.negatives]:
        if text not in candidates:
            candidates.append(text)
    vectors = np.array([text.split()[:2] for text in candidates], np.float64)
    records, too_near, positives, negatives = [], 0, [], []
    for pair in pairs:
        scores = vectors @ np.array(pair.anchor.split()[:2], np.float64)
        positive = scores[candidates.index(pair.positive)]
        equal = {form(other.positive) for other in pairs if form(other.anchor) == form(pair.anchor)}
        chosen, forms = [], set(equal) | {form(pair.anchor)}
        for place in sorted(range(len(candidates)), key=lambda place: -scores[place]):  # stable: ties keep their order
            text = candidates[place]
            if scores[place] > positive - margin * abs(positive):
                too_near += form(text) not in equal | {form(pair.anchor)}
            elif form(text) not in forms:
                forms.add(form(text))
                chosen.append(place)
        chosen = chosen[skip : skip + count]
        if len(chosen) == count:
            records.append(pair._replace(negatives=tuple(candidates[place] for place in chosen)))
            positives.append(positive)
            negatives += [scores[place] for place in chosen]
    return records, too_near, len(candidates), positives, negatives


numbers = st.integers(-4, 4)
texts = st.builds(
    lambda x, y, mark, end: f"{x} {y}{mark}{end}",
    numbers,
    numbers,
    st.sampled_from(["", " A", " a", " ａ"]),
    st.sampled_from(["", " "]),
)
pair_lists = st.lists(
    st.builds(RetrievalPair, texts, texts, st.lists(texts, max_size=2).map(tuple)), min_size=1, max_size=12
)
options = st.fixed_dictionaries(
    {"count": st.integers(1, 3), "margin": st.sampled_from([0.0, 0.25, 0.5, 1.0]), "skip": st.integers(0, 2)}
)


@pytest.mark.slow
@given(
    pairs=pair_lists,
    corpus=st.lists(texts, max_size=12),
    options=options,
    sizes=st.sampled_from([(64, 1 << 20), (1, 1), (2, 5)]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_equals_brute_force_at_any_depth_and_block_size(monkeypatch, pairs, corpus, options, sizes):
    monkeypatch.setattr(mining, "_FIRST_DEPTH", sizes[0])
    monkeypatch.setattr(mining, "_HITS", sizes[1])
    records, too_near, candidates, positives, negatives = brute_force(pairs, corpus, **options)
    if not records:
        with pytest.raises(InputError, match=f"none of {len(pairs)} pairs has"):
            mine_negatives(GridEncoder(), pairs, corpus=corpus, **options)
        return
    mined = mine_negatives(GridEncoder(), pairs, corpus=corpus, **options)
    assert mined.records == records
    assert (mined.pairs, mined.left_out) == (len(pairs), len(pairs) - len(records))
    assert (mined.candidates, mined.too_near) == (candidates, too_near)
    assert mined.positive_score == pytest.approx(np.mean(positives))
    assert mined.negative_score == pytest.approx(np.mean(negatives))


@given(pairs=pair_lists, corpus=st.lists(texts, max_size=12), options=options)
@settings(max_examples=100, deadline=None)
def test_a_negative_is_not_a_positive_and_scores_below_the_bound(pairs, corpus, options):
    try:
        mined = mine_negatives(GridEncoder(), pairs, corpus=corpus, **options)
    except InputError:
        return
    encoder = GridEncoder()
    for record in mined.records:
        anchor, positive, *negatives = encoder.encode_query([record.anchor, record.positive, *record.negatives])
        assert len(record.negatives) == options["count"] == len({form(text) for text in record.negatives})
        positives = {form(pair.positive) for pair in pairs if form(pair.anchor) == form(record.anchor)}
        assert not (positives | {form(record.anchor)}) & {form(text) for text in record.negatives}
        bound = anchor @ positive - options["margin"] * abs(anchor @ positive)
        assert all(anchor @ negative <= bound for negative in negatives)


# --- by hand


def test_the_hardest_below_the_margin_are_chosen_in_order():
    pairs = [RetrievalPair("1 0", "100 0")]
    corpus = line_of(20, 96, 95, 94, 101)
    mined = mine_negatives(GridEncoder(), pairs, corpus=corpus, count=2)
    assert mined.records == [RetrievalPair("1 0", "100 0", ("95 0", "94 0"))]
    assert mined[1:] == (1, 0, 6, 2, 100.0, 94.5)
    skipped = mine_negatives(GridEncoder(), pairs, corpus=corpus, count=2, skip=1)
    assert skipped.records[0].negatives == ("94 0", "20 0")


def test_the_margin_lowers_the_bound_of_a_negative_score_too():
    pairs, corpus = [RetrievalPair("1 0", "-100 0")], line_of(-99, -104, -105)
    assert mine_negatives(GridEncoder(), pairs, corpus=corpus).records[0].negatives == ("-105 0",)


def test_each_pair_has_the_bound_of_its_own_positive():
    pairs = [RetrievalPair("1 0", "100 0"), RetrievalPair("1 0", "50 0")]
    mined = mine_negatives(GridEncoder(), pairs, corpus=line_of(90, 40))
    assert [record.negatives for record in mined.records] == [("90 0",), ("40 0",)]


def test_a_positive_of_an_equal_anchor_is_not_a_negative():
    pairs = [RetrievalPair("1 0 Café", "100 0"), RetrievalPair("1 0  cafe\u0301 ", "60 0"), RetrievalPair("0 1", "0 9")]
    mined = mine_negatives(GridEncoder(), pairs, corpus=["90 0 CAFÉ", "60 0 ", "1 0 ｃａｆé", "5 0"])
    assert mined.records[0].negatives == ("90 0 CAFÉ",)
    assert mined.records[1].negatives == ("5 0",)


def test_existing_negatives_are_candidates_and_mining_again_finds_the_same():
    pairs = [RetrievalPair("1 0", "100 0", ("80 0", "10 0")), RetrievalPair("0 1", "0 100")]
    mined = mine_negatives(GridEncoder(), pairs, corpus=line_of(90))
    assert mined.records[0].negatives == ("90 0",)
    assert mine_negatives(GridEncoder(), mined.records).records == mined.records


def test_a_pair_with_too_few_candidates_is_left_out_and_the_others_keep_their_order():
    pairs = [RetrievalPair("1 0", f"{score} 0") for score in (9, -9, 8)]
    mined = mine_negatives(GridEncoder(), [*pairs, RetrievalPair("0 1", "0 9")], corpus=["-5 0"], count=1)
    assert [record.positive for record in mined.records] == ["9 0", "8 0", "0 9"]
    assert (mined.pairs, mined.left_out) == (4, 1)


def test_the_search_goes_as_deep_as_an_anchor_with_many_positives_needs():
    many = [RetrievalPair("1 0", f"{score} 0") for score in range(500, 200, -1)]
    mined = mine_negatives(GridEncoder(), many, corpus=line_of(*range(-300, 100)))
    assert {record.negatives for record in mined.records} == {("99 0",)}


def test_each_distinct_text_is_encoded_once_in_its_role():
    encoder = GridEncoder()
    pairs = [RetrievalPair("1 0", "9 0", ("3 0",)), RetrievalPair("1 0", "8 0"), RetrievalPair("0 1", "9 0")]
    mine_negatives(encoder, iter(pairs), corpus=iter(["3 0", "1 0", "8 0"]))
    assert encoder.calls == [("document", ["9 0", "8 0", "3 0", "1 0"]), ("query", ["1 0", "0 1"])]


def test_a_progress_bar_goes_to_stderr(capsys):
    pairs = [RetrievalPair("1 0", "9 0", ("3 0",)), RetrievalPair("0 1", "0 9")]
    assert mine_negatives(GridEncoder(), pairs, show_progress_bar=True) == mine_negatives(GridEncoder(), pairs)
    out, err = capsys.readouterr()
    assert out == ""
    assert "3/3" in err  # candidates
    assert "2/2" in err  # anchors


def test_no_matrix_of_all_scores_is_made(monkeypatch):
    asked = []
    search = mining.ExactIndex.search

    def spy(index, queries, k):
        asked.append(len(queries) * k)
        return search(index, queries, k)

    monkeypatch.setattr(mining.ExactIndex, "search", spy)
    monkeypatch.setattr(mining, "_HITS", 1_000)
    pairs = [RetrievalPair(f"1 {number}", f"{number} 7") for number in range(300)]
    mine_negatives(GridEncoder(), pairs)
    assert max(asked) <= 1_000
    assert sum(asked) > 300 * 64


# --- errors


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"count": 0}, "count is 0 and skip 0; expected count of 1 or more"),
        ({"skip": -1}, "skip -1"),
        ({"margin": -0.1}, r"margin is -0\.1; expected a fraction"),
        ({"margin": 1.5}, r"margin is 1\.5"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"corpus": "1 0"}, "corpus is one text"),
        ({"corpus": ["1 0", " "]}, "the corpus has a text that cannot be a negative; row:2: negative is empty"),
        ({"corpus": ["1" * 131_073]}, "row:1: negative has 131,073 characters"),
        ({"count": 5}, r"none of 1 pairs has 5 candidates of 2 that score 0\.05 below its positive; give a corpus"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(options, reason):
    with pytest.raises(InputError, match=reason):
        mine_negatives(GridEncoder(), [RetrievalPair("1 0", "9 0", ("3 0",))], **options)


def test_scored_pairs_are_refused_and_records_checked():
    with pytest.raises(InputError, match=r"got scored pairs \(text1, text2, label\)"):
        mine_negatives(GridEncoder(), [ScoredPair("1 0", "9 0", 1.0)])
    with pytest.raises(DataError, match="row:1: positive is empty"):
        mine_negatives(GridEncoder(), [{"query": "1 0", "passage": ""}])
    assert retrieval_pairs([{"query": "q", "passage": "p"}]) == [RetrievalPair("q", "p")]


# --- with a TwinTowerEncoder


def test_a_real_encoder_finds_the_most_similar_texts(tiny_encoder, mixed_texts):
    some = list(dict.fromkeys(text for text in mixed_texts(80) if form(text)))
    mined = mine_negatives(tiny_encoder, [RetrievalPair(text, text) for text in some], count=2, margin=0.0)
    vectors = tiny_encoder.encode(some).astype(np.float64)
    scores = vectors @ vectors.T
    for record in mined.records:
        row = scores[some.index(record.anchor)]
        others = sorted((score for text, score in zip(some, row, strict=True) if form(text) != form(record.anchor)))
        found = [row[some.index(text)] for text in record.negatives]
        np.testing.assert_allclose(found, others[:-3:-1], atol=1e-3)
