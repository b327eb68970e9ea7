"""Limits of what a browser may send."""

MAX_TEXT = 100_000
"""Characters of a text or of all messages of a conversation."""
MAX_MODELS = 8
"""Models that one request may compare."""
