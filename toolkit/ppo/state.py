"""The complete state of a PPO run between two rollouts, as files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from toolkit.models.load import write_model
from toolkit.ppo.loop import Models, Progression
from toolkit.ppo.rollout import ScoreScale

CRITIC, OPTIMIZER, STATE = "critic.safetensors", "optimizer.safetensors", "ppo.json"


def write(folder: Path, models: Models, progression: Progression) -> None:
    """Fill a checkpoint's folder: the policy as `from_pretrained` reads it, critic, optimizer, the rest."""
    write_model(models.actor_critic.policy, models.tokenizer, folder)
    critic = models.actor_critic.critic.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in critic.items()}, folder / CRITIC)
    moments = {
        f"{number}.{name}": tensor.contiguous()
        for number, entry in models.optimizer.state_dict()["state"].items()
        for name, tensor in entry.items()
    }
    save_file(moments, folder / OPTIMIZER)
    (folder / STATE).write_text(json.dumps(asdict(progression)) + "\n", encoding="utf-8")


def read(folder: Path, models: Models) -> Progression:
    """Put back, bitwise, what `write` wrote, into the models that are there."""
    policy = models.actor_critic.policy
    saved = type(policy).from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    policy.load_state_dict(saved.state_dict())
    models.actor_critic.critic.load_state_dict(load_file(folder / CRITIC))
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(folder / OPTIMIZER).items():
        number, _, name = key.partition(".")
        moments.setdefault(int(number), {})[name] = tensor
    groups = models.optimizer.state_dict()["param_groups"]
    models.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return Progression(**{**state, "scale": ScoreScale(**state["scale"])})
