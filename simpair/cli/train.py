"""``simpair train`` and ``simpair push``: pairs → a trained model; a saved model → a repository on the Hub."""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpair.cli.folders import made_only_on_success
from simpair.cli.output import Output, add_format, positive
from simpair.errors import InputError

if TYPE_CHECKING:
    from simpair.training.data.sources import Source

__all__ = ["DATA", "add_label_range", "label_range_of", "register"]

DATA = (
    ".csv, .tsv, .jsonl (also .gz) or .parquet with columns text1, text2 and label, or anchor, positive and optionally "
    "negative; other common column names are known too"
)


def register(commands: Any) -> None:
    """Declare the commands of this group."""
    train = commands.add_parser("train", help="train a model on pairs", description=_train.__doc__)
    train.add_argument("data", metavar="DATA", nargs="+", help=DATA)
    train.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="a new folder for the trained model")
    train.add_argument("--base", metavar="MODEL", help="the model to start from (default: the bundled model)")
    train.add_argument("--dev", metavar="FILE", help="pairs to evaluate on before and after training; not trained on")
    add_label_range(train)
    train.add_argument("--skip-empty", action="store_true", help="skip rows with an empty text instead of refusing")
    _add_settings(train)
    train.add_argument("--resume", action="store_true", help="resume the interrupted run in --out")
    add_format(train)
    train.set_defaults(run=_train)

    push = commands.add_parser("push", help="publish a model on the Hugging Face Hub", description=_push.__doc__)
    push.add_argument("folder", metavar="FOLDER", type=Path, help="the folder of a saved model")
    push.add_argument("repo_id", metavar="REPO_ID", help="org/name; created if it does not exist")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    add_format(push)
    push.set_defaults(run=_push)


def _add_settings(train: argparse.ArgumentParser) -> None:
    """Declare the options that decide the weights; their defaults are those of ``fine_tune``."""
    from simpair.training import defaults

    default = "(default: %(default)s)"
    train.add_argument(
        "--weights",
        type=_positive_float,
        nargs="+",
        metavar="W",
        help="sampling weight of each DATA; a batch is drawn from one of them (default: its number of rows)",
    )
    train.add_argument(
        "--loss", choices=defaults.LOSS_NAMES, default=defaults.LOSS, help=f"auto chooses by the data {default}"
    )
    train.add_argument(
        "--epochs", type=_positive_float, default=defaults.EPOCHS, help=f"passes over the data {default}"
    )
    train.add_argument("--max-steps", type=positive, default=-1, help="number of steps, instead of --epochs")
    train.add_argument("--batch-size", type=positive, default=defaults.BATCH_SIZE, help=f"pairs per step {default}")
    train.add_argument(
        "--mini-batch-size",
        type=positive,
        default=0,
        help="texts per forward pass, for batches that do not fit in memory (default: all)",
    )
    train.add_argument("--bf16", action="store_true", help="multiply in bfloat16; faster on processors that have it")
    train.add_argument(
        "--learning-rate", type=_positive_float, default=defaults.LEARNING_RATE, help=f"peak learning rate {default}"
    )
    train.add_argument(
        "--lora-rank", type=positive, metavar="R", help="train low-rank adapters only and merge them (needs peft)"
    )
    train.add_argument(
        "--seed", type=_seed, default=defaults.SEED, help=f"seed of the record order and of dropout {default}"
    )


def add_label_range(parser: argparse.ArgumentParser) -> None:
    """Declare ``--label-range``."""
    names = ("LOW", "HIGH")
    parser.add_argument(
        "--label-range", type=float, nargs=2, metavar=names, help="lowest and highest label of the scale (default: 0 1)"
    )


