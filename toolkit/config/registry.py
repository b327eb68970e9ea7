"""The table of stages. A new stage adds its recipe class, its module, and one entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from toolkit.config import schema


class Product(StrEnum):
    """What a run can be used for by the runs after it."""

    TOKENIZER = "tokenizer"
    CORPUS = "corpus"
    LANGUAGE_MODEL = "language model"
    REWARD_MODEL = "reward model"
    PREFERENCES = "preferences"


PRODUCTS = {
    "tokenizer": Product.TOKENIZER,
    "tokens": Product.CORPUS,
    "model": Product.LANGUAGE_MODEL,
    "models": Product.LANGUAGE_MODEL,
    "baseline": Product.LANGUAGE_MODEL,
    "reward_model": Product.REWARD_MODEL,
    "judge": Product.REWARD_MODEL,
    "data": Product.PREFERENCES,
    "judge_data": Product.PREFERENCES,
}
"""Every setting that names a run or a model -> what that must be."""


@dataclass(frozen=True)
class Curve:
    """One plot of a stage's metrics in the report.

    Attributes:
        title: what is measured, and on which data.
        metric: key of metrics.jsonl.
        levels: key of evaluation.json -> name of the dashed line at its value.
        over: key of metrics.jsonl for the horizontal axis.
        percent: the values are shares.
        from_zero: the vertical axis begins at zero.
        is_detail: only experts need it.
    """

    title: str
    metric: str
    levels: Mapping[str, str] = field(default_factory=dict)
    over: str = "step"
    percent: bool = False
    from_zero: bool = False
    is_detail: bool = False


@dataclass(frozen=True)
class Change:
    """A number before and after a training; the report says whether it rose or fell.

    Attributes:
        label: the number, as the subject of a sentence.
        before, after: keys of evaluation.json; `reference.score` is `score` in the object `reference`.
        less_is_better: None if neither direction is better.
        if_worse: a sentence that follows if the number became worse.
    """

    label: str
    before: str
    after: str
    percent: bool = False
    less_is_better: bool | None = None
    if_worse: str = ""


@dataclass(frozen=True)
class Column:
    """One headline number: its heading and its key in evaluation.json."""

    heading: str
    key: str
    percent: bool = False
    count: bool = False
    """An integer without an interval."""
    if_measured: bool = False
    """The column is left out if no run has the number."""


@dataclass(frozen=True)
class Note:
    """A sentence in a stage's section of the report; `{key}` stands for a number of evaluation.json."""

    text: str
    key: str | None = None
    """Key of evaluation.json without whose value the sentence is left out."""


@dataclass(frozen=True)
class Number:
    """A number in a sentence, or the names of models if evaluation.json has an entry for each."""

    key: str
    """Key of evaluation.json, and name of the field in the sentence."""
    percent: bool = False
    count: bool = False
    """An integer."""
    interval: bool = False
    """Followed by its interval."""


@dataclass(frozen=True)
class StageSentence:
    """A sentence about what a stage did, said where all of its numbers were measured."""

    key: str
    """Of its template in `toolkit.report.wording`."""
    numbers: tuple[Number, ...] = ()
    chance: str | None = None
    """Key of a share; the sentence is said only if its interval is not above one half."""
    unless_fell: tuple[str, str] | None = None
    """Keys of a number before and after; the sentence is said only if it did not become smaller."""


@dataclass(frozen=True)
class Card:
    """One large number at the head of the report."""

    key: str
    label: str
    percent: bool = False
    limit: str | None = None
    """Key of evaluation.json with the best possible value."""
    limit_label: str = ""
    """Follows the label where that value is known; `{limit}` stands for it."""


@dataclass(frozen=True)
class PublishedNumber:
    """One line of the table of a model card.

    Attributes:
        key: key of evaluation.json; `reference.score` is `score` in the object `reference`.
        label: what is measured, with its unit.
        n: key of the number of units that were measured; `unit` is their name.
        percent: the value is a share.
    """

    key: str
    label: str
    n: str | None = None
    unit: str = ""
    percent: bool = False


@dataclass(frozen=True)
class Cost:
    """What `toolkit plan` counts for a stage."""

    bytes_per_parameter: int = 16
    """Weights, gradients and both AdamW moments in fp32, and 4 more for each further model."""
    sequences_per_example: int = 1
    passes_per_token: float = 1.0
    """Training passes (forward and backward); a forward pass is a third of one."""


