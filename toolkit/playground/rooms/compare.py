"""`/api/compare`: pairs of answers, and votes on them."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
