"""The benchmarks measure what they say."""

from __future__ import annotations

import gzip
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import quality
from benchmarks.corpus import read_texts, standard_corpus
from benchmarks.engines import EncoderEngine, Identity, LexicalEngine, Weighting, _bm25, open_engine
from benchmarks.machine import timed
from benchmarks.quality import Score, means, measure
from benchmarks.sets import MEANS, SETS, EvalSet, choose, read_questions, read_scored, trained_pairs
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import DataError
from simpair.training import RetrievalPair, ScoredPair
from simpair.training.data.report import pair_key
from simpair.training.evaluation.evaluate import evaluate_pairs, evaluate_retrieval
from simpair.training.evaluation.intervals import bootstrap
from simpair.training.evaluation.metrics import spearman


def plain(score: Score) -> Score:
    """The score without its interval."""
    return score._replace(low=None, high=None)


STS = EvalSet("mine", "Mine", "sts", "zh", "pairs/test", scale=(0, 5))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


class Oracle:
    """Scores pairs by a table, and ranks documents by how many of their words a query has."""

    identity = Identity("oracle")

    def __init__(self, scores: dict[tuple[str, str], float]) -> None:
        self.scores = scores

    def pairwise(self, text1: list[str], text2: list[str], language: str) -> np.ndarray:
        return np.array([self.scores[pair] for pair in zip(text1, text2, strict=True)])

    def rank(self, queries: list[str], documents: list[str], k: int, language: str, *, roles: bool) -> np.ndarray:
        shared = [[len(set(query.split()) & set(document.split())) for document in documents] for query in queries]
        return np.argsort(-np.array(shared), axis=1, kind="stable")[:, :k]


# --- the data ---------------------------------------------------------------------------------------------------------


def test_every_set_has_a_name_of_its_own_and_means_are_of_sets() -> None:
    names = [one.name for one in SETS]
    assert len(set(names)) == len(names)
    assert all(set(mean.sets) <= set(names) for mean in MEANS)
    assert {one.name for one in SETS if one.zero_shot} == {
        "sts16", "ntrex_zh_en", "ntrex_en_zh", "xquad_en", "xquad_zh",
    }  # fmt: skip


def test_sets_are_chosen_by_name_or_kind() -> None:
    assert choose([]) == list(SETS)
    assert [one.name for one in choose(["sick", "bitext"])] == ["sick", "ntrex_zh_en", "ntrex_en_zh"]
    with pytest.raises(SystemExit, match="no set is called 'sst2'"):
        choose(["sst2"])


def test_a_pair_is_the_same_in_any_order_case_width_and_punctuation() -> None:
    assert pair_key("A cat, sits.", "ＯＫ") == pair_key("ok！", "a Cat sits")
    assert pair_key("a cat", "a dog") != pair_key("a cat", "a cow")


def test_training_pairs_are_found_in_every_kind_of_file(tmp_path: Path) -> None:
    for name in ("zh_pairs", "en_pairs"):
        write_rows(tmp_path / f"{name}.jsonl.gz", [{"text1": name, "text2": "b", "label": 1}])
    for name in ("zh_nli", "en_nli"):
        write_rows(tmp_path / f"{name}.jsonl.gz", [{"premise": name, "hypothesis": "b", "label": "neutral"}])
    with pytest.raises(DataError, match="zh_triplets"):
        trained_pairs(tmp_path)
    write_rows(tmp_path / "zh_triplets.jsonl.gz", [{"anchor": "t", "positive": "b", "negative": "c"}])
    expected = ("zh_pairs", "en_pairs", "zh_nli", "en_nli", "t")
    assert trained_pairs(tmp_path) == {pair_key(name, "b") for name in expected}