@dataclass(frozen=True)
class Stage:
    """Everything about a stage that code outside its module needs.

    Attributes:
        name: value of `stage:` in a recipe.
        recipe: class of its settings.
        entry: function `(recipe, run) -> None` that runs it, as `module:function`.
        evaluation: dataclass of its evaluation.json, as `module:class`; by default `StageEvaluation`.
        product: what its run can be used for; None where no recipe may name it.
        storyworld: first part of a data source's key -> the configurations of the storyworld that the source
            can have, the default first.
        reads_held_out: it reads only the held-out part of its data.
        uses_torch: False for a stage that only reads text, in one process, whatever the launcher.
        trl_config: name of TRL's configuration class that `trainer:` is checked against.
        has_conversations: its model was trained on conversations.
        aligned: its model was trained on preferences.
        cost: what `toolkit plan` counts; None where it does not train.
        held_out_while_training: held-out answers or pairs that its curves of held-out data are measured on;
            the numbers at its end are measured on all.
        measures_models: its evaluation.json has the numbers of other runs' models.
        title, description, changes, notes: of its section in the report; a stage without a title has none.
            The description says what the stage does, not what came out.
        curves: of its section in the report.
        row_title, row: the table of its section, one row of numbers for each run; empty without a table.
        cards: large numbers at the head of the report.
        sentences: what it did, for the end of `toolkit run` on a folder.
        published: the numbers of a model card.
    """

    name: str
    recipe: type[schema.StageRecipe]
    entry: str
    evaluation: str = "toolkit.runs.evaluation:StageEvaluation"
    product: Product | None = None
    storyworld: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reads_held_out: bool = False
    uses_torch: bool = True
    trl_config: str | None = None
    has_conversations: bool = False
    aligned: bool = False
    held_out_while_training: int | None = None
    measures_models: bool = False
    cost: Cost | None = None
    title: str = ""
    description: str = ""
    changes: tuple[Change, ...] = ()
    notes: tuple[Note, ...] = ()
    curves: tuple[Curve, ...] = ()
    row_title: str = ""
    row: tuple[Column, ...] = ()
    cards: tuple[Card, ...] = ()
    sentences: tuple[StageSentence, ...] = ()
    published: tuple[PublishedNumber, ...] = ()


_PAIR_LOSS = Curve("Loss on training batches, nats per pair", "loss")
_BAYES = {"bayes_accuracy": "Bayes accuracy"}
_ANNOTATOR = Note(
    "The annotator is a program that knows the true utility of an answer and errs at a known rate. That "
    "limits the accuracy: the Bayes accuracy is the best possible one.",
    key="bayes_accuracy",
)

