"""Win rate: the answers of every model to the same unseen prompts, against those of a baseline.

A win counts 1, a tie one half. Answer i of every model draws from the same random stream, so that models
which hardly differ hardly differ in their answers either. The KL divergence to the baseline says what the
wins have cost: a policy far from where it started may have found a weakness of the judge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit import sampling, stats
from toolkit.data import chat, storyworld
from toolkit.evaluate import judges
from toolkit.evaluate.judges import Judge, Messages
from toolkit.evaluate.lengths import wins_by_length
from toolkit.evaluate.rates import power_of, ranking, rate_all
from toolkit.recipe.errors import ToolkitError
from toolkit.runs.streams import derive
from toolkit.scoring import answer_logprobs

LoadedModel = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass(frozen=True)
class Contest:
    """Prompts, and how they are answered.

    Attributes:
        known_world: the prompts are storyworld's, so that the gold utility of an answer is known.
    """

    prompts: list[Messages]
    seed: int
    known_world: bool = False
    max_prompt_tokens: int = 256
    max_new_tokens: int = 96
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    batch_examples: int = 64
    bootstrap_samples: int = 2000

    def seeds(self) -> list[int]:
        """One stream a prompt, the same for every model."""
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
    texts = [chat.decode_answer(tokenizer, ids) for ids in answers["ids"]]
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
    return [chat.prompt_ids(tokenizer, prompt, max_tokens=limit) for prompt in contest.prompts]


def sample(
    loaded: LoadedModel,
    prompt_ids: list[list[int]],
    contest: Contest,
    *,
    seeds: Sequence[int],
    progress: Callable[[int], None] | None = None,
    **how: float,
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
            **how,
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


def summarize(
    answers: dict[str, dict[str, list]], contest: Contest, judge: Judge, *, baseline: str
) -> tuple[dict[str, dict[str, object]], dict[str, object]]:
    """Judge all answers; returns the numbers of each model, and what is to be known of the judge.

    Args:
        answers: of each model, as `answer` returned them, with `kl` added.
        baseline: the name of the model that the others are compared with.
    """
    scores = {name: judge.score(contest.prompts, one["texts"], one["ended"]) for name, one in answers.items()}
    gold = _utilities(answers, contest)
    words = max(20, contest.max_new_tokens // 2)
    nonsense = judges.gate(judge, contest.prompts, scores[baseline], words=words, seed=contest.seed)
    unfit = _unfit(nonsense)
    doubt = judge.doubt or unfit
    how = {"seed": contest.seed, "samples": contest.bootstrap_samples}
    others = [name for name in answers if name != baseline]
    outcomes = {
        pair: _outcomes(*(answers[name] for name in pair), *(scores[name] for name in pair), tie=judge.tie)
        for pair in combinations([*others, baseline], 2)
    }
    compared = {name: outcomes[name, baseline] for name in others}
    longer = {name: _longer(answers[name], answers[baseline]) for name in others}
    rates = rate_all(compared, longer, doubt=doubt, **how)
    result = {}
    for name, one in answers.items():
        numbers = _own_numbers(one, scores[name], contest)
        if gold is not None:
            numbers["gold"] = _gold_numbers(gold[name], gold[baseline] if name != baseline else None, contest)
        if name == baseline:
            numbers["is_baseline"] = True
        else:
            numbers["win_rate"] = rates[name]
            numbers["wins_by_length"] = wins_by_length(compared[name], longer[name])
        result[name] = numbers
    about = {
        **judge.as_json(),
        "doubt": doubt,
        "fit": unfit is None,
        "gate": nonsense,
        "baseline": baseline,
        "power": power_of(rates, len(contest.prompts)),
        "ranking": ranking(outcomes, **how),
        "level": 0.95,
    }
    return result, about


def _own_numbers(one: dict[str, list], scores: np.ndarray, contest: Contest) -> dict[str, object]:
    """What needs no comparison: score, length in tokens, share that ended, KL in nats an answer."""
    settings = {"seed": contest.seed, "samples": contest.bootstrap_samples}
    lengths = [len(ids) for ids in one["ids"]]
    numbers = {
        **stats.bootstrap_mean(scores, **settings).as_json("score"),
        **stats.bootstrap_mean(lengths, **settings).as_json("mean_length"),
        **stats.bootstrap_share(np.asarray(one["ended"], dtype=float), **settings).as_json("ended"),
        "prompts": len(lengths),
        "seed": contest.seed,
    }
    if "count" in one:
        numbers["kl_to_baseline_at_most"] = kl_bound(one["count"])
    if one.get("kl") is not None:
        numbers |= stats.bootstrap_mean(one["kl"], **settings).as_json("kl_to_baseline")
    return numbers


def _outcomes(
    own: dict[str, list], other: dict[str, list], scores: np.ndarray, other_scores: np.ndarray, *, tie: float
) -> np.ndarray:
    """1 where the own answer has the higher score, 0 where the other has, (prompts,); the same is a tie."""
    same = np.array(own["texts"]) == np.array(other["texts"])
    same &= np.array(own["ended"]) == np.array(other["ended"])
    outcomes = judges.compare(scores, other_scores, tie=tie)
    outcomes[same] = 0.5
    return outcomes


def _longer(own: dict[str, list], other: dict[str, list]) -> np.ndarray:
    """Tokens of each own answer less those of the other's, (prompts,)."""
    return np.array([len(a) - len(b) for a, b in zip(own["ids"], other["ids"], strict=True)])


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
        name: [storyworld.utility(*pair) for pair in zip(contest.prompts, one["texts"], strict=True)]
        for name, one in answers.items()
    }


def _gold_numbers(
    own: Sequence[storyworld.Utility], baseline: Sequence[storyworld.Utility] | None, contest: Contest
) -> dict[str, object]:
    """Mean utility and its terms; against a baseline the gain of each term, which sum to the whole gain."""
    settings = {"seed": contest.seed, "samples": contest.bootstrap_samples}
    weights = storyworld.WEIGHTS
    numbers: dict[str, object] = {
        **stats.bootstrap_mean([each.total for each in own], **settings).as_json("utility"),
        "terms": {term: float(np.mean([each.terms[term] for each in own])) for term in weights},
    }
    if baseline is not None:
        pairs = list(zip(own, baseline, strict=True))
        gain = stats.bootstrap_mean([a.total - b.total for a, b in pairs], **settings)
        numbers |= gain.as_json("utility_gain")
        numbers["gain_by_term"] = {
            term: float(weight * np.mean([a.terms[term] - b.terms[term] for a, b in pairs]))
            for term, weight in weights.items()
        }
        numbers["share_by_term"] = storyworld.term_shares(list(own), list(baseline))
    return numbers
