"""``simpair encode``: its input, and its output in every format."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from safetensors import safe_open

from simpair.cli import _parser
from simpair.encoder.blocks import OnTruncation
from simpair.encoder.model import Dtype, TwinTowerEncoder
from tests.cli.encode_command import BLOCK, TEXTS, Command, names, whole, write


@pytest.fixture
def encode(tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(tiny_model, capsys, monkeypatch)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write(tmp_path / "corpus.txt", TEXTS)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "vectors.npy"


@pytest.fixture
def set_stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


class TestFormats:
    def test_npy_is_what_numpy_saves(
        self, encode: Command, corpus: Path, out: Path, tiny_encoder: TwinTowerEncoder
    ) -> None:
        ran = encode(corpus, "--out", out)
        assert (ran.code, ran.out, encode.encoded) == (0, "", len(TEXTS))
        assert ran.err.startswith(f"simpair: wrote {len(TEXTS)} vectors of dimension 32 to {out} in ")
        saved = io.BytesIO()
        np.save(saved, np.concatenate(list(tiny_encoder.encode_stream(TEXTS))))
        assert out.read_bytes() == saved.getvalue()
        assert names(out) == [out.name]

    def test_safetensors_has_one_tensor_with_its_origin(
        self, encode: Command, corpus: Path, out: Path, tiny_encoder: TwinTowerEncoder
    ) -> None:
        out = out.with_suffix(".safetensors")
        encode(corpus, "--out", out)
        with safe_open(out, "np") as file:
            assert list(file.keys()) == ["embeddings"]
            assert file.metadata() == {
                "model": str(encode.model),
                "fingerprint": tiny_encoder.fingerprint,
                "rows": str(len(TEXTS)),
            }
            vectors = file.get_tensor("embeddings")
        assert vectors.dtype == np.float32
        assert np.array_equal(vectors, np.concatenate(list(tiny_encoder.encode_stream(TEXTS))))

    def test_parquet_has_text_and_embedding_and_one_row_group_per_block(
        self, encode: Command, corpus: Path, out: Path, tiny_encoder: TwinTowerEncoder
    ) -> None:
        arrow, table = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        out = out.with_suffix(".parquet")
        encode(corpus, "--out", out)
        with table.ParquetFile(out) as file:
            assert file.num_row_groups == -(-len(TEXTS) // BLOCK)
            assert file.metadata.row_group(0).num_rows == BLOCK
            read = file.read()
        assert read.schema.field("embedding").type == arrow.list_(arrow.float32(), 32)
        assert read.schema.metadata[b"fingerprint"] == tiny_encoder.fingerprint.encode()
        assert read["text"].to_pylist() == TEXTS
        vectors = np.array(read["embedding"].to_pylist(), np.float32)
        assert np.array_equal(vectors, np.concatenate(list(tiny_encoder.encode_stream(TEXTS))))

    def test_without_pyarrow_a_parquet_file_is_refused_before_the_model_loads(
        self, encode: Command, corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
        monkeypatch.setattr(TwinTowerEncoder, "from_pretrained", lambda *_, **__: 1 / 0)
        ran = encode(corpus, "--out", out.with_suffix(".parquet"))
        assert ran.code == 1
        assert "pip install pyarrow" in ran.err
        assert names(out) == []

    def test_the_choices_are_those_of_the_encoder(self) -> None:
        def choices(option: str, values: Iterable[str]) -> list[str]:
            return [getattr(_parser().parse_args(["encode", "f", f"--{option}", value]), key) for value in values]

        for key, kind in (("dtype", Dtype), ("on_truncation", OnTruncation)):
            assert choices(key.replace("_", "-"), get_args(kind)) == list(get_args(kind))

    def test_a_dtype_changes_the_vectors_slightly(self, encode: Command, corpus: Path, out: Path) -> None:
        whole(encode, corpus, out)
        encode(corpus, "--out", out, "--dtype", "bfloat16")
        exact, rounded = np.load(out.parent.parent / "whole.npy"), np.load(out)
        assert 1e-5 < abs(exact - rounded).max() < 0.1


class TestInput:
    @pytest.mark.parametrize(
        "change",
        [
            lambda data: data.replace(b"\n", b"\r\n"),
            lambda data: data.removesuffix(b"\n"),
            lambda data: b"\xef\xbb\xbf" + data,
        ],
        ids=["CRLF", "no final newline", "byte order mark"],
    )
    def test_line_endings_do_not_matter(
        self, encode: Command, corpus: Path, out: Path, change: Callable[[bytes], bytes]
    ) -> None:
        expected = whole(encode, corpus, out)
        encode.interrupted(corpus, "--out", out)
        corpus.write_bytes(change(corpus.read_bytes()))
        assert "continues after line 10 " in encode(corpus, "--out", out).err
        assert out.read_bytes() == expected

    def test_a_compressed_file_and_stdin_continue_too(
        self, encode: Command, corpus: Path, out: Path, set_stdin: Callable[[bytes], None]
    ) -> None:
        expected, data = whole(encode, corpus, out), corpus.read_bytes()
        packed = corpus.with_suffix(".txt.gz")
        packed.write_bytes(gzip.compress(data))
        encode.interrupted(packed, "--out", out, blocks=1)
        set_stdin(data)
        encode.interrupted("-", "--out", out, blocks=2)
        set_stdin(data)
        assert "continues after line 15 of -, " in encode("-", "--out", out).err
        assert encode.encoded == len(TEXTS) - 15
        assert out.read_bytes() == expected

    def test_stdout_gets_lines_before_the_end_of_the_file_is_read(self, encode: Command, corpus: Path) -> None:
        write(corpus, [*TEXTS * 3, " ", "b"])
        ran = encode(corpus)
        assert ran.code == 1
        assert f"{corpus}:{3 * len(TEXTS) + 1}: the line is blank" in ran.err
        printed = [json.loads(line)["text"] for line in ran.out.splitlines()]
        assert len(printed) >= BLOCK
        assert printed == (TEXTS * 3)[: len(printed)]

    @pytest.mark.parametrize("bad", [b"\n", b"\xff\n"], ids=["blank", "not UTF-8"])
    def test_it_continues_after_a_bad_line_was_corrected(
        self, encode: Command, corpus: Path, out: Path, bad: bytes
    ) -> None:
        longer = write(corpus, TEXTS * 2).read_bytes()
        expected = whole(encode, corpus, out)
        corpus.write_bytes(longer.replace(b"\nb\n", b"\n" + bad))
        ran = encode(corpus, "--out", out)
        assert ran.code == 1
        assert f"{corpus}:{len(TEXTS)}: " in ran.err
        corpus.write_bytes(longer)
        assert "continues after line " in encode(corpus, "--out", out).err
        assert out.read_bytes() == expected

    def test_on_truncation_warns_raises_or_ignores(self, encode: Command, corpus: Path, out: Path) -> None:
        write(corpus, [*TEXTS, "cat " * 100, "cat " * 100])
        encode.interrupted(corpus, "--out", out, blocks=1)
        ran = encode(corpus, "--out", out, "--on-truncation", "error")
        assert ran.code == 1
        assert f"{corpus}:{len(TEXTS) + 1}: the text has more than 64 tokens" in ran.err
        assert "truncated" not in encode(corpus, "--out", out, "--on-truncation", "ignore").err
        assert np.load(out).shape == (len(TEXTS) + 2, 32)
        warning = (
            f"2 of {len(TEXTS) + 2:,} texts were truncated to 64 tokens, the maximum of this encoder; "
            f"the first is {corpus}:{len(TEXTS) + 1}\n"
        )
        assert warning in encode(corpus, "--out", out).err
        assert warning in encode(corpus).err

    def test_texts_truncated_before_an_interruption_are_counted(self, encode: Command, corpus: Path, out: Path) -> None:
        write(corpus, ["a", "cat " * 100, "cat " * 90, *TEXTS, "cat " * 80])
        warning = f"texts were truncated to 64 tokens, the maximum of this encoder; the first is {corpus}:2\n"
        assert warning in encode.interrupted(corpus, "--out", out, blocks=1).err
        ran = encode(corpus, "--out", out, "--on-truncation", "error")
        assert ran.code == 1
        assert f"{corpus}:2: the text has more than 64 tokens" in ran.err
        assert f"3 of {len(TEXTS) + 4:,} {warning}" in encode(corpus, "--out", out).err

    def test_the_input_is_never_overwritten(self, encode: Command, corpus: Path, out: Path) -> None:
        source = corpus.rename(corpus.with_suffix(".npy"))
        before = source.read_bytes()
        ran = encode(source, "--out", source)
        assert ran.code == 1
        assert "is also the input" in ran.err
        assert source.read_bytes() == before
        out.symlink_to(source)
        ran = encode(source, "--out", out)
        assert ran.code == 1
        assert "is a link" in ran.err

    def test_a_closed_stdin_is_reported(self, encode: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", None)
        ran = encode("-")
        assert ran.code == 1
        assert "stdin: is closed" in ran.err

    @pytest.mark.parametrize(("terminal", "packed"), [(True, False), (True, True), (False, False)])
    def test_a_terminal_gets_a_progress_bar(
        self, encode: Command, corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool, packed: bool
    ) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
        if packed:
            corpus.with_suffix(".gz").write_bytes(gzip.compress(corpus.read_bytes()))
        bar = encode(corpus.with_suffix(".gz") if packed else corpus, "--out", out).err.rpartition("simpair: wrote")[0]
        assert (f"{len(TEXTS)} texts, " in bar) == terminal
        assert ("100%|" in bar) == (terminal and not packed)
