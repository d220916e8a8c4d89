"""The trainer reads and checks its datasets once, when they are given; other datasets are checked as they are drawn."""

import pytest
from torch.utils.data import Dataset, IterableDataset

from simpair.errors import DataError
from simpair.training import PairCollator, RetrievalPair, ScoredPair, TwinTowerTrainer
from simpair.training.data import pairs
from tests.training.trainer.test_trainer import ASKED, PAIRS, arguments, quiet

__all__ = ["arguments", "quiet"]

BAD = [
    ScoredPair("a", " ", 0.5),
    ScoredPair("a", "b", float("nan")),
    ScoredPair("a", "b", 2.0),
    RetrievalPair("a", "b"),
]


class Rows(Dataset):
    def __init__(self, records):
        self.records = records

    def __len__(self):
        return len(self.records)

    def __getitem__(self, row):
        return self.records[row]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([*PAIRS, BAD[0]])


@pytest.mark.parametrize("record", BAD)
def test_a_record_that_cannot_be_used_is_refused_before_training(tiny_encoder, arguments, record):
    with pytest.raises(DataError, match="row:13"):
        TwinTowerTrainer(tiny_encoder, arguments(), train_dataset=[*PAIRS, record])
    with pytest.raises(DataError, match="row:13"):
        TwinTowerTrainer(tiny_encoder, arguments(), eval_dataset={"dev": [*PAIRS, record]})
    trainer = TwinTowerTrainer(tiny_encoder, arguments())
    for evaluate in (trainer.evaluate, trainer.predict):
        with pytest.raises(DataError, match="row:13"):
            evaluate([*PAIRS, record])


def test_rows_of_another_dataset_are_checked_as_they_are_drawn(tiny_encoder, arguments):
    with pytest.raises(DataError, match="row:1: text2 is empty"):
        TwinTowerTrainer(tiny_encoder, arguments(), train_dataset=Rows([BAD[0], *PAIRS])).evaluate(Rows([BAD[0]]))
    with pytest.raises(DataError, match="text2 is empty"):
        TwinTowerTrainer(tiny_encoder, arguments(), train_dataset=Rows([*PAIRS, BAD[0]])).train()
    with pytest.raises(DataError, match="text2 is empty"):
        TwinTowerTrainer(tiny_encoder, arguments(max_steps=9), train_dataset=Stream()).train()


def test_records_are_checked_once_and_not_in_every_batch(tiny_encoder, arguments, monkeypatch):
    checked, entry = [], pairs._entry
    monkeypatch.setattr(pairs, "_entry", lambda row, *rest: checked.append(row.line) or entry(row, *rest))
    trainer = TwinTowerTrainer(tiny_encoder, arguments(num_train_epochs=3), train_dataset=PAIRS, eval_dataset=PAIRS[:6])
    trainer.train()
    trainer.evaluate()
    assert checked == [*range(1, 13), *range(1, 7)]


def test_the_rows_of_a_data_set_are_read_like_those_of_a_file(tiny_encoder, arguments):
    rows = [{"sentence1": text1, "sentence2": text2, "score": label} for text1, text2, label in PAIRS]
    trainer = TwinTowerTrainer(tiny_encoder, arguments(), train_dataset=rows, eval_dataset=rows)
    assert trainer.train_dataset.records == trainer.eval_dataset.records == PAIRS


def test_a_collator_of_the_user_gets_the_rows_as_they_are(tiny_encoder, arguments):
    collate, given = PairCollator(tiny_encoder.tokenizer), []
    rows = [(*pair, "more") for pair in PAIRS]

    def own(batch):
        given.extend(batch)
        return collate([ScoredPair(*row[:3]) for row in batch])

    TwinTowerTrainer(tiny_encoder, arguments(max_steps=1), train_dataset=rows, data_collator=own).train()
    assert set(given) <= set(rows)


def test_retrieval_pairs_of_any_form_are_evaluated_as_retrieval(tiny_encoder, arguments):
    trainer = TwinTowerTrainer(tiny_encoder, arguments(loss="info_nce"))
    rows = [pair._asdict() for pair in ASKED]
    assert trainer.evaluate(rows)["eval_mrr_at_10"] == trainer.evaluate(ASKED)["eval_mrr_at_10"]
