"""files.safetensors_header: safetensors itself reads what is written, and other matrices are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from safetensors.numpy import load_file

from simpair.files.safetensors_header import embeddings_header, embeddings_offset


@pytest.mark.parametrize(("dtype", "kind"), [("F16", np.float16), ("F32", np.float32)])
@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_safetensors_reads_it(tmp_path: Path, dtype: Literal["F16", "F32"], kind: type, rows: int) -> None:
    path, matrix = tmp_path / "m.safetensors", np.arange(4 * rows).reshape(rows, 4).astype(kind)
    path.write_bytes(embeddings_header(dtype, rows, 4, {"model": "猫"}) + matrix.tobytes())
    np.testing.assert_array_equal(load_file(path)["embeddings"], matrix)
    offset = embeddings_offset(path, dtype, rows, 4)
    np.testing.assert_array_equal(np.frombuffer(path.read_bytes()[offset:], kind), matrix.reshape(-1))


def test_the_length_does_not_depend_on_the_rows() -> None:
    assert len(embeddings_header("F32", 0, 384)) == len(embeddings_header("F32", 10**15, 384))


@pytest.mark.parametrize("change", ["rows", "dimension", "dtype", "truncated", "no json"])
def test_another_matrix_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(embeddings_header("F16", 3, 4) + bytes(24))
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    if change == "no json":
        path.write_bytes(b"\x08" + bytes(7) + b"notjson!" + bytes(24))
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's own message where it is no JSON
        embeddings_offset(
            path,
            "F32" if change == "dtype" else "F16",
            4 if change == "rows" else 3,
            5 if change == "dimension" else 4,
        )
