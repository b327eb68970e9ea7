"""What is measured, of which models: the part that the stage and the command line share."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

import torch
from transformers.utils.logging import disable_progress_bar

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
from toolkit.models.loading import Reference, load_causal_lm
from toolkit.runs import provenance

Measured = dict[str, object]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""What a recipe and the command line call the precision of the weights."""


@dataclass
class Session:
    """Everything that is measured of each model.

    Attributes:
        references: where each model lies, by the name that it is reported under.
        baseline: the name of the model that the others are compared with, None without comparison.
        text: what perplexity is measured on, None for no perplexity; `scoring` says how.
        dtype: of the weights that all of this is computed with.
        contest: prompts of the win rate, None for no win rate.
        best_of: numbers of the baseline's answers of which the best competes, too.
        samples: prompts whose answers are shown.
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
    """What `results` has judged, answer by answer."""

    def __post_init__(self) -> None:
        require_distinct(self.references)

    @cached_property
    def _baseline_model(self) -> LoadedModel:
        return self._load(self.baseline)

    def _load(self, name: str) -> LoadedModel:
        disable_progress_bar()  # of the weights: it would stand between the bars of the measurements
        return load_causal_lm(self.references[name], device=self.device, dtype=self.dtype)

    def measure(self, name: str) -> Measured:
        """Score, answer and sample with one model; plain numbers and lists, as they go into a JSON file."""
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
        """Answers to the prompts that are shown; a model without a chat template continues them."""
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
        """Numbers with their intervals: `models` by name, and `judge`."""
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
        """Bits per byte less the baseline's, paired by document or block: narrower than two intervals."""
        if self.baseline is None:
            return
        base = measured[self.baseline]["perplexity"]
        for name, row in models.items():
            if name == self.baseline:
                continue
            difference = perplexity.difference(measured[name]["perplexity"], base, self.text, seed=self.seed)
            row |= difference.as_json("bits_per_byte_difference")


def answers_of(measured: Mapping[str, Measured]) -> dict[str, dict[str, list]]:
    """The answers of every model, and those of best of n after them."""
    answers = {name: values["answers"] for name, values in measured.items()}
    for values in measured.values():
        answers |= values.get("best_of", {})
    return answers
