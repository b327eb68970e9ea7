"""Errors that a user can fix, with their position, cause and fix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ToolkitError(Exception):
    """An error that the user can fix; printed as one paragraph without a traceback.

    Args:
        what: the problem, in one sentence.
        where: a file, `file:line`, a run directory, or a key.
        fix: what to do about it, in one sentence.
    """

    exit_status = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None):
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  fix: {self.fix}" if self.fix else head


class UsageError(ToolkitError):
    """An invalid command line (exit status 2)."""

    exit_status = 2


class ProblemKind(StrEnum):
    """The kind of a problem, for programs that read reports."""

    SYNTAX = "syntax"
    """The file cannot be read as a recipe."""
    MISSING = "missing"
    """A required setting, or a file, is missing."""
    UNKNOWN = "unknown"
    """There is no such key."""
    TYPE = "type"
    """The value has the wrong type."""
    VALUE = "value"
    """The value has the right type, but is out of range or not one of the choices."""
    CONFLICT = "conflict"
    """The value contradicts another setting."""
    NO_EFFECT = "no effect"
    """The setting would change nothing."""
    RESERVED = "reserved"
    """The toolkit sets this key itself."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe.

    Attributes:
        place: `file:line`, or `command line`.
        key: dotted path of the setting; empty if the problem concerns the whole file.
        what: the problem, in one sentence.
    """

    place: str
    key: str
    what: str
    kind: ProblemKind = ProblemKind.SYNTAX

    def __str__(self) -> str:
        return f"{self.place}: {self.key}: {self.what}" if self.key else f"{self.place}: {self.what}"


class RecipeError(ToolkitError):
    """All errors of one or more recipes (exit status 2; nothing was written)."""

    exit_status = 2

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class DataError(ToolkitError):
    """Data that is missing, empty, not text, or lacks a column."""


class RunError(ToolkitError):
    """A run directory that cannot be used: its parents are unsealed or changed, or it is in use."""


class ModelError(ToolkitError):
    """A model that is of no use for any text: an encoder, or one whose logits are not finite."""
