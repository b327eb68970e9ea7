"""The errors of the Hub's HTTP client without a network, which are no OSErrors."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

# huggingface_hub 1 uses httpx and huggingface_hub 2 httpx2; other packages may have installed the other one.
_CLIENTS = [importlib.import_module(name) for name in ("httpx", "httpx2") if find_spec(name)]
NETWORK_ERRORS: tuple[type[Exception], ...] = tuple(client.HTTPError for client in _CLIENTS)
