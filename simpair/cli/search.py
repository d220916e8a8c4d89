"""``simpair search``: a file and queries → hits. Nothing is kept."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from simpair.cli.inputs import InputDocument, read_documents
from simpair.cli.output import Output, add_format, add_model, cut, non_blank, notice, positive

if TYPE_CHECKING:
    from simpair.search.index import Hit

__all__ = ["FILES", "add_fields", "add_query", "register", "write_hits"]

FILES = (
    "file with a document on each line; or .jsonl, .csv, .tsv, .parquet with the text in one field and metadata in the "
    "others; also .gz; or a folder with .txt, .md, .jsonl, .csv, .tsv and .parquet files; or - for stdin"
)


def register(commands: Any) -> None:
    """Declare the commands of this group."""
    search = commands.add_parser("search", help="search a file without keeping an index", description=_search.__doc__)
    search.add_argument("file", metavar="FILE", help=FILES)
    add_query(search)
    add_fields(search)
    add_model(search)
    add_format(search)
    search.set_defaults(run=_search)


def add_query(parser: argparse.ArgumentParser) -> None:
    """Declare the queries and the number of hits."""
    parser.add_argument("queries", metavar="QUERY", type=non_blank, nargs="+", help="text to search for")
    parser.add_argument("-k", type=positive, default=10, help="number of hits per query (default: 10)")


def add_fields(parser: argparse.ArgumentParser) -> None:
    """Declare the names of the fields in files with fields."""
    parser.add_argument("--text-field", metavar="NAME", default="text", help="field of the text (default: text)")
    parser.add_argument("--id-field", metavar="NAME", default="id", help="field of the id, if any (default: id)")


def _search(arguments: argparse.Namespace) -> None:
    """Print the best hits of each query among the documents of a file.

    The id of a document without one is its line; in a folder, its file and line.
    """
    documents = read_documents([arguments.file], text_field=arguments.text_field, id_field=arguments.id_field)
    from simpair.encoder.model import TwinTowerEncoder
    from simpair.vectors.exact import ExactIndex

    encoder = TwinTowerEncoder.from_pretrained(arguments.model)
    texts = [document.text for document in documents]
    vectors = encoder.encode_document(texts, show_progress_bar=sys.stderr.isatty())
    found = ExactIndex.build(vectors).search(encoder.encode_query(arguments.queries), arguments.k)
    hits = [
        [_hit(arguments.file, documents[row], score) for score, row in zip(scores.tolist(), rows.tolist(), strict=True)]
        for scores, rows in found
    ]
    write_hits(arguments, hits)


def _hit(file: str, document: InputDocument, score: float) -> Hit:
    from simpair.search.index import Hit

    line = str(document.line) if document.path == file else f"{document.path}:{document.line}"
    return Hit(document.id or line, score, document.text, document.metadata)


def write_hits(arguments: argparse.Namespace, found: list[list[Hit]]) -> None:
    """Write the hits of each query among the arguments; if there are none, write a notice."""
    if not any(found):
        notice("no hits")
    output = Output(arguments.format)
    for number, (query, hits) in enumerate(zip(arguments.queries, found, strict=True)):
        if output.is_text and len(found) > 1:
            separator = "\n" if number else ""
            output.row(f"{separator}{query}")
        width = max((len(hit.id) for hit in hits), default=0)
        for hit in hits:
            line = f"{hit.score:7.4f}  {hit.id:<{width}}  {cut(hit.text, indent=width + 11)}"
            fields = hit._asdict() | {"score": round(hit.score, 6)}
            output.row(line, query=query, **fields)
