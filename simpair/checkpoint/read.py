"""Folder in the sentence-transformers layout → settings, tensors and tokenizer, every check made.

Knows no tower: it reads files and hands over what they say. Nothing pickled is opened, nothing named by a file is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from simpair.checkpoint.digests import check_digests
from simpair.checkpoint.modules import (
    STATIC,
    TABLE,
    DenseLayer,
    Modules,
    PoolingMode,
    read_layers,
    read_pooling,
    read_table,
    read_towers,
)
from simpair.checkpoint.settings import LONGEST, Checkpoint, Settings, Similarity, vector_width, width_of
from simpair.checkpoint.tokenizer import read_bare_tokenizer, read_tokenizer, read_tokenizer_config
from simpair.checkpoint.weights import WeightsFile, read_tensors
from simpair.errors import ModelCorrupt, ModelNotFound, UnsupportedModel
from simpair.files.json_file import read_json

__all__ = [
    "TRANSFORMER_CONFIGS",
    "PoolingMode",
    "read_checkpoint",
]


TRANSFORMER_CONFIGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_TRANSFORMER_KEYS: dict[str, tuple[Any, ...]] = {
    "modality_config": ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},),
    "module_output_name": ("token_embeddings",),
    "transformer_task": ("feature-extraction",),
    "unpad_inputs": (True, False),
}
"""The values of its keys that are read; ``max_seq_length`` and ``do_lower_case`` take any."""
_SETTINGS_KEYS = ("__version__", "default_prompt_name", "model_type", "prompts", "similarity_fn_name", "truncate_dim")


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a folder: sentence-transformers layout, or a plain transformers folder.

    Raises:
        ModelNotFound: The folder has no ``config.json``.
        ModelCorrupt: A file is missing, damaged, or differs from what was saved.
        UnsafeModel: Weights are only there as pickles, or a module is code from outside sentence-transformers.
        UnsupportedModel: A module, pooling or similarity that this version does not read.
    """
    if not any((folder / name).is_file() for name in ("config.json", "modules.json")):
        raise ModelNotFound(f"{folder} is no checkpoint: it has no config.json; give the folder of a saved model")
    check_digests(folder)
    towers = read_towers(folder)
    document = _read_tower(folder, towers.document)
    if towers.query is None:
        return document
    return replace(document, query=_read_tower(folder, towers.query), default_role=towers.default_role)


def _read_tower(folder: Path, modules: Modules) -> Checkpoint:
    """What the modules of one tower hold; the folder's own settings are those of both."""
    home = modules.first
    if modules.static:
        return _read_static(folder, modules)
    if not (home / "config.json").is_file():
        raise ModelNotFound(f"{home} has no config.json; give the folder of a saved model, or download it again")
    if (home / "adapter_config.json").exists():
        raise UnsupportedModel(f"{home}: adapter_config.json asks for an adapter; merge it into the weights first")
    config = read_json(home / "config.json")
    if (kind := config.get("model_type")) == STATIC:
        raise UnsupportedModel(f"{home}: model_type is {kind!r}, which no transformer has")
    tokenizer_config = read_tokenizer_config(home)
    transformer = _read_transformer(home)
    declared = (transformer.get("max_seq_length"), tokenizer_config.get("model_max_length"), LONGEST)
    longest = next(length for length in declared if length is not None)
    if not isinstance(longest, int | float) or not longest >= 1:
        raise ModelCorrupt(f"{folder}: max_seq_length is {longest!r:.80}; expected a number of tokens")
    settings, layers = Settings(max_seq_length=int(min(longest, LONGEST))), list[DenseLayer]()
    if modules.pooling is None:
        settings = replace(settings, pooling=_usual_pooling(home, config, tokenizer_config))
    else:
        settings, layers = _read_behind(folder, modules, settings, config)
    lowercase = bool(transformer.get("do_lower_case"))
    tokenizer, named = read_tokenizer(home, config, declared=tokenizer_config, lowercase=lowercase)
    weights_file = WeightsFile(home)
    return Checkpoint(
        config=config,
        settings=settings,
        tensors=read_tensors(home),
        tokenizer=tokenizer,
        tokenizer_config=named,
        declared=modules.pooling is not None,
        length_declared=transformer.get("max_seq_length") is not None,
        dense=tuple(layers),
        weights_file=weights_file,
    )


