"""Limits of what a browser may send."""

MAX_TEXT = 100_000
"""Characters of a text or of all messages of a conversation."""
MAX_MODELS = 8
"""Models that one request may compare."""
MAX_TOKENS = 4096
"""Tokens of a text that is shown token by token."""
