"""Damaged and hostile checkpoints: each is one line of a ModelError child, and never a vector."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from simpair.checkpoint.read import read_checkpoint
from simpair.checkpoint.settings import Checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import ModelCorrupt, ModelError, ModelNotFound, UnsafeModel, UnsupportedModel

_MAKE = Callable[..., Checkpoint]
_EDIT = Callable[[Path], object]
_WEIGHTS = "model.safetensors"
_CONFIGS = [
    "config.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "modules.json",
    "tokenizer.json",
]


def _load(folder: Path) -> TwinTowerEncoder:
    """Past the hub's look at the folder, which has tests of its own."""
    return TwinTowerEncoder(read_checkpoint(folder))


def _refusal(folder: Path) -> ModelError:
    """The error that a folder meets: one line, of the ModelError family."""
    with pytest.raises(ModelError) as caught:
        _load(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(folder))
    with pytest.raises(ModelError):
        TwinTowerEncoder.from_pretrained(folder, device="cpu")
    return caught.value


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _set(name: str, **changes: object) -> _EDIT:
    return lambda folder: (folder / name).write_text(json.dumps({**_json(folder / name), **changes}))


def _set_module(row: int, **changes: object) -> _EDIT:
    def edit(folder: Path) -> None:
        modules = _json(folder / "modules.json")
        modules[row] |= changes
        (folder / "modules.json").write_text(json.dumps(modules))

    return edit


def _edit_tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> _EDIT:
    def whole(folder: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / _WEIGHTS).items()}
        edit(tensors)
        save_file(tensors, folder / _WEIGHTS)

    return whole


def _remove(*names: str) -> _EDIT:
    return lambda folder: [(folder / name).unlink() for name in names]


def _make_pickle(name: str) -> _EDIT:
    def edit(folder: Path) -> None:
        (folder / _WEIGHTS).unlink()
        (folder / name).write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")

    return edit


def _index(content: object) -> _EDIT:
    def edit(folder: Path) -> None:
        (folder / _WEIGHTS).unlink()
        (folder / f"{_WEIGHTS}.index.json").write_text(json.dumps(content))

    return edit


def _one_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["encoder.layer.0.output.dense.weight"][1, 1] = torch.nan


def _one_inf(tensors: dict[str, torch.Tensor]) -> None:
    tensors["embeddings.LayerNorm.bias"] = torch.full((32,), torch.inf, dtype=torch.float16)


def _twice(tensors: dict[str, torch.Tensor]) -> None:
    tensors["bert.embeddings.LayerNorm.gamma"] = torch.zeros(32)


def _one_flipped(tensors: dict[str, torch.Tensor]) -> None:
    """The highest bit of the exponent, in the vector of one token, which no other text uses."""
    bits = tensors["embeddings.word_embeddings.weight"].view(torch.int32)
    bits[7, 3] |= 1 << 30


def _edit_vocabulary(edit: Callable[[dict[str, int]], object]) -> _EDIT:
    def whole(folder: Path) -> None:
        content = _json(folder / "tokenizer.json")
        edit(content["model"]["vocab"])
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return whole


def _replace_by(make: Callable[[Path], object]) -> _EDIT:
    """An optional file, which would read as absent where its place is merely looked at for a file."""

    def edit(folder: Path) -> None:
        path = folder / "config_sentence_transformers.json"
        path.unlink()
        make(path)

    return edit


