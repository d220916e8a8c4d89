"""Batches hold the padded texts of their records under the column names that the trainer expects."""

from dataclasses import replace

import pytest
import torch

from simpair import TwinTowerEncoder
from simpair.checkpoint.read import read_checkpoint
from simpair.errors import DataError
from simpair.training import PairCollator, RetrievalPair, ScoredPair


@pytest.fixture
def collate(tiny_encoder):
    return PairCollator(tiny_encoder.tokenizer)


def real_tokens(batch, name, row):
    return batch[f"{name}_input_ids"][row][batch[f"{name}_attention_mask"][row].bool()].tolist()


def test_a_scored_batch_is_a_flat_dictionary(collate, tiny_encoder):
    batch = collate([ScoredPair("the cat", "a dog runs fast", 0.25), ScoredPair("今天天气", "cat", 1.0)])
    assert list(batch) == [
        "text1_input_ids",
        "text1_attention_mask",
        "text2_input_ids",
        "text2_attention_mask",
        "labels",
    ]
    assert all(len(column) == 2 for column in batch.values())
    assert batch["labels"].tolist() == [0.25, 1.0]
    assert real_tokens(batch, "text2", 0) == tiny_encoder.tokenizer.ids(["a dog runs fast"])[0]
    assert real_tokens(batch, "text1", 1) == tiny_encoder.tokenizer.ids(["今天天气"])[0]
    assert batch["text2_attention_mask"].dtype == batch["text2_input_ids"].dtype == torch.int64


def test_a_retrieval_batch_has_a_column_for_each_negative_and_no_labels(collate):
    batch = collate([RetrievalPair("a", "b", ("c", "d")), RetrievalPair("e", "f", ("g", "h"))])
    assert {name.split("_")[0] for name in batch} == {"text1", "text2", "negative1", "negative2"}


def test_retrieval_pairs_get_the_prompts_of_their_roles_and_scored_pairs_the_default(tiny_model):
    checkpoint = read_checkpoint(tiny_model)
    prompts = {"query": "the ", "document": "a red ", "plain": "model "}
    settings = replace(checkpoint.settings, prompts=prompts, default_prompt_name="plain")
    encoder = TwinTowerEncoder(replace(checkpoint, settings=settings))
    collate = PairCollator(encoder.tokenizer)
    plain = TwinTowerEncoder(checkpoint).tokenizer
    asked = collate([RetrievalPair("cat", "dog", ("mat",))])
    for name, text in (("text1", "the cat"), ("text2", "a red dog"), ("negative1", "a red mat")):
        assert real_tokens(asked, name, 0) == plain.ids([text])[0]
    scored = collate([ScoredPair("cat", "dog", 1.0)])
    assert real_tokens(scored, "text1", 0) == plain.ids(["model cat"])[0]


def test_rows_of_a_dataset_are_read_as_records(collate):
    row = {"text1": "a cat", "text2": "the cat", "label": 0.5, "source": "somewhere"}
    ours = collate([ScoredPair("a cat", "the cat", 0.5)])
    assert all(torch.equal(column, ours[name]) for name, column in collate([row]).items())


@pytest.mark.parametrize(
    "records",
    [
        [ScoredPair("a", "b", 0.5), RetrievalPair("a", "b")],
        [RetrievalPair("a", "b", ("c",)), RetrievalPair("a", "b")],
        [{"text1": "a", "text2": " ", "label": 0.5}],
        [{"text1": "a", "text2": "b", "label": float("nan")}],
        [],
    ],
)
def test_records_that_cannot_be_a_batch_are_refused(collate, records):
    with pytest.raises(DataError):
        collate(records)


def test_the_stock_trainer_finds_no_tokenizer_to_save(collate):
    assert not hasattr(collate, "tokenizer")


def test_a_text_is_tokenized_once_for_each_role(tiny_encoder, monkeypatch):
    tokenized = []
    tokenize = tiny_encoder.tokenizer.tokenize
    monkeypatch.setattr(
        tiny_encoder.tokenizer, "tokenize", lambda texts, **role: tokenized.append(texts) or tokenize(texts, **role)
    )
    collate = PairCollator(tiny_encoder.tokenizer)
    records = [ScoredPair("the cat", "a dog", 0.5), ScoredPair("a dog", "a dog", 1.0)]
    first, again = collate(records), collate(records[::-1])
    assert [text for texts in tokenized for text in texts] == ["the cat", "a dog"]
    for name in ("text1_input_ids", "text1_attention_mask", "text2_input_ids"):
        assert torch.equal(first[name], again[name].flip(0))
    collate([RetrievalPair("the cat", "a dog")])
    assert [text for texts in tokenized for text in texts] == ["the cat", "a dog", "the cat", "a dog"], "with prompts"


def test_texts_beyond_the_cache_are_tokenized_again(tiny_encoder, monkeypatch):
    tokenized = []
    tokenize = tiny_encoder.tokenizer.tokenize
    monkeypatch.setattr(
        tiny_encoder.tokenizer, "tokenize", lambda texts, **role: tokenized.extend(texts) or tokenize(texts, **role)
    )
    monkeypatch.setattr("simpair.training.data.collators._CACHE_BYTES", 0)
    collate = PairCollator(tiny_encoder.tokenizer)
    first, again = (collate([ScoredPair("the cat", "a dog", 0.5)]) for _ in range(2))
    assert tokenized == ["the cat", "a dog"] * 2
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_truncated_texts_are_logged_once(collate, tiny_encoder, caplog):
    longest = tiny_encoder.tokenizer.max_seq_length
    collate([ScoredPair("the cat", "a dog", 0.5)])
    assert not caplog.messages
    for _ in range(2):
        collate([ScoredPair("the cat " * longest, "a dog", 0.5)])
    assert caplog.messages == [f"texts of more than {longest} tokens are truncated, as in encoding"]
