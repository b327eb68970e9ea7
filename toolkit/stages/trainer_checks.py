"""Settings of sft, reward and dpo that the model cannot carry out, before data are read."""

from __future__ import annotations

from transformers import PreTrainedModel

from toolkit.base.errors import ToolkitError
from toolkit.config.schema import TrainerRecipe
from toolkit.models.context_length import context_length


def require_supported(recipe: TrainerRecipe, model: PreTrainedModel, *, length: int) -> None:
    """Refuse settings that do not fit a model.

    Args:
        length: maximum tokens of a row.

    Raises:
        ToolkitError: rows are padded beyond the model's positions, or a coefficient is for a loss that the
            model does not have.
    """
    multiple, positions = recipe.trainer.get("pad_to_multiple_of"), context_length(model)
    if isinstance(multiple, int) and positions and -(-length // multiple) * multiple > positions:
        raise ToolkitError(
            f"rows of up to {length} tokens, padded to a multiple of {multiple}, are longer than the model's "
            f"{positions} positions",
            where="trainer.pad_to_multiple_of",
            fix=f"use a divisor of {positions}, or lower trainer.max_length",
        )
    is_mixture = hasattr(model.config.get_text_config(), "output_router_logits")
    if recipe.trainer.get("router_aux_loss_coef") is not None and not is_mixture:
        raise ToolkitError(
            f"has no effect: {type(model).__name__} is not a mixture of experts with a router loss",
            where="trainer.router_aux_loss_coef",
            fix="remove it",
        )
