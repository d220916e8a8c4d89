"""``wrap``: the embeddings are those of sentence-transformers, and an index, an evaluation and mining take them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simpair.errors import EncoderMismatch, StoreError, UnsupportedModel
from simpair.integrations.sentence_transformers import wrap
from simpair.search.index import SearchIndex
from simpair.training import RetrievalPair, ScoredPair, evaluate_pairs, evaluate_retrieval, mine_negatives

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
TEXTS = ["the cat sits on the mat", "今天天气很好", "the dog runs fast, 猫", "red", "cat " * 90, "blue cat mat dog"]
WORDS = ["the", "cat", "sits", "on", "mat", "dog", "runs", "fast", "red", "blue", "今天天气很好"]
PROMPTS = {"query": "the red ", "document": ""}


def _words(models: Any, seed: int = 0) -> Any:
    pytest.importorskip("sentence_transformers.sentence_transformer.modules", reason="older ones have another home")
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    table = np.random.default_rng(seed).normal(size=(len(WORDS), 32)).astype(np.float32)
    return models.WordEmbeddings(WhitespaceTokenizer(WORDS, stop_words={"on", "the", "of"}), table, max_seq_length=8)


def _layer_norm(models: Any, bare: str) -> list[Any]:
    norm = models.LayerNorm(32)
    torch.nn.init.normal_(norm.norm.weight)
    return [models.Transformer(bare), models.Pooling(32, pooling_mode="mean"), norm]


def _routes(models: Any) -> list[Any]:
    routes = {role: [_words(models, seed), models.Pooling(32)] for seed, role in enumerate(("query", "document"))}
    return [models.Router({**routes, "passage": routes["document"]}, "passage")]


CHAINS: dict[str, Callable[[Any, str], list[Any]]] = {
    "a layer norm": _layer_norm,
    "words, an LSTM": lambda models, bare: [_words(models), models.LSTM(32, 8), models.Pooling(16)],
    "counts of words": lambda models, bare: [models.BoW(WORDS, {"cat": 2.0}, unknown_word_weight=0.5)],
    "three routes": lambda models, bare: _routes(models),
}


def _model(name: str, bare: Path, **options: Any) -> Any:
    """Return a model of sentence-transformers; the same one whenever it is made."""
    models = pytest.importorskip("sentence_transformers.sentence_transformer.modules", reason="needs version 6")
    from sentence_transformers import SentenceTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        modules = CHAINS[name](models, str(bare))
        return SentenceTransformer(modules=modules, **{"device": "cpu", "prompts": PROMPTS, **options})


@pytest.fixture(params=CHAINS)
def model(request: pytest.FixtureRequest, tiny_model: Path) -> Any:
    return _model(request.param, tiny_model)


@pytest.mark.parametrize("role", ["encode", "encode_query", "encode_document"])
def test_embeddings_are_those_of_the_model(model: Any, role: str) -> None:
    encoder = wrap(model)
    found = getattr(encoder, role)(TEXTS)
    np.testing.assert_array_equal(found, getattr(model, role)(TEXTS, normalize_embeddings=True))
    assert (found.dtype, found.flags.c_contiguous) == (np.float32, True)
    assert found.shape == (len(TEXTS), encoder.embedding_dimension)
    assert getattr(encoder, role)("a cat").shape == found.shape[1:]
    assert getattr(encoder, role)([]).shape == (0, encoder.embedding_dimension)


def test_an_index_is_made_searched_and_opened_again(model: Any, tiny_model: Path, tmp_path: Path) -> None:
    encoder = wrap(model)
    with SearchIndex.create(tmp_path / "index", encoder) as index:
        index.add(TEXTS)
        hits = index.search(["a red dog"], k=6)[0]
    scores = encoder.encode_document(TEXTS) @ encoder.encode_query("a red dog")
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1], atol=1e-3)
    with pytest.raises(StoreError, match="records no source"):
        SearchIndex.open(tmp_path / "index").search(["a red dog"])
    with SearchIndex.open(tmp_path / "index", wrap(model)) as again:
        assert [hit.id for hit in again.search(["a red dog"], k=6)[0]] == [hit.id for hit in hits]


def test_evaluation_and_mining_take_it(tiny_model: Path) -> None:
    encoder = wrap(_model("words, an LSTM", tiny_model))
    pairs = [RetrievalPair(f"the {word}", f"red {word}") for word in WORDS[1:9]]
    assert evaluate_retrieval(encoder, pairs).k == 10
    assert evaluate_pairs(encoder, [ScoredPair("cat", word, number / 9) for number, word in enumerate(WORDS[:9])])
    assert list(mine_negatives(encoder, pairs))


@pytest.mark.parametrize("name", CHAINS)
def test_the_fingerprint_is_that_of_weights_and_settings(name: str, tiny_model: Path) -> None:
    model = _model(name, tiny_model)
    encoder = wrap(model)
    expected = encoder.fingerprint
    encoder.encode(TEXTS)  # sets the tokenizer's truncation
    assert encoder.fingerprint == wrap(_model(name, tiny_model)).fingerprint == expected
    others = [_model(name, tiny_model, prompts={"query": "blue "}), _model(name, tiny_model, truncate_dim=4)]
    if (weight := next(model.parameters(), None)) is not None and weight.dtype.is_floating_point:
        changed = _model(name, tiny_model)
        with torch.no_grad():
            next(changed.parameters())[0] += 1
        others.append(changed)
    assert expected not in {wrap(other).fingerprint for other in others}


def test_an_index_of_other_weights_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    SearchIndex.create(tmp_path / "index", wrap(_model("counts of words", tiny_model))).close()
    with pytest.raises(EncoderMismatch):
        SearchIndex.open(tmp_path / "index", wrap(_model("words, an LSTM", tiny_model)))


def test_norms_are_kept_where_the_similarity_is_dot_and_no_other_is_taken(tiny_model: Path) -> None:
    model = _model("a layer norm", tiny_model, similarity_fn_name="dot")
    np.testing.assert_array_equal(wrap(model).encode(TEXTS), model.encode(TEXTS))
    assert np.linalg.norm(wrap(model).encode("a cat")) > 1.1
    with pytest.raises(UnsupportedModel, match="similarity is euclidean"):
        wrap(_model("a layer norm", tiny_model, similarity_fn_name="euclidean"))


_SCRIPT = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import numpy as np
import sentence_transformers as library
from sentence_transformers import models
from simpair import SearchIndex
from simpair.integrations.sentence_transformers import wrap

assert library.__version__.startswith("5."), library.__version__
modules = [models.Transformer(sys.argv[2]), models.Pooling(32), models.LayerNorm(32)]
model = library.SentenceTransformer(modules=modules, device="cpu", prompts={"query": "the red ", "document": ""})
encoder, texts = wrap(model), ["a cat", "the dog", "red"]
assert np.array_equal(encoder.encode_query(texts), model.encode_query(texts, normalize_embeddings=True))
with SearchIndex.create(sys.argv[3], encoder) as index:
    index.add(texts)
with SearchIndex.open(sys.argv[3], wrap(model)) as index:
    print(len(index.search(["red dog"], k=3)[0]))
"""


@pytest.mark.slow
@pytest.mark.skipif("SIMPAIR_ST5" not in os.environ, reason="SIMPAIR_ST5 names no sentence-transformers 5")
def test_version_5_is_wrapped_too(tiny_model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SCRIPT, os.environ["SIMPAIR_ST5"], str(tiny_model), str(tmp_path / "index")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("3")


def test_another_object_is_refused(tiny_model: Path) -> None:
    with pytest.raises(TypeError, match="model is a PosixPath; expected a SentenceTransformer"):
        wrap(tiny_model)  # type: ignore[arg-type]


def test_the_parts_of_the_fingerprint_are_short(tiny_model: Path) -> None:
    assert {len(digest) for digest in wrap(_model("words, an LSTM", tiny_model)).identity.values()} == {12}
