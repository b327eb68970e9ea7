"""Recipes inside the installed package: `recipes/tiny` works in any folder."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from toolkit.base.console import tell
from toolkit.base.errors import UsageError
from toolkit.config.messages import suggestion

FOLDER = "recipes"


def root() -> Path | None:
    """Return the folder of the shipped recipes: inside an installed package, or next to it in a checkout."""
    package = Path(str(resources.files("toolkit")))
    folders = (package / "_recipes", package.parent / FOLDER)
    return next((folder for folder in folders if folder.is_dir()), None)


def locate(text: str) -> Path:
    """Return the recipe file or folder; if it does not exist, the shipped one of that name.

    Raises:
        UsageError: neither exists.
    """
    path = Path(text)
    if path.exists():
        return path
    shipped = root()
    if shipped is not None and path.parts[:1] == (FOLDER,):
        recipe = shipped.joinpath(*path.parts[1:])
        if recipe.exists():
            if recipe.resolve() != path.absolute():
                tell(f"{text} does not exist; using the one in the package: {recipe}")
            return recipe
    if path.is_symlink():
        raise UsageError("is a link that leads nowhere", where=text, fix="repair the link")
    raise UsageError(f"there is no such recipe or folder{_close(path, shipped)}", where=text)


def _close(path: Path, shipped: Path | None) -> str:
    names: list[str] = []
    if path.parent.is_dir():
        names += [str(path.parent / sibling.name) for sibling in path.parent.iterdir()]
    if shipped is not None:
        recipes = [path for pattern in ("*", "*/*.yaml") for path in shipped.glob(pattern)]
        names += [f"{FOLDER}/{recipe.relative_to(shipped).as_posix()}" for recipe in recipes]
    for folder in (Path(FOLDER), shipped):
        if folder is not None and not path.is_absolute() and (folder / path).exists():
            return f"; did you mean {FOLDER}/{path}?"
    return suggestion(str(path), sorted(set(names)))