BAYES_ACCURACY = PublishedNumber(
    "bayes_accuracy", "the best possible share, limited by errors of the annotator", percent=True
)
"""Of stages that are measured by how they rank pairs of answers."""

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "tokenizer",
            schema.TokenizerRecipe,
            "toolkit.stages.tokenizer:run",
            evaluation="toolkit.runs.evaluation:TokenizerEvaluation",
            product=Product.TOKENIZER,
            storyworld={"data": ("stories", "turns")},
            uses_torch=False,
        ),
        Stage(
            "corpus",
            schema.CorpusRecipe,
            "toolkit.stages.corpus:run",
            evaluation="toolkit.runs.evaluation:CorpusEvaluation",
            product=Product.CORPUS,
            storyworld={"data": ("stories", "turns")},
            uses_torch=False,
        ),
        Stage(
            "pretrain",
            schema.PretrainRecipe,
            "toolkit.pretrain.stage:run",
            evaluation="toolkit.runs.evaluation:PretrainEvaluation",
            product=Product.LANGUAGE_MODEL,
            cost=Cost(),
            title="learning to predict",
            description="The model is trained to predict each next token of text.",
            changes=(
                Change(
                    "bits per byte of held-out text",
                    "untrained_bits_per_byte",
                    "bits_per_byte",
                    less_is_better=True,
                    if_worse="If the loss on training batches fell meanwhile, the model has memorized its "
                    "training text. More text, or a training on fewer tokens, helps.",
                ),
                Change(
                    "bits per byte of held-out text",
                    "checkpoint_bits_per_byte",
                    "bits_per_byte",
                    less_is_better=True,
                ),
            ),
            notes=(
                Note(
                    "The text comes from a world whose probabilities are known, so the best possible value "
                    "is known exactly: no model can stay below the entropy floor of "
                    "{entropy_floor_bits_per_byte:.3f} bits per byte, in expectation.",
                    key="entropy_floor_bits_per_byte",
                ),
                Note(
                    "The curve of held-out text covers the beginning of that text, the table all of it.",
                    key="bits_per_byte",
                ),
            ),
            curves=(
                Curve("Loss on training batches, nats per token", "loss", over="tokens"),
                Curve(
                    "Held-out text, bits per byte",
                    "bits_per_byte",
                    levels={
                        "untrained_bits_per_byte": "untrained",
                        "checkpoint_bits_per_byte": "checkpoint",
                        "entropy_floor_bits_per_byte": "entropy floor",
                    },
                    over="tokens",
                    from_zero=True,
                ),
            ),
            row_title="bits per byte",
            row=(
                Column("untrained", "untrained_bits_per_byte", if_measured=True),
                Column("checkpoint", "checkpoint_bits_per_byte", if_measured=True),
                Column("trained [95% interval]", "bits_per_byte"),
                Column("exact floor", "entropy_floor_bits_per_byte"),
                Column("parameters", "parameters", count=True),
                Column("tokens per second", "tokens_per_second", count=True),
            ),
            cards=(
                Card(
                    "bits_per_byte",
                    "bits per byte of unseen text",
                    limit="entropy_floor_bits_per_byte",
                    limit_label="; the exact floor is {limit}",
                ),
            ),
            sentences=(
                StageSentence(
                    "pretrain.learned", (Number("untrained_bits_per_byte"), Number("bits_per_byte"))
                ),
                StageSentence(
                    "pretrain.continued", (Number("checkpoint_bits_per_byte"), Number("bits_per_byte"))
                ),
                StageSentence(
                    "pretrain.memorized",
                    (Number("lowest_bits_per_byte"), Number("lowest_at_tokens", count=True)),
                ),
                StageSentence("pretrain.worse", unless_fell=("untrained_bits_per_byte", "bits_per_byte")),
                StageSentence("pretrain.worse", unless_fell=("checkpoint_bits_per_byte", "bits_per_byte")),
                StageSentence("pretrain.floor", (Number("entropy_floor_bits_per_byte"),)),
            ),
            published=(
                PublishedNumber(
                    "bits_per_byte",
                    "bits per byte of held-out text",
                    n="held_out_documents",
                    unit="documents",
                ),
                PublishedNumber(
                    "untrained_bits_per_byte",
                    "bits per byte of some of this text before the training (random weights)",
                ),
                PublishedNumber(
                    "checkpoint_bits_per_byte",
                    "bits per byte of this text before the training (the checkpoint)",
                ),
                PublishedNumber(
                    "entropy_floor_bits_per_byte", "lowest possible bits per byte, known exactly"
                ),
                PublishedNumber(
                    "perplexity", "perplexity per token of held-out text", n="held_out_tokens", unit="tokens"
                ),
            ),
        ),
        Stage(
            "sft",
            schema.SftRecipe,
            "toolkit.stages.sft:run",
            evaluation="toolkit.runs.evaluation:SftEvaluation",
            product=Product.LANGUAGE_MODEL,
            storyworld={"data": ("conversations", "preferences")},
            trl_config="SFTConfig",
            held_out_while_training=64,
            has_conversations=True,
            cost=Cost(),
            title="learning to answer",
            description="The model is trained on conversations, so that it answers instead of continuing the "
            "text.",
            changes=(
                Change(
                    "the loss on held-out answers (nats per token)",
                    "held_out_loss_before",
                    "held_out_loss",
                    less_is_better=True,
                ),
            ),
            curves=(
                Curve("Loss on training batches, nats per token", "loss"),
                Curve("Loss on held-out answers, nats per token", "held_out_loss"),
            ),
            sentences=(StageSentence("sft.taught"),),
            published=(
                PublishedNumber(
                    "held_out_loss", "loss on held-out answers, nats per token", n="n", unit="answers"
                ),
                PublishedNumber(
                    "held_out_loss_before", "the same loss before the training", n="n", unit="answers"
                ),
                PublishedNumber(
                    "held_out_perplexity", "perplexity per token of held-out answers", n="n", unit="answers"
                ),
            ),
        ),
        Stage(
            "preferences",
            schema.PreferencesRecipe,
            "toolkit.preferences.stage:run",
            evaluation="toolkit.runs.evaluation:PreferencesEvaluation",
            product=Product.PREFERENCES,
            storyworld={"data": ("prompts", "conversations", "preferences")},
            title="comparing the model's own answers",
            description="Models answered prompts, and an annotator said which of two answers is better.",
            sentences=(
                StageSentence("preferences.compared", (Number("preferences", count=True), Number("models"))),
                StageSentence("preferences.agreement", (Number("agreement_with_utility", percent=True),)),
                StageSentence(
                    "preferences.longer", (Number("longer_preferred", percent=True, interval=True),)
                ),
            ),
        ),
        Stage(
            "reward",
            schema.RewardRecipe,
            "toolkit.stages.reward:run",
            evaluation="toolkit.runs.evaluation:RewardEvaluation",
            product=Product.REWARD_MODEL,
            storyworld={"data": ("preferences",)},
            trl_config="RewardConfig",
            held_out_while_training=100,
            cost=Cost(sequences_per_example=2),
            title="learning which answer is preferred",
            description="A reward model is trained on pairs of answers to score the preferred one higher.",
            curves=(
                Curve("Accuracy on held-out pairs", "held_out_accuracy", levels=_BAYES, percent=True),
                Curve("Accuracy on training batches", "accuracy", levels=_BAYES, percent=True),
                _PAIR_LOSS,
            ),
            notes=(_ANNOTATOR,),
            row_title="held-out pairs",
            row=(
                Column("accuracy [95% interval]", "accuracy", percent=True),
                Column("Bayes accuracy", "bayes_accuracy", percent=True),
                Column("agrees with the true utility", "gold_accuracy", percent=True),
                Column("pairs", "n", count=True),
            ),
            cards=(
                Card(
                    "accuracy",
                    "reward model's accuracy",
                    percent=True,
                    limit="bayes_accuracy",
                    limit_label="; at best {limit} (Bayes)",
                ),
            ),
            sentences=(
                StageSentence(
                    "reward.accuracy",
                    (Number("accuracy", percent=True, interval=True), Number("n", count=True)),
                ),
                StageSentence("reward.chance", chance="accuracy"),
                StageSentence("reward.bayes", (Number("bayes_accuracy", percent=True),)),
            ),
            published=(
                PublishedNumber(
                    "accuracy",
                    "held-out pairs in which the preferred answer scores higher",
                    n="n",
                    unit="pairs",
                    percent=True,
                ),
                BAYES_ACCURACY,
                PublishedNumber(
                    "gold_accuracy",
                    "held-out pairs in which the answer of the higher true utility scores higher",
                    n="n",
                    unit="pairs",
                    percent=True,
                ),
                PublishedNumber(
                    "held_out_loss", "loss on held-out pairs, nats per pair", n="n", unit="pairs"
                ),
            ),
        ),
        Stage(
            "dpo",
            schema.DpoRecipe,
            "toolkit.stages.dpo:run",
            evaluation="toolkit.runs.evaluation:DpoEvaluation",
            product=Product.LANGUAGE_MODEL,
            storyworld={"data": ("preferences",)},
            trl_config="DPOConfig",
            held_out_while_training=64,
            has_conversations=True,
            aligned=True,
            # The reference reads both answers, too: a forward pass, and 4 more bytes per parameter.
            cost=Cost(bytes_per_parameter=20, sequences_per_example=2, passes_per_token=1 + 1 / 3),
            title="aligned by preferences",
            sentences=(StageSentence("dpo.taught"),),
            description="Direct preference optimization raises the probability of preferred answers relative "
            "to rejected ones, without a reward model. The log-ratio of the model to its start is an "
            "implicit reward.",
            curves=(
                Curve(
                    "Accuracy of implicit rewards on held-out pairs",
                    "held_out_accuracy",
                    levels=_BAYES,
                    percent=True,
                ),
                Curve("Margin of implicit rewards on held-out pairs", "held_out_margin"),
                _PAIR_LOSS,
                Curve(
                    "Accuracy of implicit rewards on training batches",
                    "rewards/accuracies",
                    percent=True,
                    is_detail=True,
                ),
                Curve("Margin of implicit rewards on training batches", "rewards/margins", is_detail=True),
            ),
            row_title="held-out pairs",
            row=(
                Column("accuracy of implicit rewards [95% interval]", "accuracy", percent=True),
                Column("Bayes accuracy", "bayes_accuracy", percent=True),
                Column("pairs", "n", count=True),
                Column("KL to the start, nats per answer", "kl"),
            ),
            published=(
                PublishedNumber(
                    "accuracy",
                    "held-out pairs in which the preferred answer has the higher implicit reward",
                    n="n",
                    unit="pairs",
                    percent=True,
                ),
                BAYES_ACCURACY,
                PublishedNumber(
                    "held_out_loss",
                    "logistic loss of the implicit rewards on held-out pairs, nats per pair",
                    n="n",
                    unit="pairs",
                ),
                PublishedNumber(
                    "kl",
                    "KL divergence from the start of this stage, nats per answer",
                    n="kl_n",
                    unit="answers",
                ),
            ),
        ),
        Stage(
            "ppo",
            schema.PpoRecipe,
            "toolkit.ppo.stage:run",
            evaluation="toolkit.runs.evaluation:PpoEvaluation",
            product=Product.LANGUAGE_MODEL,
            storyworld={"data": ("prompts", "conversations", "preferences")},
            has_conversations=True,
            aligned=True,
            # Policy and critic train; reference and reward model only read.
            cost=Cost(bytes_per_parameter=16 + 16 + 4 + 4),
            title="aligned by reinforcement learning",
            sentences=(StageSentence("ppo.taught"),),
            description="The model writes answers, a reward model scores them, and PPO makes answers of "
            "higher scores more probable, while a penalty on the KL divergence keeps the model near its "
            "start.",
            changes=(
                Change(
                    "the score of the answers to training prompts",
                    "reference.score",
                    "score",
                    less_is_better=False,
                ),
                Change("the mean length of the answers (tokens)", "reference.length", "length"),
            ),
            curves=(
                Curve("Score of the reward model", "score"),
                Curve("Score of the held-out judge", "held_out_score"),
                Curve("KL to the start, nats per answer", "kl"),
                Curve("Length of answers, tokens", "length"),
                Curve("Share of answers that end", "ended", percent=True, is_detail=True),
                Curve("Share of clipped probability ratios", "clip_fraction", percent=True, is_detail=True),
                Curve("Entropy, nats per token", "entropy", is_detail=True),
            ),
            notes=(
                Note(
                    "A held-out judge selected the weights after rollout {kept_rollout}.", key="kept_rollout"
                ),
                Note(
                    "The curves and the table show answers to training prompts; the win rate is measured on "
                    "prompts that no stage trained on.",
                    key="score",
                ),
            ),
            row_title="last rollouts",
            row=(
                Column("score [95% interval]", "score"),
                Column("KL to the start, nats per answer", "kl"),
                Column("answers", "n", count=True),
            ),
            published=(
                PublishedNumber("score", "mean reward of an answer, last policy", n="n", unit="answers"),
                PublishedNumber(
                    "reference.score",
                    "mean reward of an answer, start of this stage, on training prompts",
                    n="reference.n",
                    unit="answers",
                ),
                PublishedNumber(
                    "kl", "KL divergence from the start of this stage, nats per answer", n="n", unit="answers"
                ),
            ),
        ),
        Stage(
            "evaluate",
            schema.EvaluateRecipe,
            "toolkit.evaluate.stage:run",
            evaluation="toolkit.runs.evaluation:ModelComparison",
            storyworld={
                "perplexity": ("stories",),
                "data": ("prompts", "conversations", "preferences"),
                "win_rate": ("preferences",),
            },
            reads_held_out=True,
            measures_models=True,
        ),
    )
}
"""Stage name -> its entry, in the order in which the stages usually follow each other."""


def makers(product: Product) -> tuple[str, ...]:
    """Return the names of the stages whose runs are of this use."""
    return tuple(stage.name for stage in STAGES.values() if stage.product == product)


def order(stage: str | None) -> int:
    """Return the place of a stage in the usual order; an unknown one comes last."""
    return list(STAGES).index(stage) if stage in STAGES else len(STAGES)


def measures_models(stage: str | None) -> bool:
    """Return whether runs of a stage measure the models of other runs; False for an unknown stage."""
    return stage in STAGES and STAGES[stage].measures_models
