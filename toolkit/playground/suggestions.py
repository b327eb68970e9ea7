"""Prompts that a model of the storyworld understands, for people who do not know what to ask it.

They are held out: no run was trained on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.playground.library import Entry
from toolkit.runs import layout, seal

if TYPE_CHECKING:
    from toolkit.storyworld import World

COUNT = 5
DRAWN = 60
"""Rows among which prompts that begin differently are looked for."""
SEED = 1
WORDS = 3
"""Prompts that begin with the same words are alike."""
BEGINNING_WORDS = 6
"""Words of a story that a pretrained model continues."""


def suggestions(entry: Entry) -> list[str]:
    """Return prompts for a model: questions, or beginnings of stories for one that was only pretrained.

    Empty for a model that was not trained on a world.
    """
    run = seal.run_of(Path(entry.reference)) if Path(entry.reference).is_dir() else None
    world = None if run is None else _world_of(run)
    if world is None:
        return []
    if entry.stage == "pretrain":
        texts = [row["text"] for row in world.rows("stories", SEED, "held_out", DRAWN)]
        return _different([" ".join(text.split()[:BEGINNING_WORDS]) for text in texts])
    rows = [row["prompt"] for row in world.rows("prompts", SEED, "held_out", DRAWN)]
    return _different([messages[0]["content"] for messages in rows if len(messages) == 1])


def _world_of(run: Path) -> World | None:
    """Return the world that a run, or the nearest run that it was made from, was trained on."""
    from toolkit.storyworld import get_world  # takes 0.4 s, and the model is ready before

    waiting, seen = [run], set[Path]()
    while waiting:
        run = waiting.pop(0)
        if run in seen or not seal.is_run(run):
            continue
        seen.add(run)
        for source in _sources(files.read_json(run / layout.MANIFEST)["inputs"]["settings"]):
            if source.get("name") == "storyworld":
                return get_world(source.get("world"))
        try:
            waiting += [path for _, path, _, is_run in seal.parents(run) if is_run]
        except RunError:
            continue
    return None


def _sources(settings: dict[str, Any]) -> list[dict[str, Any]]:
    data = settings.get("data")
    return [source for source in (data if isinstance(data, list) else [data]) if isinstance(source, dict)]


def _different(texts: list[str]) -> list[str]:
    """Return the first texts that begin with different words."""
    found = {" ".join(text.split()[:WORDS]): text for text in reversed(texts)}
    chosen = set(found.values())
    return [text for text in dict.fromkeys(texts) if text in chosen][:COUNT]
