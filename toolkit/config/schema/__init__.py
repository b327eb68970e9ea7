"""Every setting of every stage, one module for each kind of stage.

Sizes of batches count tokens or examples per optimizer step over ALL processes, so that a recipe says
the same thing on one CPU and on 64 GPUs. Paths that start with `runs/` are below `--runs-dir`.
"""

from __future__ import annotations

from toolkit.config.schema.base import (
    Columns,
    Count,
    Data,
    DataSource,
    DataSources,
    Fraction,
    HeldOut,
    NonNegative,
    Positive,
    Probability,
    Settings,
    Size,
    StageRecipe,
)
from toolkit.config.schema.evaluate import BestOfSettings, EvaluateRecipe, PerplexitySettings, WinRateSettings
from toolkit.config.schema.ppo import EarlyStoppingSettings, PpoRecipe, PpoTrainerSettings, RewardSettings
from toolkit.config.schema.preferences import AnnotatorSettings, BiasSettings, PreferencesRecipe
from toolkit.config.schema.pretrain import (
    GuardSettings,
    LengthSettings,
    ModelSettings,
    OptimizerSettings,
    PretrainRecipe,
    SampleSettings,
    ScheduleSettings,
    SpeedSettings,
)
from toolkit.config.schema.text import CorpusRecipe, TokenizerRecipe
from toolkit.config.schema.trainers import (
    ALL_LINEAR,
    DpoRecipe,
    LoraSettings,
    RewardRecipe,
    SftRecipe,
    TrainerRecipe,
)

__all__ = [
    "ALL_LINEAR",
    "AnnotatorSettings",
    "BestOfSettings",
    "BiasSettings",
    "Columns",
    "CorpusRecipe",
    "Count",
    "Data",
    "DataSource",
    "DataSources",
    "DpoRecipe",
    "EarlyStoppingSettings",
    "EvaluateRecipe",
    "Fraction",
    "GuardSettings",
    "HeldOut",
    "LengthSettings",
    "LoraSettings",
    "ModelSettings",
    "NonNegative",
    "OptimizerSettings",
    "PerplexitySettings",
    "Positive",
    "PpoRecipe",
    "PpoTrainerSettings",
    "PreferencesRecipe",
    "PretrainRecipe",
    "Probability",
    "RewardRecipe",
    "RewardSettings",
    "SampleSettings",
    "ScheduleSettings",
    "Settings",
    "SftRecipe",
    "Size",
    "SpeedSettings",
    "StageRecipe",
    "TokenizerRecipe",
    "TrainerRecipe",
    "WinRateSettings",
]
