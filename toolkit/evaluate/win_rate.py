"""Win rate: the answers of every model to the same unseen prompts, against those of a baseline.

A win counts 1, a tie one half. Answer i of every model draws from the same random stream, so that models
which hardly differ hardly differ in their answers either. The KL divergence to the baseline says what the
wins have cost: a policy far from where it started may have found a weakness of the judge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit import stats, storyworld
from toolkit.base.errors import ToolkitError, UsageError
from toolkit.base.rng import derive
from toolkit.data.chat import template
from toolkit.evaluate import judges
from toolkit.evaluate.judges import AnyJudge, Judge, Messages
from toolkit.evaluate.lengths import wins_by_length
from toolkit.evaluate.pairwise import PairwiseJudge, PairwiseOutcomes
from toolkit.evaluate.rates import power_of, ranking, rate_all
from toolkit.inference import sampling
from toolkit.inference.logprobs import answer_logprobs
from toolkit.stats import agreement
from toolkit.stats.sequential import is_decided
from toolkit.stats.win_rates import by_prompt

SCORE_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SEEN = ("texts", "ended", "scores")
"""What a judge compares by."""
LOOK_EVERY = 20
"""Prompts between two looks of a judge who stops early."""
LoadedModel = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass(frozen=True)
class Contest:
    """Prompts, and how they are answered.

    Attributes:
        prompts: each `samples_per_prompt` times, one after another.
        known_world: the prompts are storyworld's, so that the gold utility of an answer is known.
    """

    prompts: list[Messages]
    seed: int
    known_world: bool = False
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
        """Different prompts: what intervals are over, for answers to one prompt are alike."""
        return len(self.prompts) // self.samples_per_prompt

    def unit_of(self, chosen: np.ndarray) -> np.ndarray:
        """The prompt of each chosen answer, by a mask (answers,)."""
        return np.flatnonzero(chosen) // self.samples_per_prompt

    def by_unit(self, values: ArrayLike) -> np.ndarray:
        """The mean over the answers to each prompt, (units,)."""
        return np.asarray(values, dtype=float).reshape(-1, self.samples_per_prompt).mean(axis=1)

    def mean(self, values: ArrayLike) -> stats.Estimate:
        """The mean of a number of each answer, its interval over prompts."""
        return stats.bootstrap_mean(self.by_unit(values), seed=self.seed, samples=self.bootstrap_samples)

    def seeds(self) -> list[int]:
        """One stream an answer, the same for every model."""
        return [derive(self.seed, "answer", number) for number in range(len(self.prompts))]


def answer(
    loaded: LoadedModel, contest: Contest, *, progress: Callable[[int], None] | None = None
) -> dict[str, list]:
    """Answer every prompt: `ids`, `texts`, `ended` and `prompt_ids`, lists in the order of the prompts.

    Raises:
        ToolkitError: no chat template, or no room for an answer beside a prompt.
    """
    tokenizer = loaded[1]
    prompt_ids = encode_prompts(loaded, contest)
    unmodified = {"temperature": contest.temperature, "top_k": contest.top_k, "top_p": contest.top_p}
    answers = sample(loaded, prompt_ids, contest, seeds=contest.seeds(), progress=progress, **unmodified)
    texts = [template.decode_answer(tokenizer, ids) for ids in answers["ids"]]
    return {**answers, "texts": texts, "prompt_ids": prompt_ids}


def encode_prompts(loaded: LoadedModel, contest: Contest) -> list[list[int]]:
    """Prompts in the chat template; too long ones lose their oldest turns."""
    model, tokenizer = loaded
    limit, positions = contest.max_prompt_tokens, getattr(model.config, "max_position_embeddings", None)
    if positions is not None:
        limit = min(limit, positions - contest.max_new_tokens)
    if limit < 1:
        raise ToolkitError(
            f"answers of {contest.max_new_tokens} tokens leave no room for a prompt in {positions} positions",
            where="max_new_tokens",
            fix="lower it",
        )
    return [template.prompt_ids(tokenizer, prompt, max_tokens=limit) for prompt in contest.prompts]


def sample(
    loaded: LoadedModel,
    prompt_ids: list[list[int]],
    contest: Contest,
    *,
    seeds: Sequence[int],
    progress: Callable[[int], None] | None = None,
    **sampling_options: float,
) -> dict[str, list]:
    """`ids` and `ended` of an answer to each prompt, in batches; `how` as sampling.Sampling has it."""
    model, tokenizer = loaded
    ids, ended = [], []
    for start in range(0, len(prompt_ids), contest.batch_examples):
        part = slice(start, start + contest.batch_examples)
        answers = sampling.generate(
            model,
            prompt_ids[part],
            seed=seeds[part],
            end_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id,
            max_new_tokens=contest.max_new_tokens,
            batch_rows=contest.batch_examples,
            **sampling_options,
        )
        ids, ended = ids + answers.ids, ended + answers.ended
        if progress:
            progress(len(ids))
    return {"ids": ids, "ended": ended}


def kl_to_baseline(
    policy: LoadedModel, baseline: LoadedModel, answers: dict[str, list], contest: Contest
) -> list[float] | None:
    """log p of policy less that of the baseline, of each answer, end-of-text included, in nats.

    Its mean over answers that the policy itself samples at temperature 1 is KL(policy || baseline); for a
    contest at another temperature, or cut by top-k or top-p, answers are sampled once more at 1. None where
    the two models have different vocabularies.
    """
    tokenizer = policy[1]
    if tokenizer.get_vocab() != baseline[1].get_vocab():
        return None
    plain = contest.temperature == 1 and contest.top_k == 0 and contest.top_p == 1
    sampled = answers
    if not plain:
        sampled = sample(policy, answers["prompt_ids"], contest, seeds=contest.seeds(), temperature=1.0)
    ends = [[tokenizer.eos_token_id] * ended for ended in sampled["ended"]]
    tokens = [list(ids) + end for ids, end in zip(sampled["ids"], ends, strict=True)]
    logprobs = [
        answer_logprobs(model, answers["prompt_ids"], tokens, batch_examples=contest.batch_examples)
        for model, _ in (policy, baseline)
    ]
    return [float((own - other).sum(dtype=np.float64)) for own, other in zip(*logprobs, strict=True)]


def kl_bound(count: int) -> float:
    """The most nats between the best of so many answers and one of them (Beirami et al., 2024)."""
    return math.log(count) - (count - 1) / count


@dataclass(frozen=True)
class Judged:
    """models: the numbers of each. judge: what is to be known of it. outcomes: of each answer, None where
    nobody judged, by model. scores: of each answer, by model, of a judge that scores."""

    models: dict[str, dict[str, object]]
    judge: dict[str, object]
    outcomes: dict[str, list[float | None]]
    scores: dict[str, list[float]]


def summarize(
    answers: dict[str, dict[str, list]], contest: Contest, judge: AnyJudge, *, baseline: str
) -> Judged:
    """Judge all answers.

    Args:
        answers: of each model, as `answer` returned them, with `kl` added.
        baseline: the name of the model that the others are compared with.

    Raises:
        UsageError: not one pair was judged.
    """
    seen = {name: judge.see(contest.prompts, shown) for name, shown in answers.items()}
    gold = _utilities(answers, contest)
    words = max(20, contest.max_new_tokens // 2)
    nonsense = judges.gate(judge, contest.prompts, seen[baseline], words=words, seed=contest.seed)
    unfit = _unfit(nonsense)
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
        numbers = _own_numbers(shown, contest)
        if gold is not None:
            numbers["gold"] = _gold_numbers(gold[name], gold[baseline] if name != baseline else None, contest)
        if name == baseline:
            numbers["is_baseline"] = True
        else:
            numbers["win_rate"] = {**rates[name], "unjudged": int((~is_judged[name]).sum())}
            numbers["wins_by_length"] = wins_by_length(outcomes[name], longer[name])
        result[name] = numbers
    judge_facts = {
        **judges.as_json(judge),
        **_position_bias([pairs.orders for pairs in compared.values() if pairs.orders], contest),
        "doubt": doubt,
        "fit": unfit is None,
        "gate": nonsense,
        "baseline": baseline,
        "stopped_early": stopped,
        "power": None if stopped else power_of(rates, contest.units),
        "ranking": None if stopped else _ranked(judge, contest, seen, compared, baseline=baseline),
        "level": 0.95,
    }
    scores = {name: np.asarray(shown["scores"]).tolist() for name, shown in seen.items() if "scores" in shown}
    outcome_lists = {
        name: [None if np.isnan(value) else float(value) for value in pairs.outcomes]
        for name, pairs in compared.items()
    }
    return Judged(result, judge_facts, outcome_lists, scores)


def _compare(
    judge: AnyJudge,
    contest: Contest,
    own: dict[str, list],
    other: dict[str, list],
    *,
    part: slice = slice(None),
) -> PairwiseOutcomes:
    """What the judge says of a part of the answers; the same answer is a tie, whatever it says."""
    own, other = ({key: side[key][part] for key in SEEN if key in side} for side in (own, other))
    same = np.array(own["texts"]) == np.array(other["texts"])
    same &= np.array(own["ended"]) == np.array(other["ended"])
    compared = judge.compare(contest.prompts[part], own, other)
    return replace(compared, outcomes=np.where(same, 0.5, compared.outcomes))


def _compare_until_decided(
    judge: PairwiseJudge, contest: Contest, own: dict[str, list], other: dict[str, list], *, models: int
) -> PairwiseOutcomes:
    """As `_compare`, but nothing is asked once the prompts so far exclude one half; the rest is nan."""
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
        # each model gets its part of the 5 %, so that what ends here Holm's verdict confirms
        if is_decided(prompts, level=1 - 0.05 / models):
            break
    return PairwiseOutcomes(outcomes, (orders[0], orders[1]))


def _ranked(
    judge: AnyJudge,
    contest: Contest,
    seen: dict[str, dict],
    compared: dict[str, PairwiseOutcomes],
    *,
    baseline: str,
) -> dict[str, object] | None:
    """All models on one scale, by what was said of each and the baseline, and of every two others."""
    pairs = {(name, baseline): outcomes.outcomes for name, outcomes in compared.items()}
    if isinstance(judge, Judge):  # another judge would have to be asked for every two models
        pairs |= {
            pair: _compare(judge, contest, *(seen[name] for name in pair)).outcomes
            for pair in combinations(compared, 2)
        }
    bootstrap = {"seed": contest.seed, "samples": contest.bootstrap_samples}
    return ranking(pairs, samples_per_prompt=contest.samples_per_prompt, **bootstrap)


def _judged(outcomes: np.ndarray) -> np.ndarray:
    """Which pairs somebody has judged, (answers,)."""
    is_judged = ~np.isnan(outcomes)
    if not is_judged.any():
        raise UsageError(
            "the judge has said nothing of any pair", where="judge",
            fix="votes must be on these prompts and these very answers: see answers.jsonl of the run",
        )  # fmt: skip
    return is_judged


def _longer(own: dict[str, list], other: dict[str, list]) -> np.ndarray:
    """Tokens of each own answer less those of the other's, (answers,)."""
    return np.array([len(a) - len(b) for a, b in zip(own["ids"], other["ids"], strict=True)])


