"""Sources, sampling weights, dev data and a loss → the training set of a run, reported in the log."""

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

__all__ = ["TrainingSet", "log_sampling_warnings", "prepare_training_set"]

_log = logging.getLogger("simpair")


class TrainingSet(NamedTuple):
    """The data of a run.

    Attributes:
        sources: The sources, in the form that the loss takes.
        mixture: Their records, in the order of training.
        dev: The dev data, or None.
        loss_name: The loss that was chosen.
        reports: A report of each source.
    """

    sources: list[Source]
    mixture: Mixture
    dev: Source | None
    loss_name: LossName
    reports: tuple[SourceReport, ...]


def prepare_training_set(
    given: list[Source], weights: Mapping[str, float] | None, dev: Source | None, loss: LossName
) -> TrainingSet:
    """Return the sources in the form that the loss takes, and log a report of each.

    Raises:
        DataError: All labels of a source, or of the dev data, are the same.
        InputError: The loss does not exist or does not fit a source, or the weights are not one for each source.
    """
    loss_name, sources = _choose_loss(given, loss)
    if dev is not None:
        _check_dev(dev.records)
    mixture = Mixture(sources, weights=_weights(sources, weights))
    reports = report_sources(sources, fractions=mixture.fractions, dev=None if dev is None else dev.records)
    for report in reports:
        _log.log(logging.WARNING if report.left_out or report.in_dev else logging.INFO, "%s", describe(report))
    return TrainingSet(sources, mixture, dev, loss_name, tuple(reports))


def log_sampling_warnings(training_set: TrainingSet, *, steps: int, batch_size: int) -> None:
    """Warn about sources of a mixture that are sampled too rarely, or repeated in every batch."""
    if len(training_set.sources) == 1:
        return
    for source, fraction in zip(training_set.sources, training_set.mixture.fractions, strict=True):
        rows = len(source.records)
        if fraction * steps < 1:
            _log.warning(
                "%s gets a fraction of %.2g of %d steps: it may not be sampled at all", source.name, fraction, steps
            )
        if rows < batch_size:
            _log.warning("%s has %d rows, so each batch of %d repeats them", source.name, rows, batch_size)


def _choose_loss(sources: Sequence[Source], loss: LossName) -> tuple[LossName, list[Source]]:
    """Return the loss that fits the kinds of the sources, or the given one, and the sources in the form it takes."""
    check_loss_name(loss)
    if loss == "auto":
        taken = [as_retrieval(source) if _all_similar(source) else source for source in sources]
    else:
        taken = [as_retrieval(source) for source in sources] if loss == "info_nce" else list(sources)
    has_labels = [isinstance(source.records[0], ScoredPair) for source in taken]
    if loss in ("cosine_mse", "cosent", "angle") and not all(has_labels):
        source = taken[has_labels.index(False)]
        raise InputError(f"the loss {loss} takes pairs with labels, and {source.name} has none; use info_nce or auto")
    for source in taken:
        _check_labels(source)
    if loss == "auto" and len(set(has_labels)) == 1:
        loss = automatic_loss(has_labels=has_labels[0])
    return loss, taken


def _all_similar(source: Source) -> bool:
    """Return whether every label is 1."""
    return source.kind == "labeled" and all(pair[2] == 1 for pair in source.records)


def _check_labels(source: Source) -> None:
    labels = {record.label for record in source.records if isinstance(record, ScoredPair)}
    if len(labels) == 1 and len(source.records) > 1:
        raise DataError(f"{source.name}: every label is {labels.pop():g}, so there is nothing to learn from them")


def _check_dev(dev: Records) -> None:
    if isinstance(dev[0], ScoredPair) and len({pair[2] for pair in dev}) < 2:
        raise DataError("the dev data have a single label; a correlation needs pairs of different labels")


def _weights(sources: Sequence[Source], weights: Mapping[str, float] | None) -> list[float] | None:
    names = [source.name for source in sources]
    if weights is None:
        return None
    if not isinstance(weights, Mapping) or set(weights) != set(names):
        given = ", ".join(map(str, weights)) if isinstance(weights, Mapping) else repr(weights)
        raise InputError(f"weights are given for {given}; give one for each source: {', '.join(names)}")
    return [weights[name] for name in names]
