"""The floors of the house: imports go down only, and a foreign library enters through one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

_ROOT = Path(__file__).parents[1]
_FLOORS = {
    "errors": 0,
    "rows": 1,
    "pages": 1,
    "_version": 0,
    "vocabulary": 1,
    "manifest": 1,
    "raw": 1,
    "hub": 2,
    "disk": 1,
    "digests": 2,
    "weights": 2,
    "modules": 3,
    "checkpoint": 4,
    "layout": 5,
    "tokens": 4,
    "workers": 2,
    "devices": 5,
    "card": 5,
    "pooling": 5,
    "heads": 4,
    "towers": 5,
    "encoding": 5,
    "fingerprint": 5,
    "saving": 6,
    "scores": 4,
    "model": 7,
    "about": 8,
}
_SEARCH_FLOORS = {
    "errors": 0,
    "_version": 0,
    "filters": 1,
    "index": 1,
    "disk": 1,
    "documents": 1,
    "locks": 1,
    "cache": 2,
    "database": 2,
    "schema": 3,
    "records": 4,
    "store": 5,
    "audit": 6,
    "canaries": 6,
    "ingest": 6,
    "view": 6,
    "transfer": 7,
    "finder": 7,
    "search": 8,
}
_ON_TOP = {"__init__", "cli", "demo", "pretrained"}
_DOORS = {
    "faiss": {"simpair/index.py"},
    "sqlite3": {"simpair/database.py"},
    "safetensors": {"simpair/weights.py", "training/recipes/student.py"},
    "huggingface_hub": {"simpair/hub.py"},
    "sentence_transformers": {"simpair/towers/chain.py"},
    "peft": {"training/adapters.py"},
    "pickle": set(),
    "cPickle": set(),
    "dill": set(),
    "cloudpickle": set(),
    "joblib": set(),
    "shelve": set(),
    "marshal": set(),
}
"""The only files of both packages that may import a library."""
_LAZY_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "misc"}


class _Import(NamedTuple):
    """One imported module, as an absolute name where it is one of ours.

    ``lazy``: inside a function, or for type checkers only.
    """

    name: str
    lazy: bool
    relative: bool
    line: int


def _sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((_ROOT / folder).rglob("*.py"))]
    return [path for path in found if "__pycache__" not in path.parts]


def _module(path: Path) -> str:
    """``simpair/towers/packed.py`` → ``simpair.towers.packed``; ``training/`` lies in ``simpair.training``."""
    parts = list(path.relative_to(_ROOT).with_suffix("").parts)
    return ".".join(["simpair", *parts] if parts[0] == "training" else parts)


def _imports(source: str, module: str) -> Iterator[_Import]:
    """Every import of a module; ``from simpair import hub`` counts as an import of ``simpair.hub``."""
    package = module.split(".")[:-1]

    def walk(node: ast.AST, *, lazy: bool) -> Iterator[_Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _Import(alias.name, lazy, relative=False, line=node.lineno)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*start, *([node.module] if node.module else [])])
            whole = name in ("simpair", "simpair.towers", "simpair.cli") or not node.module
            for target in [f"{name}.{alias.name}" for alias in node.names] if whole else [name]:
                yield _Import(target, lazy, relative=node.level > 0, line=node.lineno)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy=inside or typing_only)

    yield from walk(ast.parse(source), lazy=False)


def _room(module: str) -> str:
    """The second part of a name: the room of ``simpair`` that a module belongs to."""
    return [*module.split("."), "__init__"][1]


def _violations(source: str, module: str) -> list[str]:
    """What a file of either package imports against the floors."""
    return [
        f"{module}:{found.line} imports {found.name}"
        for found in _imports(source, module)
        if not _allowed(module, found)
    ]


def _allowed(module: str, found: _Import) -> bool:
    room, target = _room(module), _room(found.name)
    if found.name.split(".")[0] != "simpair":
        return True
    if room == "training":
        return found.relative == (target == "training") and target not in _ON_TOP
    if target == "training":
        return room in ("cli", "demo") and found.lazy
    if found.relative:
        return False
    if room == "__init__":
        return found.lazy or target in ("errors", "_version")
    if room in _ON_TOP or room == target:
        return room == target or found.lazy or target in ("errors", "_version")
    if (room, target) == ("canaries", "model"):
        return found.lazy
    return any(room in floors and floors.get(target, 99) < floors[room] for floors in (_FLOORS, _SEARCH_FLOORS))


def _doors_broken(source: str, path: str) -> list[str]:
    """The libraries that a file imports and may not."""
    libraries = {found.name.split(".")[0] for found in _imports(source, "simpair.x")}
    return sorted(name for name in libraries if path not in _DOORS.get(name, {path}))


def _prints(source: str) -> list[int]:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("print", "pprint")]


_CODE = _sources("simpair", "training")


def _name(path: Path) -> str:
    return path.relative_to(_ROOT).as_posix()


def test_both_packages_are_there() -> None:
    names = {_name(path) for path in _CODE}
    assert {"simpair/model.py", "simpair/towers/packed.py", "simpair/cli/__init__.py", "training/trainer.py"} <= names


@pytest.mark.parametrize("path", _CODE, ids=_name)
def test_imports_go_down_only(path: Path) -> None:
    assert _violations(path.read_text(encoding="utf-8"), _module(path)) == []


@pytest.mark.parametrize("path", _CODE, ids=_name)
def test_a_library_enters_through_its_door(path: Path) -> None:
    assert _doors_broken(path.read_text(encoding="utf-8"), _name(path)) == []


@pytest.mark.parametrize("path", [path for path in _CODE if path.parent.name != "cli"], ids=_name)
def test_only_the_command_line_prints(path: Path) -> None:
    assert _prints(path.read_text(encoding="utf-8")) == []


def test_transformers_is_for_training_and_for_other_architectures() -> None:
    users = {_name(path) for path in _CODE if "transformers" in _libraries(path)}
    ours = {name for name in users if not name.startswith("training/")}
    assert ours <= {"simpair/towers/auto.py", "simpair/vocabulary.py"}


def _libraries(path: Path) -> set[str]:
    return {found.name.split(".")[0] for found in _imports(path.read_text(encoding="utf-8"), _module(path))}


def test_every_room_has_its_floor() -> None:
    rooms = {_room(_module(path)) for path in _sources("simpair")}
    assert rooms <= {*_FLOORS, *_SEARCH_FLOORS, *_ON_TOP}


@pytest.mark.parametrize("path", _sources("simpair", "training", "benchmarks", "tests"), ids=_name)
def test_a_file_fits_in_the_head_and_is_named_after_its_step(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert path.stem not in _LAZY_NAMES


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("simpair.errors", "import simpair.hub"),
        ("simpair.checkpoint", "from simpair.tokens import Tokens"),
        ("simpair.tokens", "from simpair import model"),
        ("simpair.tokens", "def f():\n    from simpair.model import TwinTowerEncoder"),
        ("simpair.rows", "from simpair.store import Store"),
        ("simpair.cli.inputs", "from simpair.rows import read_lines"),
        ("simpair.pooling", "from simpair.towers.packed import PackedBert"),
        ("simpair.workers", "if True:\n    from simpair.model import Dtype"),
        ("simpair.card", "from simpair.model import TwinTowerEncoder"),
        ("simpair.model", "from simpair.index import ExactIndex"),
        ("simpair.model", "from .tokens import Tokens"),
        ("simpair.index", "from simpair.store import Store"),
        ("simpair.store", "from simpair.tokens import Tokens"),
        ("simpair.canaries", "from simpair.model import TwinTowerEncoder"),
        ("simpair.search", "def f():\n    from simpair.checkpoint import read_checkpoint"),
        ("simpair.model", "def f():\n    from simpair.training.losses import info_nce"),
        ("simpair.cli.train", "from simpair.training.run import fine_tune"),
        ("simpair.demo", "import simpair.training"),
        ("simpair.demo", "from simpair.model import TwinTowerEncoder"),
        ("simpair.__init__", "from simpair.model import TwinTowerEncoder"),
        ("simpair.training.run", "from simpair.training.pairs import read_pairs"),
        ("simpair.training.run", "from simpair.cli import main"),
        ("simpair.training.recipes.mini", "from simpair.training import pairs"),
    ],
)
def test_an_import_that_points_up_or_sideways_is_found(module: str, source: str) -> None:
    assert len(_violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("simpair.canaries", "def f():\n    from simpair.model import TwinTowerEncoder"),
        ("simpair.towers.packed", "from simpair.towers.products import Site"),
        ("simpair.demo", "def f():\n    import simpair.training.run"),
        ("simpair.cli.train", "if TYPE_CHECKING:\n    from simpair.training.run import fine_tune"),
        ("simpair.training.run", "from simpair.model import TwinTowerEncoder\nfrom .pairs import read_pairs"),
        ("simpair.training.recipes.mini", "from ..trainer import TwinTowerTrainer\nfrom .student import build"),
        ("simpair.model", "import torch\nfrom simpair import hub"),
    ],
)
def test_an_import_that_points_down_is_fine(module: str, source: str) -> None:
    assert _violations(source, module) == []


def test_broken_doors_and_prints_are_found() -> None:
    assert _doors_broken("def f():\n    import faiss.contrib", "simpair/search.py") == ["faiss"]
    assert _doors_broken("from pickle import loads\nimport sqlite3", "simpair/database.py") == ["pickle"]
    assert _doors_broken("import faiss", "simpair/index.py") == []
    assert _prints("x = 'print(1)'\ndef f():\n    print(x)") == [3]
