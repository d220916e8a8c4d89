"""Plain sentence-transformers and transformers give the vectors that simpair gives, both ways."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import BertNormalizer, Lowercase, Sequence
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import RobertaProcessing

from simpair.checkpoint.modules import PoolingMode
from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder

pytestmark = pytest.mark.slow

_MAKE = Callable[..., Checkpoint]
_TEXTS = Callable[[int], list[str]]
_OPEN = Callable[..., Any]
_ROLES = (None, "query", "document")


@pytest.fixture(scope="module")
def texts(mixed_texts: _TEXTS) -> list[str]:
    return mixed_texts(60)


def _simpair(folder: Path, texts: list[str], role: Any = None) -> NDArray[np.float32]:
    return TwinTowerEncoder.from_pretrained(folder, device="cpu").encode(texts, role=role)


def _peer(model: Any, texts: list[str], role: str | None = None) -> NDArray[np.float32]:
    encode = {None: model.encode, "query": model.encode_query, "document": model.encode_document}[role]
    return np.asarray(encode(texts))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def _mean_of_transformers(folder: Path, texts: list[str], *, longest: int) -> NDArray[np.float32]:
    """What the model card of a checkpoint would tell a user of transformers alone to write."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    assert model.dtype == torch.float32
    batch = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return np.asarray(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))


# --- all-MiniLM-L6-v2 ------------------------------------------------------------------------------------------------


