"""Import rules between packages, checked on the source of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.cli import main

PACKAGE = Path(__file__).parent.parent / "toolkit"
PACKAGES = (
    "base", "config", "stats", "storyworld", "runtime", "runs", "data", "models", "inference", "stages",
    "pretrain", "ppo", "evaluate", "preferences", "execution", "proofs", "planning", "report", "publish",
    "playground", "api", "cli",
)  # fmt: skip
"""From the bottom to the top: a module imports only from its own package and from those before it."""


def modules_of(package: Path) -> dict[str, Path]:
    """Return {dotted name: file} of every module in a package folder."""
    paths = [path for path in sorted(package.rglob("*.py")) if "_recipes" not in path.parts]
    names = (".".join(path.relative_to(package.parent).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


def imports_of(module: Path, modules: dict[str, Path]) -> set[str]:
    """Return the modules that a file imports, including imports in functions and under TYPE_CHECKING."""
    imported = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= {name if name in modules else str(node.module) for name in names}
    return imported & modules.keys()


def import_graph(package: Path) -> dict[str, set[str]]:
    modules = modules_of(package)
    return {name: imports_of(path, modules) - {name} for name, path in modules.items()}


def circular(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules that are part of an import cycle or between two cycles."""
    graph = dict(graph)
    while leaves := {module for module, imported in graph.items() if not imported & graph.keys()}:
        graph = {module: imported for module, imported in graph.items() if module not in leaves}
    while tops := graph.keys() - set().union(*graph.values()):
        graph = {module: imported for module, imported in graph.items() if module not in tops}
    return sorted(graph)


MODULES = modules_of(PACKAGE)
GRAPH = import_graph(PACKAGE)


def test_every_module_belongs_to_an_ordered_package():
    assert {name.split(".")[1] for name in MODULES if name.count(".")} == {*PACKAGES, "__main__"}
    assert sorted(path.name for path in PACKAGE.glob("*.py")) == ["__init__.py", "__main__.py"]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_from_lower_packages(package):
    allowed = {*PACKAGES[: PACKAGES.index(package) + 1]}
    upward = [
        f"{module} imports {imported}"
        for module, all_imported in GRAPH.items()
        if module.startswith(f"toolkit.{package}.") or module == f"toolkit.{package}"
        for imported in all_imported
        if imported.count(".") and imported.split(".")[1] not in allowed
    ]
    assert not upward


def test_no_package_imports_the_root():
    """`toolkit/__init__.py` is above all packages; `from toolkit import runs` does not import it."""
    assert [module for module, imported in GRAPH.items() if "toolkit" in imported] == []
    assert {name.split(".")[1] for name in GRAPH["toolkit"]} <= {*PACKAGES}


def test_there_are_no_import_cycles():
    assert circular(GRAPH) == []


@pytest.mark.parametrize(
    "late",
    [
        "def f():\n    from world.a import x\n",
        "if TYPE_CHECKING:\n    from world.a import x\n",
        "import world.a\n",
        "from world import a\n",
    ],
)
def test_import_cycle_is_detected_for_any_import_location(tmp_path, late):
    world = tmp_path / "world"
    world.mkdir()
    (world / "__init__.py").write_text("")
    (world / "a.py").write_text("from world.b import y\n")
    (world / "b.py").write_text("y = 1\n")
    assert circular(import_graph(world)) == []
    (world / "b.py").write_text(late)
    assert circular(import_graph(world)) == ["world.a", "world.b"]


def test_module_names_are_specific_and_not_in_the_standard_library():
    verbs = {f"toolkit.cli.{verb}" for verb in main.VERBS}  # their modules have their names, `inspect` too
    names = {part for module in MODULES if module not in verbs for part in module.split(".")}
    assert not names & ({*sys.stdlib_module_names, "utils", "common", "helpers", "manager"} - {"__main__"})


def classes_of_one_name(modules: dict[str, Path]) -> dict[str, list[str]]:
    """Return {class: modules} of the public top-level classes that several modules define."""
    owners: dict[str, list[str]] = {}
    for module, path in modules.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                owners.setdefault(node.name, []).append(module)
    return {name: defining for name, defining in owners.items() if len(defining) > 1}


def test_class_names_are_unique():
    assert classes_of_one_name(MODULES) == {}


def test_duplicate_class_names_are_detected(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text("class Batch:\n    class Row: ...\n\n\nclass _Private: ...\n")
    modules = {name: tmp_path / f"{name}.py" for name in ("a", "b")}
    assert classes_of_one_name(modules) == {"Batch": ["a", "b"]}


def imported_by(module: str, *heavy: str) -> str:
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout


@pytest.mark.parametrize("module", ["toolkit.stages.tokenizer", "toolkit.stages.corpus"])
def test_text_stages_do_not_import_torch(module):
    assert imported_by(module, "torch", "datasets") == "[]\n"


@pytest.mark.parametrize(
    "module",
    [
        "toolkit",
        "toolkit.cli.main",
        "toolkit.execution.check",
        "toolkit.config.loader",
        "toolkit.config.registry",
    ],
)
def test_reading_recipes_imports_no_large_library(module):
    assert imported_by(module, "torch", "transformers", "datasets", "trl", "numpy") == "[]\n"
