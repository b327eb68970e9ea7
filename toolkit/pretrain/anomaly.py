"""Detect losses and gradient norms that are not finite or far above those of earlier steps.

`guard` in a recipe configures it: an anomaly stops the run or skips the step, and `incidents.write` keeps
everything that the step depended on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, pstdev

from toolkit.config.schema.pretrain import GuardSettings

LOSS, GRADIENT_NORM = "loss", "gradient norm"


@dataclass(frozen=True)
class Anomaly:
    """Why a step is rejected: the quantity, its value, and its distance from earlier steps."""

    quantity: str
    """`loss` or `gradient norm`."""
    value: float
    z_score: float | None = None
    """Standard deviations above the mean; None if the value is not finite."""
    mean: float | None = None
    deviation: float | None = None

    def __str__(self) -> str:
        if self.z_score is None:
            return f"the {self.quantity} is not finite ({self.value})"
        return (
            f"the {self.quantity} {self.value:.4g} is {self.z_score:.1f} standard deviations above "
            f"{self.mean:.4g}"
        )


def find_non_finite(*, loss: float, grad_norm: float) -> Anomaly | None:
    """Return the anomaly of a step whose loss or gradient norm is NaN or infinite, else None."""
    for quantity, value in ((LOSS, loss), (GRADIENT_NORM, grad_norm)):
        if not math.isfinite(value):
            return Anomaly(quantity, value)
    return None


class AnomalyMonitor:
    """Checks the loss and gradient norm of every step before the weights change.

    The z-score is computed against the last `window` accepted steps. Only values above the mean count, since
    losses fall while a model learns; gradient norms are compared as logarithms, since they spread over
    orders of magnitude.
    """

    def __init__(self, settings: GuardSettings, history: dict[str, list[float]]):
        self.settings = settings
        self._history = {quantity: list(history.get(quantity, [])) for quantity in (LOSS, GRADIENT_NORM)}

    def check(self, *, loss: float, grad_norm: float) -> Anomaly | None:
        """Return why this step must be rejected, or add it to the history and return None."""
        anomaly = find_non_finite(loss=loss, grad_norm=grad_norm)
        if anomaly is not None or self.settings.z_score is None:
            return anomaly
        log_norm = math.log(max(grad_norm, 1e-30))
        anomaly = self._find_outlier(LOSS, loss, loss) or self._find_outlier(
            GRADIENT_NORM, log_norm, grad_norm
        )
        if anomaly is not None:
            return anomaly
        for quantity, value in ((LOSS, loss), (GRADIENT_NORM, log_norm)):
            self._history[quantity] = [*self._history[quantity], value][-self.settings.window :]
        return None

    def _find_outlier(self, quantity: str, value: float, reported: float) -> Anomaly | None:
        """Compare `value` with the history; `reported` is the same number on its usual scale."""
        history = self._history[quantity]
        if len(history) < self.settings.window // 2:
            return None
        mean, deviation = fmean(history), pstdev(history)
        z_score = (value - mean) / max(deviation, 1e-12)
        if z_score <= (self.settings.z_score or math.inf):
            return None
        reported_mean = math.exp(mean) if quantity == GRADIENT_NORM else mean
        return Anomaly(quantity, reported, z_score, reported_mean, deviation)

    def state_dict(self) -> dict[str, list[float]]:
        """Return the history that a resumed run needs to make the same decisions."""
        return {quantity: values for quantity, values in self._history.items() if values}
