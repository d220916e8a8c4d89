"""``simpair similarity`` and ``simpair encode``: texts → scores, or vectors."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpair.cli.folders import check_file
from simpair.cli.inputs import read_texts
from simpair.cli.output import Output, add_format, add_model, cut, non_blank, notice
from simpair.cli.progress import WithProgress
from simpair.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
        "--out", metavar="VECTORS.npy", type=Path, help="write an array (N, D) float32, row i for line i"
    )
    encode.add_argument("--role", choices=("query", "document"), help="the side of a search; default: neither")
    add_model(encode)
    encode.set_defaults(run=_encode)


def _similarity(arguments: argparse.Namespace) -> None:
    """Print the score of TEXT1 with each other text: the cosine of their vectors, 1 for the same meaning."""
    from simpair.model import TwinTowerEncoder

    encoder = TwinTowerEncoder.from_pretrained(arguments.model)
    vectors = encoder.encode([arguments.text1, *arguments.others])
    scores = encoder.similarity(vectors[:1], vectors[1:])[0].tolist()
    output = Output(arguments.format)
    for text2, score in zip(arguments.others, scores, strict=True):
        line = f"{score:.4f}" if len(scores) == 1 else f"{score:7.4f}  {cut(text2, indent=9)}"
        output.row(line, text1=arguments.text1, text2=text2, score=round(score, 6))


def _encode(arguments: argparse.Namespace) -> None:
    """Write the vector of each line: to an .npy file with --out, else to stdout as JSON lines of text and embedding."""
    if arguments.out is not None:
        check_file(arguments.out)
    texts = read_texts(arguments.file)
    from simpair.model import TwinTowerEncoder

    encoder = TwinTowerEncoder.from_pretrained(arguments.model)
    vectors = WithProgress(encoder).encode(texts, role=arguments.role)
    if arguments.out is not None:
        _save(vectors, arguments.out)
        notice(f"wrote {vectors.shape[0]} vectors, {vectors.shape[1]} wide, to {arguments.out}")
        return
    for text, vector in zip(texts, vectors, strict=True):
        shortest = [float(str(number)) for number in vector]  # the digits of float32, not of the double beside it
        sys.stdout.write(f"{json.dumps({'text': text, 'embedding': shortest}, ensure_ascii=False)}\n")


def _save(vectors: NDArray[np.float32], path: Path) -> None:
    """Write an .npy file that appears whole or not at all."""
    import numpy as np

    unborn = path.with_name(f".simpair.{os.getpid()}.tmp")  # a name that fits wherever the file's own does
    try:
        with unborn.open("xb") as file:
            np.save(file, vectors, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        unborn.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; make room or choose another") from error
    finally:
        unborn.unlink(missing_ok=True)
