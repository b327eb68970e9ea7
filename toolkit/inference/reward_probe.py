"""What a reward model prefers: its score as an answer is changed word by word, cut, repeated, or sampled.

Every score is that of `toolkit.inference.reward_scores`, as in the ppo stage and for the judges.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from toolkit.base.errors import UsageError
from toolkit.base.rng import derive
from toolkit.data.chat import fitting, template
from toolkit.inference import sampling
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.opening import OpenModel
from toolkit.inference.reward_scores import reward_scores
from toolkit.models.loading import load_reward_model
from toolkit.runs import references
from toolkit.runtime import devices
from toolkit.stats import Estimate
from toolkit.stats.correlation import correlation
from toolkit.stats.frontier import expected_best

Change = Literal["delete", "swap", "replace"]
MAX_WORDS = 200
"""Words of an answer whose changes are scored; each is one more answer to score."""
MAX_REPEATS = 8
SAMPLES_AT_ONCE = 16
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
"""What stands between spaces; in Japanese and Chinese, which have none, a character."""


def open_reward_model(name: str) -> OpenModel:
    """Open a reward model by any of its names on the best device, in fp32.

    Raises:
        ToolkitError: nothing of that name, or not a reward model.
    """
    reference = references.named_model(name)
    model, tokenizer = load_reward_model(reference, device=devices.select("auto"))
    return OpenModel(model, tokenizer, bool(tokenizer.chat_template))


@dataclass(frozen=True)
class Word:
    """A word of an answer: its text and its place, `answer[start:end]`."""

    text: str
    start: int
    end: int


def words_of(answer: str) -> list[Word]:
    """Return the words of an answer in order.

    Raises:
        UsageError: it has more than `MAX_WORDS`.
    """
    found = [Word(match[0], match.start(), match.end()) for match in _WORD.finditer(answer)]
    if len(found) > MAX_WORDS:
        raise UsageError(
            f"the answer has {len(found)} words", where="answer", fix=f"give {MAX_WORDS} words at most"
        )
    return found


def word_count(text: str) -> int:
    """Return the number of words of a text of any length."""
    return sum(1 for _ in _WORD.finditer(text))


def prompt_of(opened: OpenModel, text: str) -> list[dict[str, str]] | str:
    """Return a prompt as the reward model reads it: a user's message, or text without a chat template."""
    return [{"role": "user", "content": text}] if opened.tokenizer.chat_template else text


def scores(opened: OpenModel, prompt: str, answers: Sequence[str], ended: Sequence[bool]) -> np.ndarray:
    """Return the score of each answer to one prompt, (answers,) float64; see `reward_scores`."""
    if not answers:
        return np.zeros(0)
    prompts = [prompt_of(opened, prompt)] * len(answers)
    return reward_scores(opened.model, opened.tokenizer, prompts, answers=answers, ended=ended)


def token_count(opened: OpenModel, prompt: str, answer: str) -> int:
    """Return the tokens of a prompt and an ended answer before anything is cut to the context."""
    read = prompt_of(opened, prompt)
    if isinstance(read, str):
        return sum(len(template.encode_text(opened.tokenizer, text)) for text in (prompt, answer)) + 1
    return sum(len(ids) for ids in fitting.example_ids(opened.tokenizer, read, answer))


def is_cut(opened: OpenModel, prompt: str, answer: str) -> bool:
    """Return whether prompt and answer exceed the context, so that their score is that of a part."""
    limit = opened.context_length
    return limit is not None and token_count(opened, prompt, answer) > limit


def changed_answers(answer: str, words: Sequence[Word], change: Change, word: str = "") -> list[str | None]:
    """Return the answer with each of its words changed, None where there is no such change.

    Args:
        change: `delete` removes a word and the white space before it (after the first word), `swap`
            exchanges it with the next word, `replace` writes `word` in its place.
    """
    return [_changed(answer, words, place, change, word) for place in range(len(words))]


def _changed(answer: str, words: Sequence[Word], place: int, change: Change, word: str) -> str | None:
    own = words[place]
    if change == "replace":
        return None if own.text == word else answer[: own.start] + word + answer[own.end :]
    if change == "swap":
        if place + 1 == len(words) or words[place + 1].text == own.text:
            return None
        other = words[place + 1]
        between = answer[own.end : other.start]
        return answer[: own.start] + other.text + between + own.text + answer[other.end :]
    if place == 0:
        return answer[: own.start] + answer[own.end :].lstrip()
    return answer[: words[place - 1].end] + answer[own.end :]


@dataclass(frozen=True)
class WordScore:
    """A word of an answer, and the score of the answer with this word changed.

    Attributes:
        score: None where the change leaves the answer as it is.
        effect: what the word adds to the score of the whole answer: that score minus `score`.
    """

    word: Word
    score: float | None
    effect: float | None


@dataclass(frozen=True)
class Probe:
    """The score of an answer, and of its changes.

    Attributes:
        score: of the ended answer.
        unended: of the answer without the token that ends it.
    """

    score: float
    unended: float
    words: list[WordScore]


