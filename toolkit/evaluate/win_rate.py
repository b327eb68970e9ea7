"""Win rate: the answers of every model to the same unseen prompts, against those of a baseline.

A win counts 1, a tie one half. Answer i of every model draws from the same random stream, so that similar
models give similar answers. The KL divergence to the baseline is the cost of the wins: a policy far from its
start may exploit a weakness of the judge.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit import stats
from toolkit.base.errors import UsageError
from toolkit.base.progress import slow_pass
from toolkit.base.rng import derive
from toolkit.data.chat import answer_end
from toolkit.evaluate import judges
from toolkit.evaluate.answers import Answers
from toolkit.evaluate.judges import AnyJudge, Judge, Messages
from toolkit.evaluate.lengths import wins_by_length
from toolkit.evaluate.pairwise import PairwiseJudge, PairwiseOutcomes
from toolkit.evaluate.rates import power_of, ranking, rate_all
from toolkit.inference import prompts, sampling
from toolkit.inference.logprobs import answer_logprobs
from toolkit.models.stop_tokens import StopTokens
from toolkit.runs.evaluation import AnswerMetrics, GateResult, GoldUtility, JudgeResult
from toolkit.stats import agreement
from toolkit.stats.frontier import best_of_n_kl_bound
from toolkit.stats.sequential import is_decided
from toolkit.stats.win_rates import by_prompt
from toolkit.storyworld import Utility, World

SCORE_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LOOK_EVERY = 20
"""Prompts between two checks of a judge that stops early."""
LoadedModel = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass(frozen=True)
class Contest:
    """Prompts with the settings of sampling and of the bootstrap.

    Attributes:
        prompts: every prompt `samples_per_prompt` times in a row.
        world: the world of the prompts, so that the gold utility of an answer is known; None for others.
    """

    prompts: list[Messages]
    seed: int
    world: World | None = None
    samples_per_prompt: int = 1
    max_prompt_tokens: int = 256
    max_new_tokens: int = 96
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    batch_examples: int = 64
    bootstrap_samples: int = 2000

    @property
    def units(self) -> int:
        """The number of different prompts, the units of the intervals: answers to one prompt are similar."""
        return len(self.prompts) // self.samples_per_prompt

    def unit_of(self, chosen: np.ndarray) -> np.ndarray:
        """Return the prompt of each answer that a mask (answers,) selects."""
        return np.flatnonzero(chosen) // self.samples_per_prompt

    def by_unit(self, values: ArrayLike) -> np.ndarray:
        """Return the mean over the answers to each prompt, (units,)."""
        return np.asarray(values, dtype=float).reshape(-1, self.samples_per_prompt).mean(axis=1)

    def mean(self, values: ArrayLike) -> stats.Estimate:
        """Estimate the mean of one number per answer; the interval resamples prompts."""
        return stats.bootstrap_mean(self.by_unit(values), seed=self.seed, samples=self.bootstrap_samples)

    def seeds(self) -> list[int]:
        """Return the seed of each answer, the same for every model."""
        return [derive(self.seed, "answer", number) for number in range(len(self.prompts))]


def answer(
    loaded: LoadedModel, contest: Contest, *, progress: Callable[[int], None] | None = None
) -> Answers:
    """Sample an answer to each prompt.

    Raises:
        ToolkitError: there is no chat template, or a prompt leaves no room for an answer.
    """
    prompt_ids = encode_prompts(loaded, contest)
    unmodified = {"temperature": contest.temperature, "top_k": contest.top_k, "top_p": contest.top_p}
    return sample(loaded, prompt_ids, contest, seeds=contest.seeds(), progress=progress, **unmodified)


def encode_prompts(loaded: LoadedModel, contest: Contest) -> list[list[int]]:
    """Encode the prompts of a contest (see `toolkit.inference.prompts.encode_prompts`)."""
    return prompts.encode_prompts(
        *loaded,
        contest.prompts,
        max_prompt_tokens=contest.max_prompt_tokens,
        max_new_tokens=contest.max_new_tokens,
    )


def sample(
    loaded: LoadedModel,
    prompt_ids: list[list[int]],
    contest: Contest,
    *,
    seeds: Sequence[int],
    progress: Callable[[int], None] | None = None,
    **sampling_options: float,
) -> Answers:
    """Sample an answer to each prompt in batches.

    `sampling_options` are fields of `SamplingSettings`.
    """
    model, tokenizer = loaded
    ends = StopTokens.of(model, tokenizer).ids
    drawn = Answers(prompt_ids=prompt_ids)
    for start in range(0, len(prompt_ids), contest.batch_examples):
        part = slice(start, start + contest.batch_examples)
        answers = sampling.generate(
            model,
            prompt_ids[part],
            seed=seeds[part],
            end_id=ends,
            pad_id=tokenizer.pad_token_id,
            max_new_tokens=contest.max_new_tokens,
            batch_rows=contest.batch_examples,
            **sampling_options,
        )
        drawn.ids.extend(answers.ids)
        drawn.ended.extend(answers.ended)
        drawn.stops.extend(answers.stops)
        texts = [answer_end.decode_answer(tokenizer, ids) for ids in answers.ids]
        drawn.texts.extend(texts)
        drawn.unfinished.extend(
            answer_end.is_unfinished(tokenizer, *pair) for pair in zip(prompt_ids[part], texts, strict=True)
        )
        if progress:
            progress(len(drawn))
    return drawn


def kl_to_baseline(
    policy: LoadedModel,
    baseline: LoadedModel,
    answers: Answers,
    contest: Contest,
    *,
    shown_as: str | None = None,
) -> list[float] | None:
    """Return log p(policy) - log p(baseline) of each answer, its stop token included, in nats.

    The mean over answers that the policy samples at temperature 1 is KL(policy || baseline). If the contest
    has another temperature, top-k or top-p, answers are sampled again at temperature 1. Returns None if the
    models have different vocabularies.

    Args:
        shown_as: what a bar says of each pass that takes more than a few seconds; None for no bars.
    """
    if policy[1].get_vocab() != baseline[1].get_vocab():
        return None
    plain = contest.temperature == 1 and contest.top_k == 0 and contest.top_p == 1
    if not plain:
        with slow_pass(shown_as and f"{shown_as}, answers", len(answers), "prompt") as progress:
            answers = sample(
                policy, answers.prompt_ids, contest, seeds=contest.seeds(), progress=progress,
                temperature=1.0,
            )  # fmt: skip
    end_id = answer_end.end_id(policy[1])
    tokens = [
        ids + [end_id if stop is None else stop] * ended
        for ids, ended, stop in zip(answers.ids, answers.ended, answers.stops, strict=True)
    ]
    logprobs = [
        answer_logprobs(
            model, answers.prompt_ids, tokens, batch_examples=contest.batch_examples, shown_as=shown_as
        )
        for model, _ in (policy, baseline)
    ]
    return [float((own - other).sum(dtype=np.float64)) for own, other in zip(*logprobs, strict=True)]


@dataclass(frozen=True)
class Judged:
    """The result of judging all answers.

    Attributes:
        models: the numbers of each model.
        judge: facts about the judge and its checks.
        outcomes: outcome of each answer by model, None without a verdict.
        scores: score of each answer by model; empty if the judge gives no scores.
    """

    models: dict[str, AnswerMetrics]
    judge: JudgeResult
    outcomes: dict[str, list[float | None]]
    scores: dict[str, list[float]]


def summarize(answers: dict[str, Answers], contest: Contest, judge: AnyJudge, *, baseline: str) -> Judged:
    """Judge the answers of all models against those of the baseline.

    Args:
        answers: the answers of each model.
        baseline: the name of the model that the others are compared with.

    Raises:
        UsageError: the judge gave no verdict on any pair of a model.
    """
    seen = {name: judge.see(contest.prompts, shown) for name, shown in answers.items()}
    gold = _utilities(answers, contest)
    words = max(20, contest.max_new_tokens // 2)
    gate_result = judges.gate(judge, contest.prompts, seen[baseline], words=words, seed=contest.seed)
    unfit = _unfit(gate_result)
    doubt = judges.doubt_of(judge) or unfit
    bootstrap = {"seed": contest.seed, "samples": contest.bootstrap_samples}
    others = [name for name in answers if name != baseline]
    stopped = isinstance(judge, PairwiseJudge) and judge.stop_early
    judged_by = partial(_compare_until_decided, models=len(others)) if stopped else _compare
    compared = {name: judged_by(judge, contest, seen[name], seen[baseline]) for name in others}
    is_judged = {name: _judged(pairs.outcomes) for name, pairs in compared.items()}
    outcomes = {name: pairs.outcomes[is_judged[name]] for name, pairs in compared.items()}
    longer = {name: _longer(answers[name], answers[baseline])[is_judged[name]] for name in others}
    units = {name: contest.unit_of(is_judged[name]) for name in others}
    rates = rate_all(outcomes, longer, units=units, doubt=doubt, stopped=stopped, **bootstrap)
    result = {}
    for name, shown in seen.items():
        metrics = _own_metrics(shown, contest)
        if gold is not None:
            against = gold[baseline] if name != baseline else None
            metrics = replace(metrics, gold=_gold_utility(shown.judged, gold[name], against, contest))
        if name == baseline:
            result[name] = replace(metrics, is_baseline=True)
        else:
            result[name] = replace(
                metrics,
                win_rate=replace(rates[name], unjudged=int((~is_judged[name]).sum())),
                wins_by_length=wins_by_length(outcomes[name], longer[name]),
            )
    judge_result = replace(
        judges.describe(judge),
        position_bias=_position_bias([pairs.orders for pairs in compared.values() if pairs.orders], contest),
        doubt=doubt,
        fit=unfit is None,
        gate=gate_result,
        baseline=baseline,
        stopped_early=stopped,
        power=None if stopped else power_of(rates, contest.units),
        ranking=None if stopped else _ranked(judge, contest, seen, compared, baseline=baseline),
        level=0.95,
    )
    scores = {name: shown.scores.tolist() for name, shown in seen.items() if shown.scores is not None}
    outcome_lists = {
        name: [None if np.isnan(value) else float(value) for value in pairs.outcomes]
        for name, pairs in compared.items()
    }
    return Judged(result, judge_result, outcome_lists, scores)


def _compare(
    judge: AnyJudge,
    contest: Contest,
    own: Answers,
    other: Answers,
    *,
    part: slice = slice(None),
) -> PairwiseOutcomes:
    """Return the judge's outcomes of a part of the answers; equal answers are a tie, whatever the verdict."""
    own, other = own.part(part), other.part(part)
    same = np.array(own.judged) == np.array(other.judged)
    same &= np.array(own.ended) == np.array(other.ended)
    compared = judge.compare(contest.prompts[part], own, other)
    return replace(compared, outcomes=np.where(same, 0.5, compared.outcomes))


