"""``simpair index``: documents ⇄ an index that stays in a folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from simpair.cli.folders import made_only_on_success
from simpair.cli.inputs import DocumentStream, InputDocument, check_documents
from simpair.cli.output import Output, add_format, add_model, cut, notice
from simpair.cli.progress import WithProgress, stream_progress
from simpair.cli.search import FILES, add_fields, add_query, write_hits
from simpair.errors import StoreCorrupt

if TYPE_CHECKING:
    from simpair.encoder.model import TwinTowerEncoder
    from simpair.search.index import Document, SearchIndex

__all__ = ["register"]

_RECORDED = "the model that made the index"
_TOLD_EVERY = 256
"""Documents between two looks at the bar."""


def register(commands: Any) -> None:
    """Declare the commands of this group."""
    index = commands.add_parser("index", help="make, fill, search and keep an index that stays")
    actions = index.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Any, help: str) -> argparse.ArgumentParser:  # noqa: A002 (argparse's word)
        action: argparse.ArgumentParser = actions.add_parser(name, help=help, description=run.__doc__)
        action.add_argument("folder", metavar="FOLDER", type=Path, help="the folder of the index")
        action.set_defaults(run=run)
        add_format(action)
        return action

    for name, run, default in (("create", _create, "the bundled model"), ("add", _add, _RECORDED)):
        action = add(name, run, "make an index of files" if name == "create" else "add files to an index")
        action.add_argument("files", metavar="FILE", nargs="+", help=FILES)
        add_fields(action)
        add_model(action, default=default)
    find = add("search", _find, "search an index")
    add_query(find)
    find.add_argument(
        "--where", metavar="JSON", type=_condition, help='metadata to ask for, as {"year": {"$gte": 2020}}'
    )
    find.add_argument("--min-score", metavar="S", type=float, help="the lowest score of a hit")
    add_model(find, default=_RECORDED)
    for name, run, help_ in (("get", _get, "print documents"), ("delete", _delete, "remove documents")):
        add(name, run, help_).add_argument("ids", metavar="ID", nargs="+", help="the id of a document")
    add("info", _info, "what an index holds")
    add("check", _check, "whether all of an index is as it was written")
    add("optimize", _optimize, "give back the room of deleted documents")
    add("export", _export, "write an index for other programs").add_argument(
        "target", metavar="TARGET", type=Path, help="a new folder"
    )
    imported = add("import", _import, "make an index of what export wrote")
    imported.add_argument("source", metavar="SOURCE", type=Path, help="the folder that export wrote")


def _condition(given: str) -> dict[str, Any]:
    """The condition that an option gives as JSON; anything else is a usage error."""
    try:
        condition = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"expected JSON, got {given!r} ({error})") from None
    if not isinstance(condition, dict):
        raise argparse.ArgumentTypeError(f'expected an object such as {{"year": 2020}}, got {given!r}')
    return condition


def _create(arguments: argparse.Namespace) -> None:
    """Make a new index in FOLDER from the documents of files.

    A document without an id gets one that is made of its text and metadata. After an interruption, simpair index add
    with the same files goes on.
    """
    documents = _documents(arguments)
    from simpair.encoder.model import TwinTowerEncoder
    from simpair.search.index import SearchIndex

    encoder = WithProgress(TwinTowerEncoder.from_pretrained(arguments.model))
    with made_only_on_success(arguments.folder), ExitStack() as undo:
        index = SearchIndex.create(arguments.folder, encoder)
        undo.callback(_empty, arguments.folder, index)
        with index:
            _fill(arguments, index, documents)
        undo.pop_all()


def _empty(folder: Path, index: SearchIndex) -> None:
    """Leave nothing of an index into which nothing came."""
    from simpair.search.index import SearchIndex
    from simpair.store.locks import LOCK_FILES, write_lock

    with SearchIndex.open(folder) as again, write_lock(folder, 10.0):
        if len(again):
            return
        for path in folder.iterdir():
            if path.name not in LOCK_FILES:
                path.unlink()
    for name in LOCK_FILES:  # and nothing that another process began meanwhile
        (folder / name).unlink(missing_ok=True)


def _add(arguments: argparse.Namespace) -> None:
    """Add the documents of files to an index, in place of those with their ids; what is there already costs nothing.

    A document without an id gets one that is made of its text and metadata. After an interruption the same command
    goes on where it was.
    """
    documents = _documents(arguments)
    with _open(arguments) as index:
        _fill(arguments, index, documents)


def _documents(arguments: argparse.Namespace) -> DocumentStream:
    fields = {"text_field": arguments.text_field, "id_field": arguments.id_field}
    check_documents(arguments.files, **fields)
    return DocumentStream(arguments.files, **fields)


def _fill(arguments: argparse.Namespace, index: SearchIndex, documents: DocumentStream) -> None:
    from simpair.search.index import Upserted

    with stream_progress(documents, shown=True) as advance:

        def drawn() -> Iterator[Document]:
            for number, document in enumerate(documents):
                if number % _TOLD_EVERY == 0:
                    advance()
                yield _named(document)
            advance()

        before = len(index)
        try:
            done = index.upsert(drawn())
        except BaseException:
            if (kept := len(index) - before) > 0:
                notice(f"{kept:,} documents are kept; simpair index add with the same files goes on behind them")
            raise
    total = len(index)
    counts = ", ".join(f"{count:,} {name}" for name, count in zip(Upserted._fields, done, strict=True))
    line = f"{arguments.folder}: {counts}; {total:,} documents in all"
    Output(arguments.format).row(line, folder=str(arguments.folder), **done._asdict(), documents=total)


def _named(document: InputDocument) -> Document:
    from simpair.search.index import Document
    from simpair.store.schema import content_digest

    name = document.id
    if name is None:
        facts = json.dumps(document.metadata, sort_keys=True)
        name = content_digest("", document.text, facts).hex()[:20]
    return Document(name, document.text, document.metadata)


def _find(arguments: argparse.Namespace) -> None:
    """Print the best hits of each query in an index."""
    with _open(arguments) as index:
        found = index.search(arguments.queries, arguments.k, where=arguments.where, min_score=arguments.min_score)
    write_hits(arguments, found)


def _get(arguments: argparse.Namespace) -> None:
    """Print the documents of these ids."""
    with _opened(arguments) as index:
        documents = index.get(arguments.ids)
    output = Output(arguments.format)
    width = max(len(document.id) for document in documents)
    for document in documents:
        line = f"{document.id:<{width}}  {cut(document.text, indent=width + 2)}"
        output.row(line, **document._asdict())


def _delete(arguments: argparse.Namespace) -> None:
    """Remove the documents of these ids; those that are not there are passed over."""
    with _opened(arguments) as index:
        removed, left = index.delete(arguments.ids), len(index)
    line = f"{arguments.folder}: {removed:,} documents removed, {left:,} in all"
    Output(arguments.format).row(line, folder=str(arguments.folder), removed=removed, documents=left)


def _info(arguments: argparse.Namespace) -> None:
    """Print how many documents an index holds, their vectors' width, the encoder, and its size on the disk."""
    with _opened(arguments) as index:
        Output(arguments.format).facts(**index.info()._asdict())


