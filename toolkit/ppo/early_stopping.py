"""Early stopping: a held-out judge scores the policy between rollouts, and the best weights are kept.

In a long training the reward model's score keeps rising while the quality of the answers falls (Gao et al.,
2023, "Scaling laws for reward model overoptimization"); the judge shows from where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import load_file, save
from transformers import TrainerCallback

from toolkit import stats
from toolkit.base import files
from toolkit.base.console import tell
from toolkit.base.errors import RunError
from toolkit.config.schema import EarlyStoppingSettings
from toolkit.ppo.episode import Episode, mean_outcome
from toolkit.ppo.trainer import PPOTrainer
from toolkit.runs.evaluation import HeldOutMeasurement, PpoEvaluation
from toolkit.runs.run import Run


class EarlyStopping(TrainerCallback):
    """An observer and callback of a PPOTrainer with `eval_dataset` and the judge as `eval_reward_funcs`.

    Its measurements are part of the progression, so a resumed training stops where an uninterrupted one does.
    """

    def __init__(self, trainer: PPOTrainer, run: Run, settings: EarlyStoppingSettings):
        self.trainer, self.run, self.settings = trainer, run, settings
        self.folder = run.scratch / "peak"
        self._needed: Path | None = None

    @property
    def measurements(self) -> list[dict[str, Any]]:
        """In order: rollout; the judge's score, KL and proxy (the score of the training's rewards), each with
        its interval; length, share that ended, number of prompts."""
        return self.trainer.progression.kept.setdefault("looks", [])

    @property
    def best(self) -> dict[str, Any]:
        """The measurement with the highest score; the earliest of equal ones."""
        return max(self.measurements, key=lambda measurement: measurement["score"])

    def complete(self, evaluation: PpoEvaluation) -> PpoEvaluation:
        """Add all measurements and the rollout of the kept weights; if that is not the last rollout, its
        measurement replaces the numbers of the last rollouts."""
        last = self.trainer.progression.rollouts
        kept = last if self.settings.patience is None else self.best["rollout"]
        looks = [HeldOutMeasurement.from_json(row) for row in self.measurements]
        evaluation = replace(evaluation, looks=looks, kept_rollout=kept)
        if kept == last:
            return evaluation
        best = HeldOutMeasurement.from_json(self.best)
        return replace(
            evaluation,
            score=best.proxy,
            kl=best.kl,
            length=best.length,
            ended=best.ended,
            n=best.prompts,
            measured_on=f"held-out prompts, answered once by the kept weights of rollout {kept}",
        )

    def on_train_begin(self, args, state, control, **kwargs):
        if not self.measurements:
            self._measure(0)
        elif self.settings.patience is not None:
            self._needed = self._file(self.best)  # by the checkpoint that training resumes from
            if self.run.is_main:
                self._require_unchanged(self._needed)

    def __call__(self, episodes: Sequence[Episode], number: int) -> None:
        if number % self.settings.every_rollouts and number != self.trainer.num_rollouts:
            return
        self._measure(number)
        without_best = sum(row["rollout"] > self.best["rollout"] for row in self.measurements)
        if self.settings.patience is not None and without_best >= self.settings.patience:
            self.trainer.progression.over = True

    def on_save(self, args, state, control, **kwargs):
        """Remove weights that neither this checkpoint nor the sealed one before it needs to resume."""
        if self.run.is_main and self.measurements:
            needed, self._needed = {self._file(self.best), self._needed}, self._file(self.best)
            for path in self.folder.glob("*.safetensors"):
                if path not in needed:
                    path.unlink()

    def on_train_end(self, args, state, control, **kwargs):
        """Load the best weights into the policy; only the main process writes the model."""
        if self.settings.patience is None or not self.trainer.finished or not self.run.is_main:
            return
        self.trainer.model.policy.load_state_dict(load_file(self._file(self.best)), strict=False)
        rollout = f"rollout {self.best['rollout']} of {self.trainer.num_rollouts}"
        tell(f"{self.run.name}: the judge scored {rollout} highest: its weights are kept")

    def _measure(self, number: int) -> None:
        """Measure the policy after rollout `number`, and keep its weights if they are the best."""
        trainer = self.trainer
        episodes = trainer.evaluation_episodes(trainer.eval_dataset)
        row: dict[str, Any] = {"rollout": number, "prompts": len(episodes)}
        values = {
            "score": [episode.score for episode in episodes],
            "kl": [episode.kl for episode in episodes],
            "proxy": [episode.reward for episode in episodes],
        }
        for name, numbers in values.items():
            row |= stats.bootstrap_mean(numbers, seed=trainer.args.seed).as_json(name)
        means = mean_outcome(episodes)
        row |= {"length": means["length"], "ended": means["ended"]}
        self.measurements.append(row)
        logged = {f"held_out_{name}": row[name] for name in ("score", "proxy", "kl", "length", "ended")}
        self.run.metrics.log(trainer.state.global_step, **logged)
        if self.settings.patience is not None and self.best is row and self.run.is_main:
            self._keep_weights(row)

    def _keep_weights(self, measurement: dict[str, Any]) -> None:
        policy = self.trainer.model.policy
        trained = {
            name: tensor.detach().contiguous()
            for name, tensor in policy.named_parameters()
            if tensor.requires_grad or not isinstance(policy, PeftModel)
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        content = save(trained)
        files.write_atomic(self._file(measurement), content)
        self.trainer.progression.kept["best_weights"] = files.sha256(content)

    def _require_unchanged(self, path: Path) -> None:
        """Check the best weights of an earlier attempt; a checkpoint of an older version has no digest."""
        digest = self.trainer.progression.kept.get("best_weights")
        if digest is not None and not (path.is_file() and files.sha256_file(path) == digest):
            raise RunError(
                "was changed since it was written",
                where=str(path),
                fix="restore the file, or start over with --fresh",
            )

    def _file(self, measurement: dict[str, Any]) -> Path:
        return self.folder / f"rollout-{measurement['rollout']}.safetensors"
