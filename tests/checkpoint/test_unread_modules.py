"""Modules that are not read are refused by name, with what to use; a folder's and a repository's alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import ModelCorrupt, UnsafeModel, UnsupportedModel

_OURS = "sentence_transformers.models."


def _list(folder: Path, *modules: tuple[str, str]) -> None:
    entries = [
        {"idx": row, "name": str(row), "path": path, "type": kind if "." in kind else _OURS + kind}
        for row, (kind, path) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(entries), encoding="utf-8")


_USUAL = (("Transformer", ""), ("Pooling", "1_Pooling"))


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ((*_USUAL, ("LayerNorm", "2_LayerNorm")), "the module LayerNorm stands where Dense would"),
        (
            (("WordEmbeddings", ""), ("Pooling", "1_Pooling")),
            "WordEmbeddings stands where Transformer would",
        ),
        ((("BoW", ""),), "the module BoW stands where Transformer would"),
        ((("CLIPModel", ""),), "the module CLIPModel stands where Transformer would"),
        ((("Transformer", ""), ("LSTM", "1_LSTM"), ("Pooling", "1_Pooling")), "the module LSTM stands where Pooling"),
        ((("Transformer", ""), ("CNN", "1_CNN"), ("Pooling", "1_Pooling")), "the module CNN stands where Pooling"),
        ((("Transformer", ""),), "no module stands where Pooling would"),
        ((("Transformer", ""), ("Normalize", "2_Normalize")), "the module Normalize stands where Pooling would"),
        ((*_USUAL, ("Normalize", "2_Normalize"), ("Dense", "3_Dense")), "the module Normalize stands where Dense"),
    ],
)
def test_a_module_that_is_not_read_is_named_with_what_to_use(
    foreign_copy: Path, modules: tuple[tuple[str, str], ...], message: str
) -> None:
    _list(foreign_copy, *modules)
    with pytest.raises(UnsupportedModel, match=message) as caught:
        TwinTowerEncoder.from_pretrained(foreign_copy, device="cpu")
    advice = f"simpair.integrations.sentence_transformers.wrap(SentenceTransformer({str(foreign_copy)!r}))"
    assert advice in str(caught.value)


def test_code_from_elsewhere_is_refused_before_what_is_not_read(foreign_copy: Path) -> None:
    _list(foreign_copy, ("BoW", ""), ("elsewhere.LayerNorm", "1"))
    with pytest.raises(UnsafeModel, match="never run"):
        TwinTowerEncoder.from_pretrained(foreign_copy, device="cpu")


def test_an_empty_list_of_modules_is_damaged(foreign_copy: Path) -> None:
    _list(foreign_copy)
    with pytest.raises(ModelCorrupt, match="lists no modules"):
        TwinTowerEncoder.from_pretrained(foreign_copy, device="cpu")
