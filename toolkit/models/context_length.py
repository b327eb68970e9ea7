"""How many positions a model has."""

from __future__ import annotations

from torch import nn

DEFAULT_CONTEXT_LENGTH = 1024
"""Tokens of a prompt and its answer for models whose configuration names no limit."""


def context_length(model: nn.Module) -> int | None:
    """Return how many tokens a model attends to at most, None if its configuration names no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def context_length_or_default(model: nn.Module) -> int:
    """Return the context length of a model, `DEFAULT_CONTEXT_LENGTH` if its configuration names no limit."""
    return context_length(model) or DEFAULT_CONTEXT_LENGTH
