"""How many tokens a text may have, and how many it has by default."""

from __future__ import annotations

from torch import nn

from toolkit.models.description import position_limit

DEFAULT_CONTEXT_LENGTH = 1024
"""Tokens of a prompt and its answer for models whose configuration names no limit."""
LONGEST_DEFAULT = 4096
"""Tokens of a text by default where a model takes more: attention to 131,072 takes minutes on a CPU."""


def context_length(model: nn.Module) -> int | None:
    """Return how many tokens a model attends to at most, None without a limit."""
    return position_limit(model.config)


def context_length_or_default(model: nn.Module) -> int:
    """Return the context length of a model, `DEFAULT_CONTEXT_LENGTH` without a limit."""
    return context_length(model) or DEFAULT_CONTEXT_LENGTH


def default_length(model: nn.Module, *, without_limit: int = DEFAULT_CONTEXT_LENGTH) -> int:
    """Return how many tokens a text has by default: the context length, `LONGEST_DEFAULT` at most."""
    return min(context_length(model) or without_limit, LONGEST_DEFAULT)
