"""`/api/surprise`: how surprising each token of a text is."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