def _compare_until_decided(
    judge: PairwiseJudge, contest: Contest, own: Answers, other: Answers, *, models: int
) -> PairwiseOutcomes:
    """Compare prompt by prompt until the interval excludes one half; outcomes of the rest are nan."""
    outcomes = np.full(len(contest.prompts), np.nan)
    orders = np.full((2, len(contest.prompts)), np.nan)
    step = LOOK_EVERY * contest.samples_per_prompt
    for start in range(0, len(outcomes), step):
        part = slice(start, start + step)
        compared = _compare(judge, contest, own, other, part=part)
        outcomes[part] = compared.outcomes
        if compared.orders is not None:
            orders[:, part] = compared.orders
        is_judged = ~np.isnan(outcomes)
        if not is_judged.any():
            continue
        prompts, _ = by_prompt(outcomes[is_judged], contest.unit_of(is_judged).tolist())
        # Each model gets its part of the 5 %, so that Holm's adjustment confirms the decision.
        if is_decided(prompts, level=1 - 0.05 / models):
            break
    return PairwiseOutcomes(outcomes, (orders[0], orders[1]))


def _ranked(
    judge: AnyJudge,
    contest: Contest,
    seen: dict[str, Answers],
    compared: dict[str, PairwiseOutcomes],
    *,
    baseline: str,
) -> dict[str, Any] | None:
    """Rank all models by their outcomes against the baseline and against each other."""
    pairs = {(name, baseline): outcomes.outcomes for name, outcomes in compared.items()}
    if isinstance(judge, Judge):  # a pairwise judge would have to be asked about every two models
        pairs |= {
            pair: _compare(judge, contest, *(seen[name] for name in pair)).outcomes
            for pair in combinations(compared, 2)
        }
    bootstrap = {"seed": contest.seed, "samples": contest.bootstrap_samples}
    return ranking(pairs, samples_per_prompt=contest.samples_per_prompt, **bootstrap)


