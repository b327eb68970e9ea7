"""The evaluate stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from toolkit.config.schema.base import (
    STORYWORLD,
    BatchSize,
    DataSource,
    DataSources,
    NonNegative,
    SequenceLength,
    Settings,
    Size,
    StageRecipe,
)

EVALUATED_EXAMPLES = 400
"""Documents or prompts of the storyworld that are measured if the source gives no number. 400 prompts tell a
win rate of 57% from 50% in 80% of experiments."""


def _with_number(sources: list[DataSource]) -> list[DataSource]:
    """Give sources of the endless storyworld a number of held-out examples."""
    return [
        source.model_copy(update={"held_out_examples": EVALUATED_EXAMPLES})
        if source.name == STORYWORLD and source.examples is None and source.held_out_examples is None
        else source
        for source in sources
    ]


if TYPE_CHECKING:
    MeasuredSources = list[DataSource]
else:
    MeasuredSources = Annotated[DataSources, AfterValidator(_with_number)]
"""Sources whose held-out part is measured; of the storyworld, `EVALUATED_EXAMPLES` by default."""

Turns = Annotated[list[str], Field(min_length=1)]
"""A conversation: turns of the user and the assistant, alternately; the last is the user's."""


class PerplexitySettings(Settings):
    """Perplexity of every model on held-out text: each token is scored exactly once."""

    tokens: str | None = None
    """A sealed corpus run: its held-out part is scored, with its own tokenizer."""
    data: MeasuredSources | None = None
    """Alternative to `tokens`: any text source. Each model uses its own tokenizer."""
    window: SequenceLength | None = None
    """Tokens in one window; the default is the model's number of positions, 4096 at most."""
    stride: SequenceLength | None = None
    """Tokens between the starts of two windows; the default is half a window."""
    prefix: Literal["auto", "bos", "end", "none"] = "auto"
    """The token before a document: the tokenizer's beginning-of-text, end-of-text, or none (then the first
    token is not scored). `auto`: end-of-text if the model's configuration says that documents begin with it,
    else beginning-of-text, else end-of-text."""
    score_end: bool = True
    """Score end-of-text as the last token of a document; it has no bytes."""
    packed: bool = False
    """Read all documents as one text with end-of-text between them, not each alone."""
    baseline: str | None = None
    """The model whose bits per byte are subtracted from the others', paired by document; one of `models`. The
    default is the win rate's baseline."""

    @model_validator(mode="after")
    def one_source(self) -> PerplexitySettings:
        if (self.tokens is None) == (self.data is None):
            raise ValueError("give exactly one of tokens and data")
        return self


class BestOfSettings(Settings):
    """Best-of-n sampling: a reward model chooses among several answers of the baseline."""

    reward_model: str
    """A sealed reward run, a folder or a Hub id."""
    counts: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] = [2, 4]
    """Numbers of answers to choose from; each is reported as a separate model, such as `best of 2`."""


class WinRateSettings(Settings):
    """Win rate against a baseline on held-out prompts."""

    baseline: str
    judge: str = "gold"
    """`gold` (storyworld's utility); a sealed reward run, a folder or a Hub id; a file of people's votes
    (.jsonl, .sqlite, .db); or the URL of an OpenAI-compatible endpoint, up to /v1."""
    judge_model: str | None = None
    """Name of the model at an endpoint."""
    judge_key_variable: str = "JUDGE_API_KEY"
    """The environment variable that holds an endpoint's key."""
    stop_early: bool = False
    """With an endpoint, stop asking once the win rate's interval excludes 50%; intervals are then
    anytime-valid."""
    judge_data: MeasuredSources | None = None
    """Preferences that measure the accuracy of a reward model or an endpoint. If its interval includes 50%,
    the verdict is `no verdict`. The default for a reward run is its own accuracy."""
    samples_per_prompt: BatchSize = 1
    """Answers of each model to each prompt. Intervals resample prompts, because answers to one prompt are
    correlated."""
    best_of: BestOfSettings | None = None
    max_prompt_tokens: SequenceLength = 256
    max_new_tokens: SequenceLength = 112
    temperature: NonNegative = 1.0
    """Sampling temperature; 0 is greedy."""
    top_k: Size = 0
    """Sample only from the k most probable tokens (0: all)."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample only from the smallest set of tokens with this total probability (1: all)."""
    batch_examples: BatchSize = 64
    bootstrap_samples: Annotated[int, Field(ge=100)] = 2000


class EvaluateRecipe(StageRecipe):
    """Perplexity and win rate of several models."""

    stage: Literal["evaluate"]
    models: Annotated[list[str], Field(min_length=1)]
    """Runs, folders or Hub ids; reported under the shortest unique suffix of their path."""
    data: MeasuredSources | None = None
    """Conversations, preferences or prompts, whose held-out prompts are used for the win rate; of the
    storyworld, 400 if the source gives no number."""
    perplexity: PerplexitySettings | None = None
    win_rate: WinRateSettings | None = None
    samples: list[str | Turns] = []
    """Prompts that every model answers, shown in the summary. A prompt is a text, or a list of the turns of a
    conversation, which begins and ends with the user's."""
    answers_per_sample: BatchSize = 1
    """Answers of each model to each of `samples`: a single one may mislead."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Precision of the weights of models and judges; `auto`: that of each checkpoint. Log-probabilities are
    always fp32."""

    @model_validator(mode="after")
    def something_to_measure(self) -> EvaluateRecipe:
        if self.perplexity is None and self.win_rate is None and not self.samples:
            raise ValueError("nothing to measure: give perplexity, win_rate or samples")
        if any(isinstance(turns, list) and len(turns) % 2 == 0 for turns in self.samples):
            raise ValueError("the last turn of a conversation in samples must be the user's")
        if (self.win_rate is None) != (self.data is None):
            raise ValueError("data has the prompts of win_rate: give both or neither")
        if self.win_rate is not None and self.win_rate.baseline not in self.models:
            raise ValueError(f"win_rate.baseline {self.win_rate.baseline!r} is not one of models")
        compared = self.perplexity.baseline if self.perplexity else None
        if compared is not None and compared not in self.models:
            raise ValueError(f"perplexity.baseline {compared!r} is not one of models")
        if compared is not None and self.win_rate is not None and compared != self.win_rate.baseline:
            raise ValueError("perplexity.baseline must be that of win_rate; leave it out")
        return self

    @property
    def baseline(self) -> str | None:
        """The model that the others are compared with; None without a comparison."""
        if self.win_rate is not None:
            return self.win_rate.baseline
        return self.perplexity.baseline if self.perplexity else None
