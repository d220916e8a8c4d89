"""JSON file of a checkpoint → its value, in which every text is valid Unicode."""

from __future__ import annotations

import json
from errno import ENOENT
from pathlib import Path
from typing import Any

from simpair.errors import ModelCorrupt

__all__ = ["parse_json", "read_json"]


def read_json(path: Path, *, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the object in a JSON file, or ``missing`` if there is no file.

    Raises:
        ModelCorrupt: The file cannot be read, or has no JSON object.
    """
    if missing is not None and not path.exists() and not path.is_symlink():
        return missing
    value = parse_json(path)
    if not isinstance(value, dict):
        raise ModelCorrupt(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


def parse_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        ModelCorrupt: The file cannot be read, is not JSON, or has a text that is not valid Unicode.
    """
    try:
        if not path.is_file():  # a broken link, or a device that never ends
            raise FileNotFoundError(ENOENT, "there is no such file")
        value = json.loads(text := path.read_text(encoding="utf-8"))
        if "\\ud" in text.lower():  # maybe a lone surrogate, which no tokenizer accepts
            json.dumps(value, ensure_ascii=False).encode()
    except OSError as error:
        raise ModelCorrupt(f"{path} cannot be read ({error.strerror}); download or save the checkpoint again") from None
    except (ValueError, RecursionError) as error:
        raise ModelCorrupt(f"{path} is not JSON ({error}); download or save the checkpoint again") from None
    return value
