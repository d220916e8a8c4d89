"""Flipped bits and interrupted saves: the digests refuse files that were not saved together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpair.checkpoint.read import read_checkpoint
from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import ModelCorrupt, ModelError

_MAKE = Callable[..., Checkpoint]
_WEIGHTS = "model.safetensors"


def _load(folder: Path) -> TwinTowerEncoder:
    """Past the hub's look at the folder, which has tests of its own."""
    return TwinTowerEncoder(read_checkpoint(folder))


# --- digests ---------------------------------------------------------------------------------------------------------


def _flip(path: Path, *, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [8 + 4_000, -1, -5_000])
def test_one_flipped_bit_is_caught_by_its_digest(tiny_copy: Path, tiny_encoder: TwinTowerEncoder, place: int) -> None:
    _flip(tiny_copy / _WEIGHTS, place=place)
    with pytest.raises(
        ModelCorrupt, match=r"model\.safetensors is not the file that was saved; .* delete simpair\.json"
    ):
        _load(tiny_copy)
    (tiny_copy / "simpair.json").unlink()
    _load(tiny_copy)  # the control: without digests a harmless flip passes


def test_digests_that_are_a_link_to_nothing_are_missed(tiny_copy: Path) -> None:
    """As in a Hub cache that lost a blob."""
    (tiny_copy / "simpair.json").unlink()
    (tiny_copy / "simpair.json").symlink_to("gone")
    with pytest.raises(ModelCorrupt, match=r"simpair\.json"):
        _load(tiny_copy)


_SAVED = {
    "1_Pooling/config.json",
    "2_Normalize/config.json",
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    _WEIGHTS,
}


@pytest.mark.parametrize("name", sorted(_SAVED))
def test_every_saved_file_is_under_a_digest(tiny_copy: Path, name: str) -> None:
    (tiny_copy / name).write_bytes((tiny_copy / name).read_bytes() + b"\n")
    with pytest.raises(ModelCorrupt, match="is not the file that was saved"):
        _load(tiny_copy)
    (tiny_copy / name).unlink()
    with pytest.raises(ModelError, match=r"is missing|no config\.json"):
        _load(tiny_copy)


def test_a_file_more_than_was_saved_is_no_damage(tiny_copy: Path) -> None:
    (tiny_copy / "README.md").write_text("mine")
    _load(tiny_copy)


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json"])
def test_a_file_that_would_be_read_but_was_not_saved_is_refused(tiny_copy: Path, name: str) -> None:
    (tiny_copy / name).write_text("{}")
    with pytest.raises(ModelCorrupt, match=rf"{name} was not saved with the checkpoint; delete it"):
        _load(tiny_copy)


@pytest.mark.parametrize("name", sorted(_SAVED - {"2_Normalize/config.json"}))
def test_every_file_that_is_read_has_a_digest(tiny_copy: Path, name: str) -> None:
    table = json.loads((tiny_copy / "simpair.json").read_text())
    del table["sha256"][name]
    (tiny_copy / "simpair.json").write_text(json.dumps(table))
    with pytest.raises(ModelCorrupt, match=f"{name} was not saved with the checkpoint"):
        _load(tiny_copy)


@pytest.mark.parametrize(
    "table",
    [
        None,
        [],
        {"sha256": ["a"]},
        {"sha256": {"gone": "0"}},
        {"sha256": {"a\0": "0"}},
        {"sha256": {"a" * 5_000: "0"}},
        {},
    ],
)
def test_invalid_digests_are_refused(tiny_copy: Path, table: object) -> None:
    (tiny_copy / "simpair.json").write_text(json.dumps(table))
    with pytest.raises(ModelCorrupt, match=r"simpair\.json (has no sha256 table|holds a)|is missing"):
        _load(tiny_copy)