_BAD: dict[str, tuple[_EDIT, type[ModelError], str]] = {
    "no config": (_remove("config.json"), ModelNotFound, "config.json"),
    "no weights": (_remove(_WEIGHTS), ModelCorrupt, f"{_WEIGHTS} is missing"),
    "no tokenizer": (_remove("tokenizer.json"), ModelCorrupt, "neither tokenizer.json nor vocab.txt"),
    "no pooling": (_remove("1_Pooling/config.json"), ModelCorrupt, "1_Pooling/config.json cannot be read"),
    "NaN weight": (_edit_tensors(_one_nan), ModelCorrupt, "0.output.dense.weight has values that are not finite"),
    "infinite half": (
        _edit_tensors(_one_inf),
        ModelCorrupt,
        "embeddings.LayerNorm.bias has values that are not finite",
    ),
    "tensor missing": (
        _edit_tensors(lambda tensors: tensors.pop("encoder.layer.1.attention.self.key.bias")),
        ModelCorrupt,
        r"lack encoder.layer.1.attention.self.key.bias \(1 of 37",
    ),
    "tensor too many": (
        _edit_tensors(lambda tensors: tensors.update({"encoder.layer.2.output.dense.bias": torch.zeros(32)})),
        ModelCorrupt,
        "have encoder.layer.2.output.dense.bias, which config.json has no place for",
    ),
    "tensor twice": (_edit_tensors(_twice), ModelCorrupt, "is there twice"),
    "wrong shape": (
        _edit_tensors(lambda tensors: tensors.update({"embeddings.LayerNorm.bias": torch.zeros(31)})),
        ModelCorrupt,
        r"embeddings.LayerNorm.bias has shape \(31,\), but config.json asks for \(32,\)",
    ),
    "fewer layers in config": (_set("config.json", num_hidden_layers=1), ModelCorrupt, "have encoder.layer.1"),
    "more layers in config": (_set("config.json", num_hidden_layers=3), ModelCorrupt, "lack encoder.layer.2"),
    "another vocabulary size": (_set("config.json", vocab_size=999), ModelCorrupt, "asks for"),
    "no architecture": (_set("config.json", model_type="nonesuch"), UnsupportedModel, "model_type is 'nonesuch'"),
    "another architecture": (_set("config.json", model_type="mamba"), ModelCorrupt, "the weights"),
    "code in the repository": (
        _set("config.json", model_type="nonesuch", auto_map={"AutoModel": "modeling.Model"}),
        UnsafeModel,
        "auto_map",
    ),
    "hidden_size not a number": (_set("config.json", hidden_size="32"), ModelCorrupt, "dimension is 32"),
    "pad id not a number": (_set("config.json", pad_token_id="x"), UnsupportedModel, "pad_token_id is not a number"),
    "pickle": (_make_pickle("pytorch_model.bin"), UnsafeModel, "only pickled weights"),
    "sharded pickle": (_make_pickle("pytorch_model.bin.index.json"), UnsafeModel, "only pickled weights"),
    "index that leaves": (
        _index({"weight_map": {"a": "../model.safetensors"}}),
        ModelCorrupt,
        "names no safetensors files of this folder",
    ),
    "index of pickles": (_index({"weight_map": {"a": "pytorch_model.bin"}}), ModelCorrupt, "names no safetensors"),
    "index without map": (_index({}), ModelCorrupt, "names no safetensors"),
    "index with a list": (_index({"weight_map": ["a"]}), ModelCorrupt, "names no safetensors"),
    "index without its shard": (
        _index({"weight_map": {"a": "model-1.safetensors"}}),
        ModelCorrupt,
        "model-1.safetensors is missing",
    ),
    "foreign module": (_set_module(0, type="modeling_evil.Transformer"), UnsafeModel, "which is never run"),
    "foreign module of a similar name": (
        _set_module(1, type="sentence_transformers_evil.models.Pooling"),
        UnsafeModel,
        "which is never run",
    ),
    "unknown module": (_set_module(2, type="sentence_transformers.models.CNN"), UnsupportedModel, "the module CNN"),
    "path up": (_set_module(1, path="../1_Pooling"), UnsafeModel, "leaves the checkpoint's folder"),
    "path up inside": (_set_module(1, path="x/../../y"), UnsafeModel, "leaves the checkpoint's folder"),
    "absolute path": (_set_module(1, path="/etc"), UnsafeModel, "leaves the checkpoint's folder"),
    "path with a NUL": (_set_module(1, path="1\0"), ModelError, "modules.json|config.json"),
    "transformer elsewhere": (
        _set_module(0, path="0_Transformer"),
        ModelNotFound,
        "0_Transformer has no config.json",
    ),
    "module without type": (lambda f: (f / "modules.json").write_text('[{"path": ""}]'), ModelCorrupt, "modules"),
    "no modules": (lambda f: (f / "modules.json").write_text("[]"), ModelCorrupt, "lists no modules"),
    "euclidean": (
        _set("config_sentence_transformers.json", similarity_fn_name="euclidean"),
        UnsupportedModel,
        "similarity_fn_name is 'euclidean'",
    ),
    "similarity a list": (
        _set("config_sentence_transformers.json", similarity_fn_name=["cosine"]),
        UnsupportedModel,
        "similarity_fn_name is",
    ),
    "prompts a list": (_set("config_sentence_transformers.json", prompts=["query"]), ModelCorrupt, "prompts is"),
    "prompt a number": (_set("config_sentence_transformers.json", prompts={"query": 3}), ModelCorrupt, "prompts is"),
    "default prompt unknown": (
        _set("config_sentence_transformers.json", default_prompt_name="passage"),
        ModelCorrupt,
        "default prompt 'passage' is not declared",
    ),
    "default prompt a list": (
        _set("config_sentence_transformers.json", default_prompt_name=["query"]),
        ModelCorrupt,
        "is not declared",
    ),
    "truncate_dim a text": (
        _set("config_sentence_transformers.json", truncate_dim="8"),
        ModelCorrupt,
        "truncate_dim is",
    ),
    "truncate_dim zero": (_set("config_sentence_transformers.json", truncate_dim=0), ModelCorrupt, "truncate_dim is 0"),
    "truncate_dim above the dimension": (
        _set("config_sentence_transformers.json", truncate_dim=33),
        ModelCorrupt,
        "truncate_dim is 33; expected 1 to 32",
    ),
    "two poolings in another order": (
        _set("1_Pooling/config.json", pooling_mode=["max", "cls"]),
        UnsupportedModel,
        "pooling is",
    ),
    "unknown pooling": (_set("1_Pooling/config.json", pooling_mode="median"), UnsupportedModel, "pooling is"),
    "pooling an object": (_set("1_Pooling/config.json", pooling_mode={"a": 1}), UnsupportedModel, "pooling is"),
    "pooling of another dimension": (
        _set("1_Pooling/config.json", word_embedding_dimension=384),
        ModelCorrupt,
        "is 384, but",
    ),
    "maximum length negative": (
        _set("sentence_bert_config.json", max_seq_length=-1),
        ModelCorrupt,
        "max_seq_length is -1",
    ),
    "maximum length of two": (
        _set("sentence_bert_config.json", max_seq_length=2),
        ModelCorrupt,
        "the 2 special tokens",
    ),
    "maximum length a text": (
        _set("sentence_bert_config.json", max_seq_length="64"),
        ModelCorrupt,
        "max_seq_length is",
    ),
    "layers without end": (_set("config.json", num_hidden_layers=10**9), UnsupportedModel, "num_hidden_layers is"),
    "a dimension beyond all memory": (
        _set("config.json", intermediate_size=10**12),
        UnsupportedModel,
        "intermediate_size is",
    ),
    "a vocabulary beyond memory": (_set("config.json", vocab_size=10**7), ModelCorrupt, "asks for"),
    "positions beyond memory": (_set("config.json", max_position_embeddings=10**7), ModelCorrupt, "asks for"),
    "a number of thousands of digits": (
        _set("config.json", vocab_size=10**4000),
        UnsupportedModel,
        "vocab_size is 1000",
    ),
    "a size that is true": (_set("config.json", num_attention_heads=True), UnsupportedModel, "is True"),
    "a size with a fraction": (_set("config.json", num_attention_heads=4.0), UnsupportedModel, "is 4.0"),
    "padding beyond the vocabulary": (_set("config.json", pad_token_id=360), UnsupportedModel, "pad_token_id is 360"),
    "a weight with a flipped exponent": (_edit_tensors(_one_flipped), ModelCorrupt, "or beyond 1e"),
    "weights of whole numbers": (
        _edit_tensors(lambda tensors: tensors.update({"pooler.dense.bias": torch.zeros(32, dtype=torch.int8)})),
        UnsupportedModel,
        r"pooler\.dense\.bias has dtype torch\.int8",
    ),
    "no unknown token": (_edit_vocabulary(lambda pieces: pieces.pop("[UNK]")), ModelCorrupt, "UNK"),
    "a prompt with half a character": (
        _set("config_sentence_transformers.json", prompts={"query": "\ud800"}),
        ModelCorrupt,
        r"config_sentence_transformers\.json is not JSON \(.*surrogates",
    ),
    "a model of another kind": (
        _set("config_sentence_transformers.json", model_type="SparseEncoder"),
        UnsupportedModel,
        "model_type is 'SparseEncoder'",
    ),
    "a pooling key misspelt": (_set("1_Pooling/config.json", pooling_mode_cls_tokem=True), ModelCorrupt, "cls_tokem"),
    "a pooling key that is no flag": (
        _set("1_Pooling/config.json", pooling_mode_max_tokens="no"),
        ModelCorrupt,
        "'no'",
    ),
    "a pooling that says nothing": (
        lambda f: (f / "1_Pooling/config.json").write_text("{}"),
        ModelCorrupt,
        "dimension",
    ),
    "pooling without modules": (_remove("modules.json"), ModelCorrupt, "modules.json is missing"),
    "lower case neither true nor false": (
        _set("tokenizer_config.json", do_lower_case="no"),
        ModelCorrupt,
        "do_lower_case, strip_accents and .* are true or false",
    ),
    "an added token far away": (
        _set("tokenizer_config.json", added_tokens_decoder={"9" * 5_000: {"content": "cat"}}),
        UnsupportedModel,
        "the added token 'cat'",
    ),
    "a link to nothing": (_replace_by(lambda path: path.symlink_to("gone")), ModelCorrupt, "there is no such file"),
    "a pipe": (_replace_by(os.mkfifo), ModelCorrupt, "there is no such file"),
    "maximum length zero": (_set("sentence_bert_config.json", max_seq_length=0), ModelCorrupt, "max_seq_length is 0"),
    "maximum length NaN": (_set("sentence_bert_config.json", max_seq_length=float("nan")), ModelCorrupt, "is nan"),
}


