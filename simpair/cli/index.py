"""``simpair index``: files → an index in a folder; queries and ids → its documents."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simpair.cli.folders import made_only_on_success
from simpair.cli.inputs import DocumentStream, InputDocument, check_documents
from simpair.cli.output import Output, add_format, add_model, cut, notice
from simpair.cli.search import FILES, add_fields, add_query, write_hits
from simpair.errors import StoreCorrupt

if TYPE_CHECKING:
    from simpair.search.index import Document, SearchIndex

__all__ = ["register"]

_RECORDED = "the model that made the index"


def register(commands: Any) -> None:
    """Declare the commands of this group."""
    index = commands.add_parser("index", help="create, fill and search an index in a folder")
    actions = index.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Any, help: str) -> argparse.ArgumentParser:  # noqa: A002 (argparse's word)
        action: argparse.ArgumentParser = actions.add_parser(name, help=help, description=run.__doc__)
        action.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the index")
        action.set_defaults(run=run)
        add_format(action)
        return action

    for name, run, default in (("create", _create, "the bundled model"), ("add", _add, _RECORDED)):
        action = add(name, run, "create an index from files" if name == "create" else "add files to an index")
        action.add_argument("files", metavar="FILE", nargs="+", help=FILES)
        add_fields(action)
        add_model(action, default=default)
    find = add("search", _find, "search an index")
    add_query(find)
    find.add_argument(
        "--where", metavar="JSON", type=_filter, help='filter on the metadata, such as {"year": {"$gte": 2020}}'
    )
    find.add_argument("--min-score", metavar="S", type=float, help="minimum score of a hit (default: none)")
    add_model(find, default=_RECORDED)
    for name, run, help_ in (("get", _get, "print documents"), ("delete", _delete, "delete documents")):
        add(name, run, help_).add_argument("ids", metavar="ID", nargs="+", help="id of a document")
    add("info", _info, "print the facts about an index")
    add("check", _check, "compare an index with its checksums")
    add("optimize", _optimize, "free the space of deleted documents")
    exported = add("export", _export, "write an index to files for other programs")
    exported.add_argument("target", metavar="TARGET", type=Path, help="new folder")
    imported = add("import", _import, "create an index from an export")
    imported.add_argument("source", metavar="SOURCE", type=Path, help="folder of the export")


def _filter(given: str) -> dict[str, Any]:
    """Return the filter of an option in JSON; anything else is a usage error."""
    try:
        where = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"expected JSON, got {given!r} ({error})") from None
    if not isinstance(where, dict):
        raise argparse.ArgumentTypeError(f'expected an object such as {{"year": 2020}}, got {given!r}')
    return where


def _create(arguments: argparse.Namespace) -> None:
    """Create an index in FOLDER from the documents of files.

    A document without an id gets one that is computed from its text and metadata. After an interruption, continue with
    simpair index add and the same files.
    """
    documents = _documents(arguments)
    from simpair.encoder.model import TwinTowerEncoder
    from simpair.search.index import SearchIndex

    encoder = TwinTowerEncoder.from_pretrained(arguments.model)
    with made_only_on_success(arguments.folder), ExitStack() as undo:
        index = SearchIndex.create(arguments.folder, encoder)
        undo.callback(_remove_empty, arguments.folder)
        with index:
            _fill(arguments, index, documents)
        undo.pop_all()


def _remove_empty(folder: Path) -> None:
    """Remove the files of an index without documents."""
    from simpair.search.index import SearchIndex
    from simpair.store.locks import LOCK_FILES, write_lock

    with SearchIndex.open(folder) as index, write_lock(folder, 10.0):
        if len(index):
            return
        for path in folder.iterdir():
            if path.name not in LOCK_FILES:
                path.unlink()
    for name in LOCK_FILES:  # only these, in case another process has written other files meanwhile
        (folder / name).unlink(missing_ok=True)


def _add(arguments: argparse.Namespace) -> None:
    """Add the documents of files to an index, in place of those with their ids; unchanged documents are not encoded.

    A document without an id gets one that is computed from its text and metadata. After an interruption, the same
    command continues.
    """
    documents = _documents(arguments)
    with _open_with_encoder(arguments) as index:
        _fill(arguments, index, documents)


def _documents(arguments: argparse.Namespace) -> DocumentStream:
    fields = {"text_field": arguments.text_field, "id_field": arguments.id_field}
    check_documents(arguments.files, **fields)
    return DocumentStream(arguments.files, **fields)


def _fill(arguments: argparse.Namespace, index: SearchIndex, documents: DocumentStream) -> None:
    before = len(index)
    try:
        done = index.upsert(map(_with_id, documents), show_progress_bar=sys.stderr.isatty())
    except BaseException:
        if (kept := len(index) - before) > 0:
            notice(f"{kept:,} documents were added; continue with simpair index add and the same files")
        raise
    total, counts = len(index), done._asdict()
    line = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    _report(arguments, f"{line}; {total:,} documents in total", **counts, documents=total)


def _with_id(document: InputDocument) -> Document:
    from simpair.search.index import Document
    from simpair.store.schema import content_digest

    name = document.id
    if name is None:
        metadata = json.dumps(document.metadata, sort_keys=True)
        name = content_digest("", document.text, metadata).hex()[:20]
    return Document(name, document.text, document.metadata)


def _find(arguments: argparse.Namespace) -> None:
    """Print the best hits of each query in an index."""
    with _open_with_encoder(arguments) as index:
        found = index.search(arguments.queries, arguments.k, where=arguments.where, min_score=arguments.min_score)
    write_hits(arguments, found)


def _get(arguments: argparse.Namespace) -> None:
    """Print the documents with these ids."""
    with _open(arguments) as index:
        documents: list[Document] = index.get(arguments.ids)
    output = Output(arguments.format)
    width = max(len(document.id) for document in documents)
    for document in documents:
        line = f"{document.id:<{width}}  {cut(document.text, indent=width + 2)}"
        output.row(line, **document._asdict())


def _delete(arguments: argparse.Namespace) -> None:
    """Delete the documents with these ids; unknown ids are ignored."""
    with _open(arguments) as index:
        removed, left = index.delete(arguments.ids), len(index)
    _report(arguments, f"{removed:,} documents deleted, {left:,} in total", removed=removed, documents=left)


def _info(arguments: argparse.Namespace) -> None:
    """Print the number of documents of an index, the dimension, the encoder and the size on disk."""
    with _open(arguments) as index:
        Output(arguments.format).facts(**index.info()._asdict())


def _check(arguments: argparse.Namespace) -> None:
    """Compare everything in an index with its checksums and print the problems."""
    with _open(arguments) as index:
        problems, documents = index.check(), len(index)
    for problem in problems:
        Output(arguments.format).row(problem, problem=problem)
    if problems:
        raise StoreCorrupt(
            f"{arguments.folder} has {len(problems)} problems; the next search rebuilds a damaged cache. For anything "
            "else restore the folder from a copy, or create the index again from its texts"
        )
    _report(arguments, f"intact, {documents:,} documents", documents=documents)


def _optimize(arguments: argparse.Namespace) -> None:
    """Free the space of deleted documents, and write the cache again."""
    with _open(arguments) as index:
        before = index.info().bytes_on_disk
        index.optimize()
        after = index.info().bytes_on_disk
    _report(arguments, f"{before:,} bytes before, {after:,} after", bytes_before=before, bytes_on_disk=after)


def _export(arguments: argparse.Namespace) -> None:
    """Write an index to a new folder for other programs: Parquet, safetensors and JSON."""
    with _open(arguments) as index:
        documents = index.export(arguments.target)
    _report(arguments, f"{documents:,} documents", folder=arguments.target, documents=documents)


def _import(arguments: argparse.Namespace) -> None:
    """Create an index in FOLDER from an export; no text is encoded."""
    from simpair.search.index import SearchIndex

    with made_only_on_success(arguments.folder), SearchIndex.from_export(arguments.source, arguments.folder) as index:
        documents = len(index)
    _report(arguments, f"{documents:,} documents", documents=documents)


def _report(arguments: argparse.Namespace, line: str, *, folder: Path | None = None, **facts: object) -> None:
    """Write one result about a folder, by default that of the index."""
    name = str(folder or arguments.folder)
    Output(arguments.format).row(f"{name}: {line}", folder=name, **facts)


def _open(arguments: argparse.Namespace) -> SearchIndex:
    """Return the index in the folder, also to read not read-only: a crash may have left a transaction to roll back."""
    from simpair.search.index import SearchIndex

    return SearchIndex.open(arguments.folder)


def _open_with_encoder(arguments: argparse.Namespace) -> SearchIndex:
    """Return the index in the folder with the named model, or the recorded one, which is loaded at the first text."""
    from simpair.search.index import SearchIndex

    index = _open(arguments)  # a folder without an index is refused before a model is loaded
    if arguments.model is None:
        return index
    index.close()
    from simpair.encoder.model import TwinTowerEncoder

    return SearchIndex.open(arguments.folder, TwinTowerEncoder.from_pretrained(arguments.model))
