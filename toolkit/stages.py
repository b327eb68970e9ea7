"""The literal table of stages: name -> (entry point, recipe class)."""

from __future__ import annotations

from toolkit.recipe import schema

STAGES: dict[str, tuple[str, type[schema.StageRecipe]]] = {
    "tokenizer": ("toolkit.tokenizer:run", schema.TokenizerRecipe),
    "corpus": ("toolkit.corpus:run", schema.CorpusRecipe),
    "pretrain": ("toolkit.pretrain.stage:run", schema.PretrainRecipe),
    "sft": ("toolkit.sft:run", schema.SftRecipe),
    "reward": ("toolkit.reward:run", schema.RewardRecipe),
    "dpo": ("toolkit.dpo:run", schema.DpoRecipe),
    "ppo": ("toolkit.ppo.stage:run", schema.PpoRecipe),
    "evaluate": ("toolkit.evaluate.stage:run", schema.EvaluateRecipe),
}
