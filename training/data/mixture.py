"""Sources and their sampling weights → the order of their records; each batch is drawn from one source."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from simpair.errors import InputError

from .sources import Source, read_source

__all__ = ["Mixture", "SourceSampler", "read_dataset", "read_datasets"]


class Mixture(Dataset[Any]):
    """The records of all sources, one source after the other, with the fraction of batches of each source.

    Args:
        sources: One or more.
        weights: The sampling weight of each source, above 0; None takes its number of records.

    Attributes:
        fractions: The fraction of the batches that each source gets; their sum is 1.

    Raises:
        InputError: There is not one weight above 0 for each source.

    Example:
        >>> mixture = Mixture([read_source("faq.csv"), read_source("titles.csv")], weights=[2, 1])
    """

    def __init__(self, sources: Sequence[Source], *, weights: Sequence[float] | None = None) -> None:
        given = [float(len(source.records)) for source in sources] if weights is None else list(weights)
        valid = all(isinstance(weight, int | float) and 0 < weight < math.inf for weight in given)
        if len(given) != len(sources) or not valid:
            raise InputError(f"weights are {given}; give {len(sources)} numbers above 0, one for each source")
        scaled = [float(weight) / max(given) for weight in given]  # the sum of the weights may overflow
        self._sources = list(sources)
        self._ends = list(accumulate(len(source.records) for source in sources))
        self.fractions = [weight / sum(scaled) for weight in scaled]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, row: int) -> Any:
        source, place = self._find(row)
        return source.records[place]

    @property
    def records(self) -> list[Any]:
        """The records of all sources, in order."""
        return [record for source in self._sources for record in source.records]

    def place(self, row: int) -> str:
        """Return where a row came from, as errors write it."""
        source, place = self._find(row)
        return source.place(place)

    def sampler(self, batch_size: int, seed: int) -> Sampler[int] | None:
        """Return a sampler that draws ``batch_size`` rows of one source at a time; None if there is one source."""
        sizes = [len(source.records) for source in self._sources]
        return SourceSampler(sizes, self.fractions, batch_size=batch_size, seed=seed) if len(sizes) > 1 else None

    def _find(self, row: int) -> tuple[Source, int]:
        number = bisect_right(self._ends, row)
        return self._sources[number], row - self._ends[number] + len(self._sources[number].records)


class SourceSampler(Sampler[int]):
    """Draws rows batch by batch, each from one source; the order depends on the seed and the epoch only.

    The next batch comes from the source that is furthest below its fraction. The records of a source are shuffled anew
    in every pass over it, and a pass continues in the next epoch, so every record is drawn once before any is drawn
    twice.

    Args:
        sizes: The number of records of each source.
        fractions: The fraction of the batches of each source.
        batch_size: Rows drawn from one source at a time.
        seed: Seed of the shuffling.
    """

    def __init__(self, sizes: Sequence[int], fractions: Sequence[float], *, batch_size: int, seed: int) -> None:
        self._sizes, self._fractions, self._batch_size, self._seed = list(sizes), list(fractions), batch_size, seed
        self._epoch = 0
        self._schedule: list[int] = []  # the source of every batch so far
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}  # source → its current pass and the order in it

    def __len__(self) -> int:
        return self._batches() * self._batch_size

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that is drawn next, 0 for the first."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        batches, starts = self._batches(), [0, *accumulate(self._sizes)]
        first = self._epoch * batches
        self._extend_schedule(first + batches)
        drawn = [self._schedule[:first].count(source) for source in range(len(self._sizes))]
        for source in self._schedule[first : first + batches]:
            yield from (starts[source] + row for row in self._rows(source, drawn[source]))
            drawn[source] += 1

    def _batches(self) -> int:
        """Return the number of batches in an epoch."""
        return max(1, sum(self._sizes) // self._batch_size)

    def _extend_schedule(self, batches: int) -> None:
        """Choose the sources of the first ``batches`` batches."""
        drawn = [self._schedule.count(source) for source in range(len(self._sizes))]
        for batch in range(len(self._schedule), batches):
            source = max(range(len(drawn)), key=lambda one: self._fractions[one] * (batch + 1) - drawn[one])
            drawn[source] += 1
            self._schedule.append(source)

    def _rows(self, source: int, batch: int) -> Iterator[int]:
        """Yield the rows of a batch of a source, 0 for its first batch; a batch may reach over several passes."""
        first_pass, place = divmod(batch * self._batch_size, self._sizes[source])
        left = self._batch_size
        for number in count(first_pass):
            order = self._order(source, number)[place : place + left]
            yield from order.tolist()
            left, place = left - len(order), 0
            if not left:
                return

    def _order(self, source: int, number: int) -> NDArray[np.int64]:
        """Return the order of the rows of a source in one pass over it."""
        known = self._orders.get(source)
        if known is None or known[0] != number:
            draw = np.random.default_rng((self._seed, source, number))
            known = self._orders[source] = (number, draw.permutation(self._sizes[source]))
        return known[1]


def read_dataset(data: Any, name: str) -> Any:
    """Return records in memory as a mixture of one checked source; None, a stream or a torch dataset as it is.

    Raises:
        DataError: A record cannot be used.
    """
    if data is None or isinstance(data, Dataset) or not hasattr(data, "__len__"):
        return data
    return Mixture([read_source(data, name=name)])


def read_datasets(data: Any, name: str) -> Any:
    """Return a dataset, or each dataset of a dictionary, as :func:`read_dataset`."""
    if isinstance(data, dict):
        return {key: read_dataset(part, key) for key, part in data.items()}
    return read_dataset(data, name)
