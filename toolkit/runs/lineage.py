"""What runs were made from, as their manifests say: a graph from the corpus to the last training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.runs import layout, seal


@dataclass(frozen=True)
class LineageNode:
    """A run, or something else that a run was made from.

    Attributes:
        id: the reference of a run; the name of a folder or Hub model.
        kind: `run`; `missing`, a run that is not among the known ones; `folder` or `hub`.
        stage: of a run, None of anything else.
    """

    id: str
    kind: Literal["run", "missing", "folder", "hub"]
    stage: str | None = None


@dataclass(frozen=True)
class LineageEdge:
    """The run `child` was made from `parent`.

    Attributes:
        keys: the settings that name the parent, such as `model` or `models[0]`.
        changed: the parent was sealed again after the child was made.
    """

    parent: str
    child: str
    keys: tuple[str, ...]
    changed: bool = False


@dataclass(frozen=True)
class Family:
    """Runs and what they were made from."""

    nodes: list[LineageNode]
    edges: list[LineageEdge]

    def of(self, reference: str) -> Family:
        """Return a run with all its ancestors and descendants."""
        kept = {reference}
        for near, far in (("child", "parent"), ("parent", "child")):
            found, reached = {reference}, {reference}
            while reached:
                reached = {
                    getattr(edge, far) for edge in self.edges if getattr(edge, near) in reached
                } - found
                found |= reached
            kept |= found
        return Family(
            [node for node in self.nodes if node.id in kept],
            [edge for edge in self.edges if edge.parent in kept and edge.child in kept],
        )


def family(runs: Mapping[str, Path]) -> Family:
    """Return the graph of runs by their references; a damaged manifest names no parents."""
    known = {path.resolve(): reference for reference, path in runs.items()}
    nodes: dict[str, LineageNode] = {}
    edges: dict[tuple[str, str], LineageEdge] = {}
    for reference, path in runs.items():
        try:
            manifest = files.read_json(path / layout.MANIFEST)
        except RunError:
            manifest = {}
        stage = manifest.get("stage")
        nodes[reference] = LineageNode(reference, "run", stage if isinstance(stage, str) else None)
        for key, parent in _parents(manifest).items():
            node, changed = _parent(path, parent, known)
            nodes.setdefault(node.id, node)
            before = edges.get((node.id, reference))
            keys = (*before.keys, key) if before else (key,)
            edges[node.id, reference] = LineageEdge(
                node.id, reference, keys, changed or bool(before and before.changed)
            )
    return Family(list(nodes.values()), list(edges.values()))


def _parents(manifest: Any) -> dict[str, dict[str, Any]]:
    inputs = manifest.get("inputs") if isinstance(manifest, dict) else None
    parents = inputs.get("parents") if isinstance(inputs, dict) else None
    found = parents if isinstance(parents, dict) else {}
    return {key: parent for key, parent in found.items() if isinstance(parent, dict)}


def _parent(run: Path, parent: Mapping[str, Any], known: Mapping[Path, str]) -> tuple[LineageNode, bool]:
    """Return the node of a parent, and whether it changed since."""
    if not isinstance(parent.get("path"), str):
        return LineageNode(str(parent.get("reference", "?")), "hub"), False
    path = seal.parent_path(run, parent["path"])
    if parent.get("kind") != "run":
        return LineageNode(path.name, "folder"), False
    reference = known.get(path.resolve())
    if reference is None:
        return LineageNode(path.name, "missing"), False
    lock = path / layout.LOCK
    return LineageNode(reference, "run"), lock.is_file() and files.sha256_file(lock) != parent.get("digest")