@pytest.fixture
def retrieval(tmp_path: Path) -> Path:
    """Three documents, two judged queries, one query without a judgment."""
    folder = tmp_path / "ret"
    documents = [("d1", "Cats", "cats purr"), ("d2", "", "dogs bark loudly"), ("d3", "", "cats and dogs")]
    write_rows(folder / "corpus.jsonl.gz", [{"_id": name, "title": t, "text": text} for name, t, text in documents])
    queries = [("q1", "cats"), ("q2", "dogs bark"), ("q3", "cows")]
    write_rows(folder / "queries.jsonl.gz", [{"_id": name, "text": text} for name, text in queries])
    judged = ["q1\td3\t2", "q1\td1\t1", "q2\td2\t1", "q3\td1\t0"]
    (folder / "qrels_test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judged) + "\n")
    return tmp_path


RETRIEVAL = EvalSet("ret", "Ret", "retrieval", "en", "ret/qrels_test")


def test_queries_come_with_what_their_documents_are_worth(retrieval: Path) -> None:
    questions, documents = read_questions(retrieval, RETRIEVAL)
    assert documents == ["Cats cats purr", "dogs bark loudly", "cats and dogs"]
    assert questions == [("cats", {2: 2.0, 0: 1.0}), ("dogs bark", {1: 1.0})]


def test_a_judgement_of_an_unknown_document_is_refused_with_its_line(retrieval: Path) -> None:
    with (retrieval / "ret" / "qrels_test.tsv").open("a") as file:
        file.write("q1\td9\t1\n")
    with pytest.raises(DataError, match=r"qrels_test\.tsv:6: .*d9"):
        read_questions(retrieval, RETRIEVAL)


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_retrieval_is_scored_by_ndcg_and_mrr(retrieval: Path) -> None:
    score = measure(Oracle({}), RETRIEVAL, retrieval, None)
    first = (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3))  # "cats": both documents tie, the first comes first
    assert plain(score) == Score(round(100 * (first + 1) / 2, 2), 2, mrr=100.0)
    assert (score.low, score.high) == (round(100 * first, 2), 100)  # a draw of one query twice, or of the other


def test_translations_are_scored_by_the_first_hit(tmp_path: Path) -> None:
    rows = [{"zh": "一 a", "en": "a one"}, {"zh": "二 b", "en": "b two"}, {"zh": "三", "en": "c three"}]
    write_rows(tmp_path / "par" / "test.jsonl.gz", [*rows, {"zh": "又 一 a", "en": "a one"}])
    forth = EvalSet("forth", "Forth", "bitext", "zh", "par/test")
    score = measure(Oracle({}), forth, tmp_path, None)
    assert plain(score) == Score(75.0, 4)
    assert (score.low, score.high) == (25, 100)  # one of four right at most in 5 draws of 100, and four often
    assert measure(Oracle({}), forth._replace(language="en"), tmp_path, None).value == 50.0


PAIRS = [("a", "b", 0), ("c", "d", 2), ("e", "f", 4), ("g", "h", 5)]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    write_rows(tmp_path / "pairs" / "test.jsonl.gz", [{"text1": a, "text2": b, "score": s} for a, b, s in PAIRS])
    return tmp_path


def test_pairs_are_scored_by_spearman_on_their_own_scale(pairs: Path) -> None:
    assert [pair.label for pair in read_scored(pairs, STS)] == [0, 0.4, 0.8, 1]
    agreeing, opposite = ({(a, b): sign * score for a, b, score in PAIRS} for sign in (1, -1))
    assert measure(Oracle(agreeing), STS, pairs, None) == Score(100.0, 4, low=100.0, high=100.0)
    assert measure(Oracle(opposite), STS, pairs, None).value == -100


def test_shared_pairs_are_counted_and_left_out_of_a_second_score(pairs: Path) -> None:
    scores = {("a", "b"): 9.0, ("c", "d"): 1.0, ("e", "f"): 2.0, ("g", "h"): 3.0}  # the first pair is the wrong one
    found = measure(Oracle(scores), STS, pairs, {pair_key("B", "a"), pair_key("x", "y")})
    assert (found.shared, found.without_shared) == (1, 100.0)
    assert found.value < 0
    assert plain(measure(Oracle(scores), STS, pairs, set())) == Score(found.value, 4, shared=0)
    low, high = bootstrap(spearman, [9.0, 1.0, 2.0, 3.0], [0, 0.4, 0.8, 1])
    assert (found.low, found.high) == (round(100 * low, 2), round(100 * high, 2))


