"""The model card of a published checkpoint."""

from __future__ import annotations

import ast
import re

import pytest
from huggingface_hub import ModelCard

from simpair.checkpoint.publish import model_card
from simpair.checkpoint.settings import UNLIMITED, Settings


def test_the_hub_reads_the_front_matter() -> None:
    data = ModelCard(model_card(Settings(), dimension=384, repo_id="org/name")).data
    assert (data.library_name, data.pipeline_tag) == ("sentence-transformers", "sentence-similarity")
    assert "simpair" in data.tags


@pytest.mark.parametrize(("max_seq_length", "tokens"), [(64, "at most 64 tokens"), (UNLIMITED, "any number of tokens")])
def test_the_card_states_the_settings(max_seq_length: int, tokens: str) -> None:
    settings = Settings(pooling="cls", similarity="dot", max_seq_length=max_seq_length)
    card = model_card(settings, dimension=384, repo_id="org/name")
    for expected in ("# org/name", "384 dimensions", "cls pooling", "dot similarity", tokens):
        assert expected in card


def test_the_program_of_the_card_loads_the_repository() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", model_card(Settings(), dimension=384, repo_id="org/name"), re.S)
    ast.parse(program)
    assert 'from_pretrained("org/name")' in program
