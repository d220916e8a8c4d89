"""Two thousand changed folders: each is refused in one line, or gives the vectors that the change leaves right.

With digests no change of a saved byte may load. Without them plain sentence-transformers is the judge of what the
changed folder means; where it refuses, refusing is right, and so are the vectors from before.
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from simpair.checkpoint import read as checkpoint_room
from simpair.checkpoint.modules import DenseLayer
from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import InputError, ModelError
from tests.acceptance.folder_mutations import contents, mutate
from tests.acceptance.folders import LAYOUTS, build
from tests.checkpoints import untied

_MAKE = Callable[..., Checkpoint]
_PEER = Callable[..., Any]
_TEXTS = ["", "a cat", "CAT Élan", "今天天气 cat", "[CLS] dog [MASK]", "[PAD] cat", "cat " * 90, "x" * 150, "a\0b"]
_BASES = ["usual", "everything set", "vocab.txt", "roberta", "untied", "table asks", "dense"]
_FOREIGN = ["MPNet, two dense layers", "ModernBERT", "T5", "Qwen3"]
"""Of the layouts that sentence-transformers writes today."""
_LONGEST_SECONDS = 10


class _Base(NamedTuple):
    """A sound folder, its vectors, and the bytes of its files."""

    folder: Path
    vectors: NDArray[np.float32]
    files: dict[str, bytes]
    texts: list[str] = _TEXTS


class _Verdict(NamedTuple):
    """``refused``, ``same``, ``as sentence-transformers``; or a complaint, which is longer."""

    said: str
    sound: bool = True


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are fastest alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=_BASES)
def base(
    request: pytest.FixtureRequest, make_checkpoint: _MAKE, make_untied: _MAKE, make_static: _MAKE, tmp_path: Path
) -> _Base:
    made: dict[str, Callable[[], Checkpoint]] = {
        "untied": lambda: make_untied(prompts={"query": "query: ", "document": ""}, pooling="cls+mean"),
        "table asks": lambda: untied(make_static(), make_checkpoint(), "query"),
    }
    kind, folder = request.param, tmp_path / "base"
    texts = _TEXTS[1:] if kind == "table asks" else _TEXTS  # a table has no special tokens, and none of no text
    return _saved(made[kind](), folder, texts) if kind in made else _make_base(kind, make_checkpoint, folder)


@pytest.fixture(params=_FOREIGN)
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> _Base:
    pytest.importorskip("sentence_transformers.sentence_transformer.modules", reason="older ones save by other names")
    return foreign_base(request.param, tmp_path)


def foreign_base(layout: str, folder: Path) -> _Base:
    """What sentence-transformers writes of a layout; its bytes-level tokenizers have no token for an empty text."""
    saved = build(LAYOUTS[layout], folder)
    texts = _TEXTS[1:] if LAYOUTS[layout].tokenizer == "bpe" else _TEXTS
    vectors = _encode(TwinTowerEncoder.from_pretrained(saved, device="cpu"), texts)
    return _Base(saved, vectors, contents(saved), texts)


@pytest.fixture
def peer(sentence_transformer: _PEER, monkeypatch: pytest.MonkeyPatch) -> _PEER:
    """Plain sentence-transformers, which asks no Hub for what a changed file names."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return sentence_transformer


def _make_base(kind: str, make: _MAKE, folder: Path) -> _Base:
    special = {"roberta": _roberta, "dense": _dense}
    _saved(special[kind](make) if kind in special else make(**_OPTIONS[kind]), folder)
    if kind == "vocab.txt":
        _to_vocabulary(folder)
    return _Base(folder, _encode(TwinTowerEncoder.from_pretrained(folder, device="cpu")), contents(folder))


def _saved(checkpoint: Checkpoint, folder: Path, texts: list[str] = _TEXTS) -> _Base:
    write_checkpoint(folder, checkpoint)
    vectors = _encode(TwinTowerEncoder.from_pretrained(folder, device="cpu"), texts)
    return _Base(folder, vectors, contents(folder), texts)


