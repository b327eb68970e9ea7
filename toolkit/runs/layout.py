"""The files of a run directory."""

from __future__ import annotations

TIMING = "timing.json"

LOCK = "lock.json"

MANIFEST = "manifest.json"

IN_USE = ".in-use"

SCRATCH = ".scratch"
"""A folder for what a stage needs until its run is sealed, and nobody after."""

RECIPE = "recipe.yaml"

RESOLVED = "resolved.yaml"
