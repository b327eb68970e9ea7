"""evaluation.json as dataclasses, one class for each stage.

Stages write these records, and every class reads the JSON of its stage with `from_json` and writes the same
JSON with `to_json` (see toolkit.runs.records). Keys that this version does not name stay in `extra`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.base import files
from toolkit.base.errors import RunError
from toolkit.config.registry import STAGES
from toolkit.runs import layout
from toolkit.runs.records import NOT_IN_JSON, EstimateRecord, Record
from toolkit.stats import Estimate


@dataclass(frozen=True, kw_only=True)
class SampleAnswer(Record):
    """One of several answers to a prompt.

    Attributes:
        rates: what it adds to each rate that the prompt tests (`World.rates`); None if the world has none.
    """

    answer: str
    ended: bool
    seed: int
    rates: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Sample(Record):
    """What a model wrote after a prompt: `answer` to a question, `text` as the continuation of a text.

    Attributes:
        prompt: of a conversation, its last turn.
        turns: all turns of a conversation of more than one.
        answers: all answers, the first one included; None if there is only one.
    """

    prompt: str
    turns: list[str] | None = None
    answer: str | None = None
    text: str | None = None
    ended: bool | None = None
    score: float | None = None
    kl: float | None = None
    seed: int | None = None
    answers: list[SampleAnswer] | None = None


@dataclass(frozen=True, kw_only=True)
class KindSurprise(Record):
    """Mean surprise about `n` tokens of one kind, in nats: of a model, and of the true probabilities."""

    model: float
    truth: float
    n: int


@dataclass(frozen=True, kw_only=True)
class KeptStep(Record):
    """What a model wrote after `step` steps of pretraining; its weights are in `steps/`.

    `surprise` is by kind of word (`storyworld.small.word_kinds`); None for text of another world.
    """

    step: int
    tokens: int
    samples: list[Sample]
    surprise: dict[str, KindSurprise] | None = None


@dataclass(frozen=True, kw_only=True)
class WinRateResult(EstimateRecord):
    """How often a model's answer is better than the baseline's: an Estimate over prompts, and its tests.

    Attributes:
        wilson_interval: Wilson's interval at the effective number of prompts.
        wins, ties, losses: comparisons.
        length_controlled: the win rate at equal lengths.
        length_effect: log-odds that a longer answer gains.
        e_value: of bets against one half; only where the judging stopped early.
        p_value_holm: of the sign test, corrected for the number of models.
        verdict: `better`, `worse` or `no verdict`.
        unjudged: comparisons without a verdict of the judge.
    """

    wilson_interval: list[float | None] | None = None
    comparisons: int | None = None
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    tie_share: float | None = None
    p_value: float | None = None
    length_controlled: Estimate | None = None
    length_effect: Estimate | None = None
    power: str | None = None
    e_value: float | None = None
    p_value_holm: float | None = None
    verdict: str | None = None
    unjudged: int | None = None


@dataclass(frozen=True, kw_only=True)
class LengthBin(Record):
    """The win rate of the prompts whose answers are `longer` than the baseline's by [least, most] tokens."""

    longer: list[int]
    mean_longer: float
    n: int
    win_rate: Estimate


@dataclass(frozen=True, kw_only=True)
class GoldUtility(Record):
    """The storyworld's known utility of a model's answers, its terms, and its gain over the baseline's."""

    utility: Estimate
    terms: dict[str, float]
    utility_gain: Estimate | None = None
    gain_by_term: dict[str, float] | None = None
    share_by_term: dict[str, float] | None = None
    rates: dict[str, Any] | None = None
    """Rates of the small world, each with its interval and number of prompts (`<rate>_n`)."""


@dataclass(frozen=True, kw_only=True)
class LostText(Record):
    """What a tokenizer does not keep of a text (`toolkit.data.text.lost_text`).

    Attributes:
        documents: documents that differ.
        unknown_tokens: unknown tokens in their ids.
        characters: characters that differ, by kind: `unknown`, `case`, `normalised`, `white space`,
            `dropped`.
        bytes: of these characters in UTF-8.
    """

    documents: int
    unknown_tokens: int
    characters: dict[str, int]
    bytes: int