def _dense(make: _MAKE) -> Checkpoint:
    draw = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(24, 32, generator=draw) / 6, torch.randn(24, generator=draw)
    prompts = {"query": "query: ", "document": ""}
    layers = (DenseLayer(weight, bias, "Tanh"),)
    return make(prompts=prompts, include_prompt=False).map(lambda tower: replace(tower, dense=layers))


_OPTIONS: dict[str, dict[str, Any]] = {
    "usual": {},
    "everything set": {
        "pooling": "cls",
        "similarity": "dot",
        "normalize": False,
        "max_seq_length": 40,
        "prompts": {"query": "query: ", "document": "text: ", "other": "the "},
        "default_prompt_name": "other",
        "truncate_dim": 24,
        "config": {"hidden_act": "relu", "layer_norm_eps": 1e-5},
    },
    "vocab.txt": {"pooling": "weightedmean"},
}


def _roberta(make: _MAKE) -> Checkpoint:
    """RoBERTa's positions and padding, beside a tokenizer that transformers takes as it is."""
    content = json.loads(make().document.tokenizer.to_str())
    content["model"]["vocab"] |= {"[UNK]": 0, "[PAD]": 1}
    for token in content["added_tokens"]:
        token["id"] = {"[UNK]": 0, "[PAD]": 1}.get(token["content"], token["id"])
    config = {"model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 66}
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "pad", "sep", "unk")}
    made = make(config=config, tokenizer=Tokenizer.from_str(json.dumps(content)), pooling="max", similarity="dot")
    own = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    return made.map(lambda tower: replace(tower, tokenizer_config=own))


def _to_vocabulary(folder: Path) -> None:
    """The tokenizer as older Chinese models have it; no digests, for the layout is no more the saved one."""
    pieces = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(pieces, key=pieces.__getitem__)) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    (folder / "simpair.json").unlink()


def _encode(encoder: Any, texts: list[str] = _TEXTS, **options: Any) -> NDArray[np.float32]:
    """The texts in two roles, by simpair or by sentence-transformers."""
    return np.concatenate([encoder.encode(texts, **options), encoder.encode_query(texts, **options)])


def _judge(folder: Path, base: _Base, peer: _PEER | None) -> _Verdict:
    begun = time.monotonic()
    try:
        encoder = TwinTowerEncoder.from_pretrained(folder, device="cpu")
        vectors = _encode(encoder, base.texts)
    except (ModelError, InputError) as error:
        one_line = "\n" not in str(error) and len(str(error)) < 700 + len(str(folder))
        return _Verdict("refused") if one_line else _Verdict(f"not one line: {str(error)[:200]!r}", sound=False)
    except Exception as error:
        return _Verdict(f"a raw exception: {error!r:.200}", sound=False)
    if time.monotonic() - begun > _LONGEST_SECONDS:
        return _Verdict("a load without end", sound=False)
    if not np.isfinite(vectors).all():
        return _Verdict("vectors that are no numbers", sound=False)
    same = vectors.shape == base.vectors.shape and np.allclose(vectors, base.vectors, rtol=0, atol=1e-6)
    if "simpair.json" in base.files:
        return _judge_digested(folder, base, same=same)
    return _judge_by_peer(folder, base, vectors, peer, same=same, normalize=encoder.settings.normalize)


def _judge_digested(folder: Path, base: _Base, *, same: bool) -> _Verdict:
    """What loaded must be what was saved, but for ``simpair.json`` itself, and files that were not saved."""
    found = contents(folder)
    changed = [name for name in base.files if name != "simpair.json" and found.get(name) != base.files[name]]
    if changed or not same:
        return _Verdict(
            f"{changed} changed, and loaded; the vectors are {'the same' if same else 'others'}", sound=False
        )
    return _Verdict("same")


