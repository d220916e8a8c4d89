"""Each batch is drawn from one source, each source gets its fraction, each record is drawn once before any twice."""

from collections import Counter
from itertools import islice

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, IterableDataset

from simpair import TwinTowerEncoder
from simpair.errors import InputError
from simpair.training import RetrievalPair, ScoredPair, TwinTowerTrainer, TwinTowerTrainingArguments, fine_tune
from simpair.training.data.mixture import Mixture, SourceSampler
from simpair.training.data.sources import read_source

SCORED = [ScoredPair(f"the cat {n}", f"a dog {n % 3}", (n % 4) / 3) for n in range(12)]
ASKED = [RetrievalPair(f"query {n}", f"text {n} runs") for n in range(20)]


def mixture(weights=None):
    return Mixture([read_source(SCORED, name="scored"), read_source(ASKED, name="asked")], weights=weights)


def test_rows_are_those_of_the_sources_in_order():
    mixed = mixture()
    assert [mixed[row] for row in range(len(mixed))] == [*SCORED, *ASKED]
    assert (mixed.place(0), mixed.place(11), mixed.place(12)) == ("scored, row 1", "scored, row 12", "asked, row 1")
    assert mixed.fractions == pytest.approx([12 / 32, 20 / 32])
    assert mixture([3, 1]).fractions == [0.75, 0.25]


def test_weights_may_be_as_large_as_a_float():
    assert mixture([1e308, 1e308]).fractions == [0.5, 0.5]


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")], [1, "2"], [1, None]])
def test_weights_are_numbers_above_0_one_each(weights):
    with pytest.raises(InputError, match="one for each source"):
        mixture(weights)


def test_one_source_has_no_sampler_of_its_own():
    assert Mixture([read_source(SCORED)]).sampler(4, 0) is None


sizes_and_weights = st.lists(st.tuples(st.integers(1, 40), st.floats(0.1, 10)), min_size=2, max_size=5)


@settings(deadline=None)
@given(sizes_and_weights, st.integers(1, 9), st.integers(1, 3))
def test_batches_are_of_one_source_in_their_fractions(sources, batch_size, epochs):
    sizes, weights = zip(*sources, strict=True)
    fractions = [weight / sum(weights) for weight in weights]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    sampler = SourceSampler(sizes, fractions, batch_size=batch_size, seed=1)
    drawn, batches = [], Counter()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        rows = list(sampler)
        assert len(rows) == len(sampler) == max(1, sum(sizes) // batch_size) * batch_size
        drawn += rows
    for first in range(0, len(drawn), batch_size):
        (source,) = {
            max(n for n, start in enumerate(starts) if row >= start) for row in drawn[first : first + batch_size]
        }
        batches[source] += 1
        for number, fraction in enumerate(fractions):
            assert abs(batches[number] - fraction * sum(batches.values())) < len(sizes), "never far from its fraction"
    for number, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        own = Counter(row for row in drawn if start <= row < start + size)
        assert max(own.values(), default=0) - (min(own.values()) if len(own) == size else 0) <= 1, number


def test_an_epoch_does_not_depend_on_earlier_draws():
    walked = SourceSampler([7, 9], [0.4, 0.6], batch_size=3, seed=5)
    for epoch in range(3):
        walked.set_epoch(epoch)
        last = list(walked)
    fresh = SourceSampler([7, 9], [0.4, 0.6], batch_size=3, seed=5)
    fresh.set_epoch(2)
    assert list(fresh) == last
    fresh.set_epoch(1)
    assert list(fresh) != last
    other = SourceSampler([7, 9], [0.4, 0.6], batch_size=3, seed=6)
    other.set_epoch(2)
    assert list(other) != last


def arguments(folder, **options):
    return TwinTowerTrainingArguments(
        output_dir=str(folder), loss="auto", per_device_train_batch_size=4, num_train_epochs=3, save_steps=5,
        disable_tqdm=True, use_cpu=True, learning_rate=1e-3, **options,
    )  # fmt: skip


@pytest.mark.slow
def test_every_batch_is_of_one_kind_and_training_resumes_within_an_epoch(tiny_model, tmp_path):
    weights = []
    for resume in (None, str(tmp_path / "whole" / "checkpoint-5"), str(tmp_path / "whole" / "checkpoint-10")):
        encoder = TwinTowerEncoder.from_pretrained(tiny_model)
        folder = tmp_path / ("half" if resume else "whole")
        trainer = TwinTowerTrainer(encoder, arguments(folder), train_dataset=mixture([2, 1]))
        assert trainer.train(resume_from_checkpoint=resume).global_step == 24
        weights.append(encoder.state_dict())
    for other in weights[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in weights[0].items())


def test_sources_that_are_rarely_sampled_or_repeated_in_a_batch_are_logged(tiny_encoder, caplog):
    fine_tune(tiny_encoder, {"asked": ASKED * 20, "few": SCORED[:2]}, batch_size=8)
    assert "few gets a fraction of 0.005 of 51 steps: it may not be sampled at all" in caplog.messages
    assert "few has 2 rows, so each batch of 8 repeats them" in caplog.messages


@pytest.mark.parametrize(("data_seed", "seed"), [(0, 0), (None, 5), (1, 1)])
def test_the_data_seed_wins_even_if_it_is_0(tiny_encoder, tmp_path, data_seed, seed):
    trainer = TwinTowerTrainer(tiny_encoder, arguments(tmp_path, seed=5, data_seed=data_seed), train_dataset=mixture())
    assert list(trainer._get_train_sampler()) == list(mixture().sampler(4, seed))


def test_a_stream_is_trained_on_as_it_is_drawn(tiny_encoder, tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(SCORED)

    wanted = TwinTowerTrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, disable_tqdm=True, use_cpu=True
    )
    assert TwinTowerTrainer(tiny_encoder, wanted, train_dataset=Stream()).train().global_step == 3


def test_the_batches_of_the_trainer_are_those_of_the_sampler(tiny_encoder, tmp_path):
    mixed = mixture([2, 1])
    trainer = TwinTowerTrainer(tiny_encoder, arguments(tmp_path, seed=3), train_dataset=mixed)
    sampler = mixed.sampler(4, 3)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        loader = trainer.get_train_dataloader()
        loader.set_epoch(epoch)
        rows = [batch["rows"].tolist() for batch in loader]
        drawn = iter(sampler)
        assert rows == [list(islice(drawn, 4)) for _ in rows]
        assert len(rows) == 8


def test_the_processes_of_a_run_have_batches_of_one_source():
    sampler = mixture([2, 1]).sampler(2 * 4, 0)
    batches = BatchSampler(sampler, 4, drop_last=False)
    shards = [list(BatchSamplerShard(batches, num_processes=2, process_index=rank)) for rank in range(2)]
    assert len(shards[0]) == len(shards[1]) == 4
    for rows in zip(*shards, strict=True):
        assert len({row < len(SCORED) for batch in rows for row in batch}) == 1
