"""The measurements of several models, shared by the evaluate stage and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

import torch

from toolkit.base.progress import Progress
from toolkit.base.rng import derive
from toolkit.data.chat import template
from toolkit.evaluate import best_of, perplexity, win_rate
from toolkit.evaluate.best_of import BestOf
from toolkit.evaluate.judges import AnyJudge
from toolkit.evaluate.naming import require_distinct
from toolkit.evaluate.perplexity import HeldOutText, ScoringSettings
from toolkit.evaluate.win_rate import Contest, LoadedModel
from toolkit.inference import sampling
from toolkit.inference.opening import open_reference
from toolkit.models.loading import Reference
from toolkit.runs import provenance

Measured = dict[str, object]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""The dtype of the weights by its name in recipes and on the command line."""


@dataclass
class Session:
    """The models to measure and the settings of every measurement.

    Attributes:
        references: the (path or hub id, revision) of each model by its reported name (see `naming`).
        baseline: the name of the model that the others are compared with; None without a comparison.
        text: the text for perplexity; None for no perplexity.
        scoring: how the text is put before the models.
        dtype: the dtype of the weights.
        contest: the prompts of the win rate; None for no win rate.
        best_of: settings of best-of-n sampling from the baseline; None for no best of n.
        samples: prompts whose answers are shown in the summary.
    """

    references: dict[str, Reference]
    device: torch.device | str
    seed: int
    baseline: str | None = None
    text: HeldOutText | None = None
    scoring: ScoringSettings = ScoringSettings()
    dtype: torch.dtype = torch.float32
    contest: Contest | None = None
    best_of: BestOf | None = None
    samples: list[str] = field(default_factory=list)
    judged: win_rate.Judged | None = None
    """The judged answers, set by `results`."""

    def __post_init__(self) -> None:
        require_distinct(self.references)

    @cached_property
    def _baseline_model(self) -> LoadedModel:
        return self._load(self.baseline)

    def _load(self, name: str) -> LoadedModel:
        opened = open_reference(self.references[name], device=self.device, dtype=self.dtype)
        return opened.model, opened.tokenizer

    def measure(self, name: str) -> Measured:
        """Return the log-probabilities, answers and samples of a model as JSON-serializable values."""
        loaded = self._baseline_model if self.contest and name == self.baseline else self._load(name)
        measured: Measured = {}
        if self.text is not None:
            with ExitStack() as stack:
                measured["perplexity"] = perplexity.measure(
                    *loaded, self.text, settings=self.scoring,
                    start=lambda total: stack.enter_context(
                        Progress(f"{name}: perplexity", total, "token")
                    ).update,
                )  # fmt: skip
        if self.contest is not None:
            with Progress(f"{name}: answers", len(self.contest.prompts), "prompt") as progress:
                measured["answers"] = win_rate.answer(loaded, self.contest, progress=progress.update)
            if name != self.baseline:
                measured["answers"]["kl"] = win_rate.kl_to_baseline(
                    loaded, self._baseline_model, measured["answers"], self.contest
                )
            elif self.best_of is not None:
                total = len(self.contest.prompts) * max(self.best_of.counts)
                with Progress(f"{name}: best of {max(self.best_of.counts)}", total, "answer") as progress:
                    measured["best_of"] = best_of.answer(
                        loaded, self.contest, self.best_of, progress=progress.update
                    )
        if self.samples:
            measured["samples"] = self._samples(loaded)
        return measured

    def _samples(self, loaded: LoadedModel) -> list[dict[str, object]]:
        """Answer the prompts of `samples`; a model without a chat template continues them."""
        model, tokenizer = loaded
        contest = self.contest or Contest([], self.seed)
        seeds = [derive(self.seed, "sample", number) for number in range(len(self.samples))]
        prompts = []
        for text in self.samples:
            if tokenizer.chat_template:
                prompts.append(template.prompt_ids(tokenizer, [{"role": "user", "content": text}]))
            else:
                start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
                prompts.append(start + template.encode_text(tokenizer, text))
        answers = sampling.generate(
            model,
            prompts,
            seed=seeds,
            end_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id,
            max_new_tokens=contest.max_new_tokens,
            temperature=contest.temperature,
        )
        rows = zip(self.samples, answers.ids, answers.ended, seeds, strict=True)
        return [
            {"prompt": text, "answer": template.decode_answer(tokenizer, ids), "ended": ended, "seed": seed}
            for text, ids, ended, seed in rows
        ]

    def results(self, measured: Mapping[str, Measured], judge: AnyJudge | None) -> dict[str, object]:
        """Return the numbers with their intervals: `models` by name, `judge`, `baseline` and provenance."""
        models: dict[str, dict[str, object]] = {name: {} for name in measured}
        judge_facts: dict[str, object] | None = None
        if self.text is not None:
            for name, row in models.items():
                row |= perplexity.summarize(measured[name]["perplexity"], self.text, seed=self.seed)
            self._compare_perplexity(models, measured)
        if self.contest is not None and judge is not None and self.baseline is not None:
            self.judged = win_rate.summarize(
                answers_of(measured), self.contest, judge, baseline=self.baseline
            )
            judge_facts = self.judged.judge
            for name, numbers in self.judged.models.items():
                models.setdefault(name, {}).update(numbers)
        for name, values in measured.items():
            models[name] |= {"samples": values["samples"]} if self.samples else {}
        provenance_facts = {"baseline": self.baseline, "seed": self.seed, "versions": provenance.versions()}
        return {"models": models, "judge": judge_facts, **provenance_facts}

    def _compare_perplexity(
        self, models: dict[str, dict[str, object]], measured: Mapping[str, Measured]
    ) -> None:
        """Add the paired difference in bits per byte to the baseline: its interval is narrower than two."""
        if self.baseline is None:
            return
        base = measured[self.baseline]["perplexity"]
        for name, row in models.items():
            if name == self.baseline:
                continue
            difference = perplexity.difference(measured[name]["perplexity"], base, self.text, seed=self.seed)
            row |= difference.as_json("bits_per_byte_difference")


def answers_of(measured: Mapping[str, Measured]) -> dict[str, dict[str, list]]:
    """Return the answers of every model, followed by those of best of n."""
    answers = {name: values["answers"] for name, values in measured.items()}
    for values in measured.values():
        answers |= values.get("best_of", {})
    return answers
