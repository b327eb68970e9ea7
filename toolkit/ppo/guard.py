"""When a training has collapsed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolkit.recipe.errors import ToolkitError


def require_finite(values: Sequence[float], what: str, *, rollout: int) -> None:
    """Raise ToolkitError where a number is NaN or infinite: nothing after it would mean anything."""
    if not np.isfinite(values).all():
        raise ToolkitError(
            f"training collapsed: the {what} is not finite any more",
            where=f"ppo, rollout {rollout}",
            fix="lower learning_rate or raise kl_coefficient, and start over",
        )