@pytest.mark.parametrize("damage", _BAD)
def test_an_error_has_one_line(foreign_copy: Path, damage: str) -> None:
    edit, kind, message = _BAD[damage]
    edit(foreign_copy)
    error = _refusal(foreign_copy)
    assert isinstance(error, kind)
    with pytest.raises(kind, match=message):
        _load(foreign_copy)


def test_the_folder_before_the_damage_loads(foreign_copy: Path) -> None:
    """The control of the tests above."""
    assert TwinTowerEncoder.from_pretrained(foreign_copy, device="cpu").encode("a cat").shape == (32,)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1', b'"text"', b"3", b"[" * 100_000], ids=repr)
@pytest.mark.parametrize("name", _CONFIGS)
def test_a_broken_file_is_named(foreign_copy: Path, name: str, content: bytes) -> None:
    (foreign_copy / name).write_bytes(content)
    assert isinstance(_refusal(foreign_copy), ModelCorrupt)


@pytest.mark.parametrize("name", [*_CONFIGS[1:], _WEIGHTS])
def test_a_folder_where_a_file_belongs_is_refused_or_passed_over(foreign_copy: Path, name: str) -> None:
    (foreign_copy / name).unlink()
    (foreign_copy / name).mkdir()
    try:
        _load(foreign_copy)
    except ModelError as error:
        assert "\n" not in str(error)  # noqa: PT017 - a folder in place of an optional file reads as if it were absent


