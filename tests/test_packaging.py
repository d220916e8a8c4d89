"""A copy of the tree → wheel and sdist → an installed simpair, used from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import simpair.training

ROOT = Path(__file__).parents[1]
PACKAGES = {"simpair": "simpair", "training": "simpair/training"}  # folder in the tree, folder in the wheel
ALSO_BUILT_FROM = ["pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"]


class Built(NamedTuple):
    wheel: Path
    sdist: Path


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a command that must succeed without a word of deprecation, run away from the tree."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=inherited | environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Deprecat" not in process.stdout + process.stderr
    return process.stdout


def build(kind: str, source: Path, out: Path) -> Path:
    """The one file that ``python -m build`` makes, without the network."""
    run("-m", "build", "--no-isolation", f"--{kind}", "--outdir", out, source, cwd=source.parent)
    (made,) = out.iterdir()
    return made


def expected_files() -> set[str]:
    """Every file of both packages, under its name in the wheel."""
    return {
        (inside / path.relative_to(ROOT / folder)).as_posix()
        for folder, inside in ((folder, Path(name)) for folder, name in PACKAGES.items())
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


def pins(name: str) -> dict[str, Version]:
    """Version by package of a constraints file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(package): Version(version) for package, version in pairs}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Wheel and sdist of a copy that also has what must stay out of them."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in PACKAGES:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for package in [tree / folder, *(path.parent for path in (tree / folder).rglob("__init__.py"))]:
            (package / "__pycache__").mkdir(exist_ok=True)
            (package / "__pycache__" / "__init__.cpython-311.pyc").write_bytes(b"stale")
    for name in ALSO_BUILT_FROM:
        shutil.copy(ROOT / name, tree)
    for name in ("tests", "benchmarks"):
        (tree / name).mkdir()
        (tree / name / "__init__.py").touch()
        (tree / name / "test_nothing.py").touch()
    built = [build(kind, tree, tmp_path_factory.mktemp(kind)) for kind in ("wheel", "sdist")]
    return Built(*built)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed into a folder of its own that goes before this environment's packages."""
    site = tmp_path_factory.mktemp("site")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, built.wheel, cwd=site)
    return site


def test_the_checkout_is_what_runs() -> None:
    assert Path(simpair.__file__) == ROOT / "simpair" / "__init__.py"
    assert Path(simpair.training.__file__) == ROOT / "training" / "__init__.py"


def test_the_lowest_versions_are_the_ones_that_make_floor_installs() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = pyproject["project"]["dependencies"] + pyproject["build-system"]["requires"]
    lowest, exact = pins("constraints-floor.txt"), pins("constraints.txt")
    for requirement in map(Requirement, declared):
        bounds = {part.operator: Version(part.version) for part in requirement.specifier}
        name = canonicalize_name(requirement.name)
        assert lowest[name] == bounds[">="], name
        assert exact[name] in requirement.specifier, name


@pytest.mark.slow
def test_the_wheel_has_every_file_of_both_packages_and_no_other(built: Built) -> None:
    files = wheel_files(built.wheel)
    assert {name.split("/")[0] for name in files} == {"simpair", f"simpair-{simpair.__version__}.dist-info"}
    assert {name for name in files if name.startswith("simpair/")} == expected_files()
    assert {"simpair/py.typed", "simpair/training/losses.py", "simpair/training/recipes/mini.py"} <= files


@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (tree,) = (tmp_path / "unpacked").iterdir()
    assert not (tree / "tests").exists()
    assert not (tree / "benchmarks").exists()
    again = build("wheel", tree, tmp_path / "again")
    assert again.name == built.wheel.name
    with zipfile.ZipFile(again) as second, zipfile.ZipFile(built.wheel) as first:
        assert sorted(second.namelist()) == sorted(first.namelist())
        assert all(second.read(name) == first.read(name) for name in first.namelist() if not name.endswith("RECORD"))


@pytest.mark.slow
def test_the_metadata_names_the_license_of_the_code_and_of_the_bundled_data(built: Built) -> None:
    notices = [path for path in (ROOT / "simpair" / "pretrained").rglob("NOTICE*") if path.is_file()]
    expected = {"LICENSE", *(path.relative_to(ROOT).as_posix() for path in notices)}
    assert set(metadata(built.wheel).get_all("License-File", [])) == expected
    assert metadata(built.wheel)["License-Expression"] == "Apache-2.0 AND LicenseRef-simpair-mini-data-terms"


@pytest.mark.slow
def test_the_installed_wheel_works_offline_from_another_folder(
    installed: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """The bundled model answers; a small one learns ten pairs and opens in plain sentence-transformers."""
    script = """
        import sys
        from pathlib import Path

        import numpy as np

        import simpair
        import simpair.training

        model, site = map(Path, sys.argv[1:])
        for module in (simpair, simpair.training):
            assert Path(module.__file__).is_relative_to(site), module.__file__
        bundled = simpair.TwinTowerEncoder.from_pretrained(device="cpu")
        scores = bundled.similarity(bundled.encode("A cat sleeps."), bundled.encode(["一只猫在睡觉。", "Stocks fell."]))
        assert scores[0, 0] > scores[0, 1], scores

        encoder = simpair.TwinTowerEncoder.from_pretrained(model, device="cpu")
        before = encoder.encode(["a cat", "猫"])
        pairs = [simpair.training.ScoredPair(f"a cat {n}", f"{n * n} dogs", n / 9) for n in range(10)]
        simpair.training.fine_tune(encoder, pairs, epochs=2, output_dir="out")
        after = encoder.encode(["a cat", "猫"])
        assert (after != before).any()

        from sentence_transformers import SentenceTransformer

        np.testing.assert_allclose(SentenceTransformer("out", device="cpu").encode(["a cat", "猫"]), after, atol=2e-6)
    """
    offline = {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
    run("-c", textwrap.dedent(script), tiny_model, installed, cwd=tmp_path, **offline)


@pytest.mark.slow
def test_the_installed_command_starts(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "bin" / "simpair", "--version", cwd=tmp_path, PYTHONPATH=str(installed))
    assert simpair.__version__ in said
