"""What simpair saves → the same vectors in sentence-transformers 5, which lies in a folder of its own.

``make test`` installs that folder and names it in ``SIMPAIR_ST5``; without it these tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from simpair.checkpoint import Checkpoint, write_checkpoint
from simpair.model import TwinTowerEncoder

FOLDER = os.environ.get("SIMPAIR_ST5")
TEXTS = ["a cat sits on the mat", "今天天气很好", "the dog runs fast, 猫", "x", "cat " * 90]
SCRIPT = """
import sys
from pathlib import Path

library, checkpoint, out, *texts = sys.argv[1:]
sys.path.insert(0, library)
import numpy as np
import sentence_transformers

assert sentence_transformers.__version__.startswith("5."), sentence_transformers.__version__
assert Path(sentence_transformers.__file__).is_relative_to(library)
model = sentence_transformers.SentenceTransformer(checkpoint, device="cpu", local_files_only=True)
rows = [encode(texts) for encode in (model.encode, model.encode_query, model.encode_document)]
np.save(out, np.stack(rows))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOLDER is None, reason="SIMPAIR_ST5 names no folder with sentence-transformers 5; run make test"),
]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pooling": "cls", "similarity": "dot"},
        {"prompts": {"query": "query: ", "document": "text: "}},
    ],
    ids=["mean", "cls and dot product", "prompts"],
)
def test_a_saved_checkpoint_gives_the_same_vectors(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path, settings: dict[str, object]
) -> None:
    write_checkpoint(tmp_path / "made", make_checkpoint(**settings))
    encoder = TwinTowerEncoder.from_pretrained(tmp_path / "made", device="cpu")
    encoder.save_pretrained(tmp_path / "saved")
    ours = np.stack([encoder.encode(TEXTS), encoder.encode_query(TEXTS), encoder.encode_document(TEXTS)])
    theirs = _vectors_of_version_5(tmp_path / "saved", tmp_path / "theirs.npy")
    np.testing.assert_allclose(ours, theirs, atol=2e-6 * np.abs(ours).max())
    assert np.abs(ours[0] - ours[0][::-1]).max() > 0.1  # so vectors of other texts would have failed


def _vectors_of_version_5(checkpoint: Path, out: Path) -> NDArray[np.float32]:
    """(3, N, D): plain, query and document vectors of the texts."""
    command = [sys.executable, "-c", SCRIPT, str(FOLDER), str(checkpoint), str(out), *TEXTS]
    process = subprocess.run(command, cwd=out.parent, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    vectors: NDArray[np.float32] = np.load(out)
    return vectors
