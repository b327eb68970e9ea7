"""The measurements of several models, shared by the evaluate stage and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from transformers import PreTrainedTokenizerBase

from toolkit.base.progress import Progress
from toolkit.base.rng import derive
from toolkit.data.chat import answer_end, fitting, template
from toolkit.data.chat.dates import prints_date
from toolkit.evaluate import best_of, perplexity, win_rate
from toolkit.evaluate.answers import Answers
from toolkit.evaluate.best_of import BestOf
from toolkit.evaluate.judges import AnyJudge, Messages
from toolkit.evaluate.naming import require_distinct
from toolkit.evaluate.perplexity import HeldOutText, ScoringSettings, TextScores
from toolkit.evaluate.win_rate import Contest, LoadedModel
from toolkit.inference import sampling
from toolkit.inference.opening import open_reference
from toolkit.models.loading import Dtype
from toolkit.models.stop_tokens import StopTokens
from toolkit.runs import hub, provenance
from toolkit.runs.evaluation import ModelComparison, ModelEvaluation, Sample, SampleAnswer
from toolkit.runs.hub import Reference
from toolkit.runs.records import Record

NO_TEMPLATE = "has no chat template, so that it cannot answer prompts"


@dataclass(frozen=True, kw_only=True)
class Measured(Record):
    """What was measured of one model, before it is compared with the others.

    Attributes:
        answers: to the prompts of the win rate.
        best_of: the best of n answers of the baseline, by label.
    """

    perplexity: TextScores | None = None
    answers: Answers | None = None
    best_of: dict[str, Answers] | None = None
    samples: list[Sample] | None = None


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
        silent: the names of models that do not take part in it, because they have no chat template.
        best_of: settings of best-of-n sampling from the baseline; None for no best of n.
        samples: prompts whose answers are shown in the summary, as the turns of a conversation.
        answers: of each model to each of `samples`.
    """

    references: dict[str, Reference]
    device: torch.device | str
    seed: int
    baseline: str | None = None
    text: HeldOutText | None = None
    scoring: ScoringSettings = ScoringSettings()
    dtype: Dtype = torch.float32
    contest: Contest | None = None
    silent: frozenset[str] = frozenset()
    best_of: BestOf | None = None
    samples: list[list[str]] = field(default_factory=list)
    answers: int = 1
    stop_tokens: dict[str, dict[str, int]] = field(default_factory=dict)
    """The stop tokens of each model that was measured, by its reported name."""
    prints_date: bool = False
    """Whether the chat template of a model that was measured prints a date."""
    judged: win_rate.Judged | None = None
    """The judged answers, set by `results`."""

    def __post_init__(self) -> None:
        require_distinct(self.references)

    @cached_property
    def _baseline_model(self) -> LoadedModel:
        return self._load(self.baseline)

    def _load(self, name: str) -> LoadedModel:
        opened = open_reference(self.references[name], device=self.device, dtype=self.dtype)
        self.stop_tokens[name] = opened.stop_tokens.as_tokens(opened.tokenizer)
        self.prints_date |= prints_date(opened.tokenizer.chat_template)
        return opened.model, opened.tokenizer

    def measure(self, name: str) -> Measured:
        """Return the log-probabilities, answers and samples of a model."""
        loaded = self._baseline_model if self.contest and name == self.baseline else self._load(name)
        scores = answers = chosen = None
        if self.text is not None:
            with ExitStack() as stack:
                scores = perplexity.measure(
                    *loaded, self.text, settings=self.scoring,
                    start=lambda total: stack.enter_context(
                        Progress(f"{name}: perplexity", total, "token")
                    ).update,
                )  # fmt: skip
        if self.contest is not None and name not in self.silent:
            with Progress(f"{name}: answers", len(self.contest.prompts), "prompt") as progress:
                answers = win_rate.answer(loaded, self.contest, progress=progress.update)
            if name != self.baseline:
                kl = win_rate.kl_to_baseline(
                    loaded, self._baseline_model, answers, self.contest, shown_as=f"{name}: KL"
                )
                answers = replace(answers, kl=kl, nulls=frozenset({"kl"}))
            elif self.best_of is not None:
                total = len(self.contest.prompts) * max(self.best_of.counts)
                with Progress(f"{name}: best of {max(self.best_of.counts)}", total, "answer") as progress:
                    chosen = best_of.answer(loaded, self.contest, self.best_of, progress=progress.update)
        samples = self._samples(loaded) if self.samples else None
        return Measured(perplexity=scores, answers=answers, best_of=chosen, samples=samples)

    def _samples(self, loaded: LoadedModel) -> list[Sample]:
        """Answer the prompts of `samples`; a model without a chat template continues them."""
        model, tokenizer = loaded
        contest = self.contest or Contest([], self.seed)
        drawn = [(number, again) for number in range(len(self.samples)) for again in range(self.answers)]
        # The first answer has the seed that it had when there was only one.
        seeds = [derive(self.seed, "sample", number, *([again] if again else [])) for number, again in drawn]
        prompts = [_encoded(tokenizer, self.samples[number]) for number, _ in drawn]
        answers = sampling.generate(
            model,
            prompts,
            seed=seeds,
            end_id=StopTokens.of(model, tokenizer).ids,
            pad_id=tokenizer.pad_token_id,
            max_new_tokens=contest.max_new_tokens,
            temperature=contest.temperature,
            shown_as="samples",
        )
        texts = [answer_end.decode_answer(tokenizer, ids) for ids in answers.ids]
        rows = list(zip(texts, answers.ended, seeds, strict=True))
        samples = []
        for number, turns in enumerate(self.samples):
            own = rows[number * self.answers : (number + 1) * self.answers]
            text, ended, seed = own[0]
            sample = Sample(prompt=turns[-1], answer=text, ended=ended, seed=seed)
            if len(turns) > 1:
                sample = replace(sample, turns=turns)
            if len(own) > 1:
                sample = replace(sample, answers=[self._sample_answer(turns, *row) for row in own])
            samples.append(sample)
        return samples

    def _sample_answer(self, turns: list[str], text: str, ended: bool, seed: int) -> SampleAnswer:
        world = self.contest.world if self.contest else None
        rates = world.rates(_messages(turns), text) if world else {}
        return SampleAnswer(answer=text, ended=ended, seed=seed, rates=rates or None)

    def results(self, measured: Mapping[str, Measured], judge: AnyJudge | None) -> ModelComparison:
        """Return the numbers of all models with their intervals, the judge and the versions of libraries."""
        models = {name: self._text_metrics(name, measured) for name in measured}
        if self.contest is not None and judge is not None and self.baseline is not None:
            answers = answers_of(measured)
            self.judged = win_rate.summarize(answers, self.contest, judge, baseline=self.baseline)
            models |= {
                name: ModelEvaluation.combined(*([models[name]] if name in models else []), metrics)
                for name, metrics in self.judged.models.items()
            }
        if self.samples:
            models |= {
                name: replace(models[name], samples=values.samples) for name, values in measured.items()
            }
        for name, reference in self.references.items():
            commit = hub.commit_of(reference) if name in models else None
            if commit is not None:
                models[name] = replace(models[name], hub_commit=commit)
        return ModelComparison(
            models=models,
            judge=None if self.judged is None else self.judged.judge,
            baseline=self.baseline,
            not_measured={f"{name}.win_rate": NO_TEMPLATE for name in sorted(self.silent)} or None,
            seed=self.seed,
            versions=provenance.versions(),
            nulls=frozenset({"judge", "baseline"}),
        )

    def _text_metrics(self, name: str, measured: Mapping[str, Measured]) -> ModelEvaluation:
        """Return the metrics of a model on the text, if there is one.

        The difference to the baseline is paired by document, so its interval is narrower than both.
        """
        if self.text is None:
            return ModelEvaluation()
        scores = measured[name].perplexity
        metrics = ModelEvaluation.combined(perplexity.summarize(scores, self.text, seed=self.seed))
        if self.baseline is None or name == self.baseline:
            return metrics
        baseline = measured[self.baseline].perplexity
        difference = perplexity.difference(scores, baseline, self.text, seed=self.seed)
        return replace(metrics, bits_per_byte_difference=difference)


def _messages(turns: list[str]) -> Messages:
    """Return the messages of a conversation that the user begins."""
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": text} for number, text in enumerate(turns)]


def _encoded(tokenizer: PreTrainedTokenizerBase, turns: list[str]) -> list[int]:
    """Encode a conversation; without a chat template, as a text that begins with beginning-of-text."""
    if tokenizer.chat_template:
        return fitting.prompt_ids(tokenizer, _messages(turns))
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return start + template.encode_text(tokenizer, "\n".join(turns))


def answers_of(measured: Mapping[str, Measured]) -> dict[str, Answers]:
    """Return the answers of every model, followed by those of best of n."""
    answers = {name: values.answers for name, values in measured.items() if values.answers is not None}
    for values in measured.values():
        answers |= values.best_of or {}
    return answers