def test_a_mean_needs_all_its_sets_and_takes_them_without_shared_pairs() -> None:
    names = MEANS[1].sets
    scores = {name: Score(70.0 + row, 10, shared=0) for row, name in enumerate(names)}
    scores[names[0]] = Score(70.0, 10, shared=5, without_shared=63.0)
    assert means(scores) == {"en7": Score(73.0, 70, without_shared=72.0)}
    assert means({name: scores[name] for name in names[1:]}) == {}


@pytest.mark.slow
def test_the_benchmark_of_quality_prints_both_tables_and_writes_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [("怎么办信用卡", "如何办信用卡", 5), ("天气很好", "股票大跌", 0), ("今天天气", "今天很冷", 2)]
    write_rows(tmp_path / "pairs" / "test.jsonl.gz", [{"text1": a, "text2": b, "score": s} for a, b, s in rows])
    unseen = STS._replace(name="sts16", title="STS16")
    seen = STS._replace(name="sick", title="SICK-R", trained_on="train rows")
    monkeypatch.setattr(quality, "SETS", (unseen, seen))
    monkeypatch.setattr(quality, "choose", lambda names: [unseen, seen])
    quality.main(["tf-idf", "--data", str(tmp_path), "--json", str(tmp_path / "q.json")])
    printed = capsys.readouterr().out
    assert (
        printed.index("Zero-shot")
        < printed.index("| STS16 |")
        < printed.index("In-domain")
        < printed.index("| SICK-R |")
    )
    written = json.loads((tmp_path / "q.json").read_text(encoding="utf-8"))
    assert written["sets"]["sick"]["trained_on"] == "train rows"
    assert set(written["models"][0]["scores"]) == {"sts16", "sick"}
    quality.main(["bm25", "--data", str(tmp_path), "--json", str(tmp_path / "q.json"), "--add"])
    assert "| tf-idf | bm25 |" in capsys.readouterr().out
    quality.main(["tf-idf", "--data", str(tmp_path), "--json", str(tmp_path / "q.json"), "--add"])
    both = json.loads((tmp_path / "q.json").read_text(encoding="utf-8"))["models"]
    assert [model["name"] for model in both] == ["tf-idf", "bm25"]  # each in its place
    assert both[0] == written["models"][0]
    monkeypatch.setattr(quality, "choose", lambda names: [seen])
    with pytest.raises(SystemExit, match="is of other sets"):
        quality.main(["bm25", "--data", str(tmp_path), "--json", str(tmp_path / "q.json"), "--add"])


# --- engines ----------------------------------------------------------------------------------------------------------


def test_an_encoder_scores_as_evaluation_does(tiny_encoder: TwinTowerEncoder) -> None:
    texts = ["a cat", "the dog runs", "红色", "a red mat", "猫坐在垫子上", "blue"]
    labeled = [ScoredPair(a, b, len(a) / 20) for a, b in pairwise(texts)]
    engine = EncoderEngine(tiny_encoder, "tiny")
    scores = engine.pairwise([pair.text1 for pair in labeled], [pair.text2 for pair in labeled], "zh")
    ours = spearman(scores, [pair.label for pair in labeled])
    assert ours == pytest.approx(evaluate_pairs(tiny_encoder, labeled).spearman)
    best = engine.rank(texts[:3], texts[3:], 1, "zh", roles=True)[:, 0]
    expected = evaluate_retrieval(tiny_encoder, list(map(RetrievalPair, texts[:3], texts[3:]))).accuracy_at_1
    assert np.mean(best == np.arange(3)) == expected


