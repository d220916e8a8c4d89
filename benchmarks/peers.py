"""A checkpoint → other engines for it: sentence-transformers, and ONNX Runtime and OpenVINO if they are installed.

    pip install onnx onnxruntime openvino nncf

The two runtimes get the best conditions: the model is traced from transformers with pooling and normalization inside,
texts come from simpair's tokenizer, sorted by tokens and padded as little as possible, and each core has one batch and
one thread. int8 is ONNX Runtime's dynamic quantization (a scale for each channel of the weights), and OpenVINO's static
quantization by nncf (on 128 sample texts). OpenVINO in float32 may not use bfloat16; in int8 it chooses the dtype of
the other operations itself.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.machine import cores
from benchmarks.race import Engine, Matrix
from simpair.checkpoint import hub
from simpair.encoder.model import TwinTowerEncoder

__all__ = ["Peers", "open_peers", "open_sentence_transformers"]

_BUDGET = 2_048
"""The maximum number of tokens of a padded batch."""
_ALIKE = 0.9
"""The shortest text of a batch has at least this fraction of the length of its longest one."""
_NEEDS = {"ONNX Runtime": ("onnxruntime", "onnx"), "OpenVINO": ("openvino", "nncf")}
_Ids: TypeAlias = NDArray[np.int64]
_Run: TypeAlias = Callable[[_Ids, _Ids], Matrix]
"""Token ids and mask, (B, T) each → embeddings (B, D); called by several threads at once."""


class Peers(NamedTuple):
    """Engines, the versions of their libraries, and the reasons why others are absent."""

    engines: list[Engine]
    versions: dict[str, str]
    absent: dict[str, str]


def open_sentence_transformers(encoder: TwinTowerEncoder) -> Engine:
    """Return sentence-transformers with its defaults, on the encoder's checkpoint."""
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(_folder(encoder)), device="cpu", local_files_only=True)
    normalize = encoder.settings.normalize

    def encode(texts: list[str]) -> Matrix:
        vectors = peer.encode(texts, convert_to_numpy=True, normalize_embeddings=normalize, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    return Engine("sentence-transformers", encode)


def open_peers(encoder: TwinTowerEncoder, sample: Sequence[str]) -> Peers:
    """The runtimes that are installed, in float32 and in int8.

    Args:
        encoder: Whose checkpoint they run.
        sample: Texts to find the scales of static quantisation with.
    """
    peers = Peers([], {}, {})
    for name, modules in _NEEDS.items():
        if missing := [module for module in modules if find_spec(module) is None]:
            peers.absent[name] = f"{' and '.join(missing)} not installed"
        elif encoder.settings.pooling != "mean":
            peers.absent[name] = f"exported with mean pooling only, this is {encoder.settings.pooling}"
        else:
            open_runs = _onnxruntime if name == "ONNX Runtime" else _openvino
            with _quietly():
                runs = open_runs(_Pooled(encoder), [*_batches(encoder, sample[:128])])
            peers.engines.extend(_engine(f"{name} {dtype}", encoder, run) for dtype, run in runs.items())
            peers.versions.update({module: version(module) for module in modules})
    return peers


class _Batch(NamedTuple):
    """Rows of the caller's texts, and their tokens: ids and mask, (B, T) each."""

    rows: list[int]
    input_ids: _Ids
    attention_mask: _Ids


class _Pooled(nn.Module):
    """The model of transformers, mean pooling, and norm 1 if the checkpoint asks for it."""

    def __init__(self, encoder: TwinTowerEncoder) -> None:
        from transformers import AutoModel

        super().__init__()
        self.model = AutoModel.from_pretrained(_folder(encoder), attn_implementation="eager", local_files_only=True)
        self.normalize = encoder.settings.normalize
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the embeddings (B, D) of ids and mask (B, T)."""
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).float()
        vectors = (states * weights).sum(1) / weights.sum(1)
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors


def _onnxruntime(model: _Pooled, sample: list[_Batch]) -> dict[str, _Run]:
    from onnxruntime import InferenceSession, SessionOptions  # type: ignore[import-not-found]
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-not-found]

    inputs = ["input_ids", "attention_mask"]
    axes = {"input_ids": {0: "B", 1: "T"}, "attention_mask": {0: "B", 1: "T"}, "embeddings": {0: "B"}}
    options = SessionOptions()
    options.intra_op_num_threads = 1  # the caller brings a thread for each core

    def open_run(path: Path) -> _Run:
        session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda ids, mask: session.run(None, dict(zip(inputs, (ids, mask), strict=True)))[0]

    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        torch.onnx.export(
            model, _example(sample), str(plain), input_names=inputs, output_names=["embeddings"],
            dynamic_axes=axes, opset_version=17, dynamo=False,
        )  # fmt: skip
        untyped = {"DefaultTensorType": 1}  # float32, where the traced graph leaves a type out
        quantize_dynamic(plain, small, weight_type=QuantType.QInt8, per_channel=True, extra_options=untyped)
        return {"float32": open_run(plain), "int8": open_run(small)}


def _openvino(model: _Pooled, sample: list[_Batch]) -> dict[str, _Run]:
    import nncf  # type: ignore[import-not-found]
    import openvino  # type: ignore[import-not-found]

    traced = openvino.convert_model(model, example_input=_example(sample))
    texts = [(batch.input_ids[row : row + 1, : mask.sum()], mask[None, : mask.sum()])
             for batch in sample for row, mask in enumerate(batch.attention_mask)]  # fmt: skip
    kind = nncf.ModelType.TRANSFORMER
    small = nncf.quantize(traced, nncf.Dataset(texts), model_type=kind, subset_size=len(texts))
    core = openvino.Core()
    streams = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": cores(), "INFERENCE_NUM_THREADS": cores()}

    def open_run(graph: Any, **hints: str) -> _Run:
        compiled, own = core.compile_model(graph, "CPU", {**streams, **hints}), threading.local()

        def run(ids: _Ids, mask: _Ids) -> Matrix:
            if not hasattr(own, "request"):
                own.request = compiled.create_infer_request()
            return np.array(own.request.infer((ids, mask))[0])

        return run

    return {"float32": open_run(traced, INFERENCE_PRECISION_HINT="f32"), "int8": open_run(small)}


def _engine(name: str, encoder: TwinTowerEncoder, run: _Run) -> Engine:
    """Return an engine that computes a batch on each core at a time."""
    pool = ThreadPoolExecutor(cores())

    def encode(texts: list[str]) -> Matrix:
        embeddings = np.empty((len(texts), encoder.embedding_dimension), dtype=np.float32)

        def fill(batch: _Batch) -> None:
            embeddings[batch.rows] = run(batch.input_ids, batch.attention_mask)

        for _ in pool.map(fill, _batches(encoder, texts)):
            pass
        return embeddings

    return Engine(name, encode)


def _batches(encoder: TwinTowerEncoder, texts: Sequence[str]) -> Iterator[_Batch]:
    """Yield the texts sorted by tokens, longest first, so that batches have little padding."""
    sequences = encoder.tokenizer.ids(texts)
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]), reverse=True)
    while order:
        longest = len(sequences[order[0]])
        fitting = order[: max(1, _BUDGET // longest)]
        rows = [row for row in fitting if len(sequences[row]) >= _ALIKE * longest]
        order = order[len(rows) :]
        ids = np.full((len(rows), longest), encoder.tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(sequences[row])] = sequences[row]
            mask[place, : len(sequences[row])] = 1
        yield _Batch(rows, ids, mask)


def _example(sample: list[_Batch]) -> tuple[Tensor, Tensor]:
    """Return a batch with padding, for tracing the model."""
    return torch.from_numpy(sample[0].input_ids[:4]), torch.from_numpy(sample[0].attention_mask[:4])


def _folder(encoder: TwinTowerEncoder) -> Path:
    return hub.resolve(encoder.source).folder


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress the output and the warnings of exporters."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
