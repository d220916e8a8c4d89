"""Every layout of a folder gives here the vectors that plain sentence-transformers gives, and goes back and forth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simpair.encoder.batches import pack
from simpair.encoder.model import TwinTowerEncoder
from tests.acceptance.folders import LAYOUTS, TEXTS, build

pytest.importorskip("sentence_transformers.sentence_transformer.modules", reason="older ones save by other names")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module", params=LAYOUTS.values(), ids=LAYOUTS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(request.param, tmp_path_factory.mktemp("layout"))


def _peer(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def test_vectors_are_those_of_sentence_transformers_there_and_back(folder: Path, tmp_path: Path) -> None:
    peer, encoder = _peer(folder), TwinTowerEncoder.from_pretrained(folder, device="cpu")
    encoder.save_pretrained(tmp_path / "back")
    again, back = TwinTowerEncoder.from_pretrained(tmp_path / "back", device="cpu"), _peer(tmp_path / "back")
    assert again.fingerprint == encoder.fingerprint
    kinds = []
    for role in ("encode", "encode_query", "encode_document"):  # the longest text is truncated
        expected = getattr(peer, role)(TEXTS, batch_size=1, normalize_embeddings=True)  # as a cosine asks
        found = getattr(encoder, role)(TEXTS, on_truncation="ignore")
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(getattr(back, role)(TEXTS, batch_size=1), expected, atol=1e-6)
        np.testing.assert_allclose(getattr(again, role)(TEXTS, on_truncation="ignore"), found, atol=1e-7)
        kinds.append(expected)
    apart = np.abs(kinds[0] @ kinds[0].T - np.eye(len(TEXTS)))
    assert apart.min() < 0.99  # different texts have different embeddings
    assert min(np.abs(kinds[0] - other).max() for other in kinds[1:]) > 1e-3  # and prompts


def test_training_meets_the_vectors_of_serving(folder: Path) -> None:
    encoder = TwinTowerEncoder.from_pretrained(folder, device="cpu")
    served = encoder.encode(TEXTS, on_truncation="ignore")
    batch = encoder.tokenizer.pad(TEXTS)
    trained = encoder(*batch)
    np.testing.assert_allclose(trained.detach().numpy(), served, atol=1e-6)
    trained.sum().backward()
    gradients = [weight.grad for weight in encoder.parameters() if weight.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    with torch.no_grad():
        for weight, gradient in ((weight, weight.grad) for weight in encoder.parameters() if weight.grad is not None):
            weight -= 0.01 * gradient
        changed = encoder.embed(pack(*batch)).numpy()
    served_anew = encoder.train().encode(TEXTS, on_truncation="ignore")  # without dropout, and with today's weights
    np.testing.assert_allclose(served_anew, changed, atol=1e-6)
    assert np.abs(served_anew - served).max() > 1e-5
