"""Early stopping: a held-out judge is asked between rollouts, and the weights of its best look are kept.

What a reward model pays for and what is better part ways in a long training (Gao et al., 2023, "Scaling laws
for reward model overoptimization"); the judge sees where.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import load_file, save
from transformers import TrainerCallback

from toolkit import stats
from toolkit.base import files
from toolkit.config.schema import EarlyStoppingSettings
from toolkit.ppo.rollout import Episode, outcome
from toolkit.ppo.trainer import PPOTrainer
from toolkit.runs.run import Run


class Peak(TrainerCallback):
    """An observer and callback of a PPOTrainer whose `eval_dataset` and `eval_reward_funcs` are the judge's.

    The looks are kept with the progression, so a resumed training decides as one that was not interrupted.
    """

    def __init__(self, trainer: PPOTrainer, run: Run, settings: EarlyStoppingSettings):
        self.trainer, self.run, self.settings = trainer, run, settings
        self.folder = run.scratch / "peak"
        self._needed: Path | None = None

    @property
    def looks(self) -> list[dict[str, Any]]:
        """One after another: rollout, the judge's score, KL and proxy (the score of the rewards that are
        trained on) with intervals, length, share that ended, number of prompts."""
        return self.trainer.progression.kept.setdefault("looks", [])

    @property
    def best(self) -> dict[str, Any]:
        """The look with the highest score, the earliest of equals."""
        return max(self.looks, key=lambda look: look["score"])

    def evaluation(self) -> dict[str, Any]:
        """Every look, and the rollout after which the written weights were the policy's; where they are not
        the last, what its look says of them instead of what the last rollouts say."""
        last = self.trainer.progression.rollouts
        kept = last if self.settings.patience is None else self.best["rollout"]
        found: dict[str, Any] = {"looks": self.looks, "kept_rollout": kept}
        if kept != last:
            best = self.best
            found |= {name: best[name] for name in ("kl", "kl_interval", "length", "ended")}
            found |= {"score": best["proxy"], "score_interval": best["proxy_interval"], "n": best["prompts"]}
            found["measured_on"] = f"held-out prompts, answered once by the kept weights of rollout {kept}"
        return found

    def on_train_begin(self, args, state, control, **kwargs):
        if not self.looks:
            self._look(0)
        elif self.settings.patience is not None:
            self._needed = self._file(self.best)  # by the checkpoint that it goes on from

    def __call__(self, episodes: Sequence[Episode], number: int) -> None:
        if number % self.settings.every_rollouts and number != self.trainer.num_rollouts:
            return
        self._look(number)
        since = sum(look["rollout"] > self.best["rollout"] for look in self.looks)
        if self.settings.patience is not None and since >= self.settings.patience:
            self.trainer.progression.over = True

    def on_save(self, args, state, control, **kwargs):
        """Remove what neither this checkpoint nor the one before, which is sealed, would go back to."""
        if self.run.is_main and self.looks:
            needed, self._needed = {self._file(self.best), self._needed}, self._file(self.best)
            for path in self.folder.glob("*.safetensors"):
                if path not in needed:
                    path.unlink()

    def on_train_end(self, args, state, control, **kwargs):
        """Put the weights of the best look into the policy; the main process alone writes the model."""
        if self.settings.patience is None or not self.trainer.finished or not self.run.is_main:
            return
        self.trainer.model.policy.load_state_dict(load_file(self._file(self.best)), strict=False)
        where = f"rollout {self.best['rollout']} of {self.trainer.num_rollouts}"
        print(f"{self.run.name}: the judge liked {where} best: its weights are kept", file=sys.stderr)

    def _look(self, number: int) -> None:
        trainer = self.trainer
        episodes = trainer.judged(trainer.eval_dataset)
        values = {"score": "score", "kl": "kl", "proxy": "reward"}
        look: dict[str, Any] = {"rollout": number, "prompts": len(episodes)}
        for name, attribute in values.items():
            each = [getattr(episode, attribute) for episode in episodes]
            look |= stats.bootstrap_mean(each, seed=trainer.args.seed).as_json(name)
        means = outcome(episodes)
        look |= {"length": means["length"], "ended": means["ended"]}
        self.looks.append(look)
        shown = {f"held_out_{name}": look[name] for name in ("score", "proxy", "kl", "length", "ended")}
        self.run.metrics.log(trainer.state.global_step, **shown)
        if self.settings.patience is not None and self.best is look and self.run.is_main:
            self._keep(look)

    def _keep(self, look: dict[str, Any]) -> None:
        policy = self.trainer.model.policy
        trained = {
            name: tensor.detach().contiguous()
            for name, tensor in policy.named_parameters()
            if tensor.requires_grad or not isinstance(policy, PeftModel)
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_atomic(self._file(look), save(trained))

    def _file(self, look: dict[str, Any]) -> Path:
        return self.folder / f"rollout-{look['rollout']}.safetensors"
