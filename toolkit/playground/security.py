"""What protects the playground: who may ask, from where, and how much; and what the page may load.

A page of another site that is open in the same browser can send requests to 127.0.0.1, and a name of its own
can be made to point there (DNS rebinding). Requests must therefore carry a Host that this server has, and an
Origin, where the browser sends one, that is this server.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from toolkit.playground.openai_errors import is_openai_path, openai_error

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

MAX_BODY = 1 << 20
"""Bytes of a request."""
COOKIE = "toolkit_token"
POLICY = (
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


@dataclass(frozen=True)
class Access:
    """Who may use the server.

    Attributes:
        hosts: values of `Host` that are accepted, in lower case, such as `127.0.0.1:8765`.
        token: that every request must carry (in the URL once, then in a cookie, or as a bearer token);
            None on the loopback address.
        any_address: a `Host` may also be any IP address: the server listens on all addresses of the machine,
            which may change. DNS rebinding needs a name.
    """

    hosts: frozenset[str]
    token: str | None = None
    any_address: bool = False

    def is_here(self, host: str) -> bool:
        """Return whether a value of `Host` is this server."""
        return host in self.hosts or (self.any_address and _is_address(host))


class Guard:
    """ASGI middleware that refuses requests by `Access` and limits, and adds the security headers."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], access: Access):
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}

        async def send_guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(pair for pair in HEADERS if pair[0] not in names),
                ]
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(send_guarded, scope["path"], *refusal)
        elif self._brings_token(scope):
            await _redirect(send_guarded, scope, self.access.token or "")
        else:
            await self.app(scope, *_limited(scope["path"], receive, send_guarded))

    def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> tuple[int, str] | None:
        host = headers.get(b"host", "").lower()
        if not self.access.is_here(host):
            return 421, f"this server is not {host!r}"
        origin = headers.get(b"origin")
        if origin is not None and origin.lower().partition("://")[2] not in {host, *self.access.hosts}:
            return 403, f"pages of {origin} may not use this server"
        if headers.get(b"sec-fetch-site", "none") not in ("same-origin", "none") and scope["path"] != "/":
            return 403, "pages of other sites may not use this server"
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return 413, f"a request has at most {MAX_BODY} bytes"
        if self.access.token is not None and not self._has_token(scope, headers):
            return 401, "open the address with the token that `toolkit playground` printed"
        return None

    def _has_token(self, scope: Scope, headers: dict[bytes, str]) -> bool:
        bearer = headers.get(b"authorization", "").removeprefix("Bearer ")
        given = [_query(scope).get("token", [""])[0], _cookie(headers), bearer]
        wanted = (self.access.token or "").encode()
        return sum(hmac.compare_digest(text.encode(), wanted) for text in given) > 0

    def _brings_token(self, scope: Scope) -> bool:
        return self.access.token is not None and scope["method"] == "GET" and "token" in _query(scope)


def _cookie(headers: dict[bytes, str]) -> str:
    """Return the token of the cookie, "" without one.

    Other programs on the same host set cookies, too; `http.cookies` gives up at names that it does not know.
    """
    pairs = (pair.strip().partition("=") for pair in headers.get(b"cookie", "").split(";"))
    return next((value for name, _, value in pairs if name == COOKIE), "")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False
    return True


def _query(scope: Scope) -> dict[str, list[str]]:
    return parse_qs(scope["query_string"].decode("latin-1"))


def _limited(path: str, receive: Receive, send: Send) -> tuple[Receive, Send]:
    """Refuse a body without a Content-Length that is too long; others were refused before."""
    received, told = 0, False

    async def receive_limited() -> dict[str, Any]:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        return {"type": "http.disconnect"} if received > MAX_BODY else message

    async def send_limited(message: dict[str, Any]) -> None:
        nonlocal told
        if received <= MAX_BODY:
            await send(message)
        elif not told:
            told = True
            await _answer(send, path, 413, f"a request has at most {MAX_BODY} bytes")

    return receive_limited, send_limited


async def _answer(send: Send, path: str, status: int, what: str) -> None:
    error = openai_error(what, status=status) if is_openai_path(path) else {"error": {"what": what}}
    body = json.dumps(error).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _redirect(send: Send, scope: Scope, token: str) -> None:
    """Keep the token in a cookie and show the address without it."""
    rest = {name: values for name, values in _query(scope).items() if name != "token"}
    # One slash: `//name/` would be another host. Quoted: a path may hold a line break.
    target = "/" + quote(scope["path"].lstrip("/")) + (f"?{urlencode(rest, doseq=True)}" if rest else "")
    # Lax, so that a link on a page of another site opens the page; requests of other sites are refused above.
    cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Lax; Path=/"
    headers = [(b"location", target.encode()), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