def test_digests_read_no_file_outside_the_folder(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tiny_copy.parent / "secret"
    outside.write_text("x")
    monkeypatch.setattr("simpair.checkpoint.digests.sha256", lambda path: pytest.fail(f"{path} was read"))
    for name in ("../secret", str(outside)):
        (tiny_copy / "simpair.json").write_text(json.dumps({"sha256": {name: "0"}}))
        with pytest.raises(ModelCorrupt, match="is missing"):
            _load(tiny_copy)


# --- interrupted saves -----------------------------------------------------------------------------------------------


class _Interrupted(BaseException):
    """Like KeyboardInterrupt: nothing on the way may swallow it."""


def _interrupt_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> None:
    """The ``call``-th use of a Path or os function is the last thing that does not happen."""
    owner: Any = Path if hasattr(Path, name) else os
    original = getattr(owner, name)
    calls = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise _Interrupted
        return original(*args, **options)

    monkeypatch.setattr(owner, name, counted)


_STEPS = [("replace", call) for call in range(1, 12)] + [
    ("write_text", 2),
    ("write_text", 8),
    ("fsync", 3),
    ("unlink", 1),
]


@pytest.mark.parametrize("digests", [True, False], ids=["with digests", "without digests"])
@pytest.mark.parametrize(("name", "call"), _STEPS)
def test_an_interrupted_save_leaves_the_old_checkpoint_the_new_one_or_a_refused_one(
    tiny_copy: Path, make_checkpoint: _MAKE, monkeypatch: pytest.MonkeyPatch, name: str, call: int, digests: bool
) -> None:
    new = make_checkpoint(seed=1, pooling="cls", prompts={"query": "query: ", "document": ""})
    if not digests:
        (tiny_copy / "simpair.json").unlink()
    old = _load(tiny_copy).encode_query("a cat")
    with monkeypatch.context() as context:
        _interrupt_at(context, name, call)
        try:
            write_checkpoint(tiny_copy, new)
            finished = True
        except _Interrupted:
            finished = False
    assert [path.name for path in tiny_copy.parent.iterdir()] == ["copy"]
    try:
        found = _load(tiny_copy).encode_query("a cat")
    except ModelCorrupt as error:
        assert not finished
        assert "is not the file that was saved" in str(error)  # noqa: PT017
    else:
        allowed = [TwinTowerEncoder(new).encode_query("a cat")] + ([] if finished else [old])
        assert any(np.array_equal(found, vectors) for vectors in allowed)
    write_checkpoint(tiny_copy, new)
    assert np.array_equal(_load(tiny_copy).encode_query("a cat"), TwinTowerEncoder(new).encode_query("a cat"))


def test_a_mix_of_two_checkpoints_would_load_without_digests(tiny_copy: Path, make_checkpoint: _MAKE) -> None:
    """The control: what the digests keep out is a third model, not a refusal from elsewhere."""
    write_checkpoint(tiny_copy.parent / "new", make_checkpoint(seed=1, pooling="cls"))
    old, new = _load(tiny_copy).encode("a cat"), _load(tiny_copy.parent / "new").encode("a cat")
    (tiny_copy.parent / "new" / _WEIGHTS).replace(tiny_copy / _WEIGHTS)
    with pytest.raises(ModelCorrupt):
        _load(tiny_copy)
    (tiny_copy / "simpair.json").unlink()
    mixed = _load(tiny_copy).encode("a cat")
    assert not np.allclose(mixed, old, atol=1e-3)
    assert not np.allclose(mixed, new, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "call"), [("rename", 1), ("write_text", 1), ("write_text", 5), ("fsync", 1), ("write_bytes", 1)]
)
def test_an_interrupted_first_save_leaves_no_folder(
    tmp_path: Path, make_checkpoint: _MAKE, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    with monkeypatch.context() as context:
        _interrupt_at(context, name, call)
        with pytest.raises(_Interrupted):
            write_checkpoint(tmp_path / "model", make_checkpoint())
    assert list(tmp_path.iterdir()) == []


def test_weights_have_the_permissions_of_other_new_files(tmp_path: Path, make_checkpoint: _MAKE) -> None:
    """A package installed by one user is used by others."""
    (tmp_path / "plain").write_text("")
    write_checkpoint(tmp_path / "model", make_checkpoint())
    for path in (tmp_path / "model").rglob("*"):
        assert path.is_dir() or path.stat().st_mode == (tmp_path / "plain").stat().st_mode, path
