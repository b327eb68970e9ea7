"""The additional content of a PPO checkpoint: the critic and `Progression`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from toolkit.base.errors import ToolkitError
from toolkit.ppo.actor_critic import ActorCritic
from toolkit.ppo.advantages import ScoreScale

ADAPTER, CRITIC, STATE = "adapter_model.safetensors", "critic.safetensors", "ppo.json"


@dataclass
class Progression:
    """The state of a training between rollouts without weights and optimizer; it determines random streams.

    Attributes:
        rollouts: completed rollouts.
        scale: by which scores are normalised.
        over: an observer ended the training before its last rollout.
        guard: the state of `collapse_monitor.check`.
        kept: the state of the observers, as JSON values.
    """

    rollouts: int = 0
    kl_coefficient: float = 0.0
    scale: ScoreScale = field(default_factory=ScoreScale)
    over: bool = False
    guard: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)


def write(folder: Path, model: ActorCritic, progression: Progression) -> None:
    """Add critic and progression to a checkpoint's folder, which holds the policy already."""
    critic = {name: tensor.contiguous() for name, tensor in model.critic.state_dict().items()}
    save_file(critic, folder / CRITIC)
    (folder / STATE).write_text(json.dumps(asdict(progression)) + "\n", encoding="utf-8")


def read(folder: Path, model: ActorCritic) -> Progression:
    """Load policy and critic, bitwise, into `model`; return the progression.

    Raises:
        ToolkitError: the folder is not a checkpoint of PPO.
    """
    if not (folder / STATE).is_file():
        raise ToolkitError(f"has no {STATE}", where=str(folder), fix="name a checkpoint of PPOTrainer")
    policy = model.policy
    if isinstance(policy, PeftModel):
        set_peft_model_state_dict(policy, load_file(folder / ADAPTER))
    else:
        saved = type(policy).from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
        policy.load_state_dict(saved.state_dict())
    model.critic.load_state_dict(load_file(folder / CRITIC))
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return Progression(**{**state, "scale": ScoreScale(**state["scale"])})