def _check(arguments: argparse.Namespace) -> None:
    """Read all of an index and print what is not as it was written."""
    with _opened(arguments) as index:
        faults, documents = index.check(), len(index)
    output = Output(arguments.format)
    for fault in faults:
        output.row(fault, fault=fault)
    if faults:
        raise StoreCorrupt(
            f"{arguments.folder}: {len(faults)} faults; a damaged cache is built anew by the next search, for anything "
            "else restore the folder from a copy, or create the index again from its texts"
        )
    output.row(f"{arguments.folder}: sound, {documents:,} documents", folder=str(arguments.folder), documents=documents)


def _optimize(arguments: argparse.Namespace) -> None:
    """Give back the room of deleted documents, and write the cache anew."""
    with _opened(arguments) as index:
        before = index.info().bytes_on_disk
        index.optimize()
        after = index.info().bytes_on_disk
    line = f"{arguments.folder}: {before:,} bytes became {after:,}"
    Output(arguments.format).row(line, folder=str(arguments.folder), bytes_before=before, bytes_on_disk=after)


def _export(arguments: argparse.Namespace) -> None:
    """Write an index to a new folder that other programs read: Parquet, safetensors and JSON."""
    with _opened(arguments) as index:
        documents = index.export(arguments.target)
    line = f"{arguments.target}: {documents:,} documents"
    Output(arguments.format).row(line, folder=str(arguments.target), documents=documents)


def _import(arguments: argparse.Namespace) -> None:
    """Make a new index in FOLDER of what export wrote; no text is encoded."""
    from simpair.search.index import SearchIndex

    with made_only_on_success(arguments.folder), SearchIndex.from_export(arguments.source, arguments.folder) as index:
        documents = len(index)
    line = f"{arguments.folder}: {documents:,} documents"
    Output(arguments.format).row(line, folder=str(arguments.folder), documents=documents)


@contextmanager
def _opened(arguments: argparse.Namespace) -> Iterator[SearchIndex]:
    from simpair.search.index import SearchIndex

    with SearchIndex.open(arguments.folder) as index:  # to read too: a crash may have left something to undo
        yield index


def _open(arguments: argparse.Namespace) -> SearchIndex:
    """The index in the folder, with the model that was named, else the recorded one, from this machine."""
    from simpair.search.index import SearchIndex

    with SearchIndex.open(arguments.folder) as index:  # what is no index is refused before a model loads
        if arguments.model is None:
            encoder = cast("TwinTowerEncoder", index.encoder)
        else:
            from simpair.encoder.model import TwinTowerEncoder

            encoder = TwinTowerEncoder.from_pretrained(arguments.model)
    return SearchIndex.open(arguments.folder, WithProgress(encoder))
