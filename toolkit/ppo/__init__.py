"""Proximal policy optimization against a reward: `from toolkit.ppo import PPOConfig, PPOTrainer`."""

from toolkit.ppo.config import PPOConfig
from toolkit.ppo.trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]