def _judged(outcomes: np.ndarray) -> np.ndarray:
    """Return the mask of the pairs with a verdict, (answers,)."""
    is_judged = ~np.isnan(outcomes)
    if not is_judged.any():
        raise UsageError(
            "the judge gave no verdict on any pair", where="judge",
            fix="votes must be on exactly these prompts and answers: see answers.jsonl of the run",
        )  # fmt: skip
    return is_judged


def _longer(own: Answers, other: Answers) -> np.ndarray:
    """Return by how many tokens each own answer is longer than the other, (answers,)."""
    return np.array([len(a) - len(b) for a, b in zip(own.ids, other.ids, strict=True)])


def _position_bias(orders: list[tuple[np.ndarray, np.ndarray]], contest: Contest) -> dict[str, Any] | None:
    """Return the position bias over all models of a judge that saw both orders, None for other judges."""
    if not orders:
        return None
    first, second = (np.concatenate(order) for order in zip(*orders, strict=True))
    is_judged = ~np.isnan(first) & ~np.isnan(second)
    if not is_judged.any():
        return None
    return agreement.position_bias(first[is_judged], second[is_judged], seed=contest.seed)


def _own_metrics(answers: Answers, contest: Contest) -> AnswerMetrics:
    """Return the metrics of one model without another model's answers."""
    quantiles = None
    if answers.scores is not None:
        parts = np.quantile(answers.scores, SCORE_QUANTILES).tolist()
        quantiles = dict(zip(map(str, SCORE_QUANTILES), parts, strict=True))
    ended = contest.by_unit(np.asarray(answers.ended, dtype=float))
    return AnswerMetrics(
        prompts=contest.units,
        seed=contest.seed,
        score=None if answers.scores is None else contest.mean(answers.scores),
        score_quantiles=quantiles,
        mean_length=contest.mean([len(ids) for ids in answers.ids]),
        unfinished_thoughts=sum(answers.unfinished) or None,
        ended=stats.bootstrap_share(ended, seed=contest.seed, samples=contest.bootstrap_samples),
        kl_to_baseline_at_most=None if answers.count is None else best_of_n_kl_bound(answers.count),
        kl_to_baseline=None if answers.kl is None else contest.mean(answers.kl),
    )