@dataclass(frozen=True, kw_only=True)
class TextMetrics(Record):
    """How well a model predicts held-out text, and how the text was presented to it.

    Attributes:
        bits_per_byte: of the original text in UTF-8; None, as the perplexities by word, character and byte,
            where the tokenizer lost so much text that the number would not be that of the text.
        perplexity: by token of the model's own tokenizer.
        lost_text: what the tokenizer did not keep; only where it lost text.
        entropy_floor_bits_per_byte: exact entropy of the text, None if it is unknown.
        window, stride: in tokens.
        prefix_token: the token before a document, None without one.
        end_scored: whether end-of-text is scored, too.
        unscored_tokens: tokens without a context.
        interval_over: what the intervals resample, `interval_units` of them.
        bits_per_byte_difference: less the baseline's, paired by document.
    """

    bits_per_byte: Estimate | None = None
    perplexity: Estimate | None = None
    word_perplexity: float | None = None
    character_perplexity: float | None = None
    byte_perplexity: float | None = None
    entropy_floor_bits_per_byte: float | None = None
    documents: int | None = None
    tokens: int | None = None
    bytes: int | None = None
    words: int | None = None
    characters: int | None = None
    window: int | None = None
    stride: int | None = None
    prefix: str | None = None
    prefix_token: str | None = None
    end_scored: bool | None = None
    packed: bool | None = None
    unscored_tokens: int | None = None
    dtype: str | None = None
    tokenizer_digest: str | None = None
    interval_over: str | None = None
    interval_units: int | None = None
    level: float | None = None
    bootstrap_samples: int | None = None
    seed: int | None = None
    bits_per_byte_difference: Estimate | None = None
    lost_text: LostText | None = None


@dataclass(frozen=True, kw_only=True)
class AnswerMetrics(Record):
    """What a model's answers to unseen prompts are like, and how often they win.

    Attributes:
        score: of the judge; `score_quantiles` by quantile.
        mean_length: tokens an answer.
        ended: share of answers that end by themselves.
        unfinished_thoughts: answers that end within their thought, which count as no answer.
        kl_to_baseline: nats an answer.
        kl_to_baseline_at_most: the bound of best-of-n sampling.
        win_rate: against the baseline; None for the baseline itself.
    """

    prompts: int | None = None
    seed: int | None = None
    score: Estimate | None = None
    score_quantiles: dict[str, float] | None = None
    mean_length: Estimate | None = None
    ended: Estimate | None = None
    unfinished_thoughts: int | None = None
    kl_to_baseline_at_most: float | None = None
    kl_to_baseline: Estimate | None = None
    gold: GoldUtility | None = None
    is_baseline: bool | None = None
    win_rate: WinRateResult | None = None
    wins_by_length: list[LengthBin] | None = None


@dataclass(frozen=True, kw_only=True)
class AnnotatorBin(Record):
    """Accuracy on the pairs on which annotators agree with a probability in `agreement`, and the best one."""

    agreement: list[float]
    n: int
    accuracy: Estimate
    bayes: float


@dataclass(frozen=True, kw_only=True)
class LengthBias(Record):
    """How often people and the model prefer the longer of two answers; `bias` is the difference."""

    people: float
    model: float
    bias: Estimate
    n: int


@dataclass(frozen=True, kw_only=True)
class ScoreBias(Record):
    """What a reward model adds for a word in an answer (for each word of it, if `word` is None).

    `bias` is in units of the true utility; n pairs differ in it.
    """

    word: str | None = None
    bias: Estimate
    n: int


@dataclass(frozen=True, kw_only=True)
class RewardMetrics(Record):
    """How often a reward model ranks held-out pairs as their annotator did.

    Attributes:
        accuracy: a tie counts half.
        bayes_accuracy: what the best possible model reaches, None if it is unknown.
        gold_accuracy: agreement with the known utility.
        n: pairs.
        calibration: of its confidence, as `toolkit.stats.calibration` writes it.
        score_biases: what it likes besides the utility; None if the utility is unknown.
        end_of_text: what end-of-text adds to a score.
        padding: the largest change of a score by padding.
    """

    accuracy: Estimate | None = None
    ties: int | None = None
    n: int | None = None
    bayes_accuracy: float | None = None
    gold_accuracy: Estimate | None = None
    held_out_loss: float | None = None
    margin: float | None = None
    score_mean: float | None = None
    score_std: float | None = None
    calibration: dict[str, Any] | None = None
    by_annotator: list[AnnotatorBin] | None = None
    length_bias: LengthBias | None = None
    score_biases: list[ScoreBias] | None = None
    end_of_text: Estimate | None = None
    padding: float | None = None


