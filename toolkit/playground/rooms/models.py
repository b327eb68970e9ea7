"""`/api/models`: the list of models, and loading one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from toolkit.playground.streaming import engine, library

router = APIRouter()


class ModelRequest(BaseModel):
    """A model by its id."""

    model: str


@router.get("/models")
async def list_models(request: Request) -> dict[str, Any]:
    """Return every model and whether it is loaded."""
    return {"models": library(request).to_json()}


@router.post("/models/open")
async def open_model(request: Request, given: ModelRequest) -> dict[str, Any]:
    """Load a language model and describe it."""
    await engine(request, given.model)
    models = library(request)
    return models.describe(models.entry(given.model))
