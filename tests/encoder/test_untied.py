"""Two towers of different size in one space: each role asks its own, there and back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import InputError, ModelCorrupt, UnsafeModel, UnsupportedModel
from simpair.search.index import SearchIndex
from simpair.training import ScoredPair, evaluate_pairs
from tests.checkpoints import untied
from tests.command import ran

TEXTS = ["a cat sits on the mat", "今天天气很好", "the dog runs fast, 猫", "x", "cat " * 90]
PROMPTS = {"query": "ask: ", "document": ""}


@pytest.fixture
def folder(make_untied: Callable[..., Checkpoint], tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "untied", make_untied(prompts=PROMPTS))
    return tmp_path / "untied"


def _open(folder: Path, **options: Any) -> TwinTowerEncoder:
    return TwinTowerEncoder.from_pretrained(folder, device="cpu", **options)


def _edit(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changed), encoding="utf-8")
    for digests in path.parent.glob("simpair.json"):
        digests.unlink()


def test_each_role_uses_its_tower(
    make_untied: Callable[..., Checkpoint], folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = make_untied(prompts=PROMPTS)
    write_checkpoint(tmp_path / "query", Checkpoint.tied(whole.towers["query"]))
    write_checkpoint(tmp_path / "document", Checkpoint.tied(whole.document))
    query, document, both = _open(tmp_path / "query"), _open(tmp_path / "document"), _open(folder)
    assert not both.tied
    assert document.tied
    np.testing.assert_array_equal(both.encode_query(TEXTS), query.encode_query(TEXTS))
    assert "longer than 24 tokens" in caplog.text  # of the queries' tower
    np.testing.assert_array_equal(both.encode_document(TEXTS), document.encode_document(TEXTS))
    np.testing.assert_array_equal(both.encode(TEXTS), document.encode(TEXTS))
    np.testing.assert_array_equal(next(both.encode_stream(TEXTS, role="query")), both.encode_query(TEXTS))
    assert np.abs(both.encode_query(TEXTS) - both.encode_document(TEXTS)).max() > 0.1
    ids, mask = both.tokenizer.pad(TEXTS[:3], role="query")
    np.testing.assert_allclose(both(ids, mask, "query").detach(), both.encode_query(TEXTS[:3]), atol=1e-6)


@pytest.mark.parametrize("default_role", ["query", "document"])
def test_a_batch_may_mix_roles(make_untied: Callable[..., Checkpoint], tmp_path: Path, default_role: Any) -> None:
    write_checkpoint(tmp_path / "untied", make_untied(default_role=default_role))
    encoder = _open(tmp_path / "untied")
    texts, roles = ["a cat", "the red dog", "blue", "runs fast now"], torch.tensor([1, 2, 0, 1])
    named = [
        encoder.encode(text, role=role) for text, role in zip(texts, ("query", "document", None, "query"), strict=True)
    ]
    given = encoder(*encoder.tokenizer.pad(texts), roles)
    np.testing.assert_allclose(given.detach(), np.stack(named), atol=1e-6)
    alike = encoder.encode_query("blue") if default_role == "query" else encoder.encode_document("blue")
    np.testing.assert_array_equal(encoder.encode("blue"), alike)
    encoder(*encoder.tokenizer.pad(texts), torch.tensor([2, 2, 2, 2])).sum().backward()
    assert all(weight.grad is None for weight in encoder.towers["query"].parameters())


def test_a_pair_is_saved_opened_and_replaces_a_tied_save(folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    encoder = _open(folder)
    tied = _open(tiny_model)
    for save in (encoder, tied, encoder):
        save.save_pretrained(tmp_path / "back")
        again = _open(tmp_path / "back")
        assert again.fingerprint == save.fingerprint
        assert again.identity == save.identity
        np.testing.assert_array_equal(again.encode_query(TEXTS), save.encode_query(TEXTS))
    again.save_pretrained(tmp_path / "half", dtype="float16")
    assert _open(tmp_path / "half").fingerprint == encoder.fingerprint
    assert "query" in again.identity
    assert tied.fingerprint != encoder.fingerprint


def test_sentence_transformers_has_the_same_vectors_and_its_folder_is_read(folder: Path, tmp_path: Path) -> None:
    peer_class = pytest.importorskip("sentence_transformers").SentenceTransformer
    encoder = _open(folder)
    encoder.save_pretrained(tmp_path / "saved")
    peer = peer_class(str(tmp_path / "saved"), device="cpu")
    peer.save(str(tmp_path / "theirs"))
    theirs = _open(tmp_path / "theirs")
    for name in ("encode", "encode_query", "encode_document"):
        wanted = getattr(peer, name)(TEXTS, batch_size=1)
        np.testing.assert_allclose(getattr(encoder, name)(TEXTS, on_truncation="ignore"), wanted, atol=1e-6)
        np.testing.assert_allclose(getattr(theirs, name)(TEXTS, on_truncation="ignore"), wanted, atol=1e-6)


def test_two_encoders_become_one(tiny_model: Path, make_checkpoint: Callable[..., Checkpoint], tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "q", make_checkpoint(seed=5, prompts={"query": "Q: ", "document": "no"}))
    write_checkpoint(tmp_path / "narrow", make_checkpoint(config={"hidden_size": 16}))
    write_checkpoint(tmp_path / "dot", make_checkpoint(similarity="dot", normalize=False))
    query, document = _open(tmp_path / "q"), _open(tiny_model)
    both = TwinTowerEncoder.untied(query, document)
    np.testing.assert_array_equal(both.encode_query(TEXTS), query.encode_query(TEXTS))
    np.testing.assert_array_equal(both.encode_document(TEXTS), document.encode_document(TEXTS))
    assert both.settings.prompts == {"query": "Q: ", "document": ""}
    for other, told in (
        (_open(tmp_path / "narrow"), "16 and 32"),
        (both, "two tied"),
        (_open(tmp_path / "dot"), "dot"),
    ):
        with pytest.raises(InputError, match=told):
            TwinTowerEncoder.untied(other, document)
    with torch.no_grad():
        next(query.parameters()).zero_()  # the towers are copies
    assert both.encode_query("a cat").any()


def test_weights_are_loaded_into_both_or_refused(
    folder: Path, tmp_path: Path, tiny_model: Path, make_untied: Callable[..., Checkpoint]
) -> None:
    encoder, other = _open(folder), _open(folder)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.01)
    other.save_pretrained(tmp_path / "other")
    encoder.load_weights(tmp_path / "other")
    assert encoder.fingerprint == other.fingerprint
    with pytest.raises(ModelCorrupt, match=r"has [12] towers, but this encoder has [12]"):
        encoder.load_weights(tiny_model)
    with pytest.raises(ModelCorrupt, match=r"has [12] towers, but this encoder has [12]"):
        _open(tiny_model).load_weights(folder)


def test_weights_that_are_refused_change_neither_tower(
    folder: Path, tmp_path: Path, make_untied: Callable[..., Checkpoint], make_checkpoint: Callable[..., Checkpoint]
) -> None:
    """The queries' tower of the folder would fit, the documents' does not."""
    whole = make_untied(prompts=PROMPTS)
    other = make_checkpoint(seed=9, config={"num_hidden_layers": 3})
    query = make_checkpoint(seed=8, config={"num_hidden_layers": 1})
    write_checkpoint(tmp_path / "other", untied(query, other))
    encoder = _open(folder)
    before = encoder.fingerprint
    wider = make_checkpoint(config={"vocab_size": whole.document.config["vocab_size"] + 8})
    write_checkpoint(tmp_path / "wider", untied(query, wider))
    with pytest.raises(ModelCorrupt):
        encoder.load_weights(tmp_path / "wider")
    assert encoder.fingerprint == before


def test_routes_that_share_some_weights_are_refused(folder: Path) -> None:
    content = json.loads((folder / "router_config.json").read_text(encoding="utf-8"))
    content["structure"]["query"] = ["document_0_Transformer", "query_1_Pooling"]
    _edit(folder / "router_config.json", **content)
    with pytest.raises(UnsupportedModel, match=r"share some of their weights.*wrap\(SentenceTransformer"):
        _open(folder)


def test_a_pair_replaces_a_save_of_sentence_transformers(folder: Path, tmp_path: Path, tiny_copy: Path) -> None:
    (tiny_copy / "simpair.json").unlink()
    (tiny_copy / "adapter_config.json").write_text("{}", encoding="utf-8")
    _open(folder).save_pretrained(tiny_copy)
    assert _open(tiny_copy).fingerprint == _open(folder).fingerprint


def test_the_command_line_measures_both_towers(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [ScoredPair(f"the cat {n}", f"a dog {'red ' * n}", (n % 4) / 3) for n in range(8)]
    rows = "".join(f"{pair.text1},{pair.text2},{pair.label}\n" for pair in pairs)
    (tmp_path / "pairs.csv").write_text(f"text1,text2,label\n{rows}", encoding="utf-8")
    (found,) = ran(capsys, "evaluate", folder, tmp_path / "pairs.csv", "--format", "jsonl").rows
    assert found["spearman"] == pytest.approx(evaluate_pairs(_open(folder), pairs).spearman, abs=1e-4)


def test_an_index_uses_the_tower_of_each_role(folder: Path, tmp_path: Path) -> None:
    encoder = _open(folder)
    with SearchIndex.create(tmp_path / "index", encoder) as index:
        index.add(TEXTS)
        (hits,) = index.search(["a red dog"], k=5)
    scores = encoder.encode_document(TEXTS, on_truncation="ignore") @ encoder.encode_query("a red dog")
    assert [hit.text for hit in hits] == [TEXTS[row] for row in np.argsort(-scores)]
    with SearchIndex.open(tmp_path / "index") as again:  # the encoder is found where it lay
        assert [hit.id for hit in again.search(["a red dog"], k=5)[0]] == [hit.id for hit in hits]


def test_layers_are_computed_again_in_both_towers(folder: Path) -> None:
    encoder = _open(folder)
    encoder.gradient_checkpointing_enable()
    assert encoder.towers["document"].backbone.recomputing
    assert encoder.towers["query"].backbone.recomputing
    encoder.gradient_checkpointing_disable()
    assert not encoder.towers["query"].backbone.recomputing


@pytest.mark.parametrize(
    ("changed", "error", "told"),
    [
        ({"parameters": {"default_route": "image"}}, ModelCorrupt, "the default route 'image' is none of query"),
        ({"parameters": {"default_route": "query", "scale": 2}}, UnsupportedModel, "scale"),
        ({"structure": {"query": ["query_0_Transformer"]}}, ModelCorrupt, "'document' is none of query"),
        ({"structure": {"query": [], "passage": [], "document": []}}, UnsupportedModel, "query, passage, document"),
        ({"structure": {"query": ["elsewhere"], "document": []}}, ModelCorrupt, "each route"),
        ({"types": {}}, ModelCorrupt, "each route"),
        ({"types": None}, ModelCorrupt, "each route"),
        ({"parameters": None}, ModelCorrupt, "each route"),
        ({"routes": {"a": "b"}}, UnsupportedModel, "'routes' is"),
        ({"types": {"query_0_Transformer": "os.system"}}, UnsafeModel, "never run"),
    ],
)  # fmt: skip
def test_routers_that_say_something_else_are_refused(folder: Path, changed: Any, error: type, told: str) -> None:
    _edit(folder / "router_config.json", **changed)
    with pytest.raises(error, match=told):
        _open(folder)


def test_a_text_without_a_route_is_refused_at_once(folder: Path) -> None:
    _edit(folder / "router_config.json", parameters={"default_route": None, "allow_empty_key": False})
    with pytest.raises(UnsupportedModel, match="no default route"):
        _open(folder)


def test_a_route_that_leaves_the_folder_is_refused(folder: Path) -> None:
    content = json.loads((folder / "router_config.json").read_text(encoding="utf-8"))
    content["types"]["../x"], content["structure"]["query"][0] = content["types"]["query_0_Transformer"], "../x"
    _edit(folder / "router_config.json", **content)
    with pytest.raises(UnsafeModel, match="leaves"):
        _open(folder)


def test_a_default_that_is_not_named_is_the_first_route(folder: Path) -> None:
    _edit(folder / "router_config.json", parameters={"default_route": None, "allow_empty_key": True})
    encoder = _open(folder)
    np.testing.assert_array_equal(
        encoder.encode("a cat"), TwinTowerEncoder(Checkpoint.tied(encoder.checkpoint().towers["query"])).encode("a cat")
    )


def test_files_inside_a_saved_router_have_digests(folder: Path) -> None:
    (folder / "query_0_Transformer" / "added_tokens.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelCorrupt, match="was not saved"):
        _open(folder)


def test_towers_of_different_dimensions_are_refused(make_untied: Callable[..., Checkpoint], tmp_path: Path) -> None:
    whole = make_untied()
    query = whole.towers["query"]
    narrow = replace(query, config={**query.config, "hidden_size": 16})
    with pytest.raises(ModelCorrupt):
        TwinTowerEncoder(replace(whole, towers={**whole.towers, "query": narrow}))
