"""The errors of the Hub's HTTP client without a network, which are no OSErrors."""

from __future__ import annotations

try:
    import httpx2 as client  # of huggingface_hub 2
except ImportError:
    import httpx as client  # of huggingface_hub 1

NETWORK_ERRORS: tuple[type[Exception], ...] = (client.HTTPError,)
