"""Load arguments and a checkpoint → the checkpoint with them; two towers → one checkpoint; other options → checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from simpair.checkpoint.settings import Checkpoint
from simpair.encoder.tower import Tower
from simpair.errors import InputError
from simpair.files.texts import lone_surrogate

__all__ = ["check_checkpointing", "check_length", "join", "with_options"]

_CHECKPOINTING = {"use_reentrant": False, "preserve_rng_state": True, "every_n_layers": 1, "offload": False}
"""The only value of each option."""


def with_options(
    checkpoint: Checkpoint, *, max_seq_length: int | None, prompts: Mapping[str, str] | None
) -> Checkpoint:
    """Return a checkpoint with another maximum length and other prompts; the same object if nothing changes.

    Args:
        checkpoint: As it was read.
        max_seq_length: Maximum length in tokens, or None.
        prompts: Prompts by name, in place of those of the same names, or None.

    Raises:
        InputError: ``max_seq_length`` is no integer above the number of special tokens, or ``prompts`` are not texts
            by name.
    """
    changed: dict[str, Any] = {}
    if max_seq_length is not None:
        special = max(tower.tokenizer.num_special_tokens_to_add(False) for tower in checkpoint.towers.values())
        if type(max_seq_length) is not int or max_seq_length <= special:
            raise InputError(f"max_seq_length is {max_seq_length!r}; expected a number of tokens above {special}")
        changed["max_seq_length"] = max_seq_length
    if prompts is not None:
        changed["prompts"] = {**checkpoint.document.settings.prompts, **_checked(prompts)}
    options = checkpoint.map(lambda tower: replace(tower, settings=replace(tower.settings, **changed)))
    if all(options.towers[role].settings == tower.settings for role, tower in checkpoint.towers.items()):
        return checkpoint
    return options if max_seq_length is None else options.map(lambda tower: replace(tower, declares_length=False))


def _checked(prompts: Mapping[str, str]) -> Mapping[str, str]:
    if not isinstance(prompts, Mapping):
        raise InputError(f"prompts is a {type(prompts).__name__}; expected a dict such as {{'query': 'query: '}}")
    for name, text in prompts.items():
        if not isinstance(name, str) or not isinstance(text, str) or lone_surrogate(name + text) is not None:
            raise InputError(f"prompts has {name!r:.60}: {text!r:.60}; expected a text by its name")
    return prompts


def check_length(towers: Iterable[Tower], max_seq_length: int | None) -> None:
    """Raise InputError if towers have fewer positions than the maximum length that was asked for."""
    longest = min(tower.settings.max_seq_length for tower in towers)
    if max_seq_length is not None and longest < max_seq_length:
        raise InputError(f"max_seq_length is {max_seq_length}; the model has positions for {longest} tokens")


def join(query: Tower, document: Tower) -> Checkpoint:
    """Return an untied checkpoint of copies of two towers; each brings the prompt of its role.

    Raises:
        InputError: They differ in dimension or similarity.
    """
    dimensions = query.full_dimension, document.full_dimension
    if dimensions[0] != dimensions[1]:
        raise InputError(f"the towers have dimensions {dimensions[0]} and {dimensions[1]}; give two of one dimension")
    ours, theirs = document.settings, query.settings
    if theirs.similarity != ours.similarity:
        raise InputError(f"the towers declare {theirs.similarity} and {ours.similarity} similarity; give two alike")
    prompts = {**ours.prompts, "query": theirs.prompts["query"]}
    name, kept = ours.default_prompt_name, ours.truncate_dim
    theirs = replace(theirs, prompts=prompts, default_prompt_name=name, truncate_dim=kept)
    new_query = replace(query.checkpoint("float32"), settings=theirs)
    new_document = replace(document.checkpoint("float32"), settings=replace(ours, prompts=prompts))
    return Checkpoint({"query": new_query, "document": new_document})


def check_checkpointing(*given: Mapping[str, Any] | None, **more: Any) -> None:
    """Check the options of gradient checkpointing, as transformers passes them: mappings, and options by name.

    Raises:
        InputError: An option, or a value of it, that is not offered.
    """
    named = [more.pop(f"{kind}_checkpointing_kwargs", None) for kind in ("activation", "gradient")]
    for options in (*given, *named, more):
        for name, value in (options or {}).items():
            if name not in _CHECKPOINTING or value != _CHECKPOINTING[name]:
                raise InputError(f"gradient checkpointing with {name}={value!r} is not offered; leave {name} out")
