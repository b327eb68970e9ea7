"""The literal table of stages: name -> (entry point, recipe class)."""

from __future__ import annotations

from toolkit.config import schema

STAGES: dict[str, tuple[str, type[schema.StageRecipe]]] = {
    "tokenizer": ("toolkit.stages.tokenizer:run", schema.TokenizerRecipe),
    "corpus": ("toolkit.stages.corpus:run", schema.CorpusRecipe),
    "pretrain": ("toolkit.pretrain.stage:run", schema.PretrainRecipe),
    "sft": ("toolkit.stages.sft:run", schema.SftRecipe),
    "reward": ("toolkit.stages.reward:run", schema.RewardRecipe),
    "dpo": ("toolkit.stages.dpo:run", schema.DpoRecipe),
    "ppo": ("toolkit.ppo.stage:run", schema.PpoRecipe),
    "evaluate": ("toolkit.evaluate.stage:run", schema.EvaluateRecipe),
}