def test_minilm_gives_the_vectors_of_sentence_transformers(
    minilm: Path, sentence_transformer: _OPEN, mixed_texts: _TEXTS
) -> None:
    texts = [text if row < 24 or row % 100 == 0 else text[:24] for row, text in enumerate(mixed_texts(1200))]
    encoder = TwinTowerEncoder.from_pretrained(minilm, device="cpu")
    lengths = [len(ids) for ids in encoder.tokenizer.ids(texts)]
    assert (min(lengths), max(lengths)) == (2, encoder.max_seq_length)
    expected = sentence_transformer(minilm).encode(texts)
    np.testing.assert_allclose(encoder.encode(texts), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_minilm_saved_by_simpair_opens_elsewhere_with_the_same_vectors(
    minilm: Path, sentence_transformer: _OPEN, mixed_texts: _TEXTS, tmp_path: Path, dtype: Any
) -> None:
    texts = [text[:80] for text in mixed_texts(40)]
    encoder = TwinTowerEncoder.from_pretrained(minilm, device="cpu")
    encoder.save_pretrained(tmp_path / "saved", dtype=dtype)
    saved = _simpair(tmp_path / "saved", texts)
    np.testing.assert_allclose(sentence_transformer(tmp_path / "saved").encode(texts), saved, rtol=0, atol=1e-6)
    np.testing.assert_allclose(_mean_of_transformers(tmp_path / "saved", texts, longest=256), saved, rtol=0, atol=1e-6)
    if dtype == "float32":
        assert np.array_equal(saved, encoder.encode(texts))


def test_minilm_scores_paraphrases_highest(minilm: Path) -> None:
    encoder = TwinTowerEncoder.from_pretrained(minilm, device="cpu")
    texts = [
        "A cat sits on the mat.",
        "A kitten rests on a rug.",
        "Stocks fell sharply today.",
        "Shares dropped a lot.",
    ]
    scores = encoder.similarity(encoder.encode(texts), encoder.encode(texts))
    np.testing.assert_allclose(scores.diagonal(), 1, atol=1e-6)
    np.fill_diagonal(scores, -1)
    assert scores.argmax(axis=1).tolist() == [1, 0, 3, 2]


def test_minilm_in_bfloat16_stays_close_to_float32(minilm: Path, mixed_texts: _TEXTS) -> None:
    texts = mixed_texts(40)
    wide = TwinTowerEncoder.from_pretrained(minilm, device="cpu")
    narrow = TwinTowerEncoder.from_pretrained(minilm, device="cpu", dtype="bfloat16")
    scores = wide.similarity_pairwise(wide.encode(texts), narrow.encode(texts))
    assert float(scores.min()) >= 0.999
    assert float(scores.min()) < 1 - 1e-6  # the control: something was rounded
    assert narrow.fingerprint == wide.fingerprint


# --- what simpair saves, in every setting ----------------------------------------------------------------------------


def _padding_first_at_one(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer with [UNK] at 0 and [PAD] at 1, where RoBERTa has its padding."""
    content = json.loads(checkpoint.document.tokenizer.to_str())
    content["model"]["vocab"] |= {"[UNK]": 0, "[PAD]": 1}
    for token in content["added_tokens"]:
        token["id"] = {"[UNK]": 0, "[PAD]": 1}.get(token["content"], token["id"])
    return Tokenizer.from_str(json.dumps(content))


def _normalized(normalizer: Any) -> Callable[[Checkpoint], Tokenizer]:
    """The tokenizer with another normalizer; its config does not say so."""

    def make(checkpoint: Checkpoint) -> Tokenizer:
        tokenizer = Tokenizer.from_str(checkpoint.document.tokenizer.to_str())
        tokenizer.normalizer = normalizer
        return tokenizer

    return make


def _bytes(checkpoint: Checkpoint) -> Tokenizer:
    """RoBERTa's own kind: byte pairs without any merge, its special tokens, spaces that count."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE({piece: row for row, piece in enumerate(pieces)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.add_special_tokens(pieces[:5])
    return tokenizer


_ROBERTA = {
    "model_type": "roberta",
    "pad_token_id": 1,
    "max_position_embeddings": 66,
    "architectures": ["RobertaModel"],
}
_SAVED: dict[str, dict[str, Any]] = {
    "default": {},
    "prompts": {"prompts": {"query": "query: ", "document": "text: ", "x": "the "}, "default_prompt_name": "x"},
    "query prompt alone": {"prompts": {"query": "query: ", "document": ""}},
    "lengths kept": {"similarity": "dot", "normalize": False},
    "dot product of unit vectors": {"similarity": "dot", "normalize": True},
    "short": {"max_seq_length": 7},
    "gelu_new": {"config": {"hidden_act": "gelu_new"}},
    "roberta": {"config": _ROBERTA, "tokenizer": _padding_first_at_one},
    "roberta of byte pairs": {"config": _ROBERTA, "tokenizer": _bytes, "tokenizer_config": {}},
    "cased": {"tokenizer": _normalized(BertNormalizer(lowercase=False)), "tokenizer_config": {}},
    "lower case with accents": {"tokenizer": _normalized(BertNormalizer(strip_accents=False)), "tokenizer_config": {}},
    "characters apart": {"tokenizer": _normalized(BertNormalizer(handle_chinese_chars=False))},
    "lower case before BERT's own": {
        "tokenizer": _normalized(Sequence([Lowercase(), BertNormalizer(lowercase=False)])),
    },
    **{mode: {"pooling": mode} for mode in get_args(PoolingMode)},
    **{f"{mode}, lengths kept": {"pooling": mode, "similarity": "dot", "normalize": False} for mode in ("max", "cls")},
}


def _checkpoint(make_checkpoint: _MAKE, settings: dict[str, Any]) -> Checkpoint:
    beside = {name: value for name, value in settings.items() if name != "tokenizer_config"}
    if "tokenizer" in settings:
        beside["tokenizer"] = settings["tokenizer"](make_checkpoint())
    checkpoint = make_checkpoint(**beside)
    own = settings.get("tokenizer_config", checkpoint.document.tokenizer_config)
    return checkpoint.map(lambda tower: replace(tower, tokenizer_config=own))


@pytest.mark.parametrize("saved", _SAVED)
def test_sentence_transformers_opens_what_simpair_saves(
    make_checkpoint: _MAKE, sentence_transformer: _OPEN, texts: list[str], tmp_path: Path, saved: str
) -> None:
    write_checkpoint(tmp_path / "model", _checkpoint(make_checkpoint, _SAVED[saved]))
    texts = [*texts, "CAT Élan", "  two  spaces "]
    model = sentence_transformer(tmp_path / "model")
    assert model.max_seq_length == _SAVED[saved].get("max_seq_length", 64)
    assert model.similarity_fn_name == _SAVED[saved].get("similarity", "cosine")
    for role in _ROLES:
        found = _simpair(tmp_path / "model", texts, role)
        scale = float(np.abs(found).max())
        np.testing.assert_allclose(found, _peer(model, texts, role), rtol=0, atol=1e-6 * max(scale, 1))


def test_transformers_opens_what_simpair_saves(tiny_model: Path, texts: list[str]) -> None:
    expected = _mean_of_transformers(tiny_model, texts, longest=64)
    np.testing.assert_allclose(_simpair(tiny_model, texts), expected, rtol=0, atol=1e-6)


# --- what others save ------------------------------------------------------------------------------------------------


def test_a_folder_of_sentence_transformers_gives_the_same_vectors(
    make_checkpoint: _MAKE, sentence_transformer: _OPEN, texts: list[str], tmp_path: Path
) -> None:
    """Its own layout, with the module paths and the pooling key of today."""
    prompts = {"query": "query: ", "document": "text: "}
    write_checkpoint(tmp_path / "model", make_checkpoint(prompts=prompts, pooling="cls", max_seq_length=20))
    model = sentence_transformer(tmp_path / "model")
    model.save_pretrained(str(tmp_path / "theirs"), create_model_card=False)
    assert "pooling_mode" in json.loads((tmp_path / "theirs" / "1_Pooling" / "config.json").read_text())
    for role in _ROLES:
        expected = _peer(model, texts, role)
        np.testing.assert_allclose(_simpair(tmp_path / "theirs", texts, role), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", get_args(PoolingMode))
def test_the_new_pooling_key_is_read_as_in_sentence_transformers(
    foreign_copy: Path, sentence_transformer: _OPEN, texts: list[str], mode: str
) -> None:
    path = foreign_copy / "1_Pooling" / "config.json"
    path.write_text(json.dumps({"embedding_dimension": 32, "pooling_mode": mode, "include_prompt": True}))
    expected = sentence_transformer(foreign_copy).encode(texts)
    np.testing.assert_allclose(_simpair(foreign_copy, texts), expected, rtol=0, atol=1e-6)


def test_a_cosine_checkpoint_without_normalize_gives_their_vectors_with_norm_1(
    foreign_copy: Path, sentence_transformer: _OPEN, texts: list[str]
) -> None:
    modules = json.loads((foreign_copy / "modules.json").read_text())
    (foreign_copy / "modules.json").write_text(json.dumps(modules[:2]))
    theirs = sentence_transformer(foreign_copy).encode(texts)
    assert float(np.abs(np.linalg.norm(theirs, axis=1) - 1).min()) > 0.1
    np.testing.assert_allclose(_simpair(foreign_copy, texts), _unit(theirs), rtol=0, atol=1e-6)


def test_truncate_dim_gives_their_leading_dimensions_with_norm_1(
    tiny_model: Path, sentence_transformer: _OPEN, texts: list[str]
) -> None:
    theirs = sentence_transformer(tiny_model, truncate_dim=8).encode(texts)
    ours = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu", truncate_dim=8).encode(texts)
    np.testing.assert_allclose(ours, _unit(theirs), rtol=0, atol=1e-6)


def test_a_plain_bert_folder_gives_their_mean_with_norm_1(
    foreign_copy: Path, sentence_transformer: _OPEN, texts: list[str]
) -> None:
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (foreign_copy / name).unlink()
    shutil.rmtree(foreign_copy / "1_Pooling")
    theirs = sentence_transformer(foreign_copy).encode(texts)
    np.testing.assert_allclose(_simpair(foreign_copy, texts), _unit(theirs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cased", [False, True])
def test_a_vocabulary_file_is_read_as_transformers_reads_it(foreign_copy: Path, texts: list[str], cased: bool) -> None:
    pieces = json.loads((foreign_copy / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    (foreign_copy / "vocab.txt").write_text("\n".join(sorted(pieces, key=pieces.__getitem__)) + "\n", encoding="utf-8")
    (foreign_copy / "tokenizer.json").unlink()
    _change_json(foreign_copy / "tokenizer_config.json", do_lower_case=not cased)
    expected = _mean_of_transformers(foreign_copy, [*texts, "CAT Élan"], longest=64)
    np.testing.assert_allclose(_simpair(foreign_copy, [*texts, "CAT Élan"]), expected, rtol=0, atol=1e-6)


def test_lower_casing_declared_beside_the_tokenizer_is_that_of_sentence_transformers(
    make_checkpoint: _MAKE, sentence_transformer: _OPEN, tmp_path: Path
) -> None:
    write_checkpoint(
        tmp_path / "model", make_checkpoint(tokenizer=_normalized(BertNormalizer(lowercase=False))(make_checkpoint()))
    )
    (tmp_path / "model" / "simpair.json").unlink()
    _change_json(tmp_path / "model" / "sentence_bert_config.json", do_lower_case=True)
    texts = ["CAT", "Élan the DOG", "cat"]
    expected = sentence_transformer(tmp_path / "model").encode(texts)
    np.testing.assert_allclose(_simpair(tmp_path / "model", texts), expected, rtol=0, atol=1e-6)
    encoder = TwinTowerEncoder.from_pretrained(tmp_path / "model", device="cpu")
    encoder.save_pretrained(tmp_path / "saved")
    assert np.array_equal(_simpair(tmp_path / "saved", texts), encoder.encode(texts))
    np.testing.assert_allclose(sentence_transformer(tmp_path / "saved").encode(texts), expected, rtol=0, atol=1e-6)
