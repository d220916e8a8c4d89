"""Scores, labels, hits and curves → pictures, as PNG files. Knows matplotlib and arrays, no model and no text.

No text of the data enters a picture, so that none needs a font for it.
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

_BLUE, _RED, _GREY = "#0072b2", "#d55e00", "#777777"  # told apart by all eyes: Okabe & Ito 2008
_BINS = 40
_MOST_LEVELS = 6


def check_matplotlib() -> None:
    """Refuse to begin what will end without pictures.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InputError(f"pictures need matplotlib ({error}); pip install 'simpair[plots]'") from error


def plot_scores(
    path: Path, scores: NDArray[np.float64], labels: NDArray[np.float64], *, threshold: float | None = None
) -> None:
    """Write how the scores (N,) of each label lie: a histogram for each of a few labels, or for each fifth of them.

    Args:
        path: The file to write.
        scores: (N,) of the pairs.
        labels: (N,), from 0 to 1.
        threshold: A score to mark.
    """
    groups = _levels(labels)
    edges = np.linspace(scores.min(), scores.max(), _BINS + 1)
    with _picture(path) as (axes,):
        for group, colour in zip(groups, _colours(len(groups)), strict=True):
            some = scores[group.rows]
            shares = np.histogram(some, edges)[0] / len(some)
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.3 if len(groups) <= 2 else 0.1)
            axes.stairs(shares, edges, color=colour, linewidth=1.5, label=f"{group.name}: {len(some):,} pairs")
        if threshold is not None:
            axes.axvline(threshold, color=_GREY, linestyle="--", label=f"threshold {threshold:.3f}")
        _describe(axes, f"Scores by label, {len(scores):,} pairs", "score", "share of the pairs of a label")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def plot_roc(
    path: Path, scores: NDArray[np.float64], labels: NDArray[np.float64], *, threshold: float | None = None
) -> None:
    """Write the ROC curve of scores (N,) with labels (N,) of 0 and 1, and where on it the threshold lies."""
    from sklearn.metrics import roc_curve

    wrong, right, _ = roc_curve(labels, scores)
    with _picture(path, square=True) as (axes,):
        axes.plot(wrong, right, color=_BLUE, linewidth=2, label=f"AUC {roc_auc(scores, labels):.4f}")
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
    """Write precision over recall of scores (N,) with labels (N,) of 0 and 1, and where on it the threshold lies."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, scores)
    share = float(labels.mean())
    with _picture(path, square=True) as (axes,):
        name = f"average precision {average_precision(scores, labels):.4f}"
        axes.step(recall, precision, where="post", color=_BLUE, linewidth=2, label=name)
        axes.axhline(share, color=_GREY, linestyle="--", linewidth=1, label=f"chance {share:.2f}")
        if threshold is not None and (reached := scores >= threshold).any():
            point = (reached[labels == 1].mean(), labels[reached].mean())
            axes.plot(*point, "o", color=_RED, label=f"threshold {threshold:.3f}")
        _describe(axes, f"Precision and recall, {_counts(labels)}", "recall", "precision")
        axes.set_ylim(-0.02, 1.02)
        axes.legend(loc="lower left")


def plot_similarity(path: Path, scores: NDArray[np.float64], labels: NDArray[np.float64]) -> None:
    """Write the scores (N,) over the labels (N,), a point a pair, and the mean score of each fifth of the labels."""
    groups = _levels(labels)
    centres = [float(labels[group.rows].mean()) for group in groups]
    middles = [float(scores[group.rows].mean()) for group in groups]
    with _picture(path) as (axes,):
        alpha = float(np.clip(300 / len(scores), 0.05, 0.8))
        axes.scatter(labels, scores, s=14, color=_BLUE, alpha=alpha, linewidths=0)
        axes.plot(centres, middles, "o-", color=_RED, label="mean score")
        found = f"Spearman {spearman(scores, labels):.4f}, Pearson {pearson(scores, labels):.4f}"
        _describe(axes, f"Score and label, {len(scores):,} pairs. {found}", "label", "score")
        axes.legend(loc="upper left")


def plot_first_hits(path: Path, relevant: NDArray[np.bool_]) -> None:
    """Write how many queries find their first right document at which rank, for hits (Q, K), the best first."""
    found = relevant.any(axis=1)
    ranks = np.arange(1, relevant.shape[1] + 1)
    counts = np.bincount(relevant[found].argmax(axis=1), minlength=len(ranks))
    with _picture(path) as (axes,):
        axes.bar(ranks, counts / len(relevant), color=_BLUE, label="first right document")
        axes.bar([len(ranks) + 1], [(~found).mean()], color=_GREY, label="none found")
        ticks = ranks if len(ranks) <= 20 else ranks[:: -(-len(ranks) // 20)]
        axes.set_xticks([*ticks, len(ranks) + 1], [*map(str, ticks), "none"])
        _describe(axes, f"Rank of the first right document, {len(relevant):,} queries", "rank", "share of the queries")
        axes.legend()


def plot_training(path: Path, curves: Sequence[Curve]) -> None:
    """Write what a run logged over its steps, one panel for losses, one for what was evaluated, one for each other.

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
        raise InputError("the run logged nothing; train with logging_steps, or leave its picture out")
    names = sorted(panels, key=lambda name: ("loss", "dev", "learning_rate", "grad_norm").index(name))
    with _picture(path, rows=len(names)) as all_axes:
        for axes, name in zip(all_axes, names, strict=True):
            for curve, colour in zip(panels[name], _colours(len(panels[name])), strict=True):
                shown = curve.name.removeprefix("eval_") if name == "dev" else curve.name
                marker = "o" if len(curve.steps) <= 30 else None
                axes.plot(curve.steps, curve.values, marker=marker, markersize=4, color=colour, label=_words(shown))
            last = axes is all_axes[-1]
            title = f"Training, {max(int(curve.steps[-1]) for curve in curves):,} steps" if axes is all_axes[0] else ""
            _describe(axes, title, "step" if last else "", {"dev": "on dev data"}.get(name, _words(name)))
            if len(panels[name]) > 1 or name == "dev":
                axes.legend()


# --- how a picture looks


@contextmanager
def _picture(path: Path, *, rows: int = 1, square: bool = False) -> Iterator[list[Axes]]:
    """Panels below each other to draw on, which are then written."""
    check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 5.4) if square else (8.0, 2.0 + 2.5 * rows), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, whatever backend is chosen elsewhere
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
    """The rows of each label, where there are few, else of each fifth of the scale that holds any."""
    distinct = np.unique(labels)
    if len(distinct) <= _MOST_LEVELS:
        return [_Level(f"label {label:g}", labels == label) for label in distinct]
    fifth = np.minimum((labels * 5).astype(int), 4)
    return [_Level(f"label {at / 5:g} to {(at + 1) / 5:g}", fifth == at) for at in range(5) if (fifth == at).any()]


def _colours(count: int) -> list[str]:
    """Red to blue, so that the lowest label is the warmest; the two alone where there are two."""
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
