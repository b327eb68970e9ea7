"""The preferences stage."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from toolkit.config.schema.base import (
    BatchSize,
    DataSources,
    NonNegative,
    ProcessCount,
    SequenceLength,
    Settings,
    Size,
    StageRecipe,
)


class BiasSettings(Settings):
    """What the annotator also rewards in an answer, in units of the judge's scores."""

    length: float = 0.0
    """Added for each word of an answer."""
    first: float = 0.0
    """Added to the answer that is shown first."""
    word: dict[str, float] = {}
    """Word -> what its presence in an answer adds."""


class AnnotatorSettings(Settings):
    """Who compares the answers."""

    judge: str = "gold"
    """`gold` (storyworld's utility); a sealed reward run, a folder or a Hub id; the URL, up to /v1, of an
    endpoint compatible with OpenAI's; or a file of votes (.jsonl, .sqlite, .db), whose pairs are then the
    preferences."""
    judge_model: str | None = None
    """Name of the model at an endpoint."""
    judge_key_variable: str = "JUDGE_API_KEY"
    """The environment variable that holds an endpoint's key."""
    temperature: NonNegative = 1.0
    """Of gold or a reward model: it prefers an answer whose score is higher by d with probability
    sigmoid(d / temperature); 0 always prefers the higher score. Equal scores are a tie."""
    biases: BiasSettings = BiasSettings()
    """Planted in gold or a reward model: an audit of what is trained on the labels has a known answer."""


class PreferencesRecipe(StageRecipe):
    """Preferences between answers of models to training prompts."""

    operational: ClassVar[frozenset[str]] = StageRecipe.operational | {"workers"}

    stage: Literal["preferences"]
    models: list[str] = []
    """Runs, folders or Hub ids. Several models take turns, so that pairs compare one with the next."""
    data: DataSources | None = None
    """Conversations, preferences or prompts, whose training prompts are answered; held-out ones are never
    asked."""
    answers_per_prompt: Annotated[int, Field(ge=2, le=10_000)] = 2
    """Answers to each prompt."""
    compare: Literal["in_turn", "best_with_worst"] = "in_turn"
    """`in_turn`: the first answer to a prompt with the second, the third with the fourth, and so on.
    `best_with_worst`: the one that gold or a reward model scores highest with the one it scores lowest, one
    pair for each prompt; the annotator then compares the two with its noise."""
    annotator: AnnotatorSettings = AnnotatorSettings()
    max_prompt_tokens: SequenceLength = 256
    max_new_tokens: SequenceLength = 96
    temperature: NonNegative = 1.0
    """Sampling temperature."""
    top_k: Size = 0
    """Sample only from the k most probable tokens (0: all)."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample only from the smallest set of tokens with this total probability (1: all)."""
    batch_examples: BatchSize = 64
    """Prompts, of similar length, that one process answers at a time. The answers do not depend on the number
    of processes."""
    workers: ProcessCount = 1
    """Processes that sample side by side; more than one need `threads: 1`. A GPU, a launch of several
    processes, and other systems than Linux use one. The answers do not depend on their number."""

    @model_validator(mode="after")
    def single_threaded_workers(self) -> PreferencesRecipe:
        if self.workers > 1 and self.threads != 1:
            raise ValueError("workers need threads: 1, because threads do not survive a fork")
        return self

    @model_validator(mode="after")
    def distinct_models(self) -> PreferencesRecipe:
        if self.compare == "in_turn" and self.answers_per_prompt % 2:
            raise ValueError(
                f"answers_per_prompt must be even, not {self.answers_per_prompt}: answers form pairs"
            )
        if self.compare == "best_with_worst" and self.answers_per_prompt < 3:
            raise ValueError("best_with_worst chooses among at least 3 answers: raise answers_per_prompt")
        if len(set(self.models)) < len(self.models):
            raise ValueError("a model is named twice")
        if self.models and self.answers_per_prompt % len(self.models):
            raise ValueError(
                f"answers_per_prompt {self.answers_per_prompt} is not a multiple of {len(self.models)} models"
            )
        return self
