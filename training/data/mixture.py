"""Sources and their weights → the order in which their records are trained on: batch by batch, each of one source.

Knows no model and no loss.
"""

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

from .sources import Source

__all__ = ["Mixture", "SourceSampler"]


class Mixture(Dataset[Any]):
    """The records of all sources, one source after the other, and how often each of them has its turn.

    Attributes:
        shares: Of the batches, for each source; their sum is 1.
    """

    def __init__(self, sources: Sequence[Source], *, weights: Sequence[float] | None = None) -> None:
        """``weights`` are those of the sources' batches; None gives as many as a source has records.

        Raises:
            InputError: There is not one weight above 0 for each source.
        """
        given = [float(len(source.records)) for source in sources] if weights is None else list(weights)
        sound = all(isinstance(weight, int | float) and 0 < weight < math.inf for weight in given)
        if len(given) != len(sources) or not sound:
            raise InputError(f"weights are {given}; give {len(sources)} numbers above 0, one for each source")
        given = [float(weight) / max(given) for weight in given]  # their sum may be too large for a float
        self._sources = list(sources)
        self._ends = list(accumulate(len(source.records) for source in sources))
        self.shares = [weight / sum(given) for weight in given]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, row: int) -> Any:
        source, place = self._find(row)
        return source.records[place]

    def place(self, row: int) -> str:
        """Where a row came from, as errors write it."""
        source, place = self._find(row)
        return source.place(place)

    def sampler(self, group: int, seed: int) -> Sampler[int] | None:
        """What draws the rows, ``group`` of one source at a time; None where any order will do: there is one source."""
        sizes = [len(source.records) for source in self._sources]
        return SourceSampler(sizes, self.shares, group=group, seed=seed) if len(sizes) > 1 else None

    def _find(self, row: int) -> tuple[Source, int]:
        number = bisect_right(self._ends, row)
        return self._sources[number], row - self._ends[number] + len(self._sources[number].records)


class SourceSampler(Sampler[int]):
    """Draws rows so that each group of them is of one source: a function of seed and epoch alone.

    The sources take turns as evenly as their shares allow. Each is walked through in an order drawn anew for every
    round, which goes on where the last epoch left it; so each of its records is drawn once before any is drawn twice.
    """

    def __init__(self, sizes: Sequence[int], shares: Sequence[float], *, group: int, seed: int) -> None:
        """``sizes`` are the records of each source, ``group`` is how many are drawn of one at a time."""
        self._sizes, self._shares, self._group, self._seed = list(sizes), list(shares), group, seed
        self._epoch = 0
        self._turns: list[int] = []  # the source of every group so far
        self._walks: dict[int, tuple[int, NDArray[np.int64]]] = {}  # of each source, the round it is in and its order

    def __len__(self) -> int:
        return self._groups() * self._group

    def set_epoch(self, epoch: int) -> None:
        """The epoch that is drawn next, 0 for the first."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        groups, starts = self._groups(), [0, *accumulate(self._sizes)]
        first = self._epoch * groups
        self._take_turns(first + groups)
        drawn = [self._turns[:first].count(source) for source in range(len(self._sizes))]
        for source in self._turns[first : first + groups]:
            yield from (starts[source] + row for row in self._rows(source, drawn[source]))
            drawn[source] += 1

    def _groups(self) -> int:
        return max(1, sum(self._sizes) // self._group)

    def _take_turns(self, groups: int) -> None:
        """Let the source that is furthest behind its share be next, until there are as many groups."""
        drawn = [self._turns.count(source) for source in range(len(self._sizes))]
        for turn in range(len(self._turns), groups):
            source = max(range(len(drawn)), key=lambda one: self._shares[one] * (turn + 1) - drawn[one])
            drawn[source] += 1
            self._turns.append(source)

    def _rows(self, source: int, number: int) -> Iterator[int]:
        """The rows of the ``number``-th group of a source."""
        size = self._sizes[source]
        walk, place = divmod(number * self._group, size)
        left = self._group
        for walked in count(walk):
            order = self._order(source, walked)[place : place + left]
            yield from order.tolist()
            left, place = left - len(order), 0
            if not left:
                return

    def _order(self, source: int, walk: int) -> NDArray[np.int64]:
        known = self._walks.get(source)
        if known is None or known[0] != walk:
            draw = np.random.default_rng((self._seed, source, walk))
            known = self._walks[source] = (walk, draw.permutation(self._sizes[source]))
        return known[1]
