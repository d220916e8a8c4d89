"""Packages import downwards and take each other's public names; a foreign library enters through one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

_ROOT = Path(__file__).parents[1]
_BELOW = {
    "errors": set[str](),
    "files": {"errors"},
    "checkpoint": {"errors", "files"},
    "vectors": {"errors", "files"},
    "encoder": {"errors", "files", "checkpoint", "vectors"},
    "store": {"errors", "files", "vectors"},
    "search": {"errors", "files", "vectors", "store"},
    "training": {"errors", "files", "checkpoint", "vectors", "encoder"},
    "integrations": {"errors", "files", "checkpoint", "vectors", "encoder", "store", "search", "training"},
    "cli": {"errors", "files", "checkpoint", "vectors", "encoder", "store", "search", "training"},
    "pretrained": set[str](),
}
"""The packages that each package may import."""
_LAZY = {("search", "encoder"): "simpair/search/compatibility.py"}
"""The one function that loads the encoder which an index records."""
_PROTOCOL = "simpair.encoder.protocol"
"""What an encoder is, without any encoder: the one file of its package that search may import."""
_LIGHT = {"errors", "cli"}
"""What the command line may import before a command runs."""
_DOORS = {
    "faiss": {"simpair/vectors/exact.py"},
    "sqlite3": {"simpair/store/database.py"},
    "safetensors": {"simpair/checkpoint/weights.py", "training/recipes/student.py"},
    "huggingface_hub": {"simpair/checkpoint/hub.py"},
    "sentence_transformers": {"simpair/integrations/sentence_transformers.py"},
    "peft": {"training/trainer/adapters.py"},
    **{name: set[str]() for name in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")},
}
"""The only files of both trees that may import a library."""
_VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "misc"}


class _Import(NamedTuple):
    """One imported name, or a whole module where ``name`` is empty; both absolute.

    ``lazy``: inside a function, or for type checkers only.
    """

    module: str
    name: str
    lazy: bool
    relative: bool
    line: int

    def __str__(self) -> str:
        return f"{self.line}: {self.module} {self.name}".rstrip()


def _sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((_ROOT / folder).rglob("*.py"))]
    return [path for path in found if "__pycache__" not in path.parts]


def _name(path: Path) -> str:
    return path.relative_to(_ROOT).as_posix()


def _module(path: Path) -> str:
    """Return ``simpair.encoder.model`` for its file; ``training/`` installs as ``simpair.training``."""
    parts = [part for part in path.relative_to(_ROOT).with_suffix("").parts if part != "__init__"]
    return ".".join(["simpair", *parts] if parts[0] == "training" else parts)


_CODE = _sources("simpair", "training")
_MODULES = {_module(path): path for path in _CODE}


def _imports(source: str, module: str) -> Iterator[_Import]:
    """Yield every import of a module; ``from simpair.checkpoint import hub`` imports the module ``hub``."""
    package = module.split(".") if _MODULES.get(module, Path()).name == "__init__.py" else module.split(".")[:-1]

    def walk(node: ast.AST, *, lazy: bool) -> Iterator[_Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _Import(alias.name, "", lazy, relative=False, line=node.lineno)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{origin}.{alias.name}" in _MODULES
                target = (f"{origin}.{alias.name}", "") if whole else (origin, alias.name)
                yield _Import(*target, lazy, relative=node.level > 0, line=node.lineno)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy=inside or typing_only)

    yield from walk(ast.parse(source), lazy=False)


def _package(module: str) -> str:
    """Return the package of a module: the second part of its name, empty for ``simpair`` itself."""
    return [*module.split("."), ""][1]


def _folder(module: str) -> str:
    """Return the package in whose folder a module lies, such as ``simpair.training.data``."""
    is_package = _MODULES.get(module, Path()).name == "__init__.py"
    return module if is_package else module.rpartition(".")[0]


def _violations(source: str, module: str) -> list[str]:
    """Return the imports of a file that point up, sideways or past the style of their tree."""
    return [str(found) for found in _imports(source, module) if not _allowed(module, found)]


def _allowed(module: str, found: _Import) -> bool:
    package, target = _package(module), _package(found.module)
    if found.module.split(".")[0] != "simpair" or not target:
        return True
    if found.relative != (package == target == "training"):  # relative inside training, absolute elsewhere
        return False
    if package == "cli" and target not in _LIGHT:
        return found.lazy
    if not package:
        return found.lazy or target == "errors"
    path = _name(_MODULES[module]) if module in _MODULES else ""
    below = package == target or target in _BELOW[package]
    return below or found.module == _PROTOCOL or (found.lazy and _LAZY.get((package, target)) == path)


def _private_names(source: str, module: str) -> list[str]:
    """Return the names that a file takes from another package and that are not in that module's ``__all__``."""
    ours = [found for found in _imports(source, module) if found.module in _MODULES]
    foreign = [found for found in ours if _package(found.module) and _folder(found.module) != _folder(module)]
    wrong = [str(found) for found in foreign if found.name not in ("", "*", *_public(found.module))]
    whole = {found.module.rsplit(".", 1)[-1]: found.module for found in foreign if not found.name}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in whole:
            home = whole[node.value.id]
            wrong += [] if node.attr in ("__all__", *_public(home)) else [f"{node.lineno}: {home} {node.attr}"]
    return wrong


