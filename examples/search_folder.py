"""Search a folder of text files by meaning.

    python examples/search_folder.py my-notes "where is my passport" --index notes-index

Run it again after files changed: only new and changed paragraphs are encoded. By default it searches three notes.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from simpair import Document, SearchIndex, TwinTowerEncoder

NOTES = {
    "travel.txt": "The passports are in the blue box under the desk.\n\nOur train leaves at 7:40 from platform 3.",
    "kitchen.txt": "Clean the filter of the dishwasher every month.\n\nThe recipe for the soup is from Anna.",
    "工作.txt": "周五之前提交报销单。\n\n会议室的投影仪坏了，找行政部报修。",
}


def read_paragraphs(folder: Path) -> list[Document]:
    """Return the paragraphs of all text files, with the file and the position as id."""
    return [
        Document(f"{path.relative_to(folder)}:{number}", paragraph, {"file": path.name})
        for path in sorted(folder.rglob("*.txt"))
        for number, paragraph in enumerate(path.read_text(encoding="utf-8").split("\n\n"), 1)
        if paragraph.strip()
    ]


def search_folder(folder: Path, query: str, index_folder: Path) -> None:
    """Bring the index up to date with the folder and print the three best paragraphs."""
    documents = read_paragraphs(folder)
    start = SearchIndex.open if index_folder.exists() else SearchIndex.create
    with start(index_folder, TwinTowerEncoder.from_pretrained()) as index:
        index.delete({document.id for document in index} - {document.id for document in documents})
        index.upsert(documents)
        for hit in index.search(query, k=3):
            print(f"{hit.score:.2f}  {hit.id}  {hit.text}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Search the given folder, or the notes."""
    parser = argparse.ArgumentParser(description="Search a folder of text files by meaning.")
    parser.add_argument("folder", nargs="?", type=Path, help="folder of .txt files (default: three notes)")
    parser.add_argument("query", nargs="?", default="where is my passport", help="what to look for")
    parser.add_argument("--index", type=Path, help="folder of the index (default: a temporary one)")
    given = parser.parse_args(arguments)
    if given.folder is not None and not given.folder.is_dir():
        parser.error(f"{given.folder} is not a folder")
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        for name, text in NOTES.items() if given.folder is None else ():
            (folder / name).write_text(text, encoding="utf-8")
        search_folder(folder, given.query, given.index or Path(scratch) / "index")


if __name__ == "__main__":
    main()