def _position_bias(orders: list[tuple[np.ndarray, np.ndarray]], contest: Contest) -> dict[str, object]:
    """Of a judge that saw both orders: what standing first is worth, over all models."""
    if not orders:
        return {}
    first, second = (np.concatenate(order) for order in zip(*orders, strict=True))
    is_judged = ~np.isnan(first) & ~np.isnan(second)
    if not is_judged.any():
        return {}
    return {"position_bias": agreement.position_bias(first[is_judged], second[is_judged], seed=contest.seed)}


def _own_numbers(answers: dict[str, list], contest: Contest) -> dict[str, object]:
    """What needs no comparison: score, length in tokens, share that ended, KL in nats an answer."""
    numbers: dict[str, object] = {"prompts": contest.units, "seed": contest.seed}
    if "scores" in answers:
        numbers |= contest.mean(answers["scores"]).as_json("score")
        parts = np.quantile(answers["scores"], SCORE_QUANTILES).tolist()
        numbers["score_quantiles"] = dict(zip(map(str, SCORE_QUANTILES), parts, strict=True))
    numbers |= contest.mean([len(ids) for ids in answers["ids"]]).as_json("mean_length")
    ended = contest.by_unit(np.asarray(answers["ended"], dtype=float))
    share = stats.bootstrap_share(ended, seed=contest.seed, samples=contest.bootstrap_samples)
    numbers |= share.as_json("ended")
    if "count" in answers:
        numbers["kl_to_baseline_at_most"] = kl_bound(answers["count"])
    if answers.get("kl") is not None:
        numbers |= contest.mean(answers["kl"]).as_json("kl_to_baseline")
    return numbers


