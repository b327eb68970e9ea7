"""Write toolkit/config/trl_fields.json for the installed TRL: `python -m tools.trl_snapshot`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toolkit.config import trl_checks
from toolkit.config.trl_fields import describe


def write_snapshot() -> None:
    """Store the description of the installed TRL beside those of other versions."""
    new = describe()
    others = [snapshot for snapshot in trl_checks.read_snapshots() if not trl_checks.matches(snapshot, new)]
    trl_checks.SNAPSHOT.write_text(
        "[\n" + ",\n".join(_compact(snapshot) for snapshot in [new, *others]) + "\n]\n"
    )


def _compact(described: Mapping[str, Any]) -> str:
    """Format one line per key; keys shared by the three classes occur once."""
    stages = described["stages"]
    common = {
        key: value
        for key, value in stages["sft"].items()
        if all(fields.get(key) == value for fields in stages.values())
    }
    own = {
        stage: {key: value for key, value in one.items() if key not in common}
        for stage, one in stages.items()
    }

    def block(entries: Mapping[str, Any], indent: str) -> str:
        lines = (f"{indent}  {json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"

    body = ",\n".join(f'    "{stage}": {block(one, "    ")}' for stage, one in own.items())
    return (
        f'{{\n  "trl": "{described["trl"]}",\n  "transformers": "{described["transformers"]}",\n'
        f'  "schedulers": {json.dumps(described["schedulers"])},\n'
        f'  "common": {block(common, "  ")},\n  "stages": {{\n{body}\n  }}\n}}'
    )


if __name__ == "__main__":
    write_snapshot()
