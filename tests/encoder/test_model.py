"""simpair.encoder.model: what must not move a vector, what must, and what is refused."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import simpair.encoder.devices
import simpair.encoder.model
import simpair.files.texts
from simpair.checkpoint.settings import Checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import InputError, ModelCorrupt, ModelNotFound

_MAKE = Callable[..., Checkpoint]
_TEXTS = Callable[[int], list[str]]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shared_encoder(tiny_model: Path) -> TwinTowerEncoder:
    """For hypothesis, whose examples share one encoder."""
    return TwinTowerEncoder.from_pretrained(tiny_model, device="cpu")


# --- meaning ---------------------------------------------------------------------------------------------------------


def test_a_text_is_nearest_to_itself_and_no_other(tiny_encoder: TwinTowerEncoder, mixed_texts: _TEXTS) -> None:
    texts = [text for text in mixed_texts(200)[12:] if len(text) > 10]
    vectors = tiny_encoder.encode(list(dict.fromkeys(texts)))
    assert (tiny_encoder.similarity(vectors, vectors).argmax(axis=1) == np.arange(len(vectors))).all()


# --- invariants ------------------------------------------------------------------------------------------------------


def test_shuffling_the_texts_changes_no_vector(tiny_encoder: TwinTowerEncoder, mixed_texts: _TEXTS) -> None:
    texts = mixed_texts(400)
    order = np.random.default_rng(0).permutation(len(texts))
    vectors = tiny_encoder.encode(texts)
    shuffled = tiny_encoder.encode([texts[i] for i in order])
    np.testing.assert_allclose(shuffled, vectors[order], atol=1e-6)


def test_the_vector_of_a_text_does_not_depend_on_other_texts(
    tiny_encoder: TwinTowerEncoder, mixed_texts: _TEXTS
) -> None:
    texts = mixed_texts(60)
    vectors = tiny_encoder.encode(texts)
    alone = np.stack([tiny_encoder.encode(text) for text in texts])
    np.testing.assert_allclose(alone, vectors, atol=1e-6)


def test_blocks_and_batches_of_any_size_give_the_same_vectors(
    tiny_encoder: TwinTowerEncoder, mixed_texts: _TEXTS, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = mixed_texts(100)
    vectors = tiny_encoder.encode(texts)
    monkeypatch.setattr(simpair.files.texts, "BLOCK_TEXTS", 7)
    monkeypatch.setattr(simpair.encoder.devices, "_CPU_TOKENS", 33)
    np.testing.assert_allclose(tiny_encoder.encode(texts), vectors, atol=1e-6)


@pytest.mark.usefixtures("two_threads")
def test_the_number_of_threads_changes_no_vector(tiny_encoder: TwinTowerEncoder, mixed_texts: _TEXTS) -> None:
    texts = mixed_texts(600)
    on_two = tiny_encoder.encode(texts)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    np.testing.assert_allclose(tiny_encoder.encode(texts), on_two, atol=1e-6)


def test_equal_texts_have_equal_bits(tiny_encoder: TwinTowerEncoder, mixed_texts: _TEXTS) -> None:
    texts = mixed_texts(50)
    vectors = tiny_encoder.encode([*texts, *reversed(texts)])
    assert np.array_equal(vectors[:50], vectors[:49:-1])


def test_forward_of_a_padded_batch_is_encode(tiny_encoder: TwinTowerEncoder, mixed_texts: _TEXTS) -> None:
    texts = mixed_texts(40)
    ids, mask = tiny_encoder.tokenizer.pad(texts)
    left = ids.flip(1).clone(), mask.flip(1)
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        left[0][row, ids.shape[1] - length :] = ids[row, :length]
    expected = torch.from_numpy(tiny_encoder.encode(texts))
    for batch in ((ids, mask), left, (ids.masked_fill(mask == 0, 9), mask)):
        with torch.no_grad():
            torch.testing.assert_close(tiny_encoder(*batch), expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(tiny_encoder(*batch).detach(), expected, atol=1e-6, rtol=0)


def test_encode_changes_no_global_state(tiny_encoder: TwinTowerEncoder) -> None:
    tiny_encoder.train()
    tiny_encoder.towers["document"].backbone.embeddings.eval()
    modes = [module.training for module in tiny_encoder.modules()]
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    texts = ["a cat", "a dog"] * 50
    before = list(texts)
    first = tiny_encoder.encode(texts)
    assert np.array_equal(tiny_encoder.encode(texts), first)  # no dropout
    assert [module.training for module in tiny_encoder.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_num_threads() == threads
    assert texts == before
    with pytest.raises(InputError):
        tiny_encoder.encode(["a", None])  # type: ignore[list-item]
    assert [module.training for module in tiny_encoder.modules()] == modes


def test_a_model_is_ready_to_encode_when_loaded(tiny_encoder: TwinTowerEncoder) -> None:
    assert not any(module.training for module in tiny_encoder.modules())
    assert tiny_encoder.device == torch.device("cpu")
    assert (tiny_encoder.embedding_dimension, tiny_encoder.max_seq_length) == (32, 64)


# --- weights that change ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_after_an_optimizer_step_encode_gives_the_vectors_of_the_new_weights(
    tiny_encoder: TwinTowerEncoder, training: bool, fused: bool
) -> None:
    texts = ["a cat", "the dog runs fast", "今天天气很好"]
    before = tiny_encoder.encode(texts)
    tiny_encoder.train(training)
    optimizer = torch.optim.AdamW(tiny_encoder.parameters(), lr=0.05, fused=fused)
    for _ in range(2):
        optimizer.zero_grad()
        tiny_encoder(*tiny_encoder.tokenizer.pad(texts))[:, 0].sum().backward()
        optimizer.step()
        found = tiny_encoder.encode(texts)
        fresh = TwinTowerEncoder(tiny_encoder.checkpoint()).encode(texts)
        assert np.array_equal(found, fresh)
        assert np.abs(found - before).max() > 1e-3
        before = found


def test_encoding_in_the_middle_of_a_step_does_not_keep_its_weights(tiny_encoder: TwinTowerEncoder) -> None:
    tiny_encoder.train()
    optimizer = torch.optim.AdamW(tiny_encoder.parameters(), lr=0.05, fused=True)
    tiny_encoder(*tiny_encoder.tokenizer.pad(["a cat"]))[:, 0].sum().backward()
    tiny_encoder.encode("a dog")
    optimizer.step()
    fresh = TwinTowerEncoder(tiny_encoder.checkpoint())
    assert np.array_equal(tiny_encoder.encode("a dog"), fresh.encode("a dog"))


def test_load_weights_takes_the_weights_only(
    tiny_encoder: TwinTowerEncoder, make_checkpoint: _MAKE, tmp_path: Path
) -> None:
    other = TwinTowerEncoder(make_checkpoint(seed=1, pooling="cls"))
    other.save_pretrained(tmp_path / "other")
    before = tiny_encoder.encode("a cat")
    tiny_encoder.load_weights(tmp_path / "other")
    expected = TwinTowerEncoder(make_checkpoint(seed=1)).encode("a cat")
    assert np.array_equal(tiny_encoder.encode("a cat"), expected)
    assert not np.allclose(before, expected, atol=1e-3)
    assert tiny_encoder.settings.pooling == "mean"
    TwinTowerEncoder(make_checkpoint(config={"intermediate_size": 32})).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ModelCorrupt, match="has shape"):
        tiny_encoder.load_weights(tmp_path / "narrow")
    assert np.array_equal(tiny_encoder.encode("a cat"), expected)


def test_a_deep_copy_is_independent(tiny_encoder: TwinTowerEncoder) -> None:
    expected = tiny_encoder.encode("a cat")
    twin = copy.deepcopy(tiny_encoder)
    assert np.array_equal(twin.encode("a cat"), expected)
    assert twin.fingerprint == tiny_encoder.fingerprint
    with torch.no_grad():
        twin.towers["document"].backbone.embeddings.word_embeddings.weight.add_(torch.rand(32))
    assert not np.allclose(twin.encode("a cat"), expected, atol=1e-3)
    assert np.array_equal(tiny_encoder.encode("a cat"), expected)


def test_forward_has_gradients_for_every_weight(tiny_encoder: TwinTowerEncoder) -> None:
    tiny_encoder(*tiny_encoder.tokenizer.pad(["a cat", "the dog runs"]))[0].sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in tiny_encoder.parameters())


# --- shapes, roles, settings -----------------------------------------------------------------------------------------


def test_one_text_gives_a_row_and_a_list_gives_rows(tiny_encoder: TwinTowerEncoder) -> None:
    for texts, shape in (
        ("a", (32,)),
        (["a"], (1, 32)),
        ([], (0, 32)),
        (("a", "b"), (2, 32)),
        (np.array(["a"]), (1, 32)),
    ):
        vectors = tiny_encoder.encode(texts)
        assert vectors.shape == shape
        assert vectors.dtype == np.float32
        assert vectors.flags.c_contiguous
        assert vectors.flags.writeable


def test_roles_differ_by_their_prompts_alone(make_checkpoint: _MAKE) -> None:
    prompts = {"query": "query: ", "document": "text: ", "plain": "the "}
    encoder = TwinTowerEncoder(make_checkpoint(prompts=prompts, default_prompt_name="plain"))
    bare = TwinTowerEncoder(make_checkpoint())
    assert np.array_equal(encoder.encode_query("cat"), bare.encode("query: cat"))
    assert np.array_equal(encoder.encode_query("cat"), encoder.encode("cat", role="query"))
    assert np.array_equal(encoder.encode_document(["cat"]), bare.encode(["text: cat"]))
    assert np.array_equal(encoder.encode("cat"), bare.encode("the cat"))
    assert len({encoder.encode(["cat"], role=role).tobytes() for role in ("query", "document", None)}) == 3


def test_cosine_vectors_have_norm_1_and_dot_vectors_keep_theirs(make_checkpoint: _MAKE) -> None:
    texts = ["a cat", "the dog runs fast", ""]
    cosine = TwinTowerEncoder(make_checkpoint()).encode(texts)
    dot = TwinTowerEncoder(make_checkpoint(similarity="dot", normalize=False)).encode(texts)
    lengths = np.linalg.norm(dot, axis=1, keepdims=True)
    np.testing.assert_allclose(np.linalg.norm(cosine, axis=1), 1, atol=1e-6)
    assert float(np.abs(lengths - 1).min()) > 0.1
    np.testing.assert_allclose(dot / lengths, cosine, atol=1e-6)
    unit = TwinTowerEncoder(make_checkpoint(similarity="dot", normalize=True)).encode(texts)
    assert np.array_equal(unit, cosine)


def test_truncate_dim_keeps_the_leading_dimensions_and_norm_1(tiny_model: Path, make_checkpoint: _MAKE) -> None:
    whole = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu").encode(["a cat", "a dog"])
    encoder = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu", truncate_dim=8)
    assert encoder.embedding_dimension == 8
    leading = whole[:, :8]
    expected = leading / np.linalg.norm(leading, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(["a cat", "a dog"]), expected, atol=1e-6)
    declared = TwinTowerEncoder(make_checkpoint(truncate_dim=8))
    np.testing.assert_allclose(declared.encode(["a cat", "a dog"]), expected, atol=1e-6)
    assert TwinTowerEncoder(make_checkpoint(truncate_dim=8), truncate_dim=32).embedding_dimension == 32
    dot = TwinTowerEncoder(make_checkpoint(similarity="dot", normalize=False), truncate_dim=8).encode("a cat")
    assert np.array_equal(dot, TwinTowerEncoder(make_checkpoint(similarity="dot", normalize=False)).encode("a cat")[:8])


@pytest.mark.parametrize("dimension", [0, -1, 33, True])
def test_a_truncate_dim_out_of_range_is_refused(tiny_model: Path, dimension: int) -> None:
    with pytest.raises(InputError, match=f"truncate_dim is {dimension}; expected 1 to 32"):
        TwinTowerEncoder.from_pretrained(tiny_model, truncate_dim=dimension)


def test_an_unknown_dtype_or_role_is_refused(tiny_model: Path, tiny_encoder: TwinTowerEncoder) -> None:
    with pytest.raises(InputError, match="dtype is 'half'; expected one of float32, float16, bfloat16, int8"):
        TwinTowerEncoder.from_pretrained(tiny_model, dtype="half")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="role is 'passage'; expected 'query', 'document' or None"):
        tiny_encoder.encode("a", role="passage")  # type: ignore[arg-type]


def test_similarity_is_the_inner_product(tiny_encoder: TwinTowerEncoder) -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 3, 4))
    b[:, 0] = 7
    np.testing.assert_allclose(tiny_encoder.similarity(a, b), a @ b.T, rtol=1e-5)
    np.testing.assert_allclose(tiny_encoder.similarity_pairwise(a, b), (a * b).sum(axis=1), rtol=1e-5)
    for scores, shape in (
        (tiny_encoder.similarity(a[0], b), (1, 3)),
        (tiny_encoder.similarity(a.astype(np.float16), b[:2].tolist()), (3, 2)),
        (tiny_encoder.similarity_pairwise(a[0], b[0]), (1,)),
    ):
        assert scores.shape == shape
        assert scores.dtype == np.float32
        assert scores.flags.c_contiguous
    with pytest.raises(InputError, match=r"\(3, 4\) and \(2, 4\)"):
        tiny_encoder.similarity_pairwise(a, b[:2])


def test_bfloat16_vectors_are_float32_and_save_as_float32(tiny_model: Path, tiny_encoder: TwinTowerEncoder) -> None:
    narrow = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu", dtype="bfloat16")
    vectors = narrow.encode(["a cat", "a dog"])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert not np.array_equal(vectors, tiny_encoder.encode(["a cat", "a dog"]))
    saved = narrow.checkpoint().document.tensors
    assert all(torch.equal(saved[name], value) for name, value in tiny_encoder.checkpoint().document.tensors.items())


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", "a", 3], "text 2 is a int"),
        (["a", None], "text 1 is a NoneType"),
        (["a", ["b"]], "text 1 is a list"),
        ([float("nan")], "text 0 is a float"),
        (b"abc", "texts is a bytes"),
        (["a", "a", "b\udfff"], "text 2 has a lone surrogate at character 1"),
        ("\ud800", "text 0 has a lone surrogate"),
    ],
)
def test_an_entry_that_is_no_text_is_refused_with_its_position(
    tiny_encoder: TwinTowerEncoder, texts: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        tiny_encoder.encode(texts)
    assert "\n" not in str(caught.value)


def test_the_position_counts_from_the_first_text_of_the_call(
    tiny_encoder: TwinTowerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simpair.files.texts, "BLOCK_TEXTS", 4)
    with pytest.raises(InputError, match="text 10 is a int"):
        tiny_encoder.encode(["a"] * 10 + [0])  # type: ignore[list-item]


def test_a_text_without_any_token_is_refused(make_checkpoint: _MAKE, tiny_encoder: TwinTowerEncoder) -> None:
    tokenizer = tiny_encoder.tokenizer.plain()
    tokenizer.post_processor = None  # type: ignore[assignment]
    encoder = TwinTowerEncoder(make_checkpoint(tokenizer=tokenizer))
    assert encoder.encode("a").shape == (32,)
    with pytest.raises(InputError, match="'  ' has no tokens"):
        encoder.encode(["a", "  "])


def test_other_objects_than_sequences_are_refused(tiny_encoder: TwinTowerEncoder) -> None:
    for texts in (3, None, (text for text in ["a"])):
        with pytest.raises(InputError, match="expected a str or a sequence"):
            tiny_encoder.encode(texts)  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text(max_size=80), max_size=6))
@example(["\0", "\ufeff", "\u202e", "\U0010ffff", "[CLS]", "[PAD] [PAD]", "\r\n"])
def test_any_text_has_a_finite_vector_of_norm_1(shared_encoder: TwinTowerEncoder, texts: list[str]) -> None:
    vectors = shared_encoder.encode(texts)
    assert vectors.shape == (len(texts), 32)
    assert bool(np.isfinite(vectors).all())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


# --- loading ---------------------------------------------------------------------------------------------------------


def test_the_source_finds_the_checkpoint_again(tiny_model: Path, tiny_encoder: TwinTowerEncoder) -> None:
    assert tiny_encoder.source == str(tiny_model.absolute())
    again = TwinTowerEncoder.from_pretrained(tiny_encoder.source, device="cpu")
    assert np.array_equal(again.encode("a cat"), tiny_encoder.encode("a cat"))


def test_a_folder_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        TwinTowerEncoder.from_pretrained(tmp_path / "nothing")


def test_a_plain_bert_folder_is_read_with_one_notice(foreign_copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (foreign_copy / name).unlink()
    shutil.rmtree(foreign_copy / "1_Pooling")
    with caplog.at_level(logging.WARNING):
        encoder = TwinTowerEncoder.from_pretrained(foreign_copy, device="cpu")
        vectors = encoder.encode(["a cat", "a dog"])
    assert [record.name for record in caplog.records] == ["simpair"]
    assert "declares no pooling: mean is used" in caplog.text
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_checkpoint_that_declares_its_pooling_logs_nothing(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        TwinTowerEncoder.from_pretrained(tiny_model, device="cpu").encode("a cat")
    assert not [record for record in caplog.records if record.name.startswith("simpair")]


def test_a_maximum_length_is_limited_by_the_positions(make_checkpoint: _MAKE) -> None:
    encoder = TwinTowerEncoder(make_checkpoint(max_seq_length=512))
    assert encoder.max_seq_length == encoder.tokenizer.max_seq_length == 64
    assert encoder.encode("cat " * 500).shape == (32,)


def test_the_progress_bar_counts_texts_on_stderr(
    tiny_encoder: TwinTowerEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_encoder.encode(["a", "b", "a"])
    assert capsys.readouterr() == ("", "")
    tiny_encoder.encode(["a", "b", "a"], show_progress_bar=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3/3" in captured.err
