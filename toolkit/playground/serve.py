"""Starting and stopping the server of the playground."""

from __future__ import annotations

import contextlib
import errno
import logging
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from toolkit.base.console import tell
from toolkit.base.errors import ToolkitError
from toolkit.playground.app import Playground, ServerSettings
from toolkit.playground.library import Library, entries_of
from toolkit.playground.security import Access, Guard

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERY_ADDRESS = ("0.0.0.0", "::")
BACKLOG = 512
"""Connections that may wait to be accepted."""


def serve_command(
    *,
    models: list[str],
    runs_dir: str,
    feedback: str,
    prompts: str | None,
    seed: int,
    host: str,
    port: int,
    open: bool,
    tour: bool,
    announce: Callable[[str], None],
) -> int:
    """Serve the page until Ctrl-C. `announce` is called with its address once the port is open."""
    if prompts is not None:
        # It imports torch: without prompts the page comes first.
        from toolkit.playground.prompts import check_file

        check_file(prompts)
    library = Library(entries_of(models, Path(runs_dir)))
    listener = listen(host, port)
    port = listener.getsockname()[1]
    token = None if host in LOOPBACK else secrets.token_urlsafe(24)
    access = Access(_accepted(host, port), token, any_address=host in EVERY_ADDRESS)
    address = f"http://{_in_url(_reachable(host))}:{port}/"
    shown = address + (f"?token={token}" if token else "") + ("#/tour" if tour else "")
    playground = Playground(library, ServerSettings(Path(runs_dir), Path(feedback), prompts, seed))
    count = len(library.entries)
    tell(f"{count} {'model' if count == 1 else 'models'}; votes: {feedback}; Ctrl-C ends")
    announce(shown)
    if open:
        webbrowser.open(shown)
    playground.warm()
    app = Guard(playground, access)
    config = uvicorn.Config(
        app, log_level="warning", lifespan="off", access_log=False, timeout_graceful_shutdown=2
    )
    try:
        _Server(config, library).run(sockets=[listener])
    finally:
        library.close()
    return 0


class _Server(uvicorn.Server):
    """A server that ends the requests to models at Ctrl-C, instead of waiting for them."""

    def __init__(self, config: uvicorn.Config, library: Library):
        super().__init__(config)
        self._library = library

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A request that is cut off after `timeout_graceful_shutdown` is not worth 60 lines of traceback.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        threading.Thread(target=self._library.close, daemon=True).start()
        super().handle_exit(sig, frame)


def _accepted(host: str, port: int) -> frozenset[str]:
    """Return the values of `Host` with which a browser asks for an address; it leaves out port 80."""
    names = {name.lower() for name in _names(host)}
    return frozenset({f"{name}:{port}" for name in names} | (names if port == 80 else set()))


def _names(host: str) -> list[str]:
    if host in LOOPBACK or host in EVERY_ADDRESS:
        return ["127.0.0.1", "localhost", "[::1]", *([] if host in LOOPBACK else [socket.gethostname()])]
    return [_in_url(host), socket.gethostname()]


def _reachable(host: str) -> str:
    """Return an address under which other machines reach a server that listens on `host`."""
    if host not in EVERY_ADDRESS:
        return host
    family, other = (socket.AF_INET6, "2001:db8::1") if ":" in host else (socket.AF_INET, "192.0.2.1")
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))  # nothing is sent: it only chooses the address from which it would be
        return str(probe.getsockname()[0])
    return socket.gethostname()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address; port 0 takes a free one.

    Raises:
        ToolkitError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)  # a browser that comes before the server runs waits instead of failing
    except (OSError, OverflowError) as error:
        listener.close()
        of_host = isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL
        fix = (
            "give an address of this machine as --host"
            if of_host
            else "give another --port, or --port 0 for a free one"
        )
        raise ToolkitError(f"cannot listen: {error}", where=f"{host}:{port}", fix=fix) from error
    return listener
