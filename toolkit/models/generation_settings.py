"""A generation config that transformers can write: it refuses settings that it accepts when it reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import GenerationConfig, PreTrainedModel

from toolkit.base.console import tell_once

SAMPLING_SETTINGS = {
    "temperature": 1.0, "top_p": 1.0, "top_k": 50, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
    "min_p": None, "top_h": None,
}  # fmt: skip
"""Settings that only sampling uses, and the values at which transformers accepts them without sampling."""

BEAM_SETTINGS = {"early_stopping": False, "length_penalty": 1.0}
"""The same of beam search."""


def repair_generation_config(model: PreTrainedModel, *, where: str) -> None:
    """Make the model's generation config valid, as `save_pretrained` requires; say so in one line.

    Settings of sampling (Llama 2 chat: temperature and top_p) without `do_sample` mean sampling. Where
    `do_sample: false` is written, or the temperature is 0, they have no effect and are removed; so are
    settings of beam search for one beam.
    """
    config: GenerationConfig | None = getattr(model, "generation_config", None)
    if config is None:
        return
    changes = []
    sampling = _set_in(config, SAMPLING_SETTINGS)
    if sampling and config.do_sample is None and config.temperature != 0:
        config.do_sample = True
        changes.append(f"do_sample: true, because it has {', '.join(sampling)}")
    elif sampling and config.do_sample is not True:
        changes += _reset(config, sampling, why="without do_sample")
    if config.num_beams in (None, 1):
        changes += _reset(config, _set_in(config, BEAM_SETTINGS), why="without beams")
    if changes:
        tell_once(f"{where}: the generation config is not valid and is repaired: {'; '.join(changes)}")


def _set_in(config: GenerationConfig, neutral: Mapping[str, object]) -> list[str]:
    """Return the names of the settings that differ from None and from their neutral value."""
    return [name for name, value in neutral.items() if getattr(config, name, None) not in (None, value)]


def _reset(config: GenerationConfig, names: Sequence[str], *, why: str) -> list[str]:
    for name in names:
        setattr(config, name, None)
    return [f"{name} removed, which has no effect {why}" for name in names]