def probe(opened: OpenModel, prompt: str, answer: str, *, change: Change = "delete", word: str = "") -> Probe:
    """Return the score of an answer, and what each of its words adds to it.

    The score of the whole answer is computed alone: it has the same bits as in a batch of one.

    Raises:
        UsageError: too many words.
    """
    words = words_of(answer)
    [whole] = scores(opened, prompt, [answer], [True])
    [unended] = scores(opened, prompt, [answer], [False])
    changed = changed_answers(answer, words, change, word)
    given = [text for text in changed if text is not None]
    found = iter(scores(opened, prompt, given, [True] * len(given)).tolist())
    after = [None if text is None else next(found) for text in changed]
    effects = [
        WordScore(own, value, None if value is None else float(whole) - value)
        for own, value in zip(words, after, strict=True)
    ]
    return Probe(float(whole), float(unended), effects)


@dataclass(frozen=True)
class LengthTaste:
    """Scores of an answer that is cut or repeated.

    Attributes:
        cut: (words, score of the ended answer, score without the token that ends it) of its beginnings,
            from no word to all.
        repeated: (words, score of the ended answer) of the answer once, twice ... as often as fits.
    """

    cut: list[tuple[int, float, float]]
    repeated: list[tuple[int, float]]


def length_taste(opened: OpenModel, prompt: str, answer: str) -> LengthTaste:
    """Return the scores of the beginnings of an answer, and of its repetitions.

    Raises:
        UsageError: too many words.
    """
    words = words_of(answer)
    beginnings = ["", *(answer[: word.end] for word in words)]
    ended = scores(opened, prompt, beginnings, [True] * len(beginnings))
    unended = scores(opened, prompt, beginnings, [False] * len(beginnings))
    repeats = [" ".join([answer] * times) for times in range(1, MAX_REPEATS + 1)] if words else []
    fitting = [text for text in repeats if not is_cut(opened, prompt, text)]
    repeated = scores(opened, prompt, fitting, [True] * len(fitting))
    return LengthTaste(
        [(count, float(ended[count]), float(unended[count])) for count in range(len(beginnings))],
        [(len(words) * times, float(score)) for times, score in enumerate(repeated, 1)],
    )


@dataclass(frozen=True)
class RewardSample:
    """An answer that a language model sampled.

    Attributes:
        text: as the rewards of the ppo stage read it.
        ended: whether the model ended it.
        tokens: sampled tokens, without the stop token.
        logprob: of all sampled tokens, the stop token included, in nats, at the temperature of the sampling.
    """

    text: str
    ended: bool
    tokens: int
    logprob: float


def sample_answers(
    opened: OpenModel,
    prompt: str,
    *,
    count: int,
    settings: GenerationSettings,
    cancelled: threading.Event | None = None,
) -> Iterator[list[RewardSample]]:
    """Yield answers of a language model to a prompt, a few at a time, as the ppo stage samples them.

    Each has its own random stream of the seed, so that more answers begin with the same ones.

    Raises:
        ToolkitError: the prompt fills the context.
    """
    ids = opened.prompt_ids(prompt, chat=bool(opened.tokenizer.chat_template))
    limit = opened.context_length
    keywords = settings.for_model(opened, None if limit is None else max(1, limit - len(ids)))
    for start in range(0, count, SAMPLES_AT_ONCE):
        if cancelled is not None and cancelled.is_set():
            return
        numbers = range(start, min(start + SAMPLES_AT_ONCE, count))
        seeds = [derive(settings.seed, "reward room", number) for number in numbers]
        found = sampling.generate(opened.model, [ids] * len(seeds), seed=seeds, **keywords)
        yield [
            RewardSample(
                opened.tokenizer.decode(
                    tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
                ),
                ended,
                len(tokens),
                float(nats.sum(dtype=np.float64)),
            )
            for tokens, ended, nats in zip(found.ids, found.ended, found.logprobs, strict=True)
        ]


@dataclass(frozen=True)
class Favourites:
    """Samples to one prompt as a reward model and a judge see them.

    Attributes:
        best: the sample with the highest score.
        judged_best: the sample that the judge values most.
        length: correlation of the score with the number of words.
        judge: correlation of the score with the judge's value.
        judge_length: correlation of the judge's value with the number of words.
        best_of: (n, expected value of the judge if the score chooses among n, and if the judge chooses).
    """

    best: int
    judged_best: int
    length: Estimate
    judge: Estimate
    judge_length: Estimate
    best_of: list[tuple[int, float, float]]


def favourites(
    scored: Sequence[float], values: Sequence[float], words: Sequence[int], *, seed: int
) -> Favourites:
    """Compare what a reward model and a judge choose among samples.

    The expected best of n is the mean over all subsets of n samples (`toolkit.stats.frontier`).

    Args:
        scored: of the reward model, (samples,).
        values: of the judge, (samples,).
        words: of each sample, (samples,).
    """
    utilities, by_score = np.array([values], dtype=np.float64), np.array([scored], dtype=np.float64)
    sizes = [1 << power for power in range(len(scored).bit_length()) if 1 << power < len(scored)]
    best_of = [
        (
            size,
            float(expected_best(utilities, size, scores=by_score)[0]),
            float(expected_best(utilities, size)[0]),
        )
        for size in [*sizes, len(scored)]
    ]
    return Favourites(
        int(by_score[0].argmax()),
        int(utilities[0].argmax()),
        correlation(scored, words, seed=seed),
        correlation(scored, values, seed=seed),
        correlation(values, words, seed=seed),
        best_of,
    )
