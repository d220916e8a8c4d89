"""Result files → the tables between markers in ``model_card.md`` and the READMEs.

    python -m benchmarks.card

A block starts with ``<!-- results:begin NAME -->`` and ends with ``<!-- results:end -->`` (``# results:begin NAME`` and
``# results:end`` in front matter). The names are zero-shot, in-domain, peers, forms, speed and model-index; a block
without a name is the summary in a README. A block without results stays empty. Rendering twice gives the same text, so
a test can compare the quoted figures with the files. Imports no model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import markdown_table
from benchmarks.quality import METRICS, Report, Score, mean_of, means, read_reports, rows, show
from benchmarks.sets import MEANS, SETS, EvalSet
from benchmarks.summary import CHINESE, summary
from simpair.checkpoint.hub import BUNDLED

__all__ = ["Published", "Results", "main", "read_results", "render"]

_ROOT = Path(__file__).parents[1]
_RESULTS = Path(__file__).parent / "results"
_RENDERED = ("model_card.md", "README.md", "README.zh-CN.md")
_BLOCK = re.compile(
    r"(?P<begin>(?P<open><!-- |# )results:begin(?: (?P<name>[\w-]+))?(?: -->)?\n)"
    r"(?P<old>.*?)(?P<end>^(?P=open)results:end(?: -->)?$)",
    re.DOTALL | re.MULTILINE,
)
_OPEN = "simpair-mini-open"
_OPEN_TRAINED_FOR = ("pawsx_zh", "dureader")
_TYPES = {"Spearman": "spearman_cosine", "accuracy@1": "cosine_accuracy@1", "nDCG@10": "cosine_ndcg@10"}
_TASKS = {"sts": "semantic-similarity", "bitext": "translation-retrieval", "retrieval": "information-retrieval"}


class Published(NamedTuple):
    """Published figures of another model; ``in_domain`` names the sets whose source it was trained on."""

    name: str
    about: str
    source: str
    in_domain: list[str]
    scores: dict[str, float]


class Results(NamedTuple):
    """Contents of the result files; None if a file is missing."""

    quality: list[Report] | None
    forms: list[Report] | None
    published: list[Published]
    encode: Mapping[str, Any] | None
    cold_start: Mapping[str, Any] | None
    train: Mapping[str, Any] | None = None
    search: Mapping[str, Any] | None = None


class _Column(NamedTuple):
    title: str
    values: Mapping[str, float]
    trained_for: Collection[str]


def read_results(folder: Path = _RESULTS) -> Results:
    """Read the result files of a folder."""
    names = (BUNDLED, "forms", "encode", "cold_start", "train", "search")
    quality, forms, encode, cold_start, train, search = (_json(folder / f"{name}.json") for name in names)
    published = _json(folder / "published.json") or {"models": []}
    return Results(
        None if quality is None else read_reports(quality),
        None if forms is None else read_reports(forms),
        [Published(**model) for model in published["models"]],
        encode,
        cold_start,
        train,
        search,
    )


def render(text: str, results: Results, *, chinese: bool = False) -> str:
    """Return the text with every block filled in from the results.

    Raises:
        KeyError: A marker has an unknown name.
    """

    def fill(match: re.Match[str]) -> str:
        block = _BLOCKS[match["name"]](results)
        for english, translated in CHINESE if chinese else ():
            block = block.replace(english, translated)
        return f"{match['begin']}{block}\n{match['end']}" if block else match["begin"] + match["end"]

    return _BLOCK.sub(fill, text)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _measured(results: Results, *, zero_shot: bool) -> str:
    if results.quality is None:
        return ""
    header = ("Set", "Metric × 100", *(report.model.name for report in results.quality))
    lines = rows(results.quality, zero_shot=zero_shot)
    return markdown_table(header, [(line.title, line.metric, *map(show, line.values)) for line in lines])


def _peers(results: Results) -> str:
    """Return the table of all sets with a published figure, followed by the sources of the figures."""
    published = {name for peer in results.published for name in peer.scores}
    published |= {mean.name for mean in MEANS if published.issuperset(mean.sets)}
    notes = [f"- {peer.name}: {peer.about}. Source: {peer.source}. {_declared(peer)}" for peer in results.published]
    table = _side_by_side(results, published)
    return f"{table}\n\n" + "\n".join(notes) if table else ""


def _forms(results: Results) -> str:
    """Return the means of each form, and the larger drop of the two against the form that it is made from."""
    if results.forms is None:
        return ""
    found = {report.model.name: means(report.scores) for report in results.forms}
    whole, trained = found[BUNDLED], next(name for name in found if not name.startswith(BUNDLED))
    table = []
    for name, reached in found.items():
        before = found[trained] if name == BUNDLED else whole
        drops = [before[mean.name].value - reached[mean.name].value for mean in MEANS]
        drop = "–" if name == trained else f"{max(drops):.2f}"
        table.append((_form(name, trained), *(show(reached[mean.name].value) for mean in MEANS), drop))
    return markdown_table(("Form", *(mean.title for mean in MEANS), "drop"), table)


def _form(name: str, trained: str) -> str:
    """Return the title of a form, given the name of its report."""
    form = name.partition("@")[2]
    if name == trained:
        return "trained weights, float32"
    if not form:
        return "float16 file, computed in float32 (default)"
    return f"first {form} dimensions" if form.isdigit() else f"float16 file, computed in {form}"


def _side_by_side(results: Results, names: Collection[str]) -> str:
    """Return measured and published figures of the named sets and means; a star marks sets a model was trained for."""
    if results.quality is None:
        return ""
    ours = {BUNDLED: [one.name for one in SETS if not one.zero_shot], _OPEN: _OPEN_TRAINED_FOR}
    columns = [
        _Column(
            report.model.name,
            {name: score.value for name, score in report.scores.items()},
            ours.get(report.model.name, ()),
        )
        for report in results.quality
    ]
    columns += [_Column(f"{peer.name} (published)", peer.scores, peer.in_domain) for peer in results.published]
    lines = [
        *((one.name, one.title, METRICS[one.kind], (one.name,)) for one in SETS),
        *((mean.name, mean.title, METRICS["sts"], mean.sets) for mean in MEANS),
    ]
    table = [
        (title, metric, *(_cell(column, sets) for column in columns))
        for name, title, metric, sets in lines
        if name in names
    ]
    header = ("Set", "Metric × 100", *(column.title for column in columns))
    return f"{markdown_table(header, table)}\n\n\\* trained on other rows of the set's source."


def _cell(column: _Column, sets: Sequence[str]) -> str:
    """Return the figure of one set, or the mean of several if the model has all of them."""
    values = [column.values[name] for name in sets if name in column.values]
    star = "" if set(column.trained_for).isdisjoint(sets) else "\\*"
    return f"{mean_of(values):.2f}{star}" if len(values) == len(sets) else "–"


def _declared(peer: Published) -> str:
    titles = [one.title for one in SETS if one.name in peer.in_domain]
    return f"Trained for {', '.join(titles)}." if titles else "None of these sets is among its declared training data."


def _speed(results: Results) -> str:
    if results.encode is None or results.cold_start is None:
        return ""
    table = []
    for name, speed in results.encode["speed"].items():
        ours, theirs = speed["texts_per_second"].values()
        title = f"{speed['texts']:,} {name}, mean {speed['tokens']['mean']} tokens"
        table.append((title, f"{ours:.0f} texts/s", f"{theirs:.0f} texts/s", f"{speed['ratio']:.2f}×"))
        for engine, other in results.encode.get("others", {}).items():
            if engine.startswith("simpair ") and name in other:
                fast = other[name]["texts_per_second"][engine]
                dtype = f"the same in {engine.removeprefix('simpair ')}"
                table.append((dtype, f"{fast:.0f} texts/s", f"{theirs:.0f} texts/s", f"{other[name]['ratio']:.2f}×"))
    cold = results.cold_start
    ours, theirs = list(cold["median_seconds"].values())[:2]
    table.append(("one process that scores two texts", f"{ours:.2f} s", f"{theirs:.2f} s", f"{cold['ratio']:.2f}×"))
    machine, equality = results.encode["machine"], results.encode["equality"]
    versions = machine["versions"]
    note = (
        f"{results.encode['model']['name']}, float32, {machine['cores']} cores ({machine['cpu_capability']}), "
        f"torch {versions['torch']}, sentence-transformers {versions['sentence-transformers']}; "
        f"the embeddings of {equality['texts']:,} texts differ by at most {equality['max_abs']:.1e}"
    )
    return f"{markdown_table(('', 'simpair', 'sentence-transformers', 'ratio'), table)}\n\n{note}"


def _model_index(results: Results) -> str:
    """Return the ``model-index`` of the Hub in YAML; figures are from 0 to 1."""
    if results.quality is None:
        return ""
    (report,) = (report for report in results.quality if report.model.name == BUNDLED)
    lines = ["model-index:", f"- name: {report.model.name}", "  results:"]
    for one in SETS:
        if one.name in report.scores:
            lines += _index_entry(one, report.scores[one.name])
    return "\n".join(lines)


def _index_entry(one: EvalSet, score: Score) -> list[str]:
    figures = [(METRICS[one.kind], _TYPES[METRICS[one.kind]], score.value)]
    if score.mrr is not None:
        figures.append(("MRR@10", "cosine_mrr@10", score.mrr))
    lines = [
        "  - task:",
        f"      type: {_TASKS[one.kind]}",
        "    dataset:",
        f"      name: {one.title} ({'zero-shot' if one.zero_shot else 'in-domain'})",
        f"      type: {one.name}",
        "    metrics:",
    ]
    for metric, kind, value in figures:
        lines += [f"    - type: {kind}", f"      value: {value / 100:.4f}", f"      name: {metric}"]
    return lines


_BLOCKS = {
    "zero-shot": lambda results: _measured(results, zero_shot=True),
    "in-domain": lambda results: _measured(results, zero_shot=False),
    "peers": _peers,
    "forms": _forms,
    "speed": _speed,
    "model-index": _model_index,
    None: summary,
}


def main() -> None:
    """Fill in the blocks of the card and the READMEs."""
    results = read_results()
    for path in (_ROOT / name for name in _RENDERED):
        if path.exists():
            text = path.read_text(encoding="utf-8")
            path.write_text(render(text, results, chinese=path.stem.endswith("zh-CN")), encoding="utf-8")
            print(path.name)


if __name__ == "__main__":
    main()
