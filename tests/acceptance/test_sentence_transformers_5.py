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

from simpair.checkpoint.hub import BUNDLED
from simpair.checkpoint.settings import Checkpoint
from simpair.checkpoint.write import write_checkpoint
from simpair.encoder.model import TwinTowerEncoder
from tests.acceptance.folders import LAYOUTS, build

FOLDER = os.environ.get("SIMPAIR_ST5")
TEXTS = ["a cat sits on the mat", "今天天气很好", "the dog runs fast, 猫", "x", "cat " * 90]
SAVED = {
    "mean": {},
    "lengths-kept": {"pooling": "cls", "similarity": "dot", "normalize": False},
    "prompts": {"prompts": {"query": "query: ", "document": "text: "}, "max_seq_length": 20},
}
SCRIPT = """
import sys
from pathlib import Path

library, folder, *texts = sys.argv[1:]
sys.path.insert(0, library)
import numpy as np
import sentence_transformers

assert sentence_transformers.__version__.startswith("5."), sentence_transformers.__version__
assert Path(sentence_transformers.__file__).is_relative_to(library)
for checkpoint in [path for path in Path(folder).iterdir() if path.is_dir()]:
    model = sentence_transformers.SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True)
    kinds = (model.encode, model.encode_query, model.encode_document)
    rows = [encode(texts, batch_size=1) for encode in kinds]  # some mix padding in
    np.save(f"{checkpoint}.npy", np.stack(rows))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        FOLDER is None, reason="SIMPAIR_ST5 names no folder with sentence-transformers 5; run make test"
    ),
]


@pytest.fixture(scope="module")
def opened_by_version_5(
    make_checkpoint: Callable[..., Checkpoint],
    make_untied: Callable[..., Checkpoint],
    make_static: Callable[..., Checkpoint],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder of checkpoints that simpair saved; beside each, what version 5 makes of it, from one process for all."""
    made, saved = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("saved")
    checkpoints = {name: make_checkpoint(**settings) for name, settings in SAVED.items()}
    checkpoints["untied"] = make_untied(prompts={"query": "ask: ", "document": ""})
    checkpoints["static"] = make_static(max_seq_length=20)
    for name, checkpoint in checkpoints.items():
        write_checkpoint(made / name, checkpoint)
        TwinTowerEncoder.from_pretrained(made / name, device="cpu").save_pretrained(saved / name)
    TwinTowerEncoder.from_pretrained(BUNDLED, device="cpu").save_pretrained(saved / BUNDLED)
    for name, layout in LAYOUTS.items():  # every architecture, as the newest sentence-transformers writes it
        folder = build(layout, made / f"from {name}")
        TwinTowerEncoder.from_pretrained(folder, device="cpu").save_pretrained(saved / name)
    command = [sys.executable, "-c", SCRIPT, str(FOLDER), str(saved), *TEXTS]
    process = subprocess.run(command, cwd=made, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return saved


@pytest.mark.parametrize("name", [*SAVED, "untied", "static", BUNDLED, *LAYOUTS])
def test_a_saved_checkpoint_gives_the_same_vectors(opened_by_version_5: Path, name: str) -> None:
    encoder = TwinTowerEncoder.from_pretrained(opened_by_version_5 / name, device="cpu")
    ours = np.stack([encoder.encode(TEXTS), encoder.encode_query(TEXTS), encoder.encode_document(TEXTS)])
    theirs = np.load(opened_by_version_5 / f"{name}.npy")
    np.testing.assert_allclose(ours, theirs, atol=4e-6 * np.abs(ours).max())
    assert np.abs(ours - theirs[:, ::-1]).max() > 0.1 * np.abs(ours).max()  # the vectors of other texts would not do
