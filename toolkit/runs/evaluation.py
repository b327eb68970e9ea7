"""evaluation.json as dataclasses, one class for each stage.

Every class reads the JSON of its stage with `from_json` and writes the same JSON with `to_json`. Keys that
this version does not name stay in `extra`. A number with an interval is an `Estimate`: JSON has it as `<key>`
and `<key>_interval`. JSON's null is None, and nan in an `Estimate`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.config.registry import STAGES
from toolkit.runs import layout
from toolkit.stats import Estimate

INTERVAL = "_interval"
NOT_KEYS = ("extra", "nulls", "compared")
"""Fields that do not stand for a key of the JSON."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A JSON object of known keys.

    Attributes:
        extra: the keys that the class does not name.
        nulls: the fields that are null in JSON; other fields that are None are not written.
    """

    units: ClassVar[tuple[str, ...]] = ("n",)
    """Keys that may hold the number of units that the intervals resample; the first one present counts."""

    extra: dict[str, Any] = field(default_factory=dict, repr=False)
    nulls: frozenset[str] = field(default=frozenset(), repr=False)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read a JSON object.

        Raises:
            TypeError: `data` is not a mapping, or lacks a key that has no default.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"{cls.__name__} is read from a JSON object, not from {type(data).__name__}")
        left = dict(data)
        count = next((data[key] for key in cls.units if isinstance(data.get(key), int)), 0)
        values: dict[str, Any] = {}
        for name, hint in _hints(cls).items():
            if name not in left:
                continue
            value = left.pop(name)
            if Estimate in (hint, *get_args(hint)):
                low, high = left.pop(name + INTERVAL, None) or (None, None)
                values[name] = Estimate(_number(value), _number(low), _number(high), count)
            else:
                values[name] = _decode(value, hint)
        nulls = frozenset(name for name, value in values.items() if value is None)
        return cls(**values, extra=left, nulls=nulls)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that `from_json` read."""
        content: dict[str, Any] = {}
        for name in _hints(type(self)):
            value = getattr(self, name)
            if isinstance(value, Estimate) and not isinstance(value, Record):
                content |= value.as_json(name)
            elif value is not None or name in self.nulls:
                content[name] = _encode(value)
        return content | self.extra

    def estimates(self) -> dict[str, Estimate]:
        """Return the fields that have an interval, by name."""
        values = {name: getattr(self, name) for name in _hints(type(self))}
        return {name: value for name, value in values.items() if isinstance(value, Estimate)}


def _hints(cls: type[Record]) -> dict[str, Any]:
    """Return {name: type} of the fields that stand for JSON keys."""
    hints = get_type_hints(cls)
    return {entry.name: hints[entry.name] for entry in fields(cls) if entry.name not in NOT_KEYS}


def _decode(value: Any, hint: Any) -> Any:
    if hint is float and value is None:
        return math.nan
    if value is None:
        return None
    if isinstance(hint, UnionType):
        hint = next(option for option in get_args(hint) if option is not type(None))
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_json(value)
    if get_origin(hint) is list:
        return [_decode(item, get_args(hint)[0]) for item in value]
    if get_origin(hint) is dict:
        return {key: _decode(item, get_args(hint)[1]) for key, item in value.items()}
    return value


