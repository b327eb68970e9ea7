"""Learning-rate schedules over tokens, so that they do not depend on the batch size."""

from __future__ import annotations

import math

from toolkit.config.schema import ScheduleSettings


def factor(settings: ScheduleSettings, *, tokens: float, total_tokens: int) -> float:
    """Return the learning rate after `tokens` of `total_tokens`, as a fraction of its peak.

    A step uses the rate at the middle of its tokens, so that neither the first nor the last step has a rate
    of zero. Warm-up is linear from zero. Then `linear` and `cosine` (Loshchilov and Hutter, 2017, equation
    5, one cycle) decay to `final_fraction` at the end; `wsd` (Hu et al., 2024, MiniCPM, section 4) stays at
    the peak and decays linearly over the last `decay_tokens`; `constant` stays.
    """
    if tokens < settings.warmup_tokens:
        return tokens / settings.warmup_tokens
    if settings.name == "constant":
        return 1.0
    begin = settings.warmup_tokens
    if settings.name == "wsd":
        decay = settings.decay_tokens or total_tokens // 5
        begin = max(begin, total_tokens - decay)
    progress = min(1.0, max(0.0, (tokens - begin) / max(1, total_tokens - begin)))
    left = (1 + math.cos(math.pi * progress)) / 2 if settings.name == "cosine" else 1 - progress
    return settings.final_fraction + (1 - settings.final_fraction) * left
