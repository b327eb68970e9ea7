"""What a checkpoint of PPO holds beside Trainer's files: critic, KL coefficient, score scale, rollouts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from toolkit.base.errors import ToolkitError
from toolkit.ppo.actor_critic import ActorCritic
from toolkit.ppo.rollout import Progression, ScoreScale

ADAPTER, CRITIC, STATE = "adapter_model.safetensors", "critic.safetensors", "ppo.json"


def write(folder: Path, model: ActorCritic, progression: Progression) -> None:
    """Add to a checkpoint's folder, in which the policy lies already."""
    critic = {name: tensor.contiguous() for name, tensor in model.critic.state_dict().items()}
    save_file(critic, folder / CRITIC)
    (folder / STATE).write_text(json.dumps(asdict(progression)) + "\n", encoding="utf-8")


def read(folder: Path, model: ActorCritic) -> Progression:
    """Put policy and critic back, bitwise, into the models that are there.

    Raises:
        ToolkitError: a folder that `write` never saw.
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
