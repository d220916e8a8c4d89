"""``simpair train`` and ``push``: pairs → a model, its place on the Hub."""

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
    ".csv, .tsv, .jsonl (also .gz) or .parquet with text1, text2 and label, or with anchor, positive and perhaps "
    "negative; found by these names, and by others that are usual"
)


def register(commands: Any) -> None:
    """Declare the commands of this group."""
    train = commands.add_parser("train", help="train a model on pairs", description=_train.__doc__)
    train.add_argument("data", metavar="DATA", nargs="+", help=DATA)
    train.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="a new folder for the trained model")
    train.add_argument("--base", metavar="M", help="the model to start from; default: the bundled model")
    train.add_argument(
        "--weights",
        type=_positive_float,
        nargs="+",
        metavar="W",
        help="how often each DATA has its turn, a batch at a time; default: as often as it has rows",
    )
    train.add_argument("--dev", metavar="FILE", help="pairs to measure on before and after, never trained on")
    add_label_range(train)
    train.add_argument("--skip-empty", action="store_true", help="leave rows with an empty text out")
    losses = ("cosine_mse", "cosent", "angle", "info_nce", "auto")
    train.add_argument("--loss", choices=losses, help="default: what fits the data")
    train.add_argument("--epochs", type=_positive_float, default=1.0, help="passes over the data (default 1)")
    train.add_argument("--max-steps", type=positive, default=-1, help="stop after that many steps, whatever the epochs")
    train.add_argument("--batch-size", type=positive, default=32, help="pairs in a step (default 32)")
    train.add_argument(
        "--mini-batch-size", type=positive, default=0, help="texts run at once, for steps that memory does not hold"
    )
    train.add_argument("--bf16", action="store_true", help="multiply in bfloat16: faster where the processor has it")
    train.add_argument("--learning-rate", type=_positive_float, default=5e-5, help="its peak (default 5e-5)")
    train.add_argument(
        "--lora-rank", type=positive, metavar="R", help="train low-rank adapters alone, and merge them (needs peft)"
    )
    train.add_argument("--seed", type=_seed, default=0, help="of the order of the pairs and of dropout (default 0)")
    train.add_argument("--resume", action="store_true", help="go on with the interrupted run in --out")
    add_format(train)
    train.set_defaults(run=_train)

    push = commands.add_parser("push", help="publish a model on the Hugging Face Hub", description=_push.__doc__)
    push.add_argument("folder", metavar="FOLDER", type=Path, help="the folder of a saved model")
    push.add_argument("repo_id", metavar="REPO_ID", help="org/name; made if it does not exist")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    add_format(push)
    push.set_defaults(run=_push)


def add_label_range(parser: argparse.ArgumentParser) -> None:
    """Declare ``--label-range``."""
    names = ("LOW", "HIGH")
    parser.add_argument("--label-range", type=float, nargs=2, metavar=names, help="of the files' labels; default 0 1")


def _train(arguments: argparse.Namespace) -> None:
    """Train a model on pairs, save it in --out, and print what happened."""
    _check_out(arguments.out, resume=arguments.resume)
    from simpair.encoder.model import TwinTowerEncoder
    from simpair.training.data.sources import read_source
    from simpair.training.evaluation.evaluate import metrics_by_name
    from simpair.training.fine_tuning import fine_tune, is_first
    from simpair.training.trainer.adapters import lora
    from simpair.training.trainer.interruption import SaveAtSignal

    if is_first():
        logging.getLogger("simpair").setLevel(logging.INFO)  # what was read, and how long it will take
    reading = {"label_range": label_range_of(arguments), "skip_empty": arguments.skip_empty}
    sources = _sources(arguments.data, weighted=arguments.weights is not None, **reading)
    weights = _weights(list(sources), arguments.weights)
    held_out = None if arguments.dev is None else read_source(arguments.dev, name=arguments.dev, **reading)
    encoder = TwinTowerEncoder.from_pretrained(arguments.base)
    with (
        made_only_on_success(arguments.out),
        redirect_stdout(sys.stderr),  # the stock trainer's bar writes its last line to stdout
        SaveAtSignal() as save_at_signal,
        lora(encoder, rank=arguments.lora_rank) if arguments.lora_rank else nullcontext(),
    ):
        arguments.out.mkdir(parents=True, exist_ok=True)  # where it cannot be written, now is the time to hear of it
        report = fine_tune(
            encoder,
            sources,
            weights=weights,
            output_dir=arguments.out,
            dev=held_out,
            loss=arguments.loss,
            epochs=arguments.epochs,
            max_steps=arguments.max_steps,
            batch_size=arguments.batch_size,
            mini_batch_size=arguments.mini_batch_size,
            bf16=arguments.bf16,
            learning_rate=arguments.learning_rate,
            seed=arguments.seed,
            resume=arguments.resume,
            show_progress=sys.stderr.isatty(),
            callbacks=[save_at_signal],
        )
    before, after = (scores and metrics_by_name(scores) for scores in (report.before, report.after))
    facts = {name: value for name, value in report._asdict().items() if name != "sources"}
    if is_first():
        Output(arguments.format).facts(**(facts | {"before": before, "after": after}), folder=str(arguments.out))


def _sources(paths: list[str], *, weighted: bool, **reading: Any) -> dict[str, Source]:
    """Files of one kind as one source, unless each has a weight; files of several kinds as a source each."""
    from simpair.training.data.sources import join_sources, read_source

    if len(set(paths)) < len(paths):
        raise InputError("a file is given twice; give it once, and --weights where it is to have its turn more often")
    sources = {path: read_source(path, name=path, **reading) for path in paths}
    kinds = {_form(source) for source in sources.values()}
    if weighted or len(kinds) > 1 or len(sources) == 1:
        return sources
    name = f"{paths[0]} and {len(paths) - 1} more"
    return {name: join_sources(list(sources.values()), name)}


def _form(source: Source) -> tuple[object, ...]:
    """What sources that are read as one have in common."""
    first = source.records[0]
    return type(first), source.kind == "inference", len(getattr(first, "negatives", ()))


def _weights(paths: list[str], weights: list[float] | None) -> dict[str, float] | None:
    if weights is not None and len(weights) != len(paths):
        raise InputError(f"--weights gives {len(weights)} numbers for {len(paths)} files; give one each")
    return None if weights is None else dict(zip(paths, weights, strict=True))


def _push(arguments: argparse.Namespace) -> None:
    """Publish a saved model, with its README.md as the card where it has one, and print the address of the commit."""
    from simpair.checkpoint import hub
    from simpair.encoder.model import TwinTowerEncoder

    encoder = TwinTowerEncoder.from_pretrained(arguments.folder)  # what does not open here is not published
    if (arguments.folder / "README.md").is_file():
        url = hub.push_folder(arguments.folder, arguments.repo_id, private=arguments.private)
    else:
        url = encoder.push_to_hub(arguments.repo_id, private=arguments.private)
    Output(arguments.format).row(url, url=url)


def _check_out(folder: Path, *, resume: bool) -> None:
    """Refuse, before the work, a folder without the run to resume, or with files that a new run would mix with."""
    from simpair.training.trainer.run_file import RUN_FILE

    if resume and not (folder / RUN_FILE).is_file():
        raise InputError(f"{folder} holds no run to resume; leave --resume out to start anew")
    if not resume and folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; give --out a new folder, or --resume to go on with the run in it")


def label_range_of(arguments: argparse.Namespace) -> tuple[float, float] | None:
    """The lowest and the highest label that the command line gives, or None."""
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