def _encode(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value


@dataclass(frozen=True, kw_only=True)
class Sample(Record):
    """What a model wrote after a prompt: `answer` to a question, `text` as the continuation of a text."""

    prompt: str
    answer: str | None = None
    text: str | None = None
    ended: bool | None = None
    score: float | None = None
    kl: float | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class WinRateResult(Record, Estimate):
    """How often a model's answer is better than the baseline's: an Estimate over prompts, and its tests.

    Attributes:
        wins, ties, losses: comparisons.
        length_controlled: the win rate at equal lengths.
        p_value_holm: of the sign test, corrected for the number of models.
        verdict: `better`, `worse` or `no verdict`.
    """

    wilson_interval: list[float] | None = None
    comparisons: int | None = None
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    tie_share: float | None = None
    p_value: float | None = None
    p_value_holm: float | None = None
    length_controlled: Estimate | None = None
    length_effect: Estimate | None = None
    power: str | None = None
    verdict: str | None = None
    unjudged: int | None = None


@dataclass(frozen=True, kw_only=True)
class ModelEvaluation(Record):
    """What an evaluation measured of one model.

    Attributes:
        bits_per_byte: of held-out text.
        bits_per_byte_difference: less the baseline's, paired by document.
        kl_to_baseline: nats per answer.
        mean_length: tokens an answer.
        ended: share of answers that end by themselves.
        score: of the judge.
        win_rate: against the baseline; None for the baseline itself.
        accuracy: of a reward model, as in RewardEvaluation.
    """

    units = ("interval_units", "prompts", "n")

    bits_per_byte: Estimate | None = None
    bits_per_byte_difference: Estimate | None = None
    perplexity: Estimate | None = None
    entropy_floor_bits_per_byte: float | None = None
    win_rate: WinRateResult | None = None
    is_baseline: bool | None = None
    kl_to_baseline: Estimate | None = None
    mean_length: Estimate | None = None
    ended: Estimate | None = None
    score: Estimate | None = None
    accuracy: Estimate | None = None
    bayes_accuracy: float | None = None
    gold_accuracy: Estimate | None = None
    end_of_text: Estimate | None = None
    n: int | None = None
    samples: list[Sample] | None = None


@dataclass(frozen=True, kw_only=True)
class StageEvaluation(Record):
    """What a stage measured at its end.

    Attributes:
        compared: what an evaluate run measured of the stage's model, None without one; not in the JSON.
    """

    seed: int | None = None
    compared: ModelEvaluation | None = None

    @property
    def win_rate(self) -> WinRateResult:
        """The win rate against the baseline of the evaluate run.

        Raises:
            RunError: no evaluate run measured it.
        """
        if self.compared is None or self.compared.win_rate is None:
            raise RunError(
                "no evaluate run in the same folder measured a win rate of this run",
                fix="run a recipe with `stage: evaluate`, or compare it now with toolkit.evaluate",
            )
        return self.compared.win_rate


@dataclass(frozen=True, kw_only=True)
class TokenizerEvaluation(StageEvaluation):
    """Size and compression of a tokenizer; `bytes_per_token` on held-out text."""

    vocab_size: int | None = None
    requested_vocab_size: int | None = None
    bytes_per_token: float | None = None
    documents: int | None = None
    characters: int | None = None
    held_out_documents: int | None = None
    held_out_bytes: int | None = None
    held_out_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class CorpusEvaluation(StageEvaluation):
    """Size of a corpus; `digest` stands for every token of its training part."""

    documents: int | None = None
    tokens: int | None = None
    bytes: int | None = None
    held_out_documents: int | None = None
    held_out_tokens: int | None = None
    held_out_bytes: int | None = None
    entropy_floor_bits_per_byte: float | None = None
    vocab_size: int | None = None
    digest: str | None = None
    held_out_digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class PretrainEvaluation(StageEvaluation):
    """Bits per byte of held-out text, and the size and speed of the training."""

    bits_per_byte: Estimate | None = None
    untrained_bits_per_byte: float | None = None
    entropy_floor_bits_per_byte: float | None = None
    perplexity: float | None = None
    held_out_documents: int | None = None
    held_out_tokens: int | None = None
    held_out_bytes: int | None = None
    n: int | None = None
    parameters: int | None = None
    tokens: int | None = None
    epochs: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    samples: list[Sample] | None = None


@dataclass(frozen=True, kw_only=True)
class SftEvaluation(StageEvaluation):
    """Loss on held-out answers, in nats per token."""

    held_out_loss: Estimate | None = None
    held_out_loss_before: float | None = None
    held_out_perplexity: Estimate | None = None
    held_out_tokens: int | None = None
    n: int | None = None
    examples: int | None = None
    steps: int | None = None
    samples: list[Sample] | None = None


@dataclass(frozen=True, kw_only=True)
class RewardEvaluation(StageEvaluation):
    """How often a reward model ranks held-out pairs as their annotator did.

    `bayes_accuracy` is what the best possible model reaches, `gold_accuracy` compares with the known utility.
    """

    accuracy: Estimate | None = None
    bayes_accuracy: float | None = None
    gold_accuracy: Estimate | None = None
    ties: int | None = None
    n: int | None = None
    held_out_loss: float | None = None
    margin: float | None = None
    score_mean: float | None = None
    score_std: float | None = None
    end_of_text: Estimate | None = None
    padding: float | None = None
    examples: int | None = None
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class DpoEvaluation(StageEvaluation):
    """How often the implicit rewards rank held-out pairs as their annotator did, and the KL to the start."""

    accuracy: Estimate | None = None
    margin: Estimate | None = None
    n: int | None = None
    bayes_accuracy: float | None = None
    held_out_loss: float | None = None
    log_ratio_chosen: float | None = None
    log_ratio_rejected: float | None = None
    kl: Estimate | None = None
    kl_n: int | None = None
    mean_length: float | None = None
    ended: float | None = None
    beta: float | None = None
    examples: int | None = None
    steps: int | None = None
    samples: list[Sample] | None = None


@dataclass(frozen=True, kw_only=True)
class PpoEvaluation(StageEvaluation):
    """Score of the reward model, and the KL to the start in nats per answer, over the last rollouts."""

    score: Estimate | None = None
    kl: Estimate | None = None
    length: float | None = None
    ended: float | None = None
    n: int | None = None
    kl_coefficient: float | None = None
    episodes: int | None = None
    measured_on: str | None = None
    samples: list[Sample] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelComparison(StageEvaluation):
    """An evaluation of several models: `comparison["dpo"].win_rate.low`.

    Attributes:
        models: by the name that they are reported under.
        judge: who compared the answers, None without a win rate.
        baseline: the name of the model that the others are compared with.
    """

    models: dict[str, ModelEvaluation]
    judge: dict[str, Any] | None = None
    baseline: str | None = None
    versions: dict[str, str] | None = None
    settings: dict[str, Any] | None = None

    def __getitem__(self, name: str) -> ModelEvaluation:
        return self.models[name]


def class_of(stage: str) -> type[StageEvaluation]:
    """Return the class of a stage's evaluation.json; `StageEvaluation` for an unknown stage."""
    if stage not in STAGES:
        return StageEvaluation
    module, _, name = STAGES[stage].evaluation.partition(":")
    return getattr(importlib.import_module(module), name)


def read(path: Path, stage: str) -> StageEvaluation:
    """Return what the run at `path` measured.

    Raises:
        RunError: there is no evaluation.json, or it does not have the form of its stage.
    """
    file = path / layout.EVALUATION
    try:
        return class_of(stage).from_json(files.read_json(file))
    except (TypeError, ValueError, AttributeError) as error:
        raise RunError(f"is not the evaluation of a {stage} run: {error}", where=str(file)) from error
