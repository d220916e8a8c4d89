"""The guided tour: the documentation it reads, the pairs it holds out, and its report."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from simpair.cli import tour as guided_tour
from simpair.cli.documentation import Entry, read_documentation
from simpair.cli.tour import DemoReport, run_demo, split_pairs
from simpair.encoder.model import TwinTowerEncoder

_SOURCE = '''"""Tools for boxes. They come in sizes.

More on boxes.
"""
raise RuntimeError("this module was imported")

def pack(items, /, box, *, lid=True):
    """Put the items into
    a box. The lid is closed."""
    def inner():
        """Not public."""

def bare(): pass

def _private():
    """Not public."""

class Box:
    """A container"""
    def open(self, key):
        """Open it."""
    def __init__(self):
        """Not public."""

class _Hidden:
    """Not public."""
    def shown(self):
        """Not public either."""
'''


@pytest.fixture(scope="module")
def documented() -> list[Entry]:
    return read_documentation(Path(sysconfig.get_path("stdlib")))


@pytest.mark.slow
class TestDocumentation:
    def test_public_docstrings_are_read_and_nothing_is_imported(self, tmp_path: Path) -> None:
        (tmp_path / "boxes").mkdir()
        (tmp_path / "boxes" / "__init__.py").write_text(_SOURCE)
        for name in ("_hidden.py", "test/test_x.py", "site-packages/other.py", "boxes/broken.py"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text('"""Not taken."""' if name != "boxes/broken.py" else "def (:")
        entries = {entry.id: entry for entry in read_documentation(tmp_path)}
        assert set(entries) == {"boxes", "boxes.pack", "boxes.Box", "boxes.Box.open"}
        assert entries["boxes"] == ("boxes", "boxes", "Tools for boxes.", "They come in sizes. More on boxes.")
        pack = entries["boxes.pack"]
        assert (pack.call, pack.summary) == ("boxes.pack(items, box, lid)", "Put the items into a box.")
        assert pack.text == "boxes.pack(items, box, lid)\nPut the items into a box. The lid is closed."
        assert (entries["boxes.Box.open"].call, entries["boxes.Box.open"].module) == ("boxes.Box.open(key)", "boxes")

    def test_this_python_has_thousands_of_entries(self, documented: list[Entry]) -> None:
        assert len(documented) > 2000
        ids = {entry.id for entry in documented}
        assert len(ids) == len(documented)
        assert {"shutil.copytree", "argparse.ArgumentParser", "json.dumps", "subprocess.run"} <= ids
        assert all(entry.text.startswith(entry.id) and len(entry.text) <= 400 for entry in documented)
        assert not any(part.startswith("_") for name in ids for part in name.split("."))
        assert "antigravity" not in sys.modules

    def test_held_out_pairs_are_not_trained_on(self, documented: list[Entry]) -> None:
        train, held_out = split_pairs(documented)
        for column in (0, 1):
            assert not {pair[column] for pair in train} & {pair[column] for pair in held_out}
        assert 0.1 < len(held_out) / (len(train) + len(held_out)) < 0.3
        assert split_pairs(documented[::-1])[1] == held_out[::-1]  # independent of the order

    def test_a_pair_is_a_summary_and_a_call(self) -> None:
        entries = [
            Entry("boxes.pack", "boxes.pack(items)", "Put items into a box.", "More."),
            Entry("a", "a", "Two words", ""),
        ]
        train, held_out = split_pairs(entries)
        assert train + held_out == [("Put items into a box.", "boxes.pack(items)", ())]


class _Tour:
    def __init__(self, encoder: TwinTowerEncoder) -> None:
        self.lines: list[str] = []
        self.fingerprint = encoder.fingerprint
        self.learner = encoder
        tune = guided_tour._tune

        def noted(say: Any, learner: TwinTowerEncoder, *others: Any, **options: Any) -> Any:
            self.learner = learner
            return tune(say, learner, *others, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(guided_tour, "_tune", noted)
            self.report: DemoReport = run_demo(self.lines.append, encoder, seconds=1.0, limit=300)
        self.changed = encoder.fingerprint != self.fingerprint
        self.text = "\n".join(self.lines)


@pytest.fixture(scope="module")
def tour(tiny_model: Path) -> _Tour:
    return _Tour(TwinTowerEncoder.from_pretrained(tiny_model, device="cpu"))


@pytest.mark.slow
class TestTour:
    def test_it_prints_its_measurements(self, tour: _Tour) -> None:
        report = tour.report
        assert report.entries == 300
        assert f"indexed 300 entries in {report.encoding_seconds:.1f} s" in tour.text
        assert f"fine-tuned {report.steps} steps of 64 pairs in {report.training_seconds:.0f} s" in tour.text
        assert f"{report.mrr_before:.3f} before, {report.mrr_after:.3f} after" in tour.text

    def test_it_searches_in_both_languages(self, tour: _Tour) -> None:
        assert "how do I copy a whole directory tree  (" in tour.text
        assert "如何压缩文件  (" in tour.text

    def test_it_trains_a_copy(self, tour: _Tour) -> None:
        assert not tour.changed
        assert tour.report.steps >= 1
        assert tour.learner.fingerprint != tour.fingerprint
        # A slow machine has time for a step or two, which may leave every rank as it was.
        assert tour.report.steps < 10 or tour.report.mrr_before != tour.report.mrr_after

    def test_it_takes_about_the_given_time(self, tour: _Tour) -> None:
        assert tour.report.training_seconds < 10
        assert tour.report.seconds > tour.report.training_seconds + tour.report.encoding_seconds

    def test_it_ends_with_the_next_commands(self, tour: _Tour) -> None:
        assert "simpair index create my-index notes.txt" in tour.text
        assert "simpair train pairs.csv --out my-model" in tour.text