def test_an_encoder_encodes_a_text_once(tiny_encoder: TwinTowerEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    plain = tiny_encoder.encode
    monkeypatch.setattr(tiny_encoder, "encode", lambda texts, **role: (asked.extend(texts), plain(texts, **role))[1])
    engine = EncoderEngine(tiny_encoder, "tiny")
    first = engine.pairwise(["a", "b", "a"], ["b", "c", "c"], "en")
    assert engine.pairwise(["c", "b"], ["a", "a"], "en").tolist() == [first[2], first[0]]
    assert sorted(asked) == ["a", "b", "c"]


@pytest.mark.parametrize("weighting", ["tf-idf", "bm25"])
def test_words_in_common_are_words_of_english_and_characters_of_chinese(weighting: Weighting) -> None:
    engine = LexicalEngine(weighting)
    english = engine.pairwise(["a red cat", "a red cat"], ["the red cat", "blue dogs run"], "en")
    assert english[0] > english[1] == 0
    same, near, far = engine.pairwise(["怎么办信用卡"] * 3, ["怎么办信用卡", "如何办信用卡", "天气很好"], "zh")
    assert same > near > far == 0
    assert engine.rank(["red cat"], ["blue dog", "a red cat"], 2, "en", roles=True).tolist() == [[1, 0]]


def test_bm25_is_the_formula() -> None:
    documents = ["red red cat", "a dog", "a red dog runs far"]
    lengths, k1, b = [3, 2, 5], 0.9, 0.4

    def score(query: str, document: str, length: int) -> float:
        found = 0.0
        for word in query.split():
            having = sum(word in text.split() for text in documents)
            count = document.split().count(word)
            norm = count + k1 * (1 - b + b * length / (10 / 3))
            found += math.log(1 + (3 - having + 0.5) / (having + 0.5)) * count / norm
        return found

    query, document = _bm25(documents, "en")
    scores = (query(["red dog dog", "cat"]) @ document(documents).T).toarray()
    expected = [
        [score(asked, text, length) for text, length in zip(documents, lengths, strict=True)]
        for asked in ("red dog dog", "cat")
    ]
    np.testing.assert_allclose(scores, expected)


def test_a_folder_is_named_without_what_leads_to_it(tiny_model: Path) -> None:
    identity = open_engine(str(tiny_model)).identity
    assert (identity.name, identity.dimension, identity.max_seq_length) == ("model", 32, 64)
    assert open_engine("bm25").identity == Identity("bm25")


def test_a_form_follows_its_model(tiny_model: Path) -> None:
    identity = open_engine(f"{tiny_model}@8").identity
    assert (identity.name, identity.dimension) == ("model@8", 8)
    assert open_engine(f"{tiny_model}@int8").identity.name == "model@int8"
    with pytest.raises(SystemExit, match="no form is called 'int4'"):
        open_engine(f"{tiny_model}@int4")


# --- speed ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_corpus_is_the_same_every_time_and_has_the_lengths_wanted() -> None:
    corpus = standard_corpus()
    assert standard_corpus() == corpus
    documents, questions, mixed = corpus
    assert (len(documents), len(set(documents)), len(questions), len(set(questions))) == (2500, 2500, 1000, 1000)
    words = np.percentile([len(text.split()) for text in documents], (5, 50, 95))
    assert words.round() == pytest.approx([4, 14, 47], rel=0.3)
    assert np.median([len(text) for text in documents[:1250]]) == pytest.approx(
        np.median([len(text) for text in documents[1250:]]), rel=0.1
    )  # in no order of length
    assert all(text.startswith("How do I ") and text.endswith("?") for text in questions)
    assert sum(any("一" <= character <= "鿿" for character in text) for text in mixed) >= 1000


def test_texts_of_a_file_are_its_lines(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one\n\n二\u2028三\n", encoding="utf-8")
    assert read_texts(tmp_path / "texts.txt") == ["one", "二\u2028三"]
    (tmp_path / "one.txt").write_text("one\n")
    with pytest.raises(SystemExit, match="expected 2 or more"):
        read_texts(tmp_path / "one.txt")


def test_time_and_result_of_a_call_are_those_of_the_call() -> None:
    found = timed(lambda: sum(range(1000)))
    assert found.result == 499500
    assert 0 < found.seconds < 1
