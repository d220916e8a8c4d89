"""``simpair similarity`` and ``simpair encode``: texts → scores, or vectors."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simpair import __version__
from simpair.cli.folders import check_file
from simpair.cli.output import Output, add_format, add_model, cut, non_blank, notice
from simpair.cli.progress import stream_progress
from simpair.cli.texts import TextStream, Truncated
from simpair.cli.vectors import Origin, VectorFormat, check_format, vector_format, vectors_path
from simpair.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from simpair.cli.partial import Partial, Recipe
    from simpair.encoder.model import TwinTowerEncoder

    Write = Callable[[list[str], NDArray[np.float32], Truncated], None]

__all__ = ["register"]


def register(commands: Any) -> None:
    """Declare the commands of this group."""
    similarity = commands.add_parser("similarity", help="compare texts", description=_similarity.__doc__)
    similarity.add_argument("text1", metavar="TEXT1", type=non_blank, help="a text")
    similarity.add_argument(
        "others", metavar="TEXT2", type=non_blank, nargs="+", help="one or more texts to compare it with"
    )
    add_model(similarity)
    add_format(similarity)
    similarity.set_defaults(run=_similarity)

    encode = commands.add_parser("encode", help="encode the texts of a file", description=_encode.__doc__)
    encode.add_argument("file", metavar="FILE", help="UTF-8 file with one text per line, or - for stdin")
    encode.add_argument(
        "--out",
        metavar="FILE",
        type=vectors_path,
        help="file to write, with row i for line i: .npy, .safetensors, or .parquet with the texts, which needs "
        "pyarrow (default: stdout)",
    )
    encode.add_argument(
        "--role", choices=("query", "document"), help="role of the texts in a search (default: no role)"
    )
    encode.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16", "int8"),
        default="float32",
        help="dtype of the matrix products; output is always float32; float16 is for GPUs (default: float32)",
    )
    encode.add_argument(
        "--on-truncation",
        choices=("warn", "error", "ignore"),
        default="warn",
        help="what to do about texts that exceed the encoder's maximum length and are truncated (default: warn)",
    )
    add_model(encode)
    encode.set_defaults(run=_encode)


def _similarity(arguments: argparse.Namespace) -> None:
    """Print the similarity score of TEXT1 with each other text, by default the cosine of their embeddings."""
    from simpair.encoder.model import TwinTowerEncoder

    encoder = TwinTowerEncoder.from_pretrained(arguments.model)
    vectors = encoder.encode([arguments.text1, *arguments.others])
    scores = encoder.similarity(vectors[:1], vectors[1:])[0].tolist()
    output = Output(arguments.format)
    for text2, score in zip(arguments.others, scores, strict=True):
        line = f"{score:.4f}" if len(scores) == 1 else f"{score:7.4f}  {cut(text2, indent=9)}"
        output.row(line, text1=arguments.text1, text2=text2, score=round(score, 6))


def _encode(arguments: argparse.Namespace) -> None:
    """Encode each line of a file: write vectors to --out, or JSON lines of text and embedding to stdout.

    The file may be of any size. After an interruption, the same command with --out continues and writes the same bytes
    as an uninterrupted run.
    """
    if arguments.out is None:
        _print_vectors(arguments)
    else:
        _write_vectors(arguments)


def _print_vectors(arguments: argparse.Namespace) -> None:
    texts = TextStream(arguments.file)
    from simpair.encoder.model import TwinTowerEncoder

    def write(block: list[str], vectors: NDArray[np.float32], _truncated: Truncated) -> None:
        for text, vector in zip(block, vectors, strict=True):
            numbers = ", ".join(map(str, vector))  # the shortest digits of a float32
            sys.stdout.write(f'{{"text": {json.dumps(text, ensure_ascii=False)}, "embedding": [{numbers}]}}\n')
        sys.stdout.flush()

    encoder = TwinTowerEncoder.from_pretrained(arguments.model, dtype=arguments.dtype)
    _encode_stream(encoder, texts, write, arguments, Truncated(), shown=not sys.stdout.isatty())


def _write_vectors(arguments: argparse.Namespace) -> None:
    check_file(arguments.out, source=arguments.file)
    check_format(arguments.out)
    texts = TextStream(arguments.file)
    from simpair.cli.partial import partial_file
    from simpair.encoder.model import TwinTowerEncoder

    with partial_file(arguments.out) as work:
        encoder = TwinTowerEncoder.from_pretrained(arguments.model, dtype=arguments.dtype)
        form = _begin(work, encoder, texts, arguments)
        before, start = texts.rows, time.monotonic()
        try:
            _fill(work, form, encoder, texts, arguments)
        except BaseException:
            if work.rows:
                notice(f"{work.rows:,} vectors are saved; run the same command again to continue")
            raise
    seconds = time.monotonic() - start
    size = f"{texts.rows:,} vectors of dimension {encoder.embedding_dimension}"
    notice(f"wrote {size} to {arguments.out} in {seconds:,.1f} s, {(texts.rows - before) / seconds:,.0f} texts/s")


def _begin(work: Partial, encoder: TwinTowerEncoder, texts: TextStream, arguments: argparse.Namespace) -> VectorFormat:
    """Open the work, skip the texts that are recorded, and return the format of the file.

    Raises:
        InputError: The recorded work has other texts, another encoder or other options.
        DataError: A recorded text was truncated, and --on-truncation is error.
    """
    recipe = _recipe(encoder, arguments)
    form = vector_format(arguments.out, Origin(recipe.model, recipe.fingerprint, encoder.embedding_dimension))
    work.begin(recipe, form.head())
    if work.rows:
        _refuse_truncated(work.truncated, encoder, texts, arguments)
        texts.skip(work.rows)
        if texts.digest != work.digest:
            raise work.refuse_texts(texts.path)
        notice(f"continues after line {texts.rows:,} of {texts.path}, where the last run was interrupted")
    return form


def _fill(
    work: Partial, form: VectorFormat, encoder: TwinTowerEncoder, texts: TextStream, arguments: argparse.Namespace
) -> None:
    def write(block: list[str], vectors: NDArray[np.float32], truncated: Truncated) -> None:
        work.append(form.block(block, vectors))
        if not texts.ended or texts.drawn:  # the last block may be incomplete, and a longer file would cut it elsewhere
            work.record(texts.rows, texts.digest, truncated)

    _encode_stream(encoder, texts, write, arguments, work.truncated, shown=True)
    work.finish(lambda path: form.finish(path, texts.rows))


def _recipe(encoder: TwinTowerEncoder, arguments: argparse.Namespace) -> Recipe:
    import tokenizers
    import torch

    from simpair.cli.partial import Recipe
    from simpair.encoder.workers import threads

    device = encoder.device.type
    if device == "cpu":
        device = f"cpu with {torch.backends.cpu.get_cpu_capability()} and {threads()} threads"
    elif device == "cuda":
        device = torch.cuda.get_device_name(encoder.device)
    return Recipe(
        format=arguments.out.suffix.lower(),
        model=encoder.source or "",
        fingerprint=encoder.fingerprint,
        role=arguments.role or "neither",
        dtype=arguments.dtype,
        device=device,
        libraries=f"simpair {__version__}, torch {torch.__version__} and tokenizers {tokenizers.__version__}",
    )


def _encode_stream(
    encoder: TwinTowerEncoder,
    texts: TextStream,
    write: Write,
    arguments: argparse.Namespace,
    truncated: Truncated,
    *,
    shown: bool,
) -> None:
    """Encode the texts block by block.

    Args:
        encoder: The encoder.
        texts: The texts.
        write: Called with the texts of a block, their vectors, and the truncated texts so far.
        arguments: Options of the command.
        truncated: Truncated texts before these. When the work ends in any way, a warning counts all of them.
        shown: Whether a progress bar may be shown.
    """
    before = texts.rows
    try:
        with stream_progress(texts, shown=shown) as advance:
            for block in encoder.encode_blocks(texts, role=arguments.role):
                if block.truncated:
                    first = truncated.first or before + block.truncated[0] + 1
                    truncated = Truncated(truncated.texts + len(block.truncated), first)
                    _refuse_truncated(truncated, encoder, texts, arguments)
                write(texts.take(len(block.embeddings)), block.embeddings, truncated)
                advance()
    finally:
        if truncated.texts and arguments.on_truncation == "warn":
            count = f"{truncated.texts:,} of {texts.rows:,} texts were truncated to {encoder.max_seq_length} tokens"
            notice(f"{count}, the maximum of this encoder; the first is {texts.path}:{truncated.first}")


def _refuse_truncated(
    truncated: Truncated, encoder: TwinTowerEncoder, texts: TextStream, arguments: argparse.Namespace
) -> None:
    if truncated.texts and arguments.on_truncation == "error":
        reason = f"the text has more than {encoder.max_seq_length} tokens, the maximum of this encoder"
        advice = "split it, or choose --on-truncation warn"
        raise DataError(f"{reason}; {advice}", path=texts.path, line=truncated.first)