@dataclass(frozen=True, kw_only=True)
class RewardModelMetrics(RewardMetrics):
    """The metrics of a finished reward model; `left_out` pairs do not fit in its context."""

    left_out: int | None = None


@dataclass(frozen=True, kw_only=True)
class ModelEvaluation(AnswerMetrics, TextMetrics, RewardModelMetrics):
    """What an evaluation measured of one model.

    Attributes:
        hub_commit: the commit of a model of the Hub.
    """

    units = ("interval_units", "prompts", "n")

    samples: list[Sample] | None = None
    hub_commit: str | None = None


@dataclass(frozen=True, kw_only=True)
class StageEvaluation(Record):
    """What a stage measured at its end.

    `data` counts the rows of the data: those used, held out and left out (`toolkit.data.chat.report`). Only
    pretraining, which reads a corpus, and preferences from a file of votes have none.

    Attributes:
        not_measured: what failed at the end of a training and is missing, and the reason; None if nothing is.
        compared: what an evaluate run measured of the stage's model, None without one; not in the JSON.
    """

    not_measured: dict[str, str] | None = None
    compared: ModelEvaluation | None = field(default=None, metadata=NOT_IN_JSON)

    @property
    def win_rate(self) -> WinRateResult:
        """The win rate against the baseline of the evaluate run.

        Raises:
            RunError: no evaluate run measured it.
        """
        if self.compared is None or self.compared.win_rate is None:
            raise RunError(
                "no evaluate run in the same folder measured a win rate of this run",
                fix="run a recipe with `stage: evaluate`, or compare it now with toolkit.evaluate",
            )
        return self.compared.win_rate


@dataclass(frozen=True, kw_only=True)
class TokenizerEvaluation(StageEvaluation):
    """Size and compression of a tokenizer; `bytes_per_token` on held-out text."""

    vocab_size: int | None = None
    requested_vocab_size: int | None = None
    seed: int | None = None
    characters: int | None = None
    documents: int | None = None
    train_bytes: int | None = None
    bytes_per_token: float | None = None
    held_out_documents: int | None = None
    held_out_bytes: int | None = None
    held_out_tokens: int | None = None
    data: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class CorpusEvaluation(StageEvaluation):
    """Size of a corpus; `digest` stands for every token of its training part.

    Attributes:
        held_out_in_training: held-out documents whose text, apart from case, white space and Unicode form, is
            also in the training part; None in runs before it was counted.
        lost_text, held_out_lost_text: what the tokenizer did not keep of each part; only where it lost text.
    """

    documents: int | None = None
    tokens: int | None = None
    bytes: int | None = None
    held_out_documents: int | None = None
    held_out_tokens: int | None = None
    held_out_bytes: int | None = None
    held_out_in_training: int | None = None
    lost_text: LostText | None = None
    held_out_lost_text: LostText | None = None
    entropy_floor_bits_per_byte: float | None = None
    vocab_size: int | None = None
    digest: str | None = None
    held_out_digest: str | None = None
    documents_by_source: list[int] | None = None
    dropped: dict[str, int] | None = None
    seed: int | None = None
    data: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class PretrainEvaluation(StageEvaluation):
    """Bits per byte of held-out text, and the size and speed of the training.

    Attributes:
        untrained_bits_per_byte: before the training, of some held-out documents, by random weights.
        checkpoint_bits_per_byte: before the training, of all of them, by the checkpoint it went on from.
        lowest_bits_per_byte, lowest_at_tokens, train_loss, held_out_loss: only where the model memorized its
            training text (`toolkit.pretrain.memorization`).
        held_out_lost_text: what the tokenizer of the corpus did not keep of the held-out text; only where it
            lost text. Bits per byte are then too low.
    """

    bits_per_byte: Estimate | None = None
    untrained_bits_per_byte: float | None = None
    checkpoint_bits_per_byte: float | None = None
    entropy_floor_bits_per_byte: float | None = None
    perplexity: float | None = None
    held_out_documents: int | None = None
    held_out_tokens: int | None = None
    held_out_bytes: int | None = None
    window: int | None = None
    stride: int | None = None
    prefix: str | None = None
    end_scored: bool | None = None
    packed: bool | None = None
    dtype: str | None = None
    tokenizer_digest: str | None = None
    interval_over: str | None = None
    n: int | None = None
    seed: int | None = None
    bootstrap_samples: int | None = None
    parameters: int | None = None
    tokens: int | None = None
    epochs: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    peak_flops: float | None = None
    peak_flops_source: str | None = None
    flops_per_token: float | None = None
    lowest_bits_per_byte: float | None = None
    lowest_at_tokens: int | None = None
    train_loss: float | None = None
    held_out_loss: float | None = None
    samples: list[Sample] | None = None
    kept_steps: list[KeptStep] | None = None
    held_out_lost_text: LostText | None = None


