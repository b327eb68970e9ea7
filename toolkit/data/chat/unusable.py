"""Rows that are left out and counted."""

from __future__ import annotations


class Unusable(Exception):
    """A row is left out; the message is the reason, the same for all rows of its kind."""
