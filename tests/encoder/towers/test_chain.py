"""Chains of modules that sentence-transformers runs: its vectors, there and back, trained, and what is refused."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simpair.checkpoint.byte_tokens import byte_tokenizer, read_back
from simpair.checkpoint.manifest import modules_of, needed_files
from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.info import describe
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import InputError, ModelCorrupt, UnsafeModel, UnsupportedModel
from simpair.training import RetrievalPair, fine_tune

models = pytest.importorskip("sentence_transformers.sentence_transformer.modules", reason="chains need version 6")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
TEXTS = ["the cat sits on the mat", "今天天气很好", "the dog runs fast, 猫", "red", "cat " * 90, "blue cat mat dog"]
WORDS = ["the", "cat", "sits", "on", "mat", "dog", "runs", "fast", "red", "blue", "今天天气很好"]


def _words(width: int = 32) -> Any:
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    table = np.random.default_rng(0).normal(size=(len(WORDS), width)).astype(np.float32)
    return models.WordEmbeddings(WhitespaceTokenizer(WORDS, stop_words={"on", "the", "of"}), table, max_seq_length=8)


def _layer_norm(bare: str) -> list[Any]:
    norm = models.LayerNorm(32)
    torch.nn.init.normal_(norm.norm.weight)
    return [models.Transformer(bare), models.Pooling(32, pooling_mode="mean"), norm, models.Normalize()]


CHAINS: dict[str, Callable[[str], list[Any]]] = {
    "a layer norm": _layer_norm,
    "words": lambda bare: [_words(), models.Pooling(32, pooling_mode="mean")],
    "words, a CNN": lambda bare: [_words(), models.CNN(32, out_channels=8, kernel_sizes=[1, 3]), models.Pooling(16)],
    "words, an LSTM": lambda bare: [_words(), models.LSTM(32, 8), models.Pooling(16, pooling_mode="max")],
    "counts of words": lambda bare: [models.BoW(WORDS, {"cat": 2.0}, unknown_word_weight=0.5)],
    "other routes": lambda bare: [
        models.Router({"query": _words_pooled(), "passage": _words_pooled(1), "document": _words_pooled(2)}, "passage")
    ],
}


def _words_pooled(seed: int = 0) -> list[Any]:
    from sentence_transformers.sentence_transformer.modules import Dense

    draw = torch.Generator().manual_seed(seed)
    dense = Dense(32, 8, init_weight=torch.randn(8, 32, generator=draw), init_bias=torch.zeros(8))
    return [_words(), models.Pooling(32), dense]


@pytest.fixture(params=CHAINS)
def folder(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> Path:
    from sentence_transformers import SentenceTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        chain = SentenceTransformer(
            modules=CHAINS[request.param](str(tiny_model)), device="cpu", prompts={"query": "the red ", "document": ""}
        )
    chain.save(str(tmp_path / "chain"), create_model_card=False)
    return tmp_path / "chain"


def _open(folder: Path) -> TwinTowerEncoder:
    return TwinTowerEncoder.from_pretrained(folder, device="cpu")


def _peer(folder: Path, role: str) -> np.ndarray[Any, Any]:
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(folder), device="cpu")
    return np.asarray(getattr(peer, role)(TEXTS, batch_size=1, normalize_embeddings=True))


def test_vectors_are_those_of_sentence_transformers_there_and_back(folder: Path, tmp_path: Path) -> None:
    encoder = _open(folder)
    assert describe(folder).engine.startswith("sentence-transformers: a chain of")
    encoder.save_pretrained(tmp_path / "back")
    again = _open(tmp_path / "back")
    assert again.fingerprint == encoder.fingerprint == copy.deepcopy(encoder).fingerprint
    for role in ("encode", "encode_query", "encode_document"):
        wanted = _peer(folder, role)
        np.testing.assert_allclose(getattr(encoder, role)(TEXTS), wanted, atol=1e-6)
        np.testing.assert_allclose(getattr(again, role)(TEXTS), wanted, atol=1e-6)
        np.testing.assert_allclose(_peer(tmp_path / "back", role), wanted, atol=1e-6)
    assert np.abs(_peer(folder, "encode_query") - _peer(folder, "encode")).max() > 1e-3
    np.testing.assert_allclose(encoder.encode(TEXTS[::-1])[::-1], encoder.encode(TEXTS), atol=1e-6)
    mixed = encoder(*encoder.tokenizer.pad_ids(encoder.tokenizer.ids(TEXTS, role="query"))).detach()
    np.testing.assert_allclose(mixed, encoder.encode_query(TEXTS), atol=1e-6)


@pytest.mark.parametrize("folder", ["a layer norm", "words, a CNN", "words, an LSTM", "other routes"], indirect=True)
def test_a_chain_learns_and_its_checkpoints_come_back(folder: Path, tmp_path: Path) -> None:
    encoder = _open(folder)
    pairs = [RetrievalPair(f"the {word}", f"red {word}") for word in WORDS[1:9]]
    before = encoder.encode_query(TEXTS)
    fine_tune(encoder, pairs, output_dir=tmp_path / "run", batch_size=4, epochs=2, learning_rate=0.01)
    after = encoder.encode_query(TEXTS)
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_allclose(_open(tmp_path / "run").encode_query(TEXTS), after, atol=1e-6)
    other = _open(folder)
    other.load_weights(tmp_path / "run")
    np.testing.assert_allclose(other.encode_query(TEXTS), after, atol=1e-6)


def test_what_chains_cannot_do_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(modules=_layer_norm(str(tiny_model)), device="cpu").save(str(tmp_path / "c"))
    encoder = _open(tmp_path / "c")
    with pytest.raises(UnsupportedModel, match="float32 alone"):
        encoder.save_pretrained(tmp_path / "half", dtype="float16")
    with pytest.raises(UnsupportedModel, match="not computed again"):
        encoder.gradient_checkpointing_enable()
    with pytest.raises(UnsupportedModel, match="bfloat16"):
        TwinTowerEncoder.from_pretrained(tmp_path / "c", device="cpu", dtype="bfloat16")
    with pytest.raises(ModelCorrupt, match="lack"):
        encoder.load_weights(tiny_model)
    (tmp_path / "c" / "model.safetensors").rename(tmp_path / "c" / "pytorch_model.bin")
    with pytest.raises(UnsafeModel, match="can run code"):
        _open(tmp_path / "c")
    (tmp_path / "c" / "pytorch_model.bin").unlink()
    with pytest.raises(ModelCorrupt, match="does not open it"):
        _open(tmp_path / "c")
    modules = json.loads((tmp_path / "c" / "modules.json").read_text(encoding="utf-8"))
    modules[2]["type"] = "elsewhere.LayerNorm"
    (tmp_path / "c" / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(UnsafeModel, match="never run"):
        _open(tmp_path / "c")


def _norms(folder: Path, bare: Path, **config: Any) -> Path:
    """A chain with a layer norm, over a transformer of another shape."""
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(modules=_layer_norm(str(bare)), device="cpu").save(str(folder), create_model_card=False)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | config), encoding="utf-8")
    return folder


def test_a_fingerprint_tells_shapes_apart_and_is_that_of_any_process(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    script = "import sys, simpair; print(simpair.TwinTowerEncoder.from_pretrained(sys.argv[1]).fingerprint)"
    told = {
        subprocess.run(
            [sys.executable, "-c", script, str(folder)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert told == {_open(folder).fingerprint}
    usual, other = _norms(tmp_path / "a", tiny_model), _norms(tmp_path / "b", tiny_model, num_attention_heads=8)
    assert _open(usual).fingerprint != _open(other).fingerprint


def test_serving_leaves_dropout_out_and_training_as_it_was(tiny_model: Path, tmp_path: Path) -> None:
    config = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    encoder = _open(_norms(tmp_path / "c", tiny_model, **config))
    texts = [f"the cat {number}" for number in range(600)]
    served = encoder.encode(texts)
    encoder.train()
    for _ in range(3):
        np.testing.assert_allclose(encoder.encode(texts), served, atol=1e-6)
        assert encoder.tower.training
    batch = encoder.tokenizer.pad(texts[:4])
    assert (encoder(*batch) - encoder(*batch)).abs().max() > 1e-3  # dropout is there


def test_lengths_are_the_chains_own_where_similarity_is_dot(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    routes = {"query": _layer_norm(str(tiny_model))[:3], "document": _layer_norm(str(tiny_model))}
    chain = SentenceTransformer(modules=[models.Router(routes, "query")], device="cpu", similarity_fn_name="dot")
    chain.save(str(tmp_path / "c"), create_model_card=False)
    encoder = _open(tmp_path / "c")
    for role in ("encode_query", "encode_document"):
        wanted = getattr(chain, role)(TEXTS, batch_size=1)
        np.testing.assert_allclose(getattr(encoder, role)(TEXTS), wanted, atol=1e-5)
    assert np.linalg.norm(encoder.encode_query("a cat")) > 1.5


def test_a_chain_is_no_tower_of_a_pair(tiny_model: Path, tmp_path: Path) -> None:
    chain, tied = _open(_norms(tmp_path / "c", tiny_model)), _open(tiny_model)
    for pair in ((chain, tied), (tied, chain)):
        with pytest.raises(InputError, match="a chain"):
            TwinTowerEncoder.untied(*pair)


def test_a_chain_of_the_hub_has_all_its_files(folder: Path) -> None:
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert set(needed_files("org/name", names, modules_of(folder))) == set(names)


def test_the_card_of_a_chain_claims_no_pooling_and_no_maximum(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards: list[str] = []

    def keep(folder: Path, *_: object, **__: object) -> str:
        cards.append((folder / "README.md").read_text(encoding="utf-8"))
        return ""

    monkeypatch.setattr("simpair.checkpoint.hub.push_folder", keep)
    _open(_norms(tmp_path / "c", tiny_model)).push_to_hub("org/name")
    _open(tiny_model).push_to_hub("org/name")
    assert "any number of tokens" in cards[0]
    assert "its modules' pooling" in cards[0]
    assert "at most 64 tokens" in cards[1]
    assert "mean pooling" in cards[1]


def test_a_saved_chain_is_watched_by_its_digests(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(modules=_layer_norm(str(tiny_model)), device="cpu").save(str(tmp_path / "c"))
    _open(tmp_path / "c").save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "2_LayerNorm" / "config.json").write_text('{"dimension": 32}\n', encoding="utf-8")
    with pytest.raises(ModelCorrupt, match="not the file that was saved"):
        _open(tmp_path / "saved")


def test_a_config_of_our_own_kind_is_no_transformer(tiny_copy: Path) -> None:
    (tiny_copy / "config.json").write_text('{"model_type": "module-chain"}', encoding="utf-8")
    (tiny_copy / "simpair.json").unlink()
    with pytest.raises(UnsupportedModel, match="which no transformer has"):
        _open(tiny_copy)


def test_a_list_of_no_modules_is_damaged(tiny_copy: Path, make_checkpoint: Callable[..., Checkpoint]) -> None:
    write_checkpoint(tiny_copy, make_checkpoint())
    (tiny_copy / "modules.json").write_text("[]", encoding="utf-8")
    (tiny_copy / "simpair.json").unlink()
    with pytest.raises(ModelCorrupt, match="lists no modules"):
        _open(tiny_copy)


@pytest.mark.parametrize("text", ["", "a", "今天 \n\t\0 é🙂", " leading and trailing ", "\ufeff\u2028x"])
def test_texts_come_back_from_their_bytes(text: str) -> None:
    tokenizer = byte_tokenizer()
    for mark, role in (("-", ""), ("q", "query"), ("d", "document")):
        ids = tokenizer.encode(mark + text).ids
        assert bytes(ids) == (mark + text).encode()
        assert read_back(ids) == (role, text)
