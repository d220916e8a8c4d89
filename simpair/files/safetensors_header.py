"""The header of a safetensors file that holds one matrix ``embeddings``, written before and read after its numbers.

The format: https://github.com/huggingface/safetensors#format. The numbers follow the header, row after row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

__all__ = ["embeddings_header", "embeddings_offset"]

DType = Literal["F16", "F32"]
_BYTES = {"F16": 2, "F32": 4}
_MOST_ROWS = (1 << 63) - 1
_LONGEST_HEADER = 1 << 20


def embeddings_header(dtype: DType, rows: int, dimension: int, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the header of a matrix (rows, dimension): the length in 8 bytes, and JSON padded with spaces.

    The length is the same for any number of rows, so the header can be rewritten when the last row is known.
    The metadata also gets ``rows``.
    """

    def described(rows: int) -> str:
        end = _BYTES[dtype] * rows * dimension
        tensor = {"dtype": dtype, "shape": [rows, dimension], "data_offsets": [0, end]}
        return json.dumps({"__metadata__": {**(metadata or {}), "rows": str(rows)}, "embeddings": tensor})

    longest = len(described(_MOST_ROWS))
    length = longest + -longest % 8
    return length.to_bytes(8, "little") + described(rows).ljust(length).encode()


def embeddings_offset(path: Path, dtype: DType, rows: int, dimension: int) -> int:
    """Return the offset in bytes of the first number of a file that must hold this matrix and nothing else.

    Raises:
        ValueError: The file holds something else.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        described = json.loads(file.read(min(length, _LONGEST_HEADER)))
    wanted = json.loads(embeddings_header(dtype, rows, dimension)[8:])["embeddings"]
    size = 8 + length + _BYTES[dtype] * rows * dimension
    if not isinstance(described, dict) or described.get("embeddings") != wanted or path.stat().st_size != size:
        raise ValueError(f"expected one matrix embeddings of {rows} rows and dimension {dimension} in {dtype}")
    return 8 + length
