"""``simpair evaluate``: a model and files of labeled data → its metrics on each file, with intervals and plots."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from simpair.cli.evaluation import Given, Kind, Measured, measure
from simpair.cli.folders import check_file, made_only_on_success
from simpair.cli.output import Output, add_format, aligned, label, notice, positive
from simpair.cli.train import DATA, add_label_range, label_range_of
from simpair.errors import DataError, InputError

if TYPE_CHECKING:
    from simpair.training.data.pairs import ScoredPair

__all__ = ["register"]

_PACKAGES = ("numpy", "scikit-learn", "scipy", "torch")
_COUNTS = ("pairs", "queries", "documents", "threshold")
"""Columns that come first in a table."""


def register(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("evaluate", help="evaluate a model on pairs", description=_evaluate.__doc__)
    parser.add_argument("model", metavar="MODEL", help="folder, bundled name or Hub id of an encoder")
    parser.add_argument("data", metavar="DATA", nargs="+", help=f"files, each evaluated on its own: {DATA}")
    add_label_range(parser)
    parser.add_argument("--dev", metavar="FILE", help="pairs for choosing the threshold between labels 0 and 1")
    parser.add_argument("--bitext", action="store_true", help="treat anchors and positives as translations")
    parser.add_argument(
        "--corpus",
        metavar="FILE",
        help="more texts to search: lines, or the field text of .jsonl, .csv, .tsv or .parquet",
    )
    parser.add_argument("-k", type=positive, help="number of hits per query (default: 10)")
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="also write metrics, checksums and versions to a file"
    )
    parser.add_argument("--plots", metavar="FOLDER", type=Path, help="also write plots as PNG files to a folder")
    add_format(parser)
    parser.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    """Print the metrics of a model on each file, with 95 % intervals.

    Files with labels give correlations; files with anchor and positive give retrieval metrics.
    """
    from simpair.encoder.model import TwinTowerEncoder

    _check_outputs(arguments)
    files = [_read(path, arguments) for path in arguments.data]
    dev = None if arguments.dev is None else _read(arguments.dev, arguments)
    corpus = _read_corpus(arguments, files)
    _check_dev(files, dev)
    encoder = TwinTowerEncoder.from_pretrained(arguments.model)
    output, measured = Output(arguments.format), []
    with nullcontext() if arguments.plots is None else made_only_on_success(arguments.plots):
        for one in measure(encoder, files, dev, corpus, arguments.k or 10):
            measured.append(one)
            if not output.is_text:
                output.row("", file=one.given.path, kind=one.given.kind, **one.metrics, intervals=one.intervals)
        if output.is_text:
            output.row("\n\n".join(_tables(measured)))
        if arguments.plots is not None:
            _plot(arguments.plots, measured, Path(arguments.model))
        if arguments.json is not None:
            name = Path(arguments.model).resolve().name if Path(arguments.model).exists() else arguments.model
            model = {"name": name, "fingerprint": encoder.fingerprint, "dtype": encoder.dtype}
            _write_json(arguments.json, {"model": model, **_about(dev, arguments.corpus)}, measured)


# --- reading


def _check_outputs(arguments: argparse.Namespace) -> None:
    if arguments.json is not None:
        for path in [*arguments.data, arguments.dev, arguments.corpus]:
            check_file(arguments.json, source=path)
    if arguments.plots is not None:
        from simpair.training.evaluation.plots import check_matplotlib

        check_matplotlib()
        if arguments.plots.exists() and not arguments.plots.is_dir():
            raise InputError(f"{arguments.plots} is a file; give --plots a folder")


def _read(path: str, arguments: argparse.Namespace) -> Given:
    from simpair.files.disk import sha256
    from simpair.training.data.pairs import ScoredPair, read_pairs

    records = read_pairs(path, label_range=label_range_of(arguments))
    scored = isinstance(records[0], ScoredPair)
    if scored and arguments.bitext:
        raise DataError("holds scored pairs; --bitext needs translations in columns anchor and positive", path=path)
    kind: Kind = "scored" if scored else "bitext" if arguments.bitext else "retrieval"
    return Given(path, sha256(Path(path)), kind, records)


def _read_corpus(arguments: argparse.Namespace, files: Sequence[Given]) -> list[str]:
    from simpair.cli.inputs import read_documents

    given = [option for option, value in (("--corpus", arguments.corpus), ("-k", arguments.k)) if value]
    if given and not any(one.kind == "retrieval" for one in files):
        raise InputError(
            f"{' and '.join(given)} needs a file with anchor and positive; no file has them, so leave it out"
        )
    return [] if arguments.corpus is None else [document.text for document in read_documents([arguments.corpus])]


def _check_dev(files: Sequence[Given], dev: Given | None) -> None:
    """Refuse dev pairs that give no threshold for a file, before any text is encoded."""
    from simpair.training.evaluation.evaluate import check_dev

    if dev is None:
        return
    for one in (dev, *files):
        if one.kind != "scored":
            raise DataError(
                "holds no scored pairs; --dev needs scored pairs in all files, so leave it out", path=one.path
            )
    for one in files:
        try:
            check_dev(cast("list[ScoredPair]", one.records), cast("list[ScoredPair]", dev.records))
        except InputError as error:
            raise DataError(str(error), path=one.path) from None


# --- results


def _tables(measured: Sequence[Measured]) -> Iterator[str]:
    """Yield a table for each kind of data: a row for each file, with its intervals below."""
    for kind in dict.fromkeys(one.given.kind for one in measured):
        some = [one for one in measured if one.given.kind == kind]
        names = list(dict.fromkeys(name for one in some for name in one.metrics))
        names = [*(name for name in names if name in _COUNTS), *(name for name in names if name not in _COUNTS)]
        rows = [("file", *map(label, names))]
        for one in some:
            rows.append((one.given.path, *(_cell(one.metrics.get(name)) for name in names)))
            rows.append(("", *(_bounds(one.intervals.get(name)) for name in names)))
        yield aligned(rows)


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _bounds(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def _about(dev: Given | None, corpus: str | None) -> dict[str, Any]:
    """Return name and digest of the other files that the metrics depend on."""
    from simpair.files.disk import sha256

    about: dict[str, Any] = {}
    if dev is not None:
        about["dev"] = {"file": Path(dev.path).name, "sha256": dev.digest}
    if corpus is not None:
        about["corpus"] = {"file": Path(corpus).name, "sha256": sha256(Path(corpus))}
    return about


def _write_json(path: Path, about: dict[str, Any], measured: Sequence[Measured]) -> None:
    """Write the metrics with the versions of the libraries; files by name, without their folders."""
    import platform
    from importlib.metadata import version

    from simpair import __version__
    from simpair.files.disk import replace_text

    versions = {name: version(name) for name in _PACKAGES}
    content = {
        "versions": {"simpair": __version__, "python": platform.python_version(), **versions},
        **about,
        "intervals": "percentile bootstrap over pairs or queries, 95 %, 1000 rounds, seed 0",
        "files": [
            {
                "file": Path(one.given.path).name,
                "sha256": one.given.digest,
                "kind": one.given.kind,
                "metrics": one.metrics,
                "intervals": one.intervals,
            }
            for one in measured
        ],
    }
    replace_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def _plot(folder: Path, measured: Sequence[Measured], model: Path) -> None:
    """Write the plots of each file, and the training curves if the model is the folder of a run."""
    from simpair.training.evaluation.curves import read_curves
    from simpair.training.evaluation.plots import plot_training

    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    taken: set[str] = set()
    for one in measured:
        written += _plot_file(folder / _free_name(Path(one.given.path), taken), one)
    if model.is_dir() and (curves := read_curves(model)):
        written.append(folder / "training.png")
        plot_training(written[-1], curves)
    names = ": " + ", ".join(path.name for path in written) if written else ""
    notice(f"{len(written)} plots in {folder}{names}")


def _plot_file(start: Path, one: Measured) -> list[Path]:
    """Write the plots of a file, whose names begin as ``start``; return their paths."""
    from simpair.training.evaluation import plots
    from simpair.training.evaluation.predictions import PairSeries, Ranking

    def place(kind: str) -> Path:
        return start.with_name(f"{start.name}-{kind}.png")

    if isinstance(one.predictions, Ranking):
        plots.plot_first_hits(place("ranks"), one.predictions.relevant)
        return [place("ranks")]
    if not isinstance(one.predictions, PairSeries):
        return []
    scores, labels = one.predictions
    threshold = one.metrics.get("threshold")
    plots.plot_scores(place("scores"), scores, labels, threshold=threshold)
    if not one.predictions.binary:
        plots.plot_similarity(place("similarity"), scores, labels)
        return [place("scores"), place("similarity")]
    plots.plot_roc(place("roc"), scores, labels, threshold=threshold)
    plots.plot_precision_recall(place("precision-recall"), scores, labels, threshold=threshold)
    return [place("scores"), place("roc"), place("precision-recall")]


def _free_name(path: Path, taken: set[str]) -> str:
    """Return the file's name without its endings, numbered if another file has the same."""
    stem = name = Path(path.name.removesuffix(".gz")).stem
    while name in taken or name == "training":
        name = f"{stem}-{len(taken) + 1}"
    taken.add(name)
    return name