def _train(arguments: argparse.Namespace) -> None:
    """Train a model on pairs, save it in --out, and print a report."""
    _check_out(arguments.out, resume=arguments.resume)
    from simpair.encoder.model import TwinTowerEncoder
    from simpair.training.data.sources import read_source
    from simpair.training.evaluation.evaluate import metrics_by_name
    from simpair.training.fine_tuning import fine_tune, is_main_process
    from simpair.training.trainer.adapters import lora
    from simpair.training.trainer.interruption import SaveAtSignal

    if is_main_process():
        logging.getLogger("simpair").setLevel(logging.INFO)  # the reports of the sources, and the time left
    reading = {"label_range": label_range_of(arguments), "skip_empty": arguments.skip_empty}
    sources = _sources(arguments.data, weighted=arguments.weights is not None, **reading)
    weights = _weights(list(sources), arguments.weights)
    dev = None if arguments.dev is None else read_source(arguments.dev, name=arguments.dev, **reading)
    encoder = TwinTowerEncoder.from_pretrained(arguments.base)
    names = ("loss", "epochs", "max_steps", "batch_size", "mini_batch_size", "bf16", "learning_rate", "seed", "resume")
    with (
        made_only_on_success(arguments.out),
        redirect_stdout(sys.stderr),  # the stock progress bar writes its last line to stdout
        SaveAtSignal() as save_at_signal,
        lora(encoder, rank=arguments.lora_rank) if arguments.lora_rank else nullcontext(),
    ):
        arguments.out.mkdir(parents=True, exist_ok=True)  # fails before training if it cannot be written
        report = fine_tune(
            encoder,
            sources,
            weights=weights,
            output_dir=arguments.out,
            dev=dev,
            show_progress_bar=sys.stderr.isatty(),
            callbacks=[save_at_signal],
            **{name: getattr(arguments, name) for name in names},
        )
    before, after = (scores and metrics_by_name(scores) for scores in (report.before, report.after))
    facts = {name: value for name, value in report._asdict().items() if name != "sources"}
    if is_main_process():
        Output(arguments.format).facts(**(facts | {"before": before, "after": after}), folder=str(arguments.out))


def _sources(paths: list[str], *, weighted: bool, **reading: Any) -> dict[str, Source]:
    """Return files of one kind as one source, unless each has a weight; files of several kinds as a source each."""
    from simpair.training.data.sources import join_sources, read_source

    if len(set(paths)) < len(paths):
        raise InputError("a file is given twice; give each file once, and use --weights to sample it more often")
    sources = {path: read_source(path, name=path, **reading) for path in paths}
    kinds = {_form(source) for source in sources.values()}
    if weighted or len(kinds) > 1 or len(sources) == 1:
        return sources
    name = f"{paths[0]} and {len(paths) - 1} more"
    return {name: join_sources(list(sources.values()), name)}


def _form(source: Source) -> tuple[object, ...]:
    """Return what is equal for sources that can be joined: record type, kind of labels, number of negatives."""
    first = source.records[0]
    return type(first), source.kind == "inference", len(getattr(first, "negatives", ()))


def _weights(paths: list[str], weights: list[float] | None) -> dict[str, float] | None:
    if weights is not None and len(weights) != len(paths):
        raise InputError(f"--weights gives {len(weights)} numbers for {len(paths)} files; give one for each file")
    return None if weights is None else dict(zip(paths, weights, strict=True))


def _push(arguments: argparse.Namespace) -> None:
    """Publish a saved model on the Hub and print the address of the commit; its README.md, if any, becomes the card."""
    from simpair.checkpoint import hub
    from simpair.encoder.model import TwinTowerEncoder

    encoder = TwinTowerEncoder.from_pretrained(arguments.folder)  # a model that does not open is not published
    if (arguments.folder / "README.md").is_file():
        url = hub.push_folder(arguments.folder, arguments.repo_id, private=arguments.private)
    else:
        url = encoder.push_to_hub(arguments.repo_id, private=arguments.private)
    Output(arguments.format).row(url, url=url)


def _check_out(folder: Path, *, resume: bool) -> None:
    """Refuse, before anything is loaded, a folder without a run to resume, or a folder with other files."""
    from simpair.training.trainer.run_file import require_run

    if resume:
        require_run(folder)
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; give --out a new folder, or --resume to resume the run in it")


def label_range_of(arguments: argparse.Namespace) -> tuple[float, float] | None:
    """Return the lowest and the highest label of ``--label-range``, or None."""
    return None if arguments.label_range is None else (arguments.label_range[0], arguments.label_range[1])


def _seed(given: str) -> int:
    if not given.isdecimal() or int(given) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {(1 << 32) - 1}, got {given!r}")
    return int(given)


def _positive_float(given: str) -> float:
    try:
        number = float(given)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {given!r}")
    return number
