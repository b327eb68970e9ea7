"""Who may import whom, and the size of files and functions: read from the source, nothing is run."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "toolkit"
MODULES = {
    ".".join(("toolkit", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py")) if "_recipes" not in path.parts
}  # fmt: skip
STAGES = {"tokenizer", "corpus", "pretrain", "sft", "reward", "dpo", "ppo", "evaluate"}
FLOORS = {
    0: {"recipe", "stages"}, 1: {"runs"}, 2: {"data", "models", "stats"},
    3: {"fit", "scoring", "byte_blocks", "sampling", "reward_quality", "reward_table"},
    4: STAGES | {"see", "report", "publish", "plan"}, 5: {"execute", "check", "reproduce"},
    6: {"verbs", "harness", "proofs", "cli", "__main__"},
}  # fmt: skip
LAZY = {"toolkit.config.trl_checks", "toolkit.cli.OLD_verbs", "toolkit.cli.OLD_harness", "toolkit.cli.OLD_proofs", "toolkit.execution.runner",
        "toolkit.data.text.documents", "toolkit.models.vocabulary"}  # fmt: skip
"""They import inside of functions: what is heavy, and only when it is needed."""


def floor(module):
    part = (module.split(".") + [""])[1]
    return next((number for number, names in FLOORS.items() if part in names), None)


def imports(module):
    """(imported module, is it inside of a function) for what a module imports from this package."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    inside, for_types = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inside |= {id(one) for one in ast.walk(node)}
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for_types |= {id(one) for one in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in whole]
        else:
            continue
        yield from ((name, id(node) in inside) for name in names)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_lower_floors(module):
    own, unit = floor(module), module.split(".")[1:2]
    assert own is not None or module == "toolkit", f"give {module} a floor"
    for name, _ in imports(module):
        one_thing = name.split(".")[1:2] == unit or own in (0, 6)  # the table of stages; cli and its verbs
        if name.startswith("toolkit."):
            assert floor(name) < own or (floor(name) == own and one_thing), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_only_few_modules_import_inside_of_functions(module):
    late = [name for name, inside in imports(module) if inside and module not in LAZY]
    assert not late, f"{module} imports {late} inside of a function"


def test_there_are_no_import_cycles():
    graph = {module: {name for name, inside in imports(module) if name in MODULES and not inside} - {module}
             for module in MODULES}  # fmt: skip
    while leaves := {module for module, below in graph.items() if not below & graph.keys()}:
        graph = {module: below for module, below in graph.items() if module not in leaves}
    while tops := graph.keys() - set().union(*graph.values()):
        graph = {module: below for module, below in graph.items() if module not in tops}
    assert not graph, f"a cycle among {sorted(graph)}"


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_are_short(module):
    text = MODULES[module].read_text(encoding="utf-8")
    assert text.count("\n") < 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 60, f"{module}.{node.name} is long"


def test_no_module_has_a_name_that_shadows():
    names = {part for module in MODULES for part in module.split(".")}
    assert not names & (set(sys.stdlib_module_names) | {"utils", "common", "helpers", "manager"}) - {
        "__main__"
    }


@pytest.mark.parametrize("module", ["toolkit.stages.tokenizer", "toolkit.stages.corpus"])
def test_stages_that_read_text_start_without_torch(module):
    code = f"import sys, {module}; print([name for name in ('torch', 'datasets') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "module",
    ["toolkit.cli.main", "toolkit.execution.check", "toolkit.config.loader", "toolkit.config.registry"],
)
def test_reading_recipes_imports_nothing_heavy(module):
    heavy = ("torch", "transformers", "datasets", "trl", "numpy")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
