"""Limits of what a browser may send."""

MAX_TEXT = 100_000
"""Characters of a text or of all messages of a conversation."""
MAX_MODELS = 8
"""Models that one request may compare."""
MAX_NEW_TOKENS = 4096
"""Tokens of one answer."""
MAX_SEED = 2**53 - 1
"""The largest integer that JavaScript writes exactly."""
MAX_TOKENS = 4096
"""Tokens of a text that is shown token by token."""