@dataclass(frozen=True, kw_only=True)
class AnswerLoss(Record):
    """Loss on `n` held-out answers in nats per token, and what it was before the training."""

    held_out_loss: Estimate | None = None
    held_out_perplexity: Estimate | None = None
    held_out_loss_before: float | None = None
    n: int | None = None
    held_out_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class SftEvaluation(AnswerLoss, StageEvaluation):
    """Loss on held-out answers, in nats a token."""

    examples: int | None = None
    steps: int | None = None
    seed: int | None = None
    samples: list[Sample] | None = None
    data: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class RewardEvaluation(RewardMetrics, StageEvaluation):
    """How often a reward model ranks held-out pairs as their annotator did."""

    base: str | None = None
    tokenizer: str | None = None
    examples: int | None = None
    steps: int | None = None
    left_out: int | None = None
    held_out_left_out: int | None = None
    seed: int | None = None
    data: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ImplicitRewardMetrics(Record):
    """How often the implicit rewards of a policy rank held-out pairs as their annotator did."""

    accuracy: Estimate | None = None
    margin: Estimate | None = None
    n: int | None = None
    bayes_accuracy: float | None = None
    held_out_loss: float | None = None
    log_ratio_chosen: float | None = None
    log_ratio_rejected: float | None = None


@dataclass(frozen=True, kw_only=True)
class PolicyDistance(Record):
    """KL(policy || reference) in nats an answer, over `kl_n` answers of the policy, and some of these."""

    kl: Estimate | None = None
    kl_n: int | None = None
    mean_length: float | None = None
    ended: float | None = None
    samples: list[Sample] | None = None


@dataclass(frozen=True, kw_only=True)
class PreferencesEvaluation(StageEvaluation):
    """Pairs of a model's own answers, and what their annotator preferred.

    Attributes:
        votes: number of votes; None unless the annotator is a file of votes.
        left_out: reason (bad, undone, repeat, attention) -> number of votes that do not count.
        equal_answers: pairs of two equal answers, which are ties.
        unjudged: pairs without a verdict.
        cut_off: share of the answers that did not end.
        models: the mean utility of each model's answers, where the world of the prompts is known.
        longer_preferred, first_preferred, agreement_with_utility: share of the preferences for the longer
        answer, the
            answer that was shown first, and the answer of the higher utility.
        utility_difference: mean utility of chosen minus rejected answers.
        bayes_accuracy: expected accuracy of the best judge of these labels.
    """

    prompts: int | None = None
    answers: int | None = None
    votes: int | None = None
    left_out: dict[str, int] | None = None
    pairs: int | None = None
    preferences: int | None = None
    ties: int | None = None
    equal_answers: int | None = None
    unjudged: int | None = None
    cut_off: float | None = None
    models: dict[str, AnswerUtility] | None = None
    longer_preferred: Estimate | None = None
    first_preferred: Estimate | None = None
    agreement_with_utility: Estimate | None = None
    utility_difference: float | None = None
    bayes_accuracy: float | None = None
    samples: list[dict[str, Any]] | None = None
    seed: int | None = None
    data: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class AnswerUtility(Record):
    """The mean utility of a model's `n` answers."""

    utility: Estimate
    n: int


