"""`/api/attention`: where the model looks, and its states."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