def _read_static(folder: Path, modules: Modules) -> Checkpoint:
    """What a table of embeddings holds (Tulkens & van Dongen 2024, model2vec)."""
    weights_file = WeightsFile(modules.first)
    table = read_table(modules.first)
    tokenizer, longest = read_bare_tokenizer(modules.first)
    config = {"model_type": STATIC, "vocab_size": len(table), "hidden_size": table.shape[1]}
    settings, layers = _read_behind(folder, modules, Settings(max_seq_length=longest or LONGEST), config)
    return Checkpoint(
        config=config,
        settings=settings,
        tensors={TABLE: table},
        tokenizer=tokenizer,
        tokenizer_config={},
        dense=tuple(layers),
        weights_file=weights_file,
    )


def _read_transformer(folder: Path) -> dict[str, Any]:
    """``sentence_bert_config.json`` or its older names; a key that would change a vector unseen is refused."""
    path = next((folder / name for name in TRANSFORMER_CONFIGS if (folder / name).exists()), None)
    if path is None:
        return {}
    config = read_json(path)
    for key, value in config.items():
        known = key in ("max_seq_length", "do_lower_case") or value in _TRANSFORMER_KEYS.get(key, ())
        if not known and value is not None and value not in ({}, []):
            raise UnsupportedModel(f"{path}: {key:.80} is {value!r:.80}, which this version does not read")
    return config


def _read_behind(
    folder: Path, modules: Modules, settings: Settings, config: Mapping[str, Any]
) -> tuple[Settings, list[DenseLayer]]:
    """The settings with what the modules behind the first one say, and the dense layers."""
    if modules.pooling is not None:
        pooling, includes = read_pooling(modules.pooling, width_of(config))
        settings = replace(settings, pooling=pooling, include_prompt=includes)
    layers = read_layers(modules.dense, vector_width(config, settings.pooling))
    settings = _read_settings(folder, settings, width=vector_width(config, settings.pooling, layers))
    return replace(settings, normalize=modules.normalize or settings.similarity == "cosine"), layers


def _usual_pooling(folder: Path, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> PoolingMode:
    """The pooling of a folder that declares none, as sentence-transformers has it: a decoder's last token, or the mean.

    Raises:
        UnsupportedModel: A template for chats stands there, which it would put around every text.
    """
    if (folder / "chat_template.jinja").exists() or tokenizer_config.get("chat_template"):
        raise UnsupportedModel(
            f"{folder} declares no pooling and has a chat template, which sentence-transformers puts around each text; "
            "give a folder with modules.json"
        )
    named = config.get("architectures")
    last = isinstance(named, list) and str(named[:1]).endswith("ForCausalLM']") and config.get("is_causal") is not False
    return "lasttoken" if last else "mean"


def _read_settings(folder: Path, settings: Settings, *, width: int) -> Settings:
    """The settings with what ``config_sentence_transformers.json`` says; D is ``width``."""
    path = folder / "config_sentence_transformers.json"
    declared = read_json(path, missing={})
    for key, value in declared.items():
        if key not in _SETTINGS_KEYS and value not in (None, "", {}, []):
            raise UnsupportedModel(f"{path}: {key!r:.80} is {value!r:.80}, which this version does not read")
    names: dict[str, Similarity] = {"None": "cosine", "cosine": "cosine", "dot": "dot", "dot_product": "dot"}
    similarity = names.get(str(declared.get("similarity_fn_name")))
    if similarity is None:
        named = declared["similarity_fn_name"]
        raise UnsupportedModel(f"{path}: similarity_fn_name is {named!r:.80}; cosine and dot are read")
    if (made_for := declared.get("model_type", "SentenceTransformer")) != "SentenceTransformer":
        raise UnsupportedModel(f"{path}: model_type is {made_for!r:.80}; this version reads SentenceTransformer")
    texts = {} if declared.get("prompts") is None else declared["prompts"]
    if not isinstance(texts, dict) or not all(isinstance(text, str | None) for text in texts.values()):
        raise ModelCorrupt(f"{path}: prompts is {texts!r:.80}; expected an object of texts by name")
    prompts = {"query": "", "document": ""} | {name: text or "" for name, text in texts.items()}
    default, kept = declared.get("default_prompt_name"), declared.get("truncate_dim")
    if default not in (None, *prompts):
        raise ModelCorrupt(f"{path}: the default prompt {default!r:.80} is not declared")
    if kept is not None and not (type(kept) is int and 1 <= kept <= width):
        raise ModelCorrupt(f"{path}: truncate_dim is {kept!r:.80}; expected 1 to {width}, the width of an embedding")
    return replace(settings, similarity=similarity, prompts=prompts, default_prompt_name=default, truncate_dim=kept)
