"""Losses and gradients that are no numbers, or far from those before: noticed, kept, skipped or the end.

An incident is a folder with everything that the step depended on; `toolkit run --replay-incident
FILE` makes the step again from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, pstdev

from toolkit.config.schema.pretrain import GuardSettings
from toolkit.runs import layout

FOLDER = layout.INCIDENTS
FILE = "incident.json"


@dataclass(frozen=True)
class Trigger:
    """Why a step is held up: which number, its value, and how far it is from those before."""

    what: str
    """`loss` or `gradient norm`."""
    value: float
    z_score: float | None = None
    """Standard deviations above the mean; None where the value is no number."""
    mean: float | None = None
    deviation: float | None = None

    def __str__(self) -> str:
        if self.z_score is None:
            return f"the {self.what} is not a number any more ({self.value})"
        return (
            f"the {self.what} {self.value:.4g} is {self.z_score:.1f} standard deviations above "
            f"{self.mean:.4g}"
        )


def no_number(*, loss: float, norm: float) -> Trigger | None:
    """Return what is wrong with a step whose loss or gradient norm is no number."""
    values = {"loss": loss, "gradient norm": norm}
    return next((Trigger(what, value) for what, value in values.items() if not math.isfinite(value)), None)


class Guard:
    """Looks at every step's loss and gradient norm before the weights change.

    The z-score is against the last `window` accepted steps. Losses fall while a model learns, so only what is
    above counts; norms are compared as logarithms, since they are spread over orders of magnitude.
    """

    def __init__(self, settings: GuardSettings, before: dict[str, list[float]]):
        self.settings = settings
        self._seen = {name: list(before.get(name, [])) for name in ("loss", "gradient norm")}

    def look(self, *, loss: float, norm: float) -> Trigger | None:
        """Return why this step must not be taken; a step that may be is remembered."""
        trigger = no_number(loss=loss, norm=norm)
        if trigger is not None or self.settings.z_score is None:
            return trigger
        compared = {"loss": loss, "gradient norm": math.log(max(norm, 1e-30))}
        for what, value in compared.items():
            trigger = self._far(what, value, loss if what == "loss" else norm)
            if trigger is not None:
                return trigger
        for what, value in compared.items():
            self._seen[what] = [*self._seen[what], value][-self.settings.window :]
        return None

    def _far(self, what: str, value: float, shown: float) -> Trigger | None:
        seen = self._seen[what]
        if len(seen) < self.settings.window // 2:
            return None
        mean, deviation = fmean(seen), pstdev(seen)
        z_score = (value - mean) / max(deviation, 1e-12)
        if z_score <= (self.settings.z_score or math.inf):
            return None
        middle = math.exp(mean) if what == "gradient norm" else mean
        return Trigger(what, shown, z_score, middle, deviation)

    def state(self) -> dict[str, list[float]]:
        """Return what a run that goes on needs to decide as this one would."""
        return {name: values for name, values in self._seen.items() if values}
