"""`/api/reward`: what a reward model prefers."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
