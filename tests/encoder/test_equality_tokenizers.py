"""Plain sentence-transformers reads the tokenizer files, and the literal padding token, as simpair does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer

from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder

pytestmark = pytest.mark.slow

_TEXTS = ["CAT Élan", "the cat [PAD] sits", "[PAD] cat", "[cls] dog [MASK]", "今天天气 cat", "cat " * 90, ""]
_CONFIG = "tokenizer_config.json"


def _equal(folder: Path, open_peer: Callable[..., Any]) -> None:
    encoder, peer = TwinTowerEncoder.from_pretrained(folder, device="cpu"), open_peer(folder)
    assert encoder.max_seq_length == peer.max_seq_length
    np.testing.assert_allclose(encoder.encode(_TEXTS), peer.encode(_TEXTS), rtol=0, atol=1e-6)
    encoder.save_pretrained(folder.parent / "again")
    np.testing.assert_allclose(open_peer(folder.parent / "again").encode(_TEXTS), encoder.encode(_TEXTS), atol=1e-6)


@pytest.mark.parametrize("kind", ["BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", None])
@pytest.mark.parametrize(
    "declared",
    [{}, {"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}],
    ids=str,
)
def test_the_tokenizer_config_is_followed_as_in_transformers(
    foreign_copy: Path, sentence_transformer: Callable[..., Any], kind: str | None, declared: dict[str, object]
) -> None:
    named = {"tokenizer_class": kind, "pad_token": "[PAD]", "model_max_length": 64, **declared}
    (foreign_copy / _CONFIG).write_text(json.dumps({key: value for key, value in named.items() if value is not None}))
    _equal(foreign_copy, sentence_transformer)


@pytest.mark.parametrize("gone", [(_CONFIG,), (_CONFIG, "sentence_bert_config.json")], ids=str)
def test_without_a_config_the_usual_tokenizer_is_built(
    foreign_copy: Path, sentence_transformer: Callable[..., Any], gone: tuple[str, ...]
) -> None:
    for name in gone:
        (foreign_copy / name).unlink()
    _equal(foreign_copy, sentence_transformer)


def test_a_normalizer_that_bert_has_not_is_saved_so_that_it_is_kept(
    make_checkpoint: Callable[..., Checkpoint], sentence_transformer: Callable[..., Any], tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_str(make_checkpoint().document.tokenizer.to_str())
    tokenizer.normalizer = BertNormalizer(clean_text=False, lowercase=False)
    write_checkpoint(tmp_path / "model", make_checkpoint(tokenizer=tokenizer))
    assert json.loads((tmp_path / "model" / _CONFIG).read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    _equal(tmp_path / "model", sentence_transformer)


def test_a_literal_padding_token_stands_where_roberta_puts_it(
    make_checkpoint: Callable[..., Checkpoint], sentence_transformer: Callable[..., Any], tmp_path: Path
) -> None:
    content = json.loads(make_checkpoint().document.tokenizer.to_str())
    content["model"]["vocab"] |= {"[UNK]": 0, "[PAD]": 1}
    for token in content["added_tokens"]:
        token["id"] = {"[UNK]": 0, "[PAD]": 1}.get(token["content"], token["id"])
    tokenizer = Tokenizer.from_str(json.dumps(content))
    config = {"model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 66}
    write_checkpoint(tmp_path / "model", make_checkpoint(config=config, tokenizer=tokenizer))
    _equal(tmp_path / "model", sentence_transformer)
