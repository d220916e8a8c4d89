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
from simpair.cli.inputs import Lost, TextStream
from simpair.cli.output import Output, add_format, add_model, cut, non_blank, notice
from simpair.cli.progress import stream_progress
from simpair.cli.vectors import Origin, VectorFormat, check_format, vector_format, vectors_path
from simpair.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from simpair.cli.partial import Partial, Recipe
    from simpair.encoder.model import TwinTowerEncoder

__all__ = ["register"]


def register(commands: Any) -> None:
    """Declare the commands of this group."""
    similarity = commands.add_parser("similarity", help="how alike two texts are", description=_similarity.__doc__)
    similarity.add_argument("text1", metavar="TEXT1", type=non_blank, help="a text")
    similarity.add_argument(
        "others", metavar="TEXT2", type=non_blank, nargs="+", help="one or more texts to compare it with"
    )
    add_model(similarity)
    add_format(similarity)
    similarity.set_defaults(run=_similarity)

    encode = commands.add_parser("encode", help="the vectors of a file's texts", description=_encode.__doc__)
    encode.add_argument("file", metavar="FILE", help="UTF-8, a text on each line; - is stdin")
    encode.add_argument(
        "--out",
        metavar="VECTORS",
        type=vectors_path,
        help="write a file, row i for line i: .npy, .safetensors, or .parquet (with the texts; needs pyarrow)",
    )
    encode.add_argument("--role", choices=("query", "document"), help="the side of a search; default: neither")
    encode.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16", "int8"),
        default="float32",
        help="of the matrix products; what is written is float32 (default float32; float16 is for GPUs, and slow here)",
    )
    encode.add_argument(
        "--on-truncation",
        choices=("warn", "error", "ignore"),
        default="warn",
        help="what to do about texts longer than the encoder reads, which lose their end (default warn)",
    )
    add_model(encode)
    encode.set_defaults(run=_encode)


def _similarity(arguments: argparse.Namespace) -> None:
    """Print the score of TEXT1 with each other text: the cosine of their vectors, 1 for the same meaning."""
    from simpair.encoder.model import TwinTowerEncoder

    encoder = TwinTowerEncoder.from_pretrained(arguments.model)
    vectors = encoder.encode([arguments.text1, *arguments.others])
    scores = encoder.similarity(vectors[:1], vectors[1:])[0].tolist()
    output = Output(arguments.format)
    for text2, score in zip(arguments.others, scores, strict=True):
        line = f"{score:.4f}" if len(scores) == 1 else f"{score:7.4f}  {cut(text2, indent=9)}"
        output.row(line, text1=arguments.text1, text2=text2, score=round(score, 6))


def _encode(arguments: argparse.Namespace) -> None:
    """Write the vector of each line: to a file with --out, else to stdout as JSON lines of text and embedding.

    The file may be of any length. After an interruption the same command with --out goes on where it was, and ends
    with the same bytes.
    """
    if arguments.out is None:
        _print_vectors(arguments)
    else:
        _write_vectors(arguments)


def _print_vectors(arguments: argparse.Namespace) -> None:
    texts = TextStream(arguments.file)
    from simpair.encoder.model import TwinTowerEncoder

    def write(block: list[str], vectors: NDArray[np.float32], _lost: Lost) -> None:
        for text, vector in zip(block, vectors, strict=True):
            numbers = ", ".join(map(str, vector))  # the digits of float32, not of the double beside it
            sys.stdout.write(f'{{"text": {json.dumps(text, ensure_ascii=False)}, "embedding": [{numbers}]}}\n')
        sys.stdout.flush()

    encoder = TwinTowerEncoder.from_pretrained(arguments.model, dtype=arguments.dtype)
    _encode_stream(encoder, texts, write, arguments, Lost(), shown=not sys.stdout.isatty())


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
                notice(f"{work.rows:,} vectors are kept; the same command goes on behind them")
            raise
    seconds = time.monotonic() - start
    size = f"{texts.rows:,} vectors, {encoder.embedding_dimension} wide,"
    notice(f"wrote {size} to {arguments.out} in {seconds:,.1f} s, {(texts.rows - before) / seconds:,.0f} texts/s")


def _begin(work: Partial, encoder: TwinTowerEncoder, texts: TextStream, arguments: argparse.Namespace) -> VectorFormat:
    """The form of the file, with the work open behind the texts whose vectors are recorded, which are passed over.

    Raises:
        InputError: What is recorded is not of these texts, this encoder or these options.
        DataError: A recorded text was cut, and an error was asked for.
    """
    recipe = _recipe(encoder, arguments)
    form = vector_format(arguments.out, Origin(recipe.model, recipe.fingerprint, encoder.embedding_dimension))
    work.begin(recipe, form.head())
    if work.rows:
        _refuse_lost(work.lost, encoder, texts, arguments)
        texts.skip(work.rows)
        if texts.digest != work.digest:
            raise work.refuse_texts(texts.path)
        notice(f"goes on after line {texts.rows:,} of {texts.path}, where it was interrupted")
    return form


def _fill(
    work: Partial, form: VectorFormat, encoder: TwinTowerEncoder, texts: TextStream, arguments: argparse.Namespace
) -> None:
    def write(block: list[str], vectors: NDArray[np.float32], lost: Lost) -> None:
        work.append(form.block(block, vectors))
        if not texts.ended or texts.drawn:  # a block that the end of the texts cut short is no place to go on
            work.record(texts.rows, texts.digest, lost)

    _encode_stream(encoder, texts, write, arguments, work.lost, shown=True)
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
    write: Callable[[list[str], NDArray[np.float32], Lost], None],
    arguments: argparse.Namespace,
    lost: Lost,
    *,
    shown: bool,
) -> None:
    """Give every block of texts, their vectors and what all texts so far lost to ``write``; ``shown`` allows a bar.

    What was cut is told when the work ends, however it ends.
    """
    begun = texts.rows
    try:
        with stream_progress(texts, shown=shown) as advance:
            for block in encoder.encode_blocks(texts, role=arguments.role):
                if block.truncated:
                    first = lost.first or begun + block.truncated[0] + 1
                    lost = Lost(lost.texts + len(block.truncated), first)
                    _refuse_lost(lost, encoder, texts, arguments)
                write(texts.take(len(block.embeddings)), block.embeddings, lost)
                advance()
    finally:
        if lost.texts and arguments.on_truncation == "warn":
            limit = f"{encoder.max_seq_length} tokens, the most that this encoder reads"
            where = f"{texts.path}:{lost.first} is the first"
            notice(f"{lost.texts:,} of {texts.rows:,} texts lost their end, {where}: they are longer than {limit}")


def _refuse_lost(lost: Lost, encoder: TwinTowerEncoder, texts: TextStream, arguments: argparse.Namespace) -> None:
    if lost.texts and arguments.on_truncation == "error":
        limit = f"{encoder.max_seq_length} tokens, the most that this encoder reads"
        reason = f"the text is longer than {limit}; split it, or choose --on-truncation warn"
        raise DataError(reason, path=texts.path, line=lost.first)
