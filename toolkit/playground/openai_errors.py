"""Errors of `/v1/` in the form of the OpenAI interface: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from typing import Any

from toolkit.base.errors import ToolkitError


class ApiError(ToolkitError):
    """A request to `/v1/` that is refused.

    Args:
        param: name of the parameter that is wrong.
        code: of the OpenAI interface, such as `model_not_found`.
        status: of HTTP.
    """

    def __init__(self, what: str, *, param: str | None = None, code: str | None = None, status: int = 400):
        self.param, self.code, self.status = param, code, status
        super().__init__(what, where=param)


def is_openai_path(path: str) -> bool:
    """Return whether a path belongs to the OpenAI interface."""
    return path.startswith("/v1/")


def openai_error(
    message: str, *, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return the body of an error."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
