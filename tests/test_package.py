"""The package as a whole: its public names, and what importing it does not do."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import simpair

_WITHOUT_NAMES = {"simpair.training.recipes.mini"}
"""What is run and not imported."""


def _module_names() -> list[str]:
    """Every module of the package; running the command line is left to its own tests."""
    packages = [simpair, importlib.import_module("simpair.training")]
    found = {
        name
        for package in packages
        for _, name, _ in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not name.endswith("__main__")
    }
    return sorted({"simpair", "simpair.training", *found})


@pytest.fixture(params=_module_names())
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def _run(code: str, *arguments: str) -> str:
    """The output of a fresh interpreter, in which a warning is an error."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_is_there_once_and_in_order(module: ModuleType) -> None:
    if not hasattr(module, "__all__"):
        assert module.__name__ in _WITHOUT_NAMES or hasattr(module, "__path__")
        return
    order = {name: (not name.isupper(), name[0].islower(), name) for name in module.__all__}
    assert list(module.__all__) == sorted(order, key=order.__getitem__)  # constants, classes, functions
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_every_public_class_and_function_is_listed(module: ModuleType) -> None:
    if module.__name__ in _WITHOUT_NAMES or not hasattr(module, "__all__"):
        return
    for name, value in vars(module).items():
        home = getattr(value, "__module__", None)
        if home == module.__name__ and isinstance(value, type) and not name.startswith("_"):
            assert name in module.__all__, f"{module.__name__}.{name} is public and not in __all__"


def test_every_module_says_what_it_does_in_its_first_line(module: ModuleType) -> None:
    assert module.__doc__
    assert module.__doc__[0] != "\n"


def test_the_public_names_are_these() -> None:
    errors = importlib.import_module("simpair.errors")
    caught = {*errors.__all__}
    classes = {"Document", "Encoder", "Hit", "IndexInfo", "SearchIndex", "TwinTowerEncoder"}
    assert simpair.__all__ == sorted({*caught, *classes, "__version__"})
    assert dir(simpair) == simpair.__all__
    assert simpair.TwinTowerEncoder is importlib.import_module("simpair.encoder.model").TwinTowerEncoder
    assert simpair.Encoder is importlib.import_module("simpair.encoder.protocol").Encoder
    assert simpair.SearchIndex is importlib.import_module("simpair.search.index").SearchIndex
    assert simpair.Hit is importlib.import_module("simpair.search.index").Hit
    assert simpair.IndexInfo is importlib.import_module("simpair.search.index").IndexInfo
    assert simpair.Document is importlib.import_module("simpair.store.documents").Document
    assert all(getattr(simpair, name) is getattr(errors, name) for name in caught)
    with pytest.raises(AttributeError, match="module 'simpair' has no attribute 'Tower'"):
        _ = simpair.Tower  # type: ignore[attr-defined]


def test_the_version_is_one_of_pypi() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?(\.dev\d+)?", simpair.__version__)


def test_importing_simpair_imports_nothing_heavy() -> None:
    heavy = (
        "{'torch', 'numpy', 'transformers', 'sentence_transformers', 'tokenizers', 'faiss', 'huggingface_hub', 'tqdm'}"
    )
    assert _run(f"import sys, simpair; print(sorted({heavy} & set(sys.modules)))") == "[]\n"


def test_encoding_imports_no_transformers(tiny_model: Path) -> None:
    code = """
import sys
from simpair import TwinTowerEncoder
encoder = TwinTowerEncoder.from_pretrained(sys.argv[1], device="cpu")
assert encoder.encode(["a cat", "a dog"]).shape == (2, 32)
heavy = {"transformers", "sentence_transformers", "datasets", "sklearn", "scipy", "pandas", "faiss", "requests"}
print(sorted(heavy & set(sys.modules)))
"""
    assert _run(code, str(tiny_model)) == "[]\n"


def test_importing_changes_nothing_around_it() -> None:
    code = """
import importlib, logging, os, random, sys, warnings
import torch, tqdm, faiss

def around():
    told = os.environ.copy(), list(warnings.filters), list(logging.root.handlers), logging.root.level
    drawn = random.getstate(), torch.get_rng_state().tolist()
    return told, drawn, torch.get_num_threads(), torch.cuda.is_initialized()

before = around()
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert around() == before, name
assert not logging.getLogger("simpair").handlers
"""
    assert (
        _run(code, "simpair.encoder.model", "simpair.search.index", "simpair.cli", "simpair.training.data.pairs") == ""
    )