def _unfit(nonsense: dict[str, object]) -> str | None:
    if nonsense["passed"] is not False:
        return None
    winners = [kind for kind, rate in nonsense.items() if kind != "passed" and not rate["high"] < 0.5]
    kinds = " and ".join(kind.replace("_", " ") for kind in winners)
    return f"judge unfit: {kinds} answers do not lose to the baseline's"


def _utilities(
    answers: dict[str, dict[str, list]], contest: Contest
) -> dict[str, list[storyworld.Utility]] | None:
    if not contest.known_world:
        return None
    return {
        name: [
            storyworld.utility(*pair) for pair in zip(contest.prompts, model_answers["texts"], strict=True)
        ]
        for name, model_answers in answers.items()
    }


def _gold_numbers(
    own: Sequence[storyworld.Utility], baseline: Sequence[storyworld.Utility] | None, contest: Contest
) -> dict[str, object]:
    """Mean utility and its terms; against a baseline the gain of each term, which sum to the whole gain."""
    weights = storyworld.WEIGHTS
    numbers: dict[str, object] = {
        **contest.mean([item.total for item in own]).as_json("utility"),
        "terms": {term: float(np.mean([item.terms[term] for item in own])) for term in weights},
    }
    if baseline is not None:
        pairs = list(zip(own, baseline, strict=True))
        numbers |= contest.mean([a.total - b.total for a, b in pairs]).as_json("utility_gain")
        numbers["gain_by_term"] = {
            term: float(weight * np.mean([a.terms[term] - b.terms[term] for a, b in pairs]))
            for term, weight in weights.items()
        }
        numbers["share_by_term"] = storyworld.term_shares(list(own), list(baseline))
    return numbers