def _unfit(gate_result: GateResult) -> str | None:
    """Return the reason for which the judge is unfit, from the result of `judges.gate`; None if it is fit."""
    if gate_result.passed is not False:
        return None
    rates = {kind: getattr(gate_result, kind) for kind in ("empty", "copied_prompt", "gibberish")}
    winners = [kind for kind, rate in rates.items() if not rate.high < 0.5]
    kinds = " and ".join(kind.replace("_", " ") for kind in winners)
    return f"judge unfit: {kinds} answers do not lose to the baseline's"


def _utilities(answers: dict[str, Answers], contest: Contest) -> dict[str, list[Utility]] | None:
    if contest.world is None:
        return None
    return {
        name: [
            contest.world.utility(*pair) for pair in zip(contest.prompts, model_answers.judged, strict=True)
        ]
        for name, model_answers in answers.items()
    }


def _gold_rates(texts: Sequence[str], contest: Contest) -> dict[str, Any]:
    """Return the rates of a world, each over the prompts that test it; the intervals resample prompts."""
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number, (prompt, text) in enumerate(zip(contest.prompts, texts, strict=True)):
        for rate, value in contest.world.rates(list(prompt), text).items():
            values[rate][number // contest.samples_per_prompt].append(value)
    result: dict[str, Any] = {}
    for rate, of_prompts in values.items():
        means = np.array([np.mean(of_prompt) for of_prompt in of_prompts.values()])
        estimate = stats.bootstrap_share(means, seed=contest.seed, samples=contest.bootstrap_samples)
        result |= {**estimate.as_json(rate), f"{rate}_n": len(means)}
    return result


def _gold_utility(
    texts: Sequence[str], own: Sequence[Utility], baseline: Sequence[Utility] | None, contest: Contest
) -> GoldUtility:
    """Return the mean utility and its terms; against a baseline also the gains, which sum over the terms."""
    weights = contest.world.weights
    utility = GoldUtility(
        utility=contest.mean([item.total for item in own]),
        terms={term: float(np.mean([item.terms[term] for item in own])) for term in weights},
    )
    rates = _gold_rates(texts, contest)
    utility = replace(utility, rates=rates or None)
    if baseline is None:
        return utility
    pairs = list(zip(own, baseline, strict=True))
    return replace(
        utility,
        utility_gain=contest.mean([a.total - b.total for a, b in pairs]),
        gain_by_term={
            term: float(weight * np.mean([a.terms[term] - b.terms[term] for a, b in pairs]))
            for term, weight in weights.items()
        },
        share_by_term=contest.world.term_shares(own, baseline),
    )
