"""`/api/runs`: runs, their curves and lineage."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