@dataclass(frozen=True, kw_only=True)
class DpoEvaluation(PolicyDistance, ImplicitRewardMetrics, StageEvaluation):
    """How often the implicit rewards rank held-out pairs as their annotator did, and the KL to the start."""

    base: str | None = None
    beta: float | None = None
    examples: int | None = None
    steps: int | None = None
    left_out: int | None = None
    held_out_left_out: int | None = None
    seed: int | None = None
    data: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class HeldOutMeasurement(Record):
    """What a held-out judge measured of a policy after a rollout.

    Attributes:
        score: of the judge.
        proxy: the score of the training's rewards.
        length: tokens an answer.
    """

    units = ("prompts",)

    rollout: int
    prompts: int
    score: Estimate
    kl: Estimate
    proxy: Estimate
    length: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class PpoEvaluation(StageEvaluation):
    """Score of the reward model, and the KL to the start in nats per answer, over the last rollouts.

    Attributes:
        reference: the same of the first rollout, which the reference sampled.
        looks: measurements of the held-out judge of early stopping.
        kept_rollout: the rollout whose weights early stopping kept.
    """

    score: Estimate | None = None
    kl: Estimate | None = None
    length: float | None = None
    ended: float | None = None
    n: int | None = None
    seed: int | None = None
    reference: dict[str, Any] | None = None
    algorithm: str | None = None
    kl_coefficient: float | None = None
    episodes: int | None = None
    measured_on: str | None = None
    settings: dict[str, Any] | None = None
    samples: list[Sample] | None = None
    looks: list[HeldOutMeasurement] | None = None
    kept_rollout: int | None = None
    data: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class GateResult(Record):
    """Win rates of answers that must lose to the baseline's.

    Attributes:
        passed: whether all of them lose; None if there are too few prompts, and for people.
        empty, copied_prompt, gibberish: None for people, who are not asked.
    """

    passed: bool | None = None
    empty: EstimateRecord | None = None
    copied_prompt: EstimateRecord | None = None
    gibberish: EstimateRecord | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeResult(Record):
    """Who compared the answers, and the checks of the judge.

    Attributes:
        accuracy: agreement with `n` held-out preferences, which `checked_on` names.
        doubt: the reason for which the verdicts do not count, None if they do.
        left_out: preferences that do not fit in the context of a reward model.
        model, url, system, template: of an endpoint.
        votes, voters, sha256: of a file of votes.
        position_bias: of a judge that saw both orders.
        fit: whether it passed the gate, or the gate could not tell.
        ranking: Bradley-Terry strengths of three or more models.
    """

    name: str
    accuracy: Estimate | None = None
    n: int | None = None
    checked_on: str | None = None
    doubt: str | None = None
    left_out: int | None = None
    model: str | None = None
    url: str | None = None
    system: str | None = None
    template: str | None = None
    votes: int | None = None
    voters: int | None = None
    sha256: str | None = None
    position_bias: dict[str, Any] | None = None
    fit: bool | None = None
    gate: GateResult | None = None
    baseline: str | None = None
    stopped_early: bool | None = None
    power: str | None = None
    ranking: dict[str, Any] | None = None
    level: float | None = None


@dataclass(frozen=True, kw_only=True)
class ModelComparison(StageEvaluation):
    """An evaluation of several models: `comparison["dpo"].win_rate.low`.

    Attributes:
        models: by the name that they are reported under.
        judge: who compared the answers, None without a win rate.
        baseline: the name of the model that the others are compared with.
        part: of the data that was measured, `held_out`, `train` or `all`; None for a recipe's.
        trained_on: names of the runs that were trained on the data: models, judges and their ancestors.
        also_in_training: unit (`documents`, `prompts`, `pairs`, `judge_data`) -> run -> number of measured
            rows that are also in the training data of this run; of runs whose data could be compared.
        data: unit -> counts of the rows that were read.
    """

    models: dict[str, ModelEvaluation]
    judge: JudgeResult | None = None
    baseline: str | None = None
    part: str | None = None
    trained_on: list[str] | None = None
    also_in_training: dict[str, dict[str, int]] | None = None
    data: dict[str, Any] | None = None
    seed: int | None = None
    versions: dict[str, str] | None = None
    settings: dict[str, Any] | None = None

    def __getitem__(self, name: str) -> ModelEvaluation:
        return self.models[name]


def class_of(stage: str) -> type[StageEvaluation]:
    """Return the class of a stage's evaluation.json; `StageEvaluation` for an unknown stage."""
    if stage not in STAGES:
        return StageEvaluation
    module, _, name = STAGES[stage].evaluation.partition(":")
    return getattr(importlib.import_module(module), name)


def read(path: Path, stage: str) -> StageEvaluation:
    """Return what the run at `path` measured.

    Raises:
        RunError: there is no evaluation.json, or it does not have the form of its stage.
    """
    file = path / layout.EVALUATION
    try:
        return class_of(stage).from_json(files.read_json(file))
    except (TypeError, ValueError, AttributeError) as error:
        raise RunError(f"is not the evaluation of a {stage} run: {error}", where=str(file)) from error
