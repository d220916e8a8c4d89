"""simpair.checkpoint.read: exact round trips, the layout that peers read, and the older layouts that are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer

from simpair import __version__
from simpair.checkpoint.modules import PoolingMode
from simpair.checkpoint.read import read_checkpoint
from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder

_MAKE = Callable[..., Checkpoint]
_EDIT = Callable[[Path], object]
_TEXTS = ["a cat sits", "the DOG runs fast, 2024", "今天天气很好", "Élan naïve", "", "cat " * 100]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _change_json(path: Path, **changes: object) -> None:
    _write_json(path, {**_json(path), **changes})


def _rename_tensors(folder: Path, rename: Callable[[str], str]) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({rename(name): tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")


def _encode(folder: Path) -> Any:
    return TwinTowerEncoder.from_pretrained(folder, device="cpu").encode(_TEXTS)


# --- round trips -----------------------------------------------------------------------------------------------------

_SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "dot product": {"similarity": "dot", "normalize": False},
    "dot product of unit vectors": {"similarity": "dot", "normalize": True},
    "prompts": {"prompts": {"query": "query: ", "document": "", "文": "猫 "}, "default_prompt_name": "文"},
    "short": {"max_seq_length": 5},
    "truncated": {"truncate_dim": 7},
    "roberta": {"config": {"model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 66}},
    **{mode: {"pooling": mode} for mode in get_args(PoolingMode)},
}


@pytest.mark.parametrize("settings", _SETTINGS)
def test_save_and_load_give_the_same_bits(make_checkpoint: _MAKE, tmp_path: Path, settings: str) -> None:
    encoder = TwinTowerEncoder(make_checkpoint(**_SETTINGS[settings]))
    encoder.save_pretrained(tmp_path / "once")
    again = TwinTowerEncoder.from_pretrained(tmp_path / "once", device="cpu")
    for role in ("query", "document", None):
        assert np.array_equal(again.encode(_TEXTS, role=role), encoder.encode(_TEXTS, role=role))
    assert again.settings == encoder.settings
    assert again.fingerprint == encoder.fingerprint
    again.save_pretrained(tmp_path / "twice")
    for path in (tmp_path / "once").rglob("*"):
        if path.is_file():
            assert (tmp_path / "twice" / path.relative_to(tmp_path / "once")).read_bytes() == path.read_bytes()


def test_saving_over_an_older_checkpoint_equals_saving_anew(
    make_checkpoint: _MAKE, tiny_copy: Path, tmp_path: Path
) -> None:
    (tiny_copy / "vocab.txt").write_text("stale")
    (tiny_copy / "README.md").write_text("mine")
    write_checkpoint(tiny_copy, make_checkpoint(seed=1, similarity="dot", normalize=False))
    write_checkpoint(tmp_path / "new", make_checkpoint(seed=1, similarity="dot", normalize=False))
    assert np.array_equal(_encode(tiny_copy), _encode(tmp_path / "new"))
    assert not (tiny_copy / "vocab.txt").exists()
    assert (tiny_copy / "README.md").read_text() == "mine"


def test_saving_leaves_nothing_beside_the_folder(tiny_encoder: TwinTowerEncoder, tmp_path: Path) -> None:
    for _ in range(2):
        tiny_encoder.save_pretrained(tmp_path / "deep" / "model")
        assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]


def test_a_checkpoint_can_be_saved_into_the_folder_it_came_from(tiny_copy: Path) -> None:
    encoder = TwinTowerEncoder.from_pretrained(tiny_copy, device="cpu")
    expected = encoder.encode(_TEXTS)
    encoder.save_pretrained(tiny_copy)
    assert np.array_equal(_encode(tiny_copy), expected)


def test_float16_halves_the_weights_and_keeps_the_fingerprint(tiny_encoder: TwinTowerEncoder, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path / "half", dtype="float16")
    tiny_encoder.save_pretrained(tmp_path / "whole")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    assert _json(tmp_path / "half" / "config.json")["dtype"] == "float32"
    half = TwinTowerEncoder.from_pretrained(tmp_path / "half", device="cpu")
    assert half.fingerprint == tiny_encoder.fingerprint
    vectors = half.encode(_TEXTS)
    assert not np.array_equal(vectors, tiny_encoder.encode(_TEXTS))
    assert float(half.similarity_pairwise(vectors, tiny_encoder.encode(_TEXTS)).min()) > 0.9999
    half.save_pretrained(tmp_path / "again")
    assert np.array_equal(_encode(tmp_path / "again"), vectors)


# --- the fingerprint -------------------------------------------------------------------------------------------------


def _change_one_weight(checkpoint: Checkpoint) -> Checkpoint:
    changed = {name: tensor.clone() for name, tensor in checkpoint.document.tensors.items()}
    changed["encoder.layer.1.output.LayerNorm.bias"][3] += 0.01
    return checkpoint.map(lambda tower: replace(tower, tensors=changed))


def _change_normalizer(checkpoint: Checkpoint) -> Checkpoint:
    tokenizer = Tokenizer.from_str(checkpoint.document.tokenizer.to_str())
    tokenizer.normalizer = BertNormalizer(lowercase=False)
    return checkpoint.map(lambda tower: replace(tower, tokenizer=tokenizer))


def _with(**changes: object) -> Callable[[Checkpoint], Checkpoint]:
    return lambda checkpoint: checkpoint.map(lambda tower: replace(tower, settings=replace(tower.settings, **changes)))


_MOVES: dict[str, Callable[[Checkpoint], Checkpoint]] = {
    "one weight": _change_one_weight,
    "tokenizer": _change_normalizer,
    "a prompt": _with(prompts={"query": "query: ", "document": ""}),
    "the default prompt": _with(default_prompt_name="query"),
    "maximum length": _with(max_seq_length=63),
    "pooling": _with(pooling="cls"),
    "normalisation": _with(similarity="dot", normalize=False),
    "dimension": _with(truncate_dim=8),
}


@pytest.mark.parametrize("move", _MOVES)
def test_the_fingerprint_changes_with(make_checkpoint: _MAKE, move: str) -> None:
    before = TwinTowerEncoder(make_checkpoint()).fingerprint
    assert TwinTowerEncoder(_MOVES[move](make_checkpoint())).fingerprint != before


def test_the_fingerprint_stays_when_no_vector_moves(make_checkpoint: _MAKE, tiny_model: Path) -> None:
    checkpoint = make_checkpoint()
    expected = TwinTowerEncoder(checkpoint).fingerprint
    prompts = {"document": "", "query": ""}
    pooler = {**checkpoint.document.tensors, "pooler.dense.bias": torch.ones(32)}
    assert TwinTowerEncoder(checkpoint.map(lambda tower: replace(tower, tensors=pooler))).fingerprint == expected
    assert TwinTowerEncoder(_with(prompts=prompts)(checkpoint)).fingerprint == expected
    assert TwinTowerEncoder.from_pretrained(tiny_model, dtype="bfloat16").fingerprint == expected
    assert TwinTowerEncoder.from_pretrained(tiny_model, truncate_dim=32).fingerprint == expected
    encoder = TwinTowerEncoder(checkpoint)
    encoder.encode("a")
    assert encoder.fingerprint == expected
    assert len(bytes.fromhex(expected)) == 32


# --- the layout ------------------------------------------------------------------------------------------------------


def test_the_layout_is_the_one_that_peers_read(make_checkpoint: _MAKE, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(config={"torch_dtype": "float16", "_name_or_path": "/elsewhere/model"}, pooling="cls")
    write_checkpoint(tmp_path / "model", checkpoint)
    folder = tmp_path / "model"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "1_Pooling/config.json",
        "2_Normalize/config.json",
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "simpair.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [(module["path"], module["type"]) for module in _json(folder / "modules.json")] == [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Pooling", "sentence_transformers.models.Pooling"),
        ("2_Normalize", "sentence_transformers.models.Normalize"),
    ]
    pooling = _json(folder / "1_Pooling" / "config.json")
    assert [key for key, value in pooling.items() if value is True] == ["pooling_mode_cls_token", "include_prompt"]
    assert _json(folder / "sentence_bert_config.json") == {"max_seq_length": 64, "do_lower_case": False}
    assert _json(folder / "tokenizer_config.json")["model_max_length"] == 64
    config = _json(folder / "config.json")
    assert config["dtype"] == "float32"
    assert not {"torch_dtype", "_name_or_path"} & config.keys()
    digests = _json(folder / "simpair.json")
    assert digests["simpair"] == __version__
    assert "model.safetensors" in digests["sha256"]
    assert "simpair.json" not in digests["sha256"]


def test_an_unused_pooler_is_saved_too(tiny_copy: Path, tmp_path: Path) -> None:
    TwinTowerEncoder.from_pretrained(tiny_copy, device="cpu").save_pretrained(tmp_path / "saved")
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_copy, tmp_path / "saved"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_folder_is_readable_by_others(tiny_model: Path) -> None:
    assert tiny_model.stat().st_mode & 0o777 == 0o755


# --- older and other layouts -----------------------------------------------------------------------------------------

_READ_ALIKE: dict[str, _EDIT] = {
    "6.x module paths": lambda folder: _write_json(
        folder / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
            {
                "idx": 1,
                "name": "pooling",
                "path": "1_Pooling",
                "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
            },
            {"idx": 2, "name": "2", "path": "gone", "type": "sentence_transformers.base.modules.normalize.Normalize"},
        ],
    ),
    "no Normalize module": lambda folder: _write_json(folder / "modules.json", _json(folder / "modules.json")[:2]),
    "new pooling key": lambda folder: _write_json(
        folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": "mean"}
    ),
    "new pooling key as a list": lambda folder: _write_json(
        folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": ["mean"]}
    ),
    "no pooling declared": lambda folder: _write_json(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32}
    ),
    "no similarity declared": lambda folder: (folder / "config_sentence_transformers.json").unlink(),
    "null similarity and prompts": lambda folder: _write_json(
        folder / "config_sentence_transformers.json", {"similarity_fn_name": None, "prompts": {"query": None}}
    ),
    "a default prompt that is empty": lambda folder: _write_json(
        folder / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": "query"}
    ),
    "maximum length of the tokenizer": lambda folder: (folder / "sentence_bert_config.json").unlink(),
    "another name of the transformer's config": lambda folder: (folder / "sentence_bert_config.json").replace(
        folder / "sentence_roberta_config.json"
    ),
    "bert. prefixes": lambda folder: _rename_tensors(folder, "bert.{}".format),
    "gamma and beta": lambda folder: _rename_tensors(
        folder,
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
    ),
    "pretraining heads": lambda folder: _rename_tensors(
        folder, lambda name: name.replace("pooler.dense", "cls.predictions.transform.dense")
    ),
    "vocab.txt alone": lambda folder: _to_vocabulary(folder),
    "shards": lambda folder: _to_shards(folder),
    "a pickle beside the safetensors": lambda folder: (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n"),
}


def _to_vocabulary(folder: Path) -> None:
    pieces = _json(folder / "tokenizer.json")["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(pieces, key=pieces.__getitem__)) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").unlink()


def _to_shards(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    places = {name: f"model-0000{1 + row % 2}-of-00002.safetensors" for row, name in enumerate(sorted(tensors))}
    for shard in set(places.values()):
        save_file({name: tensors[name].clone() for name in tensors if places[name] == shard}, folder / shard)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("layout", _READ_ALIKE)
def test_an_older_layout_gives_the_same_vectors(
    foreign_copy: Path, tiny_encoder: TwinTowerEncoder, layout: str
) -> None:
    _READ_ALIKE[layout](foreign_copy)
    assert np.array_equal(_encode(foreign_copy), tiny_encoder.encode(_TEXTS))


def test_a_plain_transformers_folder_gives_the_mean(foreign_copy: Path, tiny_encoder: TwinTowerEncoder) -> None:
    for name in ("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"):
        (foreign_copy / name).unlink()
    assert read_checkpoint(foreign_copy).document.declares_pooling is False
    assert np.array_equal(_encode(foreign_copy), tiny_encoder.encode(_TEXTS))


def test_lower_casing_declared_beside_the_tokenizer_is_obeyed_and_saved(
    make_checkpoint: _MAKE, tiny_encoder: TwinTowerEncoder, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "cased", _change_normalizer(make_checkpoint()))
    (tmp_path / "cased" / "simpair.json").unlink()
    plain = ["the DOG runs", "CAT"]
    cased = TwinTowerEncoder.from_pretrained(tmp_path / "cased", device="cpu").encode(plain)
    assert not np.allclose(cased, tiny_encoder.encode(plain), atol=1e-3)
    _change_json(tmp_path / "cased" / "sentence_bert_config.json", do_lower_case=True)
    lowered = TwinTowerEncoder.from_pretrained(tmp_path / "cased", device="cpu")
    assert np.array_equal(lowered.encode(plain), tiny_encoder.encode(plain))
    lowered.save_pretrained(tmp_path / "saved")
    saved = TwinTowerEncoder.from_pretrained(tmp_path / "saved", device="cpu")
    assert np.array_equal(saved.encode(plain), tiny_encoder.encode(plain))
    assert saved.fingerprint == lowered.fingerprint


@pytest.mark.parametrize("cased", [False, True])
def test_a_vocabulary_is_cased_as_its_config_says(foreign_copy: Path, cased: bool) -> None:
    _to_vocabulary(foreign_copy)
    _change_json(foreign_copy / "tokenizer_config.json", do_lower_case=not cased)
    vectors = TwinTowerEncoder.from_pretrained(foreign_copy, device="cpu").encode(["CAT", "cat"])
    assert np.allclose(vectors[0], vectors[1], atol=1e-6) is not cased


def test_the_declared_maximum_length_wins_over_the_tokenizers(foreign_copy: Path) -> None:
    _change_json(foreign_copy / "sentence_bert_config.json", max_seq_length=6)
    assert TwinTowerEncoder.from_pretrained(foreign_copy).max_seq_length == 6
    _change_json(foreign_copy / "sentence_bert_config.json", max_seq_length=None)
    _change_json(foreign_copy / "tokenizer_config.json", model_max_length=1e30)
    assert TwinTowerEncoder.from_pretrained(foreign_copy).max_seq_length == 64


def test_truncation_left_in_the_tokenizer_file_is_not_obeyed(
    foreign_copy: Path, tiny_encoder: TwinTowerEncoder
) -> None:
    """Many published ``tokenizer.json`` files carry the length and padding of the training run."""
    tokenizer = tiny_encoder.tokenizer.plain()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(foreign_copy / "tokenizer.json"))
    assert np.array_equal(_encode(foreign_copy), tiny_encoder.encode(_TEXTS))


def test_integers_beside_the_weights_are_read_and_saved(foreign_copy: Path, tmp_path: Path) -> None:
    tensors = load_file(foreign_copy / "model.safetensors")
    tensors["bert.embeddings.position_ids"] = torch.arange(64).unsqueeze(0)
    save_file(tensors, foreign_copy / "model.safetensors")
    encoder = TwinTowerEncoder.from_pretrained(foreign_copy, device="cpu")
    encoder.save_pretrained(tmp_path / "saved", dtype="float16")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved["embeddings.position_ids"].dtype == torch.int64