def test_a_tokenizer_of_another_model_is_refused(foreign_copy: Path, make_checkpoint: _MAKE) -> None:
    tokenizer = make_checkpoint().document.tokenizer
    tokenizer.add_tokens([f"piece{number}" for number in range(50)])
    tokenizer.save(str(foreign_copy / "tokenizer.json"))
    error = _refusal(foreign_copy)
    assert isinstance(error, ModelCorrupt)
    assert "tokenizer and weights are not of one model" in str(error)


@pytest.mark.parametrize("row", [360, 10**9])
def test_a_token_beyond_the_rows_of_the_weights_is_refused(foreign_copy: Path, row: int) -> None:
    """The number of tokens alone does not show it."""
    _edit_vocabulary(lambda pieces: pieces.update({"cat": row}))(foreign_copy)
    assert "tokenizer and weights are not of one model" in str(_refusal(foreign_copy))


def test_a_tokenizer_with_fewer_tokens_than_rows_is_accepted(make_checkpoint: _MAKE) -> None:
    """Many models have rows to spare, to a multiple of 64."""
    rows = make_checkpoint().document.config["vocab_size"] + 10
    TwinTowerEncoder(make_checkpoint(config={"vocab_size": rows}))


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 0.3, 0.9, -1])
def test_truncated_weights_are_damaged(foreign_copy: Path, kept: float) -> None:
    content = (foreign_copy / _WEIGHTS).read_bytes()
    length = int(len(content) * kept) if isinstance(kept, float) else kept
    (foreign_copy / _WEIGHTS).write_bytes(content[:length])
    error = _refusal(foreign_copy)
    assert isinstance(error, ModelCorrupt)
    assert f"{_WEIGHTS} is damaged" in str(error)
