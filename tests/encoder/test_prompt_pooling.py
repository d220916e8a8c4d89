"""Pooling that leaves the prompt out (INSTRUCTOR): the vectors of sentence-transformers, in training as in serving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import InputError
from simpair.training import PairCollator, RetrievalPair, embed_columns

TEXTS = ["a cat sits on the mat", "今天天气很好", "the dog runs fast, 猫", "x", "cat " * 90]
PROMPTS = {"query": "query: the red text ", "document": "text: "}


@pytest.fixture(params=["mean", "cls", "max+weightedmean", "mean_sqrt_len_tokens", "lasttoken"])
def folder(request: pytest.FixtureRequest, make_checkpoint: Callable[..., Checkpoint], tmp_path: Path) -> Path:
    write_checkpoint(
        tmp_path / "m", make_checkpoint(pooling=request.param, prompts=PROMPTS, include_prompt=False, max_seq_length=30)
    )
    return tmp_path / "m"


def _open(folder: Path) -> TwinTowerEncoder:
    return TwinTowerEncoder.from_pretrained(folder, device="cpu")


def test_vectors_are_those_of_sentence_transformers(folder: Path, sentence_transformer: Callable[..., Any]) -> None:
    peer, encoder = sentence_transformer(folder), _open(folder)
    if encoder.settings.pooling == "cls":
        pytest.importorskip("sentence_transformers.sentence_transformer.modules", reason="5 pools the prompt's token")
    for name in ("encode", "encode_query", "encode_document"):
        wanted = getattr(peer, name)(TEXTS, batch_size=1)
        np.testing.assert_allclose(getattr(encoder, name)(TEXTS, on_truncation="ignore"), wanted, atol=1e-6)
    assert np.abs(encoder.encode_query(TEXTS) - encoder.encode(TEXTS)).max() > 0.01


def test_a_batch_with_roles_has_them_too_and_saving_keeps_it(folder: Path, tmp_path: Path) -> None:
    encoder = _open(folder)
    records = [RetrievalPair("a cat", "the dog runs"), RetrievalPair("blue", "a red mat sits there")]
    batch = PairCollator(encoder.tokenizer)(records)
    assert batch["text1_roles"].tolist() == [1, 1]
    asked, found = embed_columns(encoder, batch)
    np.testing.assert_allclose(asked.detach(), encoder.encode_query(["a cat", "blue"]), atol=1e-6)
    np.testing.assert_allclose(found.detach(), encoder.encode_document([r.positive for r in records]), atol=1e-6)
    ids, mask = encoder.tokenizer.pad(["a cat"], role="query")
    np.testing.assert_allclose(encoder(ids, mask, "query").detach()[0], encoder.encode_query("a cat"), atol=1e-6)
    encoder.save_pretrained(tmp_path / "back")
    again = _open(tmp_path / "back")
    assert again.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(again.encode_query(TEXTS), encoder.encode_query(TEXTS))


def test_mixed_roles_leave_out_each_its_own_prompt(make_checkpoint: Callable[..., Checkpoint]) -> None:
    encoder = TwinTowerEncoder(make_checkpoint(prompts=PROMPTS, include_prompt=False))
    ids = [encoder.tokenizer.ids(["a cat"], role=role)[0] for role in ("query", None, "document", "query")]
    mixed = encoder(*encoder.tokenizer.pad_ids(ids), torch.tensor([1, 0, 2, 1])).detach()
    alone = [encoder.encode_query("a cat"), encoder.encode("a cat"), encoder.encode_document("a cat")]
    np.testing.assert_allclose(mixed, np.stack([*alone, alone[0]]), atol=1e-6)


def test_whether_the_prompt_is_pooled_is_in_the_fingerprint(make_checkpoint: Callable[..., Checkpoint]) -> None:
    with_it, without = (
        TwinTowerEncoder(make_checkpoint(prompts=PROMPTS, include_prompt=include)) for include in (True, False)
    )
    assert with_it.fingerprint != without.fingerprint
    assert "include_prompt" not in with_it.identity
    assert without.identity["include_prompt"] == "False"
    assert not with_it.tokenizer.needs_roles


def test_a_text_without_tokens_of_its_own_leaves_nothing_to_pool(make_checkpoint: Callable[..., Checkpoint]) -> None:
    bare = Tokenizer.from_str(make_checkpoint().document.tokenizer.to_str())
    bare.post_processor = None
    encoder = TwinTowerEncoder(make_checkpoint(prompts=PROMPTS, include_prompt=False, tokenizer=bare))
    with pytest.raises(InputError, match="besides its prompt"):
        encoder.encode_query(" ")
    assert encoder.encode_query("a cat").shape == (32,)


def test_untied_towers_leave_out_prompts_each_in_its_way(make_untied: Callable[..., Checkpoint]) -> None:
    both = make_untied(prompts=PROMPTS)
    query = both.towers["query"]
    query = replace(query, settings=replace(query.settings, include_prompt=False))
    encoder = TwinTowerEncoder(replace(both, towers={**both.towers, "query": query}))
    alone = TwinTowerEncoder(Checkpoint.tied(query))
    np.testing.assert_array_equal(encoder.encode_query(TEXTS), alone.encode_query(TEXTS))
    ids = encoder.tokenizer.pad(["a cat"], role="query")
    np.testing.assert_allclose(encoder(*ids, torch.tensor([1])).detach()[0], encoder.encode_query("a cat"), atol=1e-6)
