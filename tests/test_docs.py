"""Names in the documentation exist: paths, modules, links, make targets, recipes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from toolkit.config.loader import load

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"])
FOLDERS = "toolkit|tests|benchmarks|tools|recipes|docs"
PATH = re.compile(rf"(?<![\w./-])(?:{FOLDERS})/(?!my/)[\w./-]*\w\.(?:py|md|yaml|json|svg|png|j2)\b")
DOTTED = re.compile(r"(?<![\w./-])toolkit(?:\.[A-Za-z_]\w*)+")
INSTALLS_TOOLKIT = re.compile(r"""pip install(?: -\S+)* ['"]?toolkit\b""")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def missing_paths(text: str) -> list[str]:
    return sorted({path for path in PATH.findall(text) if not (ROOT / path).exists()})


def names_of(file: Path) -> set[str]:
    """Return the names that a module defines or imports at its top level, without running it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)  # lazy packages list their names as strings
    return names


def resolves(dotted: str) -> bool:
    """Return whether a dotted name is a package, a module, or a name that its module defines."""
    place = ROOT
    for part in dotted.split("."):
        if (place / part).is_dir():
            place /= part
            continue
        if place.suffix != ".py" and (place / f"{part}.py").is_file():
            place = place / f"{part}.py"
            continue
        module = place if place.suffix == ".py" else place / "__init__.py"
        return part in names_of(module)
    return True


def unresolved(text: str) -> list[str]:
    return sorted({name for name in DOTTED.findall(text) if not resolves(name)})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_documentation_exist(page):
    text = page.read_text(encoding="utf-8")
    assert missing_paths(text) == []
    assert unresolved(text) == []
    assert [link for link in LINK.findall(text) if not (page.parent / link).exists()] == []


def test_no_text_installs_the_package_of_that_name_on_pypi():
    """`toolkit` on PyPI is another project."""
    sources = [
        *PAGES,
        ROOT / "Makefile",
        *(ROOT / "toolkit").rglob("*.py"),
        *(ROOT / ".github").rglob("*.yml"),
    ]
    assert [path for path in sources if INSTALLS_TOOLKIT.search(path.read_text(encoding="utf-8"))] == []
    wrong = ["pip install toolkit", "pip install 'toolkit[tasks]'", "pip install -U toolkit==0.1"]
    assert all(INSTALLS_TOOLKIT.search(text) for text in wrong)
    assert not INSTALLS_TOOLKIT.search("pip install -e . && toolkit run")


def test_recipes_of_the_readme_are_valid(tmp_path):
    recipes = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert recipes
    for number, text in enumerate(recipes):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        load(path)


def test_documented_recipes_exist():
    commands = re.compile(r"toolkit (?:run|check|plan) (recipes/(?!my\b)[\w./-]*\w)")
    texts = [
        *(page.read_text(encoding="utf-8") for page in PAGES),
        (ROOT / "Makefile").read_text(encoding="utf-8"),
    ]
    named = {name for text in texts for name in commands.findall(text)}
    assert len(named) > 6 and [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_wrong_names_are_detected():
    assert missing_paths("`toolkit/ppo/loss.py`, `toolkit/ppo/losses.py`") == ["toolkit/ppo/loss.py"]
    names = "toolkit.ppo.losses.nothing toolkit.ppo.losses.masked_mean toolkit.recipe toolkit.ppo.PPOTrainer"
    assert unresolved(names) == ["toolkit.ppo.losses.nothing", "toolkit.recipe"]


def test_documented_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set()
    for page in PAGES:
        code = re.findall(r"`make ([a-z-]+)|^    make ([a-z-]+)", page.read_text(encoding="utf-8"), re.M)
        named |= {first or second for first, second in code}
    assert {"demo", "test"} <= named <= targets


def test_architecture_lists_all_packages_and_pretraining_modules():
    text = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    packages = {path.parent.name for path in (ROOT / "toolkit").glob("*/__init__.py")}
    rows = text[text.index("| package |") : text.index("## The path of one run")]
    assert set(re.findall(r"^\| `(\w+)` \|", rows, re.M)) == packages
    picture = text[text.index("## Packages") : text.index("| package |")]
    assert packages <= set(re.findall(r"\w+", picture))
    section = text[text.index("## Pretraining") : text.index("## JSON output")]
    modules = {path.name for path in (ROOT / "toolkit/pretrain").glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"`(\w+\.py)`", section)) == modules


def test_changelog_module_table_names_existing_modules():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`toolkit\.[\w.]+`) \| (.+) \|$", text, re.M)
    assert len(rows) > 80
    assert {new for _, column in rows for new in unresolved(column)} == set()
