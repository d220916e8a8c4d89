"""Safetensors files ⇄ tensors: what stays in the file, and what is read as it is opened."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.memory import bytes_of
from simpair.checkpoint.weights import WEIGHTS, read_weights, write_tensors


def test_a_table_in_float32_stays_in_its_file_until_its_rows_are_asked_for(tmp_path: Path) -> None:
    size = 64 << 20
    save_file({"table": torch.ones(size // 256, 64), "small": torch.ones(3)}, tmp_path / WEIGHTS)
    before = bytes_of("VmRSS")
    tensors = read_weights(tmp_path).tensors
    assert bytes_of("VmRSS") - before < size / 8
    assert tensors["table"].sum() == size / 4
    assert bytes_of("VmRSS") - before > size / 2  # the control: looked at, the rows are resident


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_dtype_are_read_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.tensor([1.5, -2.0, 0.25])
    write_tensors(tmp_path / WEIGHTS, {"bert.a": values.to(dtype), "position_ids": torch.arange(3)})
    found = read_weights(tmp_path).tensors
    assert torch.equal(found["a"], values)
    assert found["a"].dtype == torch.float32
    assert found["position_ids"].dtype == torch.int64
    (tmp_path / WEIGHTS).unlink()
    assert found["a"].sum() == -0.25  # nothing of it lies in the file
