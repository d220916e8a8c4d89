"""The folder of a checkpoint → settings, tensors and tokenizer of each role, every check made.

No pickle is opened, and no code that a file names is run. Imports no tower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from simpair.checkpoint.digests import check_digests
from simpair.checkpoint.layout import STATIC, Layout, TowerModules, read_layout
from simpair.checkpoint.modules import PoolingMode, read_head
from simpair.checkpoint.refusals import unread
from simpair.checkpoint.settings import UNLIMITED, Checkpoint, Settings, Similarity, TowerCheckpoint
from simpair.checkpoint.tokenizer import read_tokenizer
from simpair.checkpoint.weights import TABLE, read_table, read_weights
from simpair.errors import ModelCorrupt, ModelNotFound, UnsupportedModel
from simpair.files.json_file import read_json

__all__ = ["TRANSFORMER_CONFIGS", "read_checkpoint"]

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
_SIMILARITIES: dict[str, Similarity] = {"None": "cosine", "cosine": "cosine", "dot": "dot", "dot_product": "dot"}


def read_checkpoint(folder: Path, layout: Layout | None = None) -> Checkpoint:
    """Return the checkpoint in a folder: sentence-transformers layout, or a plain transformers folder.

    Args:
        folder: The folder.
        layout: Its layout, if it is known already.

    Raises:
        ModelNotFound: The folder has no ``config.json``.
        ModelCorrupt: A file is missing, damaged, or differs from what was saved.
        UnsafeModel: The only weights are pickled, or a module is code from outside sentence-transformers.
        UnsupportedModel: A module, pooling or similarity that this version does not read.
    """
    check_digests(folder)
    layout = layout or read_layout(folder)
    path = folder / "config_sentence_transformers.json"
    shared = Settings() if layout.towers["document"].is_plain else _read_shared(path)
    towers = {modules: _read_tower(folder, modules, shared) for modules in dict.fromkeys(layout.towers.values())}
    return Checkpoint({role: towers[modules] for role, modules in layout.towers.items()}, layout.default_role)


def _read_tower(folder: Path, modules: TowerModules, shared: Settings) -> TowerCheckpoint:
    """Return what the modules of one tower hold, with the settings that both towers share."""
    home = folder / modules.first
    config = None if modules.static else _read_config(home)
    options = {} if config is None else _read_options(home)
    words = read_tokenizer(home, config, lowercase=bool(options.get("do_lower_case")))
    if config is not None:
        weights = read_weights(home)
    else:  # a static table (Tulkens & van Dongen 2024, model2vec)
        weights = read_table(home)
        rows, columns = weights.tensors[TABLE].shape
        config = {"model_type": STATIC, "vocab_size": rows, "hidden_size": columns}
    declared_length = options.get("max_seq_length")
    pooling = _usual_pooling(home, config, words.config) if modules.is_plain else "mean"
    head = read_head(folder, modules, config, pooling=pooling)
    settings = replace(
        shared,
        pooling=head.pooling,
        include_prompt=head.include_prompt,
        normalize=head.normalize or shared.similarity == "cosine",
        max_seq_length=_max_seq_length(folder, declared_length, words.max_length),
    )
    if (kept := shared.truncate_dim) is not None and not (type(kept) is int and 1 <= kept <= head.dimension):
        expected = f"expected 1 to {head.dimension}, the dimension of an embedding"
        raise ModelCorrupt(f"{folder}: truncate_dim is {kept!r:.80}; {expected}")
    return TowerCheckpoint(
        config=config,
        settings=settings,
        tensors=weights.tensors,
        tokenizer=words.tokenizer,
        tokenizer_config=words.config,
        declares_pooling=not modules.is_plain,
        declares_length=declared_length is not None or modules.static,
        dense=head.dense,
        weights_file=weights.file,
    )


def _read_config(home: Path) -> Mapping[str, Any]:
    """Return the ``config.json`` of a transformer."""
    if not (home / "config.json").is_file():
        raise ModelNotFound(f"{home} has no config.json; give the folder of a saved model, or download it again")
    if (home / "adapter_config.json").exists():
        raise UnsupportedModel(f"{home}: adapter_config.json asks for an adapter; merge it into the weights first")
    config = read_json(home / "config.json")
    if (kind := config.get("model_type")) == STATIC:
        raise UnsupportedModel(f"{home}: model_type is {kind!r}, which no transformer has")
    return config


def _read_options(home: Path) -> Mapping[str, Any]:
    """Return ``sentence_bert_config.json``, also under its older names; refuse keys that would change an embedding."""
    path = next((home / name for name in TRANSFORMER_CONFIGS if (home / name).exists()), None)
    if path is None:
        return {}
    config = read_json(path)
    for key, value in config.items():
        known = key in ("max_seq_length", "do_lower_case") or value in _TRANSFORMER_KEYS.get(key, ())
        if not known and value is not None and value not in ({}, []):
            raise unread(path, key, value)
    return config


def _max_seq_length(folder: Path, *declared: Any) -> int:
    """Return the first maximum length that is declared."""
    longest = next((length for length in declared if length is not None), UNLIMITED)
    if not isinstance(longest, int | float) or not longest >= 1:
        raise ModelCorrupt(f"{folder}: max_seq_length is {longest!r:.80}; expected a number of tokens")
    return int(min(longest, UNLIMITED))


def _usual_pooling(folder: Path, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> PoolingMode:
    """Return the pooling of a folder that declares none, as sentence-transformers chooses it.

    It is the last token for a decoder, and the mean for the rest.

    Raises:
        UnsupportedModel: The folder has a chat template, which sentence-transformers would put around every text.
    """
    if (folder / "chat_template.jinja").exists() or tokenizer_config.get("chat_template"):
        what = "declares no pooling and has a chat template, which sentence-transformers puts around each text"
        raise UnsupportedModel(f"{folder} {what}; give a folder with modules.json")
    named = config.get("architectures")
    is_decoder = isinstance(named, list) and str(named[:1]).endswith("ForCausalLM']")
    return "lasttoken" if is_decoder and config.get("is_causal") is not False else "mean"


def _read_shared(path: Path) -> Settings:
    """Return the settings in ``config_sentence_transformers.json``, which both towers share."""
    declared = read_json(path, missing={})
    for key, value in declared.items():
        if key not in _SETTINGS_KEYS and value not in (None, "", {}, []):
            raise unread(path, key, value)
    named = declared.get("similarity_fn_name")
    if (similarity := _SIMILARITIES.get(str(named))) is None:
        raise UnsupportedModel(f"{path}: similarity_fn_name is {named!r:.80}; cosine and dot are read")
    if (made_for := declared.get("model_type", "SentenceTransformer")) != "SentenceTransformer":
        raise UnsupportedModel(f"{path}: model_type is {made_for!r:.80}; this version reads SentenceTransformer")
    texts = {} if declared.get("prompts") is None else declared["prompts"]
    if not isinstance(texts, dict) or not all(isinstance(text, str | None) for text in texts.values()):
        raise ModelCorrupt(f"{path}: prompts is {texts!r:.80}; expected an object of texts by name")
    prompts = {"query": "", "document": ""} | {name: text or "" for name, text in texts.items()}
    default = declared.get("default_prompt_name")
    if default not in (None, *prompts):
        raise ModelCorrupt(f"{path}: the default prompt {default!r:.80} is not declared")
    return Settings(
        similarity=similarity, prompts=prompts, default_prompt_name=default, truncate_dim=declared.get("truncate_dim")
    )
