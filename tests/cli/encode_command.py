"""A tiny model → ``simpair encode`` in small blocks, complete or interrupted at a chosen step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from simpair.cli.partial import Partial
from simpair.encoder.model import TwinTowerEncoder
from simpair.files import texts as block_limits
from tests.command import Ran, ran

BLOCK = 5
TEXTS = [f"the {word} runs on mat {number}" for number in range(6) for word in ("cat", "dog", "今天")] + ["a", "a", "b"]
RECORDED = BLOCK * (len(TEXTS) // BLOCK)
parquet = pytest.param(".parquet", marks=pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is missing"))
every_format = pytest.mark.parametrize("suffix", [".npy", ".safetensors", parquet])


class Command:
    """``simpair encode`` with the tiny model and blocks of five texts; it counts the encoded texts."""

    def __init__(self, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.model, self._capsys, self._monkeypatch = model, capsys, monkeypatch
        self.encoded = 0
        stream = TwinTowerEncoder.encode_blocks

        def counted(encoder: TwinTowerEncoder, texts: Iterable[str], **options: Any) -> Iterator[Any]:
            self.encoded = 0
            for block in stream(encoder, texts, **options):
                self.encoded += len(block.embeddings)
                yield block

        monkeypatch.setattr(TwinTowerEncoder, "encode_blocks", counted)
        monkeypatch.setattr(block_limits, "BLOCK_TEXTS", BLOCK)

    def __call__(self, *arguments: object) -> Ran:
        return ran(self._capsys, "encode", "--model", self.model, *arguments)

    def broken(self, name: str, error: BaseException, *arguments: object, at: int = 1) -> Ran:
        """Run the command with a method of Partial that raises in its call number ``at``."""
        method, calls = getattr(Partial, name), 0

        def fail(work: Partial, *given: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == at:
                raise error
            method(work, *given)

        with self._monkeypatch.context() as patch:
            patch.setattr(Partial, name, fail)
            return self(*arguments)

    def interrupted(self, *arguments: object, blocks: int = 2) -> Ran:
        """Run the command until ``blocks`` blocks are recorded and the next one is written."""
        ran = self.broken("record", KeyboardInterrupt(), *arguments, at=blocks + 1)
        assert ran.code == 130
        return ran


def write(path: Path, texts: Iterable[str]) -> Path:
    path.write_bytes("".join(f"{text}\n" for text in texts).encode())
    return path


def whole(encode: Command, corpus: Path, out: Path, *options: object) -> bytes:
    """Return the bytes of an uninterrupted run."""
    other = out.parent.parent / f"whole{out.suffix}"
    assert encode(corpus, "--out", other, *options).code == 0
    return other.read_bytes()


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


def work_folder(out: Path) -> Path:
    (folder,) = out.parent.glob(".*.partial")
    return folder
