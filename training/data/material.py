"""Sources, weights and a loss → what a run trains on: the sources as the loss takes them, mixed, and told of.

Knows no trainer and no encoder.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from simpair.errors import DataError, InputError

from ..defaults import LossName, automatic_loss, check_loss_name
from .mixture import Mixture
from .pairs import Records, ScoredPair
from .report import SourceReport, describe, report_sources
from .sources import Source, as_retrieval

__all__ = ["Material", "prepare", "tell_of_turns"]

_log = logging.getLogger("simpair")


class Material(NamedTuple):
    """What a run is made of, beside the encoder and the arguments."""

    sources: list[Source]
    mixture: Mixture
    dev: Records | None
    loss_name: LossName
    reports: tuple[SourceReport, ...]


def prepare(given: list[Source], weights: Mapping[str, float] | None, dev: Records | None, loss: LossName) -> Material:
    """The sources as the loss takes them, told of before anything else happens."""
    loss_name, sources = _fitting_loss(given, loss)
    _check_dev(dev)
    mixture = Mixture(sources, weights=_weights(sources, weights))
    reports = report_sources(sources, shares=mixture.shares, dev=dev)
    for report in reports:
        _log.log(logging.WARNING if report.left_out or report.in_dev else logging.INFO, "%s", describe(report))
    return Material(sources, mixture, dev, loss_name, tuple(reports))


def tell_of_turns(material: Material, steps: int, together: int) -> None:
    """Say which of several sources will hardly be seen, and which again and again."""
    if len(material.sources) == 1:
        return
    for source, share in zip(material.sources, material.mixture.shares, strict=True):
        rows = len(source.records)
        if share * steps < 1:
            _log.warning("%s has a share of %.2g of %d steps: it may have no turn at all", source.name, share, steps)
        if rows < together:
            _log.warning("%s has %d rows, so each of its batches of %d repeats them", source.name, rows, together)


def _fitting_loss(sources: Sequence[Source], loss: LossName) -> tuple[LossName, list[Source]]:
    """The loss for the kinds of the sources, or the one asked for where it fits them; and the sources as it takes them.

    Raises:
        DataError: The labels of a source are all the same, so that there is nothing to learn from them.
        InputError: The loss does not fit.
    """
    check_loss_name(loss)
    if loss == "auto":
        taken = [as_retrieval(source) if _are_alike(source) else source for source in sources]
    else:
        taken = [as_retrieval(source) for source in sources] if loss == "info_nce" else list(sources)
    with_labels = [isinstance(source.records[0], ScoredPair) for source in taken]
    if loss in ("cosine_mse", "cosent", "angle") and not all(with_labels):
        source = taken[with_labels.index(False)]
        raise InputError(f"the loss {loss} takes pairs with labels, and {source.name} has none; use info_nce or auto")
    for source in taken:
        _check_labels(source)
    if loss == "auto" and len(set(with_labels)) == 1:
        loss = automatic_loss(has_labels=with_labels[0])
    return loss, taken


def _are_alike(source: Source) -> bool:
    """Whether every label is 1."""
    return source.kind == "labelled" and all(pair[2] == 1 for pair in source.records)


def _check_labels(source: Source) -> None:
    labels = {record.label for record in source.records if isinstance(record, ScoredPair)}
    if len(labels) == 1 and len(source.records) > 1:
        raise DataError(f"{source.name}: every label is {labels.pop():g}, so there is nothing to tell apart")


def _check_dev(held_out: Records | None) -> None:
    if held_out is not None and isinstance(held_out[0], ScoredPair) and len({pair[2] for pair in held_out}) < 2:
        raise DataError("the dev data have a single label; a correlation takes pairs of different labels")


def _weights(sources: Sequence[Source], weights: Mapping[str, float] | None) -> list[float] | None:
    names = [source.name for source in sources]
    if weights is None:
        return None
    if not isinstance(weights, Mapping) or set(weights) != set(names):
        given = ", ".join(map(str, weights)) if isinstance(weights, Mapping) else repr(weights)
        raise InputError(f"weights are given for {given}; give one for each source: {', '.join(names)}")
    return [weights[name] for name in names]
