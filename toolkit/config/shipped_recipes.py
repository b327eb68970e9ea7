"""Recipes inside the installed package: `recipes/tiny` works in any folder."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from toolkit.base.errors import UsageError
from toolkit.config.messages import suggestion

FOLDER = "recipes"


def root() -> Path | None:
    """The folder of the shipped recipes: in an installed package, or beside it in a checkout."""
    package = Path(str(resources.files("toolkit")))
    places = (package / "_recipes", package.parent / FOLDER)
    return next((place for place in places if place.is_dir()), None)


def locate(text: str) -> Path:
    """The recipe file or folder that was named; where it is not here, the shipped one of that name.

    Raises:
        UsageError: it is neither here nor shipped.
    """
    path = Path(text)
    if path.exists():
        return path
    shipped = root()
    if shipped is not None and path.parts[:1] == (FOLDER,):
        found = shipped.joinpath(*path.parts[1:])
        if found.exists():
            if found.resolve() != path.absolute():
                print(f"{text} is not here; the package's own is used: {found}", file=sys.stderr)
            return found
    raise UsageError(f"there is no such recipe or folder{_close(path, shipped)}", where=text)


def _close(path: Path, shipped: Path | None) -> str:
    names: list[str] = []
    if path.parent.is_dir():
        names += [str(path.parent / one.name) for one in path.parent.iterdir()]
    if shipped is not None:
        files = [one for pattern in ("*", "*/*.yaml") for one in shipped.glob(pattern)]
        names += [f"{FOLDER}/{one.relative_to(shipped).as_posix()}" for one in files]
    return suggestion(str(path), sorted(set(names)))
