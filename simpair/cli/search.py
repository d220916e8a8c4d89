"""``simpair index`` and ``simpair search``: documents → an index folder; queries → hits."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from simpair.cli.folders import made_only_on_success
from simpair.cli.inputs import InputDocument, read_documents
from simpair.cli.output import Output, add_format, add_model, cut, non_blank, positive
from simpair.cli.progress import WithProgress

if TYPE_CHECKING:
    from simpair.model import TwinTowerEncoder
    from simpair.search import Hit, SearchIndex

__all__ = ["register"]

_FILES = (
    "a document on each line; .jsonl, .csv and .tsv: the text in a field, the others are metadata; also .gz; - is stdin"
)
_RECORDED = "the model that made the index"


class _Filled(NamedTuple):
    added: int
    documents: int


def register(commands: Any) -> None:
    """Declare the commands of this group."""
    search = commands.add_parser("search", help="search a file, leaving nothing behind", description=_search.__doc__)
    search.add_argument("file", metavar="FILE", help=_FILES)
    _add_query(search)
    _add_fields(search)
    add_model(search)
    add_format(search)
    search.set_defaults(run=_search)

    index = commands.add_parser("index", help="make, fill and search an index that stays")
    actions = index.add_subparsers(title="commands", metavar="COMMAND", required=True)
    create = actions.add_parser("create", help="make an index of files", description=_create.__doc__)
    add = actions.add_parser("add", help="add files to an index", description=_add.__doc__)
    find = actions.add_parser("search", help="search an index", description=_find.__doc__)
    info = actions.add_parser("info", help="what an index holds", description=_info.__doc__)
    for action, run in ((create, _create), (add, _add), (find, _find), (info, _info)):
        action.add_argument("folder", metavar="FOLDER", type=Path, help="the folder of the index")
        add_format(action)
        action.set_defaults(run=run)
    for action, default in ((create, "the bundled model"), (add, _RECORDED)):
        action.add_argument("files", metavar="FILE", nargs="+", help=_FILES)
        _add_fields(action)
        add_model(action, default=default)
    _add_query(find)
    add_model(find, default=_RECORDED)


def _add_query(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("queries", metavar="QUERY", type=non_blank, nargs="+", help="what to look for")
    parser.add_argument("-k", type=positive, default=10, help="hits for each query (default 10)")


def _add_fields(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text-field", metavar="NAME", default="text", help="the field of the text (default text)")
    parser.add_argument(
        "--id-field", metavar="NAME", default="id", help="the field of the id, if there is one (default id)"
    )


def _read(arguments: argparse.Namespace, paths: Sequence[str]) -> list[InputDocument]:
    return read_documents(paths, text_field=arguments.text_field, id_field=arguments.id_field)


def _search(arguments: argparse.Namespace) -> None:
    """Print the best hits of each query among the documents of a file; where these have no id, it is their line."""
    documents = _read(arguments, [arguments.file])
    from simpair.index import ExactIndex
    from simpair.model import TwinTowerEncoder
    from simpair.search import Hit

    encoder = TwinTowerEncoder.from_pretrained(arguments.model)
    vectors = WithProgress(encoder).encode_document([document.text for document in documents])
    scores, rows = ExactIndex.build(vectors).search(encoder.encode_query(arguments.queries), arguments.k)
    hits = [
        [
            Hit(found.id or str(found.line), score, found.text, found.metadata)
            for found, score in zip([documents[row] for row in line], values, strict=True)
        ]
        for line, values in zip(rows.tolist(), scores.tolist(), strict=True)
    ]
    _write_hits(arguments, hits)


def _create(arguments: argparse.Namespace) -> None:
    """Make a new index in FOLDER from the documents of files; ids that the files do not give are numbers."""
    documents = _read(arguments, arguments.files)
    from simpair.model import TwinTowerEncoder
    from simpair.search import SearchIndex

    encoder = WithProgress(TwinTowerEncoder.from_pretrained(arguments.model))
    with made_only_on_success(arguments.folder), ExitStack() as undo:
        index = SearchIndex.create(arguments.folder, encoder)
        undo.callback(_empty, arguments.folder)  # on an interruption too; the folder held nothing before
        with index:
            filled = _fill(index, documents)
        undo.pop_all()
    _write_filled(arguments, filled)


def _add(arguments: argparse.Namespace) -> None:
    """Add the documents of files to an index: all of them, or none where one cannot be used."""
    documents = _read(arguments, arguments.files)
    with _open(arguments) as index:
        filled = _fill(index, documents)
    _write_filled(arguments, filled)


def _find(arguments: argparse.Namespace) -> None:
    """Print the best hits of each query in an index."""
    with _open(arguments) as index:
        _write_hits(arguments, index.search(arguments.queries, arguments.k))


def _info(arguments: argparse.Namespace) -> None:
    """Print how many documents an index holds, their vectors' width, the encoder, and its size on the disk."""
    from simpair.store import Store

    with closing(Store.open(arguments.folder, lock_timeout=10.0)) as store:
        recorded = store.encoder
        with store.reading():
            documents = store.count()
    size = sum(path.stat().st_size for path in arguments.folder.iterdir() if path.is_file())
    Output(arguments.format).facts(
        documents=documents,
        dimension=recorded.dimension,
        encoder=recorded.source,
        fingerprint=recorded.fingerprint,
        bytes_on_disk=size,
    )


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _fill(index: SearchIndex, documents: list[InputDocument]) -> _Filled:
    """Add the documents, all or none."""
    names = [document.id for document in documents if document.id is not None]
    texts = [document.text for document in documents]
    index.add(texts, ids=names or None, metadata=[document.metadata for document in documents])
    return _Filled(len(documents), len(index))


def _write_filled(arguments: argparse.Namespace, filled: _Filled) -> None:
    line = f"{arguments.folder}: {filled.added:,} documents added, {filled.documents:,} in all"
    Output(arguments.format).row(line, folder=str(arguments.folder), **filled._asdict())


def _write_hits(arguments: argparse.Namespace, found: list[list[Hit]]) -> None:
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


def _open(arguments: argparse.Namespace) -> SearchIndex:
    """The index in the folder, with the model that was named, else the recorded one, from this machine."""
    from simpair.search import SearchIndex

    with SearchIndex.open(arguments.folder) as index:  # what is no index is refused before a model loads
        if arguments.model is None:
            encoder = cast("TwinTowerEncoder", index.encoder)
        else:
            from simpair.model import TwinTowerEncoder

            encoder = TwinTowerEncoder.from_pretrained(arguments.model)
    return SearchIndex.open(arguments.folder, WithProgress(encoder))