def _judge_by_peer(
    folder: Path, base: _Base, vectors: NDArray[np.float32], peer: _PEER | None, *, same: bool, normalize: bool
) -> _Verdict:
    if peer is None:
        return _Verdict("same" if same else "others")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = _encode(peer(folder), base.texts, batch_size=1)  # some mix padding in
    except Exception as error:  # its libraries raise many kinds
        return _Verdict("same") if same else _Verdict(f"other vectors, where the peer says {error!r:.200}", sound=False)
    if normalize:  # a cosine model's embeddings have norm 1 here, whether or not the folder has a module for it
        expected = expected / np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    if vectors.shape != expected.shape or not np.allclose(vectors, expected, rtol=0, atol=1e-5):
        return _Verdict(f"{'the old' if same else 'new'} vectors, and the peer has others", sound=False)
    return _Verdict("same" if same else "as sentence-transformers")


def judge_all(base: _Base, numbers: range, peer: _PEER | None = None) -> tuple[Counter[str], list[str]]:
    """How many changed folders got which verdict, and each complaint behind the change that led to it."""
    tally: Counter[str] = Counter()
    complaints: list[str] = []
    for number in numbers:
        folder = Path(shutil.copytree(base.folder, base.folder.parent / f"changed-{number}"))
        change = mutate(folder, number)
        verdict = _judge(folder, base, peer)
        tally[verdict.said if verdict.sound else "unsound"] += 1
        if not verdict.sound:
            complaints.append(f"{change}: {verdict.said}")
        shutil.rmtree(folder)
    return tally, complaints


def _without_digests(base: _Base) -> _Base:
    (base.folder / "simpair.json").unlink(missing_ok=True)
    return base._replace(files=contents(base.folder))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "numbers", [range(30), pytest.param(range(1_000, 1_334), marks=pytest.mark.slow)], ids=["some", "many"]
)
@pytest.mark.parametrize("base", [kind for kind in _BASES if kind != "vocab.txt"], indirect=True)
def test_with_digests_no_change_of_a_saved_byte_loads(base: _Base, numbers: range) -> None:
    tally, complaints = judge_all(base, numbers)
    assert not complaints, "\n".join(complaints)
    assert tally["refused"] > 0.8 * len(numbers)
    assert tally["same"]


@pytest.mark.timeout(120)
def test_a_foreign_folder_is_refused_in_one_line_or_gives_numbers(base: _Base) -> None:
    tally, complaints = judge_all(_without_digests(base), range(2_000, 2_030))
    assert not complaints, "\n".join(complaints)
    assert tally["refused"]
    assert tally["same"]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_foreign_folder_gives_the_vectors_of_sentence_transformers(base: _Base, peer: _PEER) -> None:
    tally, complaints = judge_all(_without_digests(base), range(3_000, 3_125), peer)
    assert not complaints, "\n".join(complaints)
    assert min(tally[said] for said in ("refused", "same")) > 0, tally
    assert tally["as sentence-transformers"] or base.texts is not _TEXTS, tally


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_changed_folders_of_sentence_transformers_give_its_vectors_or_an_error(foreign: _Base, peer: _PEER) -> None:
    tally, complaints = judge_all(foreign, range(4_000, 4_075), peer)
    assert not complaints, "\n".join(complaints)
    assert min(tally[said] for said in ("refused", "same")) > 0, tally


def test_without_the_check_of_digests_changes_would_load_unseen(
    make_checkpoint: _MAKE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    base = _make_base("usual", make_checkpoint, tmp_path / "base")
    monkeypatch.setattr(checkpoint_room, "check_digests", lambda folder: None)
    _, complaints = judge_all(base, range(60))
    assert any("loaded; the vectors are others" in line for line in complaints)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_reader_that_passes_over_damage_would_be_caught(
    make_checkpoint: _MAKE, peer: _PEER, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the comparison with sentence-transformers."""
    base = _without_digests(_make_base("everything set", make_checkpoint, tmp_path / "base"))
    strict = checkpoint_room.read_json

    def forgiving(path: Path, **options: Any) -> dict[str, Any]:
        try:
            return strict(path, **options)
        except ModelError:
            return {}

    monkeypatch.setattr(checkpoint_room, "read_json", forgiving)
    _, complaints = judge_all(base, range(3_000, 3_100), peer)
    assert any("other vectors, where the peer says" in line for line in complaints)
