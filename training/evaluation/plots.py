"""Scores, labels, hits and training curves → plots, as PNG files.

Plots show no text of the data, so they need no fonts for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simpair.errors import InputError
from simpair.files.disk import replacing

from .metrics import average_precision, pearson, roc_auc, spearman

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .curves import Curve

__all__ = [
    "check_matplotlib",
    "plot_first_hits",
    "plot_precision_recall",
    "plot_roc",
    "plot_scores",
    "plot_similarity",
    "plot_training",
]

_BLUE, _RED, _GREY = "#0072b2", "#d55e00", "#777777"  # readable for color-blind people: Okabe & Ito 2008
_BINS = 40
_MAX_LEVELS = 6


def check_matplotlib() -> None:
    """Check that plots can be drawn.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InputError(f"plots need matplotlib ({error}); pip install 'simpair[plots]'") from error


def plot_scores(
    path: Path, scores: NDArray[np.float64], labels: NDArray[np.float64], *, threshold: float | None = None
) -> None:
    """Plot a histogram of the scores for each label, or for each fifth of the scale if there are many labels.

    Args:
        path: The file to write.
        scores: Scores of the pairs, (N,).
        labels: Labels from 0 to 1, (N,).
        threshold: A score to mark.
    """
    groups = _levels(labels)
    edges = np.linspace(scores.min(), scores.max(), _BINS + 1)
    with _figure(path) as (axes,):
        for group, color in zip(groups, _colors(len(groups)), strict=True):
            some = scores[group.rows]
            heights = np.histogram(some, edges)[0] / len(some)
            axes.stairs(heights, edges, fill=True, color=color, alpha=0.3 if len(groups) <= 2 else 0.1)
            axes.stairs(heights, edges, color=color, linewidth=1.5, label=f"{group.name}: {len(some):,} pairs")
        if threshold is not None:
            axes.axvline(threshold, color=_GREY, linestyle="--", label=f"threshold {threshold:.3f}")
        _describe(axes, f"Scores by label, {len(scores):,} pairs", "score", "fraction of the pairs of a label")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def plot_roc(
    path: Path, scores: NDArray[np.float64], labels: NDArray[np.float64], *, threshold: float | None = None
) -> None:
    """Plot the ROC curve of scores (N,) with labels (N,) of 0 and 1, and mark the threshold on it."""
    from sklearn.metrics import roc_curve

    false_positives, true_positives, _ = roc_curve(labels, scores)
    with _figure(path, square=True) as (axes,):
        axes.plot(false_positives, true_positives, color=_BLUE, linewidth=2, label=f"AUC {roc_auc(scores, labels):.4f}")
        axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="chance 0.5")
        if threshold is not None:
            reached = scores >= threshold
            point = (reached[labels == 0].mean(), reached[labels == 1].mean())
            axes.plot(*point, "o", color=_RED, label=f"threshold {threshold:.3f}")
        _describe(axes, f"ROC, {_counts(labels)}", "false positive rate", "true positive rate")
        axes.legend(loc="lower right")


