"""A checkpoint's folder ⇄ ``simpair.json``: the SHA-256 of every file that was saved. Reads no other file's content."""

from __future__ import annotations

import json
from pathlib import Path

from simpair import __version__
from simpair.errors import ModelCorrupt
from simpair.files.disk import checksums, sha256
from simpair.files.json_file import read_json

__all__ = ["DIGESTS", "READ", "check_digests", "recorded", "write_digests"]

DIGESTS = "simpair.json"

READ = (
    *("added_tokens.json", "config.json", "config_sentence_transformers.json", "model.safetensors", "modules.json"),
    *("router_config.json", "sentence_bert_config.json", "special_tokens_map.json", "tokenizer.json"),
    "tokenizer_config.json",
)
"""Files that are read in a saved folder and those inside it; none of them may lack a checksum."""


def check_digests(folder: Path) -> None:
    """Compare the files with the checksums in ``simpair.json``, if there is one.

    Raises:
        ModelCorrupt: A file is missing, has changed, or was added and would be read.
    """
    if not (folder / DIGESTS).exists() and not (folder / DIGESTS).is_symlink():
        return
    recorded = read_json(folder / DIGESTS).get("sha256")
    if not isinstance(recorded, dict):
        raise ModelCorrupt(f"{folder / DIGESTS} has no sha256 table; delete it if you changed the folder on purpose")
    for name, digest in recorded.items():
        path = folder / name  # may be a link: the Hub's cache keeps its files elsewhere
        if Path(name).is_absolute() or ".." in Path(name).parts or len(name) > 80 or not path.is_file():
            raise ModelCorrupt(f"{path} is missing; it was saved with the checkpoint: download or save it again")
        if sha256(path) != digest:
            advice = f"download or save the checkpoint again, or delete {DIGESTS} if you changed it on purpose"
            raise ModelCorrupt(f"{path} is not the file that was saved; {advice}")
    places = {Path(), Path("1_Pooling"), *(Path(name).parent for name in recorded)}
    found = [(place / name).as_posix() for place in sorted(places) for name in READ]
    if more := [name for name in found if name not in recorded and (folder / name).exists()]:
        advice = f"delete it, or delete {DIGESTS} if you want it read"
        raise ModelCorrupt(f"{folder / more[0]} was not saved with the checkpoint; {advice}")


def recorded(folder: Path) -> set[Path]:
    """Return the files of an earlier save in a folder, relative to it; none if they are not recorded."""
    try:
        names = read_json(folder / DIGESTS, missing={}).get("sha256")
    except ModelCorrupt:
        return set()
    paths = map(Path, names) if isinstance(names, dict) else ()
    return {path for path in paths if not path.is_absolute() and ".." not in path.parts}


def write_digests(folder: Path) -> None:
    """Record the checksum of each file below the folder."""
    digests = {"simpair": __version__, "sha256": checksums(folder)}
    (folder / DIGESTS).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")
