"""A folder and a number → the folder with one change of the kinds that disks, editors and strangers make.

The same number always makes the same change. Knows the names of a checkpoint's files, and nothing of how they are read.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

_WEIGHTS = "model.safetensors"
_ELSEWHERE = (
    "added_tokens.json",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "README.md",
    "sentence_roberta_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
"""Files that other checkpoints have, and a reader may heed."""
_KEYS = {
    "config.json": "add_cross_attention auto_map attn_implementation chunk_size_feed_forward dtype hidden_act "
    "is_decoder layer_norm_eps model_type num_hidden_layers output_hidden_states pad_token_id position_embedding_type "
    "pruned_heads quantization_config tokenizer_class torch_dtype type_vocab_size use_bidirectional_attention "
    "vocab_size",
    "tokenizer_config.json": "add_prefix_space added_tokens_decoder additional_special_tokens cls_token "
    "do_basic_tokenize do_lower_case extra_special_tokens mask_token max_length model_max_length never_split "
    "pad_token padding_side sep_token split_special_tokens stride strip_accents tokenize_chinese_chars "
    "tokenizer_class truncation_side truncation_strategy unk_token",
    "sentence_bert_config.json": "config_args do_lower_case max_seq_length modality_config model_args "
    "module_output_name processing_kwargs query_length tokenizer_args transformer_task unpad_inputs",
    "config_sentence_transformers.json": "default_prompt_name model_type prompts similarity_fn_name truncate_dim",
    "1_Pooling/config.json": "embedding_dimension include_prompt pooling_mode pooling_mode_cls_token "
    "pooling_mode_lasttoken pooling_mode_max_tokens pooling_mode_mean_tokens word_embedding_dimension",
    "tokenizer.json": "added_tokens model normalizer padding post_processor pre_tokenizer truncation version",
    "modules.json": "idx kwargs name path type",
    "simpair.json": "sha256 simpair",
    "2_Normalize/config.json": "p",
    "router_config.json": "allow_empty_key default_route document parameters query route_mappings structure types",
    "Dense": "activation_function bias in_features module_input_name module_output_name out_features use_residual",
}
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 3, 31, 33, 64, -1, 10**6, 10**9, 10**12, 2**31, 2**63, 10**400, -(10**400)),
    *(0.5, -0.5, 1e-5, 1e308, float("nan"), float("inf"), "", " ", "0", "1", "32", "x", "true", "null"),
    *("cls", "max", "mean", "dot", "query", "euclidean", "relu", "gelu_new", "silu", "float16", "bfloat16", "roberta"),
    *("[CLS]", "[MASK]", "[PAD]", "cat", "left", "longest_first", "BertTokenizer", "PreTrainedTokenizerFast"),
    *("\ud800", "\0", "../x", "/etc/hostname", "2_Normalize", "字" * 3000, [], {}, [1], {"a": 1}, [[]], ["cls"]),
    *({"query": "query: "}, {"query": "\ud800"}, {"type": "Lowercase"}, {"type": "Whitespace"}, {"4": "cat"}),
    *(["cat"], {"content": "[MASK]"}, {"4": {"content": "[MASK]", "special": True}}, {"model_max_length": 8}),
)
_NAMES = ("encoder.layer.0.output.dense.bias", "embeddings.word_embeddings.weight", "bert.pooler.dense.bias", "x", "")


def mutate(folder: Path, number: int) -> str:
    """Change one thing in the folder, and say what; nothing outside it is touched."""
    source = random.Random(number)
    while True:  # some changes find nothing to do in what they drew
        mutation = source.choice(_MUTATIONS)
        before = contents(folder)
        said = mutation(folder, source)
        if contents(folder) != before:
            return f"{number}: {mutation.__name__.strip('_')} {said}"


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of each file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _weights(folder: Path, source: random.Random) -> Path:
    """A file of weights: of the folder itself, or of one of its modules."""
    found = sorted(folder.rglob(_WEIGHTS))
    return found[0] if len(found) == 1 else source.choice(found or [folder / _WEIGHTS])


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _draw(folder: Path, source: random.Random) -> Path:
    return source.choice(_files(folder))


def _flip(folder: Path, source: random.Random) -> str:
    path = _draw(folder, source)
    content = bytearray(path.read_bytes())
    if not content:
        return ""
    place = source.randrange(min(len(content), source.choice([8, 200, 4_000, len(content)])))
    content[place] ^= 1 << source.randrange(8)
    path.write_bytes(content)
    return f"{path.name} byte {place}"


def _truncate(folder: Path, source: random.Random) -> str:
    path = _draw(folder, source)
    content = path.read_bytes()
    kept = source.randrange(len(content) + 1)
    path.write_bytes(content[:kept])
    return f"{path.name} to {kept}"


def _empty(folder: Path, source: random.Random) -> str:
    path = _draw(folder, source)
    path.write_bytes(source.choice([b"", b"\n", b"\0" * path.stat().st_size, b"{}", b"[]", b"null"]))
    return path.name


def _delete(folder: Path, source: random.Random) -> str:
    path = _draw(folder, source)
    path.unlink()
    if source.random() < 0.2:
        path.mkdir()
    return path.name


def _swap(folder: Path, source: random.Random) -> str:
    left, right = _draw(folder, source), _draw(folder, source)
    first, second = left.read_bytes(), right.read_bytes()
    left.write_bytes(second)
    right.write_bytes(first)
    return f"{left.relative_to(folder)} and {right.relative_to(folder)}"


def _copy(folder: Path, source: random.Random) -> str:
    path = _draw(folder, source)
    target = source.choice([*_files(folder), *(folder / name for name in _ELSEWHERE)])
    if path != target:
        shutil.copyfile(path, target)
    return f"{path.relative_to(folder)} to {target.relative_to(folder)}"


def _insert(folder: Path, source: random.Random) -> str:
    path = _draw(folder, source)
    content = path.read_bytes()
    place = source.choice([0, len(content), source.randrange(len(content) + 1)])
    more = source.choice([b"\xef\xbb\xbf", b"\n", b"\0", b"{", b" " * 1000, source.randbytes(9)])
    path.write_bytes(content[:place] + more + content[place:])
    return f"{path.name} at {place}: {more[:9]!r}"


def _recode(folder: Path, source: random.Random) -> str:
    path = _draw(folder, source)
    if path.suffix != ".json":
        return ""
    text, encoding = path.read_text(encoding="utf-8"), source.choice(["utf-8-sig", "utf-16", "utf-32", "crlf"])
    content = text.replace("\n", "\r\n").encode() if encoding == "crlf" else text.encode(encoding)
    path.write_bytes(content)
    return f"{path.name} {encoding}"


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Each container and key in a JSON value; of a long one, some."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys[:12]:
        yield value, key
        yield from _places(value[key], depth + 1)


def _edit(folder: Path, source: random.Random) -> str:
    path = _draw(folder, source)
    if path.suffix != ".json":
        return ""
    name, value = path.relative_to(folder).as_posix(), json.loads(path.read_text(encoding="utf-8"))
    places = list(_places(value))
    known = _known_keys(path, name)
    kind = source.choice(["replace", "replace", "set", "set", "rename", "remove", "nest", "whole"])
    container, key = source.choice(places) if places else ({}, "x")
    new, to = source.choice(_VALUES), source.choice(known)
    if kind == "replace" and places:
        container[key] = new
    elif kind == "set":
        container, key = source.choice(value) if isinstance(value, list) else value, to
        container[key] = new
    elif kind == "rename" and isinstance(container, dict) and places:
        container[to] = container.pop(key)
    elif kind == "remove" and places:
        del container[key]
    elif kind == "nest" and places:
        container[key] = source.choice([[container[key]], {to: container[key]}, {"type": "Sequence"}])
    elif kind == "whole":
        value = source.choice([new, [value], {to: value}])
    path.write_text(json.dumps(value), encoding="utf-8")
    return f"{name} {kind} {key!r} {to if kind in ('rename', 'nest') else repr(new)[:60]}"


def _known_keys(path: Path, name: str) -> list[str]:
    """The keys that a file may have, whichever folder of a module it lies in."""
    kind = path.parent.name.rpartition("_")[2]
    inside = {"Pooling": "1_Pooling/config.json", "Dense": "Dense", "Transformer": path.name}.get(kind, name)
    return _KEYS.get(name, _KEYS.get(inside, "x")).split()


def _deepen(folder: Path, source: random.Random) -> str:
    path = _draw(folder, source)
    if path.suffix != ".json":
        return ""
    depth = source.choice([100, 1_000, 100_000])
    path.write_text("[" * depth + "]" * depth if source.random() < 0.5 else '{"a":' * depth + "1" + "}" * depth)
    return f"{path.name} {depth} deep"


def _reshape(folder: Path, source: random.Random) -> str:
    """One tensor dropped, renamed, repeated, or with another dtype, shape or content."""
    path = _weights(folder, source)
    try:
        tensors = load(path.read_bytes())
    except SafetensorError:
        return ""
    name = source.choice(sorted(tensors))
    old = tensors[name]
    kinds: dict[str, Callable[[], torch.Tensor]] = {
        "half": old.half,
        "bfloat16": old.bfloat16,
        "double": old.double,
        "int8": lambda: old.to(torch.int8),
        "int64": lambda: old.long(),
        "bool": old.bool,
        "complex": lambda: old.to(torch.complex64),
        "flat": lambda: old.reshape(-1),
        "deeper": lambda: old.unsqueeze(0),
        "transposed": lambda: old.t().contiguous(),
        "shorter": lambda: old[:-1].clone(),
        "longer": lambda: torch.cat([old, old[:1]]),
        "empty": lambda: old[:0].clone(),
        "scalar": lambda: torch.tensor(1.0),
        "zeros": lambda: torch.zeros_like(old),
        "huge": lambda: torch.full_like(old, 3e38),
        "nan": lambda: torch.full_like(old, torch.nan),
        "infinite": lambda: torch.full_like(old, -torch.inf),
    }
    kind = source.choice([*kinds, "drop", "rename", "repeat", "swap"])
    to = source.choice([*sorted(tensors), *_NAMES])
    if kind in kinds:
        tensors[name] = kinds[kind]()
    elif kind == "swap" and to in tensors:
        tensors[name], tensors[to] = tensors[to], tensors[name]
    elif kind in ("rename", "repeat"):
        tensors[to] = old.clone()
    if kind in ("drop", "rename") and name != to:
        del tensors[name]
    path.write_bytes(save(tensors, {"format": source.choice(["pt", "pt", "tf", ""])}))
    return f"{name} {kind} {to if kind in ('rename', 'repeat', 'swap') else ''}"


def _edit_header(folder: Path, source: random.Random) -> str:
    """The header of the weights says something else of the same bytes."""
    path = _weights(folder, source)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = source.choice(sorted(header))
    key = source.choice(sorted(header[name]))
    values = [
        "F16",
        "BF16",
        "I32",
        "F64",
        "F8_E4M3",
        "X",
        [0, 128],
        [128, 0],
        [-1, 5],
        [0, 2**62],
        [32],
        [2**40, 2**40],
    ]
    value = source.choice([*values, [], None, 3, [1.5], {}])
    kind = source.choice(["value", "value", "rename", "remove", "size"])
    if kind == "value":
        header[name][key] = value
    elif kind == "rename":
        header[source.choice([*header, *_NAMES])] = header.pop(name)
    elif kind == "remove":
        del header[name]
    said = json.dumps(header).encode()
    size = source.choice([0, 1, 2**31, 2**62, 2**64 - 1, len(content)]) if kind == "size" else len(said)
    path.write_bytes(size.to_bytes(8, "little") + said + content[8 + length :])
    return f"{kind} {name} {key} {size if kind == 'size' else value}"


def _shard(folder: Path, source: random.Random) -> str:
    """The weights behind an index, which may name them wrongly."""
    shard = source.choice(["model-00001-of-00001.safetensors", "a.safetensors", "a.bin", "../a.safetensors", "a\0"])
    path = _weights(folder, source)
    keys = sorted(load(path.read_bytes()))
    named = source.choice([shard, "gone.safetensors", 3, None, [shard], ""])
    if "/" not in shard and "\0" not in shard:
        path.replace(path.with_name(shard))
    else:
        path.unlink()
    index = {"metadata": {}, "weight_map": {key: shard for key in keys} | {source.choice(keys): named}}
    path.with_name(f"{_WEIGHTS}.index.json").write_text(json.dumps(index))
    return f"{shard!r}, once {named!r}"


_MUTATIONS = (
    *(_flip, _truncate, _empty, _delete, _swap, _copy, _insert, _recode, _deepen, _reshape, _reshape, _edit_header),
    *(_edit, _edit, _edit, _edit, _edit, _edit, _shard),
)