def _public(module: str) -> list[str]:
    for node in ast.parse(_MODULES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def _doors_broken(source: str, path: str) -> list[str]:
    """Return the libraries that a file imports and may not."""
    libraries = {found.module.split(".")[0] for found in _imports(source, "simpair.x")}
    return sorted(name for name in libraries if path not in _DOORS.get(name, {path}))


def _prints(source: str) -> list[int]:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("print", "pprint")]


def test_both_trees_are_there() -> None:
    assert {"simpair.encoder.model", "simpair.encoder.towers.bert", "simpair.cli", "simpair.training"} <= set(_MODULES)


@pytest.mark.parametrize("path", _CODE, ids=_name)
def test_imports_point_down(path: Path) -> None:
    assert _violations(path.read_text(encoding="utf-8"), _module(path)) == []


@pytest.mark.parametrize("path", _CODE, ids=_name)
def test_packages_use_public_names_of_each_other(path: Path) -> None:
    assert _private_names(path.read_text(encoding="utf-8"), _module(path)) == []


def test_no_imports_go_in_a_circle() -> None:
    graph = {
        module: {found.module for found in _imports(path.read_text(encoding="utf-8"), module) if not found.lazy}
        for module, path in _MODULES.items()
        if path.name != "__init__.py"
    }
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("path", _CODE, ids=_name)
def test_a_library_enters_through_its_door(path: Path) -> None:
    assert _doors_broken(path.read_text(encoding="utf-8"), _name(path)) == []


@pytest.mark.parametrize("path", [path for path in _CODE if path.parent.name != "cli"], ids=_name)
def test_only_the_command_line_prints(path: Path) -> None:
    assert _prints(path.read_text(encoding="utf-8")) == []


def test_transformers_is_for_training_and_for_other_architectures() -> None:
    users = {
        _name(path)
        for path in _CODE
        for found in _imports(path.read_text(encoding="utf-8"), _module(path))
        if found.module.split(".")[0] == "transformers"
    }
    ours = {name for name in users if not name.startswith("training/")}
    assert ours <= {"simpair/encoder/towers/auto.py", "simpair/checkpoint/tokenizer.py"}


def test_every_package_has_its_floor() -> None:
    entries = {path.name for path in (_ROOT / "simpair").iterdir()} - {"__init__.py", "__pycache__", "py.typed"}
    assert {entry.removesuffix(".py") for entry in entries} | {"training"} == set(_BELOW)
    assert len(entries) + 1 <= 12  # with py.typed


