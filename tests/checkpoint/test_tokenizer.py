"""The tokenizer reader: what transformers would read otherwise is refused in one line; and what a save refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simpair.checkpoint.read import read_checkpoint
from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import InputError, ModelCorrupt, UnsupportedModel

_MAKE = Callable[..., Checkpoint]
_EDIT = Callable[[Path], object]
_TOKEN = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}


def _set(name: str, **changes: object) -> _EDIT:
    def edit(folder: Path) -> None:
        path = folder / name
        old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps({**old, **changes}), encoding="utf-8")

    return edit


def _to_vocabulary(folder: Path) -> None:
    pieces = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(pieces, key=pieces.__getitem__)) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").unlink()


def _vocabulary_and(edit: _EDIT) -> _EDIT:
    return lambda folder: (_to_vocabulary(folder), edit(folder))


def _decoder(**flags: object) -> dict[str, Any]:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return {str(row): {**_TOKEN, "content": name, **flags} for row, name in enumerate(names)}


_CONFIG = "tokenizer_config.json"
_REFUSED: dict[str, tuple[_EDIT, str]] = {
    "left truncation": (_set(_CONFIG, truncation_side="left"), f"{_CONFIG}: truncation_side is 'left'"),
    "left truncation of the tokenizer": (
        _set(
            "tokenizer.json", truncation={"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
        ),
        "tokenizer.json: truncation_side is 'left'",
    ),
    "special tokens split": (_set(_CONFIG, split_special_tokens=True), "split_special_tokens is set"),
    "another first token": (_set(_CONFIG, cls_token="[MASK]"), r"cls_token and sep_token are '\[MASK\]'"),
    "another last token": (_set(_CONFIG, sep_token={"content": "[PAD]"}), r"'\[CLS\]' and '\[PAD\]'"),
    "another first token in the map": (
        _set("special_tokens_map.json", cls_token="[MASK]"),
        r"special_tokens_map\.json",
    ),
    "another unknown token": (_set(_CONFIG, unk_token="[PAD]"), r"unk_token is '\[PAD\]'"),
    "an unknown padding token": (_set(_CONFIG, pad_token="<pad>"), "pad_token is '<pad>'"),
    "no post-processor": (_set("tokenizer.json", post_processor=None), r"tokenizer\.json sets \[\]"),
    "more special tokens": (_set(_CONFIG, additional_special_tokens=["cat"]), "the added token 'cat'"),
    "special tokens that are no list": (_set(_CONFIG, extra_special_tokens=5), "the added token '5'"),
    "more added tokens": (_set(_CONFIG, added_tokens_decoder={"9": {**_TOKEN, "content": "cat"}}), "token 'cat'"),
    "added tokens with other flags": (_set(_CONFIG, added_tokens_decoder=_decoder(lstrip=True)), "the added token"),
    "added tokens that are no tokens": (
        _set(_CONFIG, added_tokens_decoder=["cat"]),
        "added_tokens_decoder must be an object",
    ),
    "older added tokens": (_vocabulary_and(_set("added_tokens.json", cat=9)), "the added token 'cat'"),
    "Japanese": (_set(_CONFIG, tokenizer_class="BertJapaneseTokenizer"), "tokenizer_class is 'BertJapaneseTokenizer'"),
    "a vocabulary of another class": (
        _vocabulary_and(_set(_CONFIG, tokenizer_class="PreTrainedTokenizerFast")),
        "tokenizer_class is 'PreTrainedTokenizer'",
    ),
    "lengths by role": (_set("sentence_bert_config.json", query_length=8), "'query_length' is 8"),
    "changed config": (_set("sentence_bert_config.json", config_args={"hidden_act": "relu"}), "'config_args' is"),
    "changed tokenizer": (_set("sentence_bert_config.json", tokenizer_args={"x": 1}), "'tokenizer_args' is"),
    "another task": (
        _set("sentence_bert_config.json", transformer_task="fill-mask"),
        "'transformer_task' is 'fill-mask'",
    ),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_files_that_transformers_reads_differently_are_refused(foreign_copy: Path, case: str) -> None:
    edit, message = _REFUSED[case]
    edit(foreign_copy)
    with pytest.raises((UnsupportedModel, ModelCorrupt), match=message) as caught:
        read_checkpoint(foreign_copy)
    assert "\n" not in str(caught.value)


_READ: dict[str, _EDIT] = {
    "tokens that agree": _set(_CONFIG, cls_token="[CLS]", sep_token={"content": "[SEP]"}, pad_token="[PAD]"),
    "added tokens that agree": _set(_CONFIG, added_tokens_decoder=_decoder()),
    "older added tokens that agree": _set("added_tokens.json", **{"[MASK]": 4}),
    "tokenizer.json as it is": _set(_CONFIG, tokenizer_class="PreTrainedTokenizerFast", do_lower_case=False),
    "empty keys": _set("sentence_bert_config.json", tokenizer_args={}, query_length=None),
    "today's keys": _set(
        "sentence_bert_config.json",
        transformer_task="feature-extraction",
        modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        module_output_name="token_embeddings",
    ),
}


@pytest.mark.parametrize("case", _READ)
def test_settings_that_agree_change_nothing(foreign_copy: Path, tiny_encoder: TwinTowerEncoder, case: str) -> None:
    """The control of the test above."""
    _READ[case](foreign_copy)
    encoder = TwinTowerEncoder.from_pretrained(foreign_copy, device="cpu")
    assert np.array_equal(encoder.encode("CAT Élan [CLS]"), tiny_encoder.encode("CAT Élan [CLS]"))


def test_a_bert_tokenizer_is_built_anew_from_its_config(foreign_copy: Path) -> None:
    _set(_CONFIG, do_lower_case=False, strip_accents=True)(foreign_copy)
    tokenizer = read_checkpoint(foreign_copy).document.tokenizer
    assert tokenizer.normalizer.normalize_str("CAT Élan") == "CAT Elan"
    (foreign_copy / _CONFIG).unlink()
    assert read_checkpoint(foreign_copy).document.tokenizer.normalizer.normalize_str("CAT Élan") == "cat elan"


def test_no_maximum_length_means_that_of_the_positions(make_checkpoint: _MAKE, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", make_checkpoint(config={"max_position_embeddings": 700}))
    for name in ("simpair.json", "sentence_bert_config.json", _CONFIG):
        (tmp_path / "m" / name).unlink()
    assert TwinTowerEncoder.from_pretrained(tmp_path / "m", device="cpu").max_seq_length == 700


def test_weights_that_are_not_finite_are_not_saved(tiny_encoder: TwinTowerEncoder, tmp_path: Path) -> None:
    with torch.no_grad():
        tiny_encoder.towers["document"].backbone.embeddings.LayerNorm.bias[3] = 1e6
    with pytest.raises(ModelCorrupt, match=r"embeddings\.LayerNorm\.bias has values .*save as float32"):
        tiny_encoder.save_pretrained(tmp_path / "m", dtype="float16")
    assert list(tmp_path.iterdir()) == []
    tiny_encoder.save_pretrained(tmp_path / "m")  # the control: float32 holds it


def test_a_file_in_place_of_the_folder_is_refused(tiny_encoder: TwinTowerEncoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(InputError, match="file is a file; give a folder"):
            tiny_encoder.save_pretrained(path)
    assert (tmp_path / "file").read_text() == "mine"


def test_saving_removes_stale_files_that_would_be_read(tiny_copy: Path, tiny_encoder: TwinTowerEncoder) -> None:
    stale = ["special_tokens_map.json", "added_tokens.json", "sentence_roberta_config.json", "vocab.txt"]
    stale += ["model.safetensors.index.json", "model-00001-of-00002.safetensors"]
    for name in stale:
        (tiny_copy / name).write_text('{"cls_token": "x"}')
    tiny_encoder.save_pretrained(tiny_copy)
    assert not any((tiny_copy / name).exists() for name in stale)
    TwinTowerEncoder.from_pretrained(tiny_copy, device="cpu")


def test_a_classifier_head_is_ignored(make_checkpoint: _MAKE) -> None:
    checkpoint = make_checkpoint()
    tensors = {**checkpoint.document.tensors, "classifier.bias": torch.zeros(2)}
    TwinTowerEncoder(checkpoint.map(lambda tower: replace(tower, tensors=tensors)))
