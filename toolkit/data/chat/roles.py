"""The names of roles."""

from __future__ import annotations

from toolkit.data.chat.tools import TOOL

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatbot", "ai"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "environment", "tool_response"), TOOL),
    **dict.fromkeys(("function_response", "tool_result"), TOOL),
}
"""Names of roles, in lower case -> the role."""
CALL_ROLES = frozenset({"function_call", "function-call", "tool_call", "tool_calls"})
"""Roles of answers whose content is a call."""
