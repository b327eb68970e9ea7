"""The lock file, the contents of the wheel, and a run from an installed wheel."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PLATFORM_PACKAGE = re.compile(r"nvidia-|cuda-|triton$")
"""What torch requires on some platforms, in the versions that it names itself."""
SMALL = (
    "vocab_size=600",
    "train_tokens=20480",
    "data.examples=64",
    "data.held_out_examples=8",
    "trainer.episodes=64",
    "trainer.warmup_steps=4",
    "annotator={judge: gold, temperature: 0.5, biases: {length: 1e-6}}",  # no ties
)
"""Overrides with which each stage of recipes/tiny trains a few steps."""


def pins(file: str) -> list[str]:
    return (ROOT / file).read_text(encoding="utf-8").split()


def pinned(file: str) -> set[str]:
    return {canonicalize_name(pin.partition("==")[0]) for pin in pins(file)}


def required(requirements: list[str]) -> set[str]:
    """Return the names of the requirements, and of what those packages require, as installed here."""
    todo = [Requirement(text) for text in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement = todo.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen or PLATFORM_PACKAGE.match(name):
            continue
        seen.add((name, extras))
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            if any(not needed.marker or needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                todo.append(needed)
    return {name for name, _ in seen}


def test_locks_pin_releases_available_on_every_index():
    every = pins("requirements.lock") + pins("requirements-test.lock")
    assert "torch==2.13.0" in every
    # A local version such as 2.13.0+cpu exists only on PyTorch's index.
    assert [pin for pin in every if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", pin)] == []


def test_each_lock_pins_what_it_is_for_and_no_more():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    to_run = required([*project["dependencies"], *extras["playground"]])
    to_test = required([*extras["test"], *extras["tasks"]]) - to_run
    assert len(to_run) > 60 and len(to_test) > 50
    # Only some platforms and versions of Python require setuptools.
    assert pinned("requirements.lock") - {"setuptools"} == to_run - {"setuptools"}
    assert pinned("requirements-test.lock") == to_test


def test_toolkit_imports_nothing_that_only_tests_need():
    packages = metadata.packages_distributions()
    for_tests = pinned("requirements-test.lock")
    imported = {
        (file.relative_to(ROOT).as_posix(), name)
        for file in (ROOT / "toolkit").rglob("*.py")
        for name in imported_packages(file)
        if {canonicalize_name(owner) for owner in packages.get(name, [])} & for_tests
    }
    assert imported == {("toolkit/evaluate/tasks.py", "lm_eval")}


def imported_packages(file: Path) -> set[str]:
    """Return the top-level packages that a module imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this checkout offline."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    return next(folder.glob("toolkit-*.whl"))


def test_wheel_contains_exactly_the_package_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "toolkit/py.typed",
        "toolkit/config/trl_fields.json",
        "toolkit/publish/model_card.md.j2",
        "toolkit/report/page.css",
        "toolkit/report/page.html.j2",
        "toolkit/_recipes/tiny/dpo.yaml",
        "toolkit/_recipes/recipe.schema.json",
    } <= names
    tracked = subprocess.run(
        ["git", "ls-files", "toolkit", "recipes"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    expected = {re.sub("^recipes/", "toolkit/_recipes/", name) for name in tracked}
    assert {name for name in names if ".dist-info/" not in name} == expected


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in a virtual environment that shares the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    site_packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    # Python ignores .pth files in a folder that a .pth file adds, so the editable installation is not seen.
    dependencies = Path(site_packages, "dependencies.pth")
    dependencies.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet",
         "--no-deps", "--no-index", "--ignore-installed", str(wheel)],
        check=True,
    )  # fmt: skip
    return folder / "bin"


def in_folder(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(list(map(str, command)), cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_installed_wheel_runs_shipped_recipes_outside_the_checkout(installed, tmp_path):
    place = in_folder(tmp_path, installed / "python", "-c", "import toolkit; print(toolkit.__file__)")
    assert place.stdout.startswith(str(installed.parent)), place.stderr
    ran = in_folder(tmp_path, installed / "toolkit", "run", "recipes/tiny", *SMALL, "--json")
    assert ran.returncode == 0, ran.stderr
    assert f"{installed.parent}" in ran.stderr and "_recipes/tiny" in ran.stderr
    numbers = json.loads(ran.stdout)
    recipes = (ROOT / "recipes/tiny").glob("*.yaml")
    assert {recipe.stem for recipe in recipes} <= numbers["stages"].keys()
    assert (tmp_path / "runs/tiny/report.html").is_file()
    for run in ("ppo", "evaluate"):
        verified = in_folder(tmp_path, installed / "toolkit", "verify", f"runs/tiny/{run}")
        assert verified.returncode == 0, verified.stderr
