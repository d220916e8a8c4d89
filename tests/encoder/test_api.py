"""What users of sentence-transformers try first: each works, or the error names what to use."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import EncoderMismatch, InputError, StoreError, UnsupportedModel
from simpair.search.index import SearchIndex

_CALLS: dict[str, Callable[..., Any]] = {
    "encode": lambda encoder, **options: encoder.encode(["a cat"], **options),
    "encode_query": lambda encoder, **options: encoder.encode_query(["a cat"], **options),
    "encode_document": lambda encoder, **options: encoder.encode_document("a cat", **options),
    "encode_stream": lambda encoder, **options: encoder.encode_stream(["a cat"], **options),
}


@pytest.mark.parametrize("call", _CALLS)
@pytest.mark.parametrize(
    ("keyword", "advice"),
    [
        ("batch_size", "number of tokens"),
        ("normalize_embeddings", "norm 1"),
        ("convert_to_tensor", r"torch\.from_numpy"),
        ("convert_to_numpy", "numpy arrays"),
        ("prompt_name", "role='query'"),
        ("prompt", r"from_pretrained\(\.\.\., prompts="),
        ("precision", "dtype="),
        ("output_value", "leave it out"),
        ("show_progress", "show_progress_bar"),
        ("device", r"encoder\.to\(device\)"),
    ],
)
def test_a_keyword_of_sentence_transformers_names_its_replacement(
    tiny_encoder: TwinTowerEncoder, call: str, keyword: str, advice: str
) -> None:
    with pytest.raises(TypeError, match=rf"keyword argument '{keyword}'; .*{advice}"):
        _CALLS[call](tiny_encoder, **{keyword: 1})


def test_other_keywords_are_refused_as_python_does(tiny_encoder: TwinTowerEncoder, tiny_model: Path) -> None:
    with pytest.raises(TypeError, match=r"^encode\(\) got an unexpected keyword argument 'rolle'$"):
        tiny_encoder.encode("a", rolle="query")
    with pytest.raises(TypeError, match=r"from_pretrained\(\) .*'model_kwargs'; pass dtype="):
        TwinTowerEncoder.from_pretrained(tiny_model, model_kwargs={})
    for call in (tiny_encoder.encode_query, tiny_encoder.encode_document):
        with pytest.raises(TypeError, match="'role'"):
            call("a", role="document")


@pytest.mark.parametrize("given", ["simpair-mini", Path("folder"), None])
def test_an_encoder_made_of_a_name_names_from_pretrained(given: Any) -> None:
    with pytest.raises(TypeError, match="from_pretrained"):
        TwinTowerEncoder(given)


def test_an_encoder_prints_five_lines(tiny_encoder: TwinTowerEncoder, tiny_model: Path) -> None:
    assert str(tiny_encoder).splitlines() == [
        f"TwinTowerEncoder {tiny_model}",
        "  architecture: bert",
        "  dimension: 32",
        "  max length: 64 tokens",
        "  dtype: float32",
    ]
    assert str(TwinTowerEncoder(tiny_encoder.checkpoint())).startswith("TwinTowerEncoder (not saved)\n")
    assert tiny_encoder.get_sentence_embedding_dimension() == tiny_encoder.embedding_dimension == 32


@pytest.mark.parametrize("call", ["half", "bfloat16", "double"])
def test_a_cast_of_the_weights_names_dtype(tiny_encoder: TwinTowerEncoder, call: str) -> None:
    before = tiny_encoder.encode("a cat")
    with pytest.raises(InputError, match="dtype="):
        getattr(tiny_encoder, call)()
    assert np.array_equal(tiny_encoder.float().encode("a cat"), before)


def test_a_loaded_length_and_prompts_are_used_saved_and_in_the_fingerprint(
    tiny_encoder: TwinTowerEncoder, tiny_model: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"max_seq_length": 5, "prompts": {"query": "the "}}
    encoder = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu", **options)
    assert encoder.max_seq_length == 5
    assert encoder.source is None  # no checkpoint has these settings
    assert encoder.fingerprint != tiny_encoder.fingerprint
    np.testing.assert_array_equal(encoder.encode_document("cat dog red"), tiny_encoder.encode("cat dog red"))
    np.testing.assert_array_equal(
        encoder.encode_query("cat dog red", on_truncation="ignore"), tiny_encoder.encode("the cat dog")
    )
    encoder.save_pretrained(tmp_path / "saved")
    again = TwinTowerEncoder.from_pretrained(tmp_path / "saved", device="cpu")
    assert (again.fingerprint, again.settings) == (encoder.fingerprint, encoder.settings)
    same = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu", max_seq_length=64, prompts={"query": ""})
    assert (same.fingerprint, same.source) == (tiny_encoder.fingerprint, tiny_encoder.source)


def test_an_index_of_changed_settings_asks_for_its_encoder(tiny_model: Path, tmp_path: Path) -> None:
    encoder = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu", prompts={"query": "the "})
    SearchIndex.create(tmp_path / "index", encoder).close()
    with pytest.raises(StoreError, match="records no source"):
        SearchIndex.open(tmp_path / "index").search("a cat")
    with pytest.raises(EncoderMismatch):
        SearchIndex.open(tmp_path / "index", TwinTowerEncoder.from_pretrained(tiny_model, device="cpu"))


def test_a_loaded_dimension_is_saved(tiny_model: Path, tmp_path: Path) -> None:
    encoder = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu", truncate_dim=8)
    encoder.save_pretrained(tmp_path / "saved")
    again = TwinTowerEncoder.from_pretrained(tmp_path / "saved", device="cpu")
    assert (again.embedding_dimension, again.fingerprint) == (8, encoder.fingerprint)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_seq_length": 0}, "max_seq_length is 0"),
        ({"max_seq_length": 2}, "max_seq_length is 2; expected a number of tokens above 2"),
        ({"max_seq_length": 64.0}, r"max_seq_length is 64\.0"),
        ({"max_seq_length": True}, "max_seq_length is True"),
        ({"max_seq_length": 65}, "positions for 64 tokens"),
        ({"prompts": "query: "}, "prompts is a str"),
        ({"prompts": {"query": None}}, "'query': None"),
        ({"prompts": {"query": "\ud800"}}, "expected a text by its name"),
    ],
)
def test_an_invalid_length_or_invalid_prompts_are_refused(
    tiny_model: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        TwinTowerEncoder.from_pretrained(tiny_model, device="cpu", **options)


def test_similarity_takes_texts_or_embeddings(tiny_encoder: TwinTowerEncoder) -> None:
    texts = ["a cat", "the dog"]
    vectors = tiny_encoder.encode(texts)
    whole, pairs = vectors @ vectors.T, (vectors * vectors).sum(axis=1)
    for given in (texts, tuple(texts), np.array(texts), vectors, torch.from_numpy(vectors)):
        np.testing.assert_allclose(tiny_encoder.similarity(given, texts), whole, atol=1e-6)
        np.testing.assert_allclose(tiny_encoder.similarity_pairwise(texts, given), pairs, atol=1e-6)
    assert tiny_encoder.similarity("a cat", texts).shape == (1, 2)
    assert tiny_encoder.similarity([], texts).shape == (0, 2)
    with pytest.raises(InputError):
        tiny_encoder.similarity(texts, ["a", 3])


def test_similarity_takes_the_default_role(make_untied: Callable[..., Checkpoint], tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "untied", make_untied(default_role="query"))
    encoder = TwinTowerEncoder.from_pretrained(tmp_path / "untied", device="cpu")
    query = encoder.encode_query("a cat")
    np.testing.assert_allclose(encoder.similarity("a cat", "a cat"), [[query @ query]], atol=1e-6)


def test_roles_are_towers_and_tied_weights_are_listed_once(
    tiny_encoder: TwinTowerEncoder, make_untied: Callable[..., Checkpoint]
) -> None:
    towers = tiny_encoder.towers
    assert set(towers) == {"query", "document"}
    assert towers["query"] is towers["document"]
    own = towers["document"]
    assert len(tiny_encoder.state_dict()) == len(own.state_dict())
    assert list(map(id, tiny_encoder.parameters())) == list(map(id, own.parameters()))
    both = TwinTowerEncoder(make_untied())
    assert both.towers["query"] is not both.towers["document"]
    assert len(both.state_dict()) == sum(len(tower.state_dict()) for tower in both.towers.values())
    np.testing.assert_array_equal(both.encode_query("a cat"), both.encode("a cat", role="query"))


def test_a_static_table_has_no_maximum_length(make_static: Callable[..., Checkpoint]) -> None:
    assert "max length: unlimited" in repr(TwinTowerEncoder(make_static()))


def test_an_encoder_is_not_made_of_a_name_and_a_device() -> None:
    with pytest.raises(TypeError, match="from_pretrained"):
        TwinTowerEncoder("simpair-mini", device="cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("length", "message"), [(2, "tokens above 2"), (0, "tokens above 2"), (65, "positions for 64 tokens")]
)
def test_a_maximum_length_that_cannot_be_is_the_callers_mistake(tiny_model: Path, length: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TwinTowerEncoder.from_pretrained(tiny_model, max_seq_length=length)


def test_loaded_weights_are_those_of_no_source(tiny_encoder: TwinTowerEncoder, tmp_path: Path) -> None:
    """An index would record the source, and refuse the encoder that it opens from there."""
    tiny_encoder.save_pretrained(tmp_path / "saved")
    tiny_encoder.load_weights(tmp_path / "saved")
    assert tiny_encoder.source is None


def test_gradient_checkpointing_is_enabled_in_all_towers_or_in_none(
    make_checkpoint: Callable[..., Checkpoint], make_static: Callable[..., Checkpoint]
) -> None:
    both = TwinTowerEncoder.untied(TwinTowerEncoder(make_checkpoint()), TwinTowerEncoder(make_static()))
    with pytest.raises(UnsupportedModel, match="gradient checkpointing"):
        both.gradient_checkpointing_enable()
    assert not any(getattr(tower.backbone, "recomputing", False) for tower in both.towers.values())


def test_a_replica_computes_with_its_own_weights(tiny_encoder: TwinTowerEncoder) -> None:
    """nn.DataParallel copies an encoder's attributes and replaces its modules."""
    ids, mask = tiny_encoder.tokenizer.pad(["a cat"])
    other = copy.deepcopy(tiny_encoder)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    replica: Any = tiny_encoder._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
    replica._modules = dict(other._modules)
    assert float(replica(ids, mask).detach().norm()) == 0
    assert float(tiny_encoder(ids, mask).detach().norm()) == pytest.approx(1)