@pytest.mark.parametrize("path", _sources("simpair", "training", "benchmarks", "tests"), ids=_name)
def test_a_file_is_short_and_named_after_its_step(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert path.stem not in _VAGUE_NAMES


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("simpair.errors", "import simpair.checkpoint.hub"),
        ("simpair.files.disk", "from simpair.checkpoint.read import read_checkpoint"),
        ("simpair.checkpoint.read", "from simpair.encoder.tokens import Tokens"),
        ("simpair.checkpoint.read", "def f():\n    from simpair.encoder.model import TwinTowerEncoder"),
        ("simpair.vectors.exact", "from simpair.checkpoint.read import read_checkpoint"),
        ("simpair.encoder.model", "from simpair.store.store import Store"),
        ("simpair.encoder.model", "from .tokens import Tokens"),
        ("simpair.search.index", "def f():\n    from simpair.integrations.sentence_transformers import wrap"),
        ("simpair.cli.index", "from simpair.integrations.sentence_transformers import wrap"),
        ("simpair.encoder.model", "def f():\n    from simpair.training.losses import info_nce"),
        ("simpair.store.store", "from simpair.encoder.tokens import Tokens"),
        ("simpair.search.index", "def f():\n    from simpair.encoder.model import TwinTowerEncoder"),
        ("simpair.search.compatibility", "from simpair.encoder.model import TwinTowerEncoder"),
        ("simpair.cli.train", "from simpair.training.fine_tuning import fine_tune"),
        ("simpair.cli.inputs", "from simpair.files.tables import read_lines"),
        ("simpair", "from simpair.encoder.model import TwinTowerEncoder"),
        ("simpair.training.fine_tuning", "from simpair.training.data.pairs import read_pairs"),
        ("simpair.training.fine_tuning", "from simpair.search.index import SearchIndex"),
        ("simpair.training.fine_tuning", "def f():\n    from simpair.cli import main"),
    ],
)
def test_an_import_that_points_up_or_sideways_is_found(module: str, source: str) -> None:
    assert len(_violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("simpair.search.index", "from simpair.encoder.protocol import Encoder"),
        ("simpair.search.compatibility", "def f():\n    from simpair.encoder.model import TwinTowerEncoder"),
        ("simpair.encoder.towers.bert", "from simpair.encoder.towers.linear import Site"),
        ("simpair.cli.tour", "def f():\n    import simpair.training.fine_tuning"),
        ("simpair.cli.train", "if TYPE_CHECKING:\n    from simpair.training.fine_tuning import fine_tune"),
        ("simpair.training.fine_tuning", "from simpair.encoder.model import TwinTowerEncoder"),
        ("simpair.training.fine_tuning", "from .data.pairs import read_pairs"),
        ("simpair.training.recipes.mini", "from ..trainer.trainer import TwinTowerTrainer\nfrom .student import build"),
        ("simpair.encoder.model", "import torch\nfrom simpair.checkpoint import hub"),
    ],
)
def test_an_import_that_points_down_is_fine(module: str, source: str) -> None:
    assert _violations(source, module) == []


def test_a_private_name_of_another_package_is_found() -> None:
    assert _private_names("from simpair.checkpoint.hub import _cached", "simpair.encoder.model") != []
    assert _private_names("from simpair.checkpoint import hub\nhub._cached()", "simpair.encoder.model") != []
    assert _private_names("from simpair.checkpoint import hub\nhub.resolve()", "simpair.encoder.model") == []
    assert _private_names("from simpair.checkpoint.hub import _cached", "simpair.checkpoint.read") == []
    assert _private_names("from ..data.sources import _kind", "simpair.training.trainer.run_file") != []


def test_broken_doors_and_prints_are_found() -> None:
    assert _doors_broken("def f():\n    import faiss.contrib", "simpair/search/index.py") == ["faiss"]
    assert _doors_broken("from pickle import loads\nimport sqlite3", "simpair/store/database.py") == ["pickle"]
    assert _doors_broken("import faiss", "simpair/vectors/exact.py") == []
    assert _prints("x = 'print(1)'\ndef f():\n    print(x)") == [3]
