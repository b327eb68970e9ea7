"""Our measurements as modules of the `evaluate` library: `evaluate.load(folder("perplexity"))`, offline."""

from pathlib import Path


def folder(name: str) -> str:
    """The folder of `perplexity` or `win_rate`, for `evaluate.load`."""
    return str(Path(__file__).parent / name)
