"""The scripts of the page as one script, for a file without a server.

Each module becomes a block with its own names; its exports go into one table. Only the forms that the page
uses are known: `import { a, b as c } from "./x.js";` and `export` before a function, class or const.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

IMPORT = re.compile(r'^import \{([^}]*)\} from "([^"]+)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export ((?:async )?function\*?|class|const) (\w+)", re.MULTILINE)
REPLACED = {"/js/api.js": "/js/recorded.js"}
"""Modules of the page that ask the server, and what takes their place."""


def bundled(contents: Mapping[str, str], entry: str) -> str:
    """Return a module and all that it imports as one script.

    Args:
        contents: {path: source} of every module.

    Raises:
        ValueError: a form of import or export that is not known here.
    """
    blocks: dict[str, str] = {}
    _add(contents, entry, blocks, ())
    return "const modules = {};\n" + "\n".join(blocks.values())


def _add(contents: Mapping[str, str], path: str, blocks: dict[str, str], above: tuple[str, ...]) -> None:
    if path in above:
        raise ValueError(f"{path} imports itself by way of {', '.join(above)}")
    if path in blocks:
        return
    source = contents[path]

    def constant(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[2]))
        target = REPLACED.get(target, target)
        _add(contents, target, blocks, (*above, path))
        names = re.sub(r"(\w+) as (\w+)", r"\1: \2", match[1].strip())
        return f'const {{ {names} }} = modules["{target}"];\n'

    body = IMPORT.sub(constant, source)
    exported = [match[2] for match in EXPORT.finditer(body)]
    body = EXPORT.sub(r"\1 \2", body)
    unknown = re.search(r"^(import|export)\b.*", body, re.MULTILINE)
    if unknown is not None:
        raise ValueError(f"{path}: {unknown[0]}")
    blocks[path] = f'{{\n{body}\nmodules["{path}"] = {{ {", ".join(exported)} }};\n}}'
