"""`toolkit evaluate` on reward models: what held-out preferences say of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig
from transformers.utils.logging import disable_progress_bar

from toolkit.base.errors import DataError, UsageError
from toolkit.config.schema import DataSource
from toolkit.data import files
from toolkit.data.chat import sources
from toolkit.data.chat.pairs import held_out_pairs
from toolkit.data.text.documents import Part
from toolkit.models.loading import load_reward_model
from toolkit.models.vocabulary import Reference, not_loadable
from toolkit.stages import reward_quality

LONGEST = 1024
"""Tokens of a prompt and its answer, of models that do not say how many positions they have."""


def are_reward_models(references: Mapping[str, Reference]) -> bool:
    """Whether the models are reward models, by what their configurations say.

    Raises:
        ToolkitError: a configuration that cannot be had.
        UsageError: some are, and some are not.
    """
    scored = {name: _has_score_head(reference) for name, reference in references.items()}
    if any(scored.values()) and not all(scored.values()):
        language = ", ".join(name for name, has in scored.items() if not has)
        reward = ", ".join(name for name, has in scored.items() if has)
        raise UsageError(
            f"{reward} scores answers and {language} writes them: they have no number in common",
            where="models", fix="measure the reward model apart, or give it as --judge",
        )  # fmt: skip
    return any(scored.values())


def _has_score_head(reference: Reference) -> bool:
    name, revision = reference
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise not_loadable(name, revision, error) from error
    return any("SequenceClassification" in each for each in config.architectures or ())


def measure(
    references: Mapping[str, Reference], source: DataSource, *, part: Part, device: torch.device, seed: int
) -> dict[str, dict[str, Any]]:
    """Numbers of each reward model on the preferences of a source, by its name.

    Raises:
        DataError: no preferences, or none that fits in a model.
    """
    if source.name == files.STORYWORLD and source.config is None:
        source = source.model_copy(update={"config": "preferences"})
    disable_progress_bar()  # of the weights
    rows = sources.preferences(source, part=part, seed=seed)
    found = {}
    for name, reference in references.items():
        model, tokenizer = load_reward_model(reference, device=device)
        length = getattr(model.config, "max_position_embeddings", LONGEST)
        pairs = held_out_pairs(rows, tokenizer, max_length=length)
        if not pairs.pairs:
            raise DataError(
                f"none of {pairs.left_out} preferences fits in the {length} tokens of {name}",
                where=source.name, fix="give shorter ones, or a model with more positions",
            )  # fmt: skip
        numbers = reward_quality.measure(model, pairs, pad_id=tokenizer.pad_token_id, seed=seed)
        found[name] = {**numbers, "left_out": pairs.left_out, "seed": seed}
    return found