def plot_precision_recall(
    path: Path, scores: NDArray[np.float64], labels: NDArray[np.float64], *, threshold: float | None = None
) -> None:
    """Plot precision over recall of scores (N,) with labels (N,) of 0 and 1, and mark the threshold on the curve."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, scores)
    chance = float(labels.mean())
    with _figure(path, square=True) as (axes,):
        name = f"average precision {average_precision(scores, labels):.4f}"
        axes.step(recall, precision, where="post", color=_BLUE, linewidth=2, label=name)
        axes.axhline(chance, color=_GREY, linestyle="--", linewidth=1, label=f"chance {chance:.2f}")
        if threshold is not None and (reached := scores >= threshold).any():
            point = (reached[labels == 1].mean(), labels[reached].mean())
            axes.plot(*point, "o", color=_RED, label=f"threshold {threshold:.3f}")
        _describe(axes, f"Precision and recall, {_counts(labels)}", "recall", "precision")
        axes.set_ylim(-0.02, 1.02)
        axes.legend(loc="lower left")


def plot_similarity(path: Path, scores: NDArray[np.float64], labels: NDArray[np.float64]) -> None:
    """Plot the scores (N,) over the labels (N,), with the mean score of each label or fifth of the scale."""
    groups = _levels(labels)
    centres = [float(labels[group.rows].mean()) for group in groups]
    middles = [float(scores[group.rows].mean()) for group in groups]
    with _figure(path) as (axes,):
        alpha = float(np.clip(300 / len(scores), 0.05, 0.8))
        axes.scatter(labels, scores, s=14, color=_BLUE, alpha=alpha, linewidths=0)
        axes.plot(centres, middles, "o-", color=_RED, label="mean score")
        found = f"Spearman {spearman(scores, labels):.4f}, Pearson {pearson(scores, labels):.4f}"
        _describe(axes, f"Score and label, {len(scores):,} pairs. {found}", "label", "score")
        axes.legend(loc="upper left")


def plot_first_hits(path: Path, relevant: NDArray[np.bool_]) -> None:
    """Plot the fraction of queries by the rank of their first relevant document; hits (Q, K), best hit first."""
    found = relevant.any(axis=1)
    ranks = np.arange(1, relevant.shape[1] + 1)
    counts = np.bincount(relevant[found].argmax(axis=1), minlength=len(ranks))
    with _figure(path) as (axes,):
        axes.bar(ranks, counts / len(relevant), color=_BLUE, label="first relevant document")
        axes.bar([len(ranks) + 1], [(~found).mean()], color=_GREY, label="none found")
        ticks = ranks if len(ranks) <= 20 else ranks[:: -(-len(ranks) // 20)]
        axes.set_xticks([*ticks, len(ranks) + 1], [*map(str, ticks), "none"])
        _describe(
            axes, f"Rank of the first relevant document, {len(relevant):,} queries", "rank", "fraction of the queries"
        )
        axes.legend()


def plot_training(path: Path, curves: Sequence[Curve]) -> None:
    """Plot the curves of a run: a panel for losses, one for evaluated metrics, and one for each other curve.

    Raises:
        InputError: There are no curves.
    """
    panels: dict[str, list[Curve]] = {}
    for curve in curves:
        kind = (
            "loss" if curve.name in ("loss", "eval_loss") else "dev" if curve.name.startswith("eval_") else curve.name
        )
        panels.setdefault(kind, []).append(curve)
    if not panels:
        raise InputError("the run logged nothing; train with logging_steps, or leave its plot out")
    names = sorted(panels, key=lambda name: ("loss", "dev", "learning_rate", "grad_norm").index(name))
    with _figure(path, rows=len(names)) as all_axes:
        for axes, name in zip(all_axes, names, strict=True):
            for curve, color in zip(panels[name], _colors(len(panels[name])), strict=True):
                shown = curve.name.removeprefix("eval_") if name == "dev" else curve.name
                marker = "o" if len(curve.steps) <= 30 else None
                axes.plot(curve.steps, curve.values, marker=marker, markersize=4, color=color, label=_words(shown))
            last = axes is all_axes[-1]
            title = f"Training, {max(int(curve.steps[-1]) for curve in curves):,} steps" if axes is all_axes[0] else ""
            _describe(axes, title, "step" if last else "", {"dev": "on dev data"}.get(name, _words(name)))
            if len(panels[name]) > 1 or name == "dev":
                axes.legend()


# --- layout


@contextmanager
def _figure(path: Path, *, rows: int = 1, square: bool = False) -> Iterator[list[Axes]]:
    """Yield panels below each other to draw on, then write them as PNG."""
    check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 5.4) if square else (8.0, 2.0 + 2.5 * rows), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, independently of the chosen backend
    panels = figure.subplots(rows, 1, squeeze=False, sharex=True)[:, 0]
    yield list(panels)
    with replacing(path) as new:
        figure.savefig(new, format="png")


def _describe(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


class _Level(NamedTuple):
    name: str
    rows: NDArray[np.bool_]


def _levels(labels: NDArray[np.float64]) -> list[_Level]:
    """Return the rows of each label if there are few, else of each fifth of the scale that has any."""
    distinct = np.unique(labels)
    if len(distinct) <= _MAX_LEVELS:
        return [_Level(f"label {label:g}", labels == label) for label in distinct]
    fifth = np.minimum((labels * 5).astype(int), 4)
    return [_Level(f"label {at / 5:g} to {(at + 1) / 5:g}", fifth == at) for at in range(5) if (fifth == at).any()]


def _colors(count: int) -> list[str]:
    """Return a color for each curve: blue for one, red and blue for two, else a scale from light to dark."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if count <= 2:
        return [_RED, _BLUE][-count:]
    return [to_hex(colormaps["viridis_r"](0.1 + 0.9 * at / (count - 1))) for at in range(count)]


def _counts(labels: NDArray[np.float64]) -> str:
    positive = int(labels.sum())
    return f"{positive:,} positive and {len(labels) - positive:,} negative pairs"


def _words(name: str) -> str:
    return {"grad_norm": "gradient norm", "eval_loss": "loss on dev data"}.get(name, name.replace("_", " "))
