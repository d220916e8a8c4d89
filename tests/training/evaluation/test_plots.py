"""plots: PNG files with the right titles and values; curves: what a trainer logged."""

import json
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from simpair.errors import DataError, InputError
from simpair.training.evaluation import plots
from simpair.training.evaluation.curves import Curve, read_curves

SOURCE = np.random.default_rng(0)
BINARY = (SOURCE.random(300) < 0.4).astype(float)
GRADED = np.round(SOURCE.random(300) * 25) / 25
SCORES = 0.5 * BINARY + SOURCE.normal(scale=0.2, size=300)
RELEVANT = np.eye(4, 3, dtype=bool)
CURVES = [
    Curve("loss", np.array([1, 2, 3]), np.array([3.0, 2.0, 1.0])),
    Curve("eval_loss", np.array([3]), np.array([1.5])),
    Curve("eval_spearman", np.array([3]), np.array([0.7])),
    Curve("learning_rate", np.array([1, 2, 3]), np.array([3e-5, 2e-5, 1e-5])),
]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were created."""
    figures = []
    plain = Figure.__init__
    monkeypatch.setattr(Figure, "__init__", lambda self, *a, **k: (figures.append(self), plain(self, *a, **k))[1])
    return figures


def texts_of(figure):
    """Return the title, the labels of the axes and the legend of each panel."""
    texts = []
    for axes in figure.axes:
        texts += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
        texts += [text.get_text() for text in (axes.get_legend().get_texts() if axes.get_legend() else [])]
    return texts


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda path: plots.plot_scores(path, SCORES, BINARY, threshold=0.25), [
            "Scores by label, 300 pairs", "score", f"label 1: {int(BINARY.sum())} pairs", "threshold 0.250",
        ]),
        (lambda path: plots.plot_scores(path, SCORES, GRADED), ["label 0 to 0.2: ", "label 0.8 to 1: "]),
        (lambda path: plots.plot_roc(path, SCORES, BINARY, threshold=0.25), [
            "ROC, ", "false positive rate", "true positive rate", "AUC 0.9", "threshold 0.250",
        ]),
        (lambda path: plots.plot_precision_recall(path, SCORES, BINARY, threshold=9.0), [
            "Precision and recall, ", "recall", "precision", "average precision 0.9",
        ]),
        (lambda path: plots.plot_similarity(path, GRADED, GRADED), [
            "Score and label, 300 pairs. Spearman 1.0000", "label", "score", "mean score",
        ]),
        (lambda path: plots.plot_first_hits(path, RELEVANT), ["Rank of the first relevant document, 4 ", "none"]),
        (lambda path: plots.plot_training(path, CURVES), [
            "Training, 3 steps", "step", "loss", "loss on dev data", "spearman", "learning rate",
        ]),
    ],
)  # fmt: skip
def test_a_plot_has_its_title_labels_and_legend(draw, expected, drawn, tmp_path):
    path = tmp_path / "图.png"
    draw(path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("L"))
        assert min(pixels.shape) > 500
        assert 0.005 < (pixels < 200).mean() < 0.9  # neither empty nor black
    texts = texts_of(drawn[-1])
    for start in expected:
        assert any(text.startswith(start) for text in texts), (start, texts)


def test_perfect_scores_reach_the_corner_of_the_curve(drawn, tmp_path):
    plots.plot_roc(tmp_path / "roc.png", BINARY, BINARY, threshold=0.5)
    curve, chance, point = drawn[-1].axes[0].lines
    assert [0, 1] in curve.get_xydata().tolist()
    assert chance.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert point.get_xydata().tolist() == [[0, 1]]
    plots.plot_precision_recall(tmp_path / "pr.png", BINARY, BINARY, threshold=0.5)
    assert drawn[-1].axes[0].lines[-1].get_xydata().tolist() == [[1, 1]]


def test_bars_are_fractions_of_the_queries(drawn, tmp_path):
    plots.plot_first_hits(tmp_path / "ranks.png", RELEVANT)
    assert [bar.get_height() for bar in drawn[-1].axes[0].patches] == [0.25, 0.25, 0.25, 0.25]  # the last: none
    plots.plot_first_hits(tmp_path / "many.png", np.zeros((2, 100), bool))
    assert len(drawn[-1].axes[0].get_xticks()) <= 21


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for act in (plots.check_matplotlib, lambda: plots.plot_scores(tmp_path / "x.png", SCORES, BINARY)):
        with pytest.raises(InputError, match=r"pip install 'simpair\[plots\]'"):
            act()
    assert not (tmp_path / "x.png").exists()


# --- curves

LOG = [
    {"loss": 0.5, "grad_norm": 1.0, "learning_rate": 1e-5, "epoch": 0.5, "step": 10},
    {"eval_loss": 0.4, "eval_spearman": 0.7, "eval_runtime": 3.0, "eval_samples_per_second": 9, "epoch": 1, "step": 20},
    {"loss": float("nan"), "step": 20},
    {"loss": 0.25, "step": 30},
    {"train_runtime": 9.0, "total_flos": 0, "train_loss": 0.3, "step": 30},
]


def write_log(folder, log=LOG):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))


def test_curves_are_the_logged_metrics_without_times(tmp_path):
    write_log(tmp_path)
    curves = {curve.name: curve for curve in read_curves(tmp_path)}
    assert list(curves) == ["loss", "grad_norm", "learning_rate", "eval_loss", "eval_spearman"]
    assert (curves["loss"].steps.tolist(), curves["loss"].values.tolist()) == ([10, 30], [0.5, 0.25])


def test_a_run_has_the_curves_of_its_newest_checkpoint(tmp_path):
    for step in (9, 10):
        write_log(tmp_path / f"checkpoint-{step}", [{"loss": float(step), "step": step}])
    assert read_curves(tmp_path)[0].values.tolist() == [10]
    assert read_curves(tmp_path / "checkpoint-9")[0].values.tolist() == [9]


def test_without_a_log_there_are_no_curves_and_no_plot(tmp_path):
    assert read_curves(tmp_path) == []
    write_log(tmp_path, [])
    assert read_curves(tmp_path) == []
    with pytest.raises(InputError, match="logged nothing"):
        plots.plot_training(tmp_path / "x.png", [])


@pytest.mark.parametrize("text", ["{", "[]", '{"log_history": [1]}', '{"log_history": [{"loss": 1}]}', "\udcff"])
def test_a_damaged_log_is_named(tmp_path, text):
    (tmp_path / "trainer_state.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"trainer_state\.json: is not the log"):
        read_curves(tmp_path)
