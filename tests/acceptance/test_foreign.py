"""Folders as others leave them: what sentence-transformers does with them is done here too, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simpair.checkpoint.layout import read_layout
from simpair.encoder.model import TwinTowerEncoder
from simpair.errors import UnsupportedModel
from tests.acceptance.folders import LAYOUTS, TEXTS, Layout, build

pytest.importorskip("sentence_transformers.sentence_transformer.modules", reason="older ones save by other names")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def _edit(path: Path, **changed: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**content, **changed}), encoding="utf-8")


def _both(folder: Path) -> tuple[Any, Any]:
    from sentence_transformers import SentenceTransformer

    encoder = TwinTowerEncoder.from_pretrained(folder, device="cpu")
    peer = SentenceTransformer(str(folder), device="cpu")
    expected = peer.encode(TEXTS, batch_size=1, normalize_embeddings=True)
    return encoder.encode(TEXTS, on_truncation="ignore"), expected


def _bare(folder: Path) -> Path:
    """The plain transformers folder inside."""
    return folder.parent / "bare"


@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "Qwen3Model"])
def test_a_plain_decoder_gives_its_last_token(tmp_path: Path, architecture: str) -> None:
    folder = _bare(build(LAYOUTS["Qwen3"], tmp_path))
    _edit(folder / "config.json", architectures=[architecture])
    np.testing.assert_allclose(*_both(folder), atol=1e-6)
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    with pytest.raises(UnsupportedModel, match="chat template"):
        TwinTowerEncoder.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("name", ["Llama", "ModernBERT"])
def test_a_declared_length_is_that_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = build(LAYOUTS[name], tmp_path)
    for path in (folder / "tokenizer_config.json", folder / "sentence_bert_config.json"):
        _edit(path, **({"model_max_length": 90} if "tokenizer" in path.name else {"max_seq_length": 90}))
    np.testing.assert_allclose(*_both(folder), atol=1e-6)


def test_a_text_beyond_the_table_of_positions_is_refused_by_name(tmp_path: Path) -> None:
    folder = build(LAYOUTS["MPNet"], tmp_path)
    _edit(folder / "sentence_bert_config.json", max_seq_length=90)
    with pytest.raises(UnsupportedModel, match="more than the table of positions"):
        TwinTowerEncoder.from_pretrained(folder, device="cpu").encode(TEXTS)


def test_tokens_that_a_class_names_are_saved_by_their_names(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = build(LAYOUTS["DistilBERT"], tmp_path)
    lean = {"do_lower_case": True, "model_max_length": 40, "tokenizer_class": "DistilBertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(lean), encoding="utf-8")
    found, expected = _both(folder)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    TwinTowerEncoder.from_pretrained(folder, device="cpu").save_pretrained(tmp_path / "back")
    back = SentenceTransformer(str(tmp_path / "back"), device="cpu").encode(TEXTS)  # padded
    np.testing.assert_allclose(back, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["DistilBertForMaskedLM", "MPNetForMaskedLM", "AlbertForMaskedLM"])
def test_a_pretraining_head_is_ignored_and_no_weight_is_made_up(tmp_path: Path, kind: str) -> None:
    import transformers

    names = {"DistilBertForMaskedLM": "DistilBERT", "MPNetForMaskedLM": "MPNet", "AlbertForMaskedLM": "ALBERT"}
    folder = _bare(build(LAYOUTS[names[kind]], tmp_path))
    _edit(folder / "tokenizer_config.json", model_max_length=40)
    config = transformers.AutoConfig.from_pretrained(folder)
    getattr(transformers, kind)(config).save_pretrained(folder)
    one, other = (TwinTowerEncoder.from_pretrained(folder, device="cpu") for _ in range(2))
    assert one.fingerprint == other.fingerprint
    np.testing.assert_allclose(*_both(folder), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "with dynamic"),
        ("MPNet", {"attention_type": "block_sparse"}, "with block_sparse"),
        ("MPNet", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config is set"),
    ],
)
def test_settings_that_depend_on_other_texts_or_libraries_are_refused(
    tmp_path: Path, name: str, config: dict[str, Any], message: str
) -> None:
    folder = build(LAYOUTS[name], tmp_path)
    _edit(folder / "config.json", **config)
    with pytest.raises(UnsupportedModel, match=message):
        TwinTowerEncoder.from_pretrained(folder, device="cpu")


def test_an_encoder_that_comes_with_its_decoder_alone_is_refused(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "pad_token_id": 3}
    folder = build(
        Layout("pegasus", "bpe", sizes | {"encoder_attention_heads": 4, "decoder_attention_heads": 4}), tmp_path
    )
    with pytest.raises(UnsupportedModel, match="without its decoder"):
        TwinTowerEncoder.from_pretrained(folder, device="cpu")


def test_an_adapter_beside_the_weights_is_refused(tmp_path: Path) -> None:
    folder = build(LAYOUTS["MPNet"], tmp_path)
    _edit(folder / "adapter_config.json", peft_type="LORA")
    with pytest.raises(UnsupportedModel, match="asks for an adapter"):
        TwinTowerEncoder.from_pretrained(folder, device="cpu")


def test_keys_that_fetch_code_never_reach_transformers(tmp_path: Path) -> None:
    folder = build(LAYOUTS["ModernBERT"], tmp_path)
    before = TwinTowerEncoder.from_pretrained(shutil.copytree(folder, tmp_path / "copy"), device="cpu")
    _edit(folder / "config.json", attn_implementation="kernels-community/flash", auto_map={"AutoModel": "m.Model"})
    after = TwinTowerEncoder.from_pretrained(folder, device="cpu")
    assert after.fingerprint == before.fingerprint
    assert np.array_equal(after.encode("a cat"), before.encode("a cat"))


def test_a_text_of_two_types_of_tokens_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    folder = build(LAYOUTS["ALBERT"], tmp_path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = [("[CLS]", tokenizer.token_to_id("[CLS]"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS]:1 $A:1", special_tokens=special)
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(UnsupportedModel, match="not all of type 0"):
        TwinTowerEncoder.from_pretrained(folder, device="cpu")


def test_files_for_which_a_folder_is_refused_are_downloaded_too(tmp_path: Path) -> None:
    names = [
        "config.json",
        "model.safetensors",
        "chat_template.jinja",
        "adapter_config.json",
        "other/adapter_config.json",
    ]
    assert read_layout(tmp_path, names).files == tuple(sorted(names[:-1]))
