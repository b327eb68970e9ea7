"""The parts of all settings: bounded numbers, data sources, and the base class of recipes."""

from __future__ import annotations

import codecs
import difflib
from dataclasses import dataclass
from encodings.aliases import aliases
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    WrapSerializer,
    model_validator,
)

Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0)]
ProcessCount = Annotated[int, Field(gt=0, le=1024)]
"""Threads or processes of one machine."""
BatchSize = Annotated[int, Field(gt=0, le=1_000_000)]
"""Examples or answers that are computed together."""
SequenceLength = Annotated[int, Field(gt=0, le=10_000_000)]
"""Tokens of one sequence."""
Size = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]

STORYWORLD = "storyworld"
"""The name of the data source that is computed, not read."""


class Settings(BaseModel):
    """Strict and frozen settings: no unknown keys, no type coercion, no NaN, no changes after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class HeldOut(Settings):
    """The held-out part of a source; give exactly one key."""

    last_characters: Fraction | None = None
    """The last fraction of the characters, for one long text."""
    documents: Fraction | None = None
    """The fraction of documents, chosen by a hash of the text (for conversations, of the first prompt)."""
    name: str | None = None
    """Another file, folder, glob or Hub dataset, of which all rows are held out; all rows of the source are
    then for training. Its rows are read with the settings of the source, except `split` and `config`."""
    split: str | None = None
    """Another split of the same Hub dataset or saved DatasetDict, held out like `name`."""

    @model_validator(mode="after")
    def exactly_one(self) -> HeldOut:
        given = list(self.model_dump(exclude_none=True))
        if not given:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}")
        if len(given) > 1:
            raise ValueError(f"give only one of {' and '.join(given)}")
        return self


class Columns(Settings):
    """The columns of conversations, preferences and text with other names; a dot means a nested column."""

    prompt: str | None = None
    """The prompt: text or messages."""
    completion: str | None = None
    """The answer to the prompt."""
    chosen: str | None = None
    """The better of two answers."""
    rejected: str | None = None
    """The worse of two answers."""
    messages: str | None = None
    """All messages of a conversation; the same as `field`."""
    system: str | None = None
    """The system message."""
    text: str | None = None
    """Plain text; the same as `field` of a text source."""
    margin: str | None = None
    """By how much the chosen answer is better: a number."""
    label: str | None = None
    """Of one answer, whether it is good; of two, which one is better."""

    @model_validator(mode="after")
    def at_least_one(self) -> Columns:
        if not self.model_dump(exclude_none=True):
            raise ValueError("name at least one column")
        return self


class DataSource(Settings):
    """Where text, conversations or preferences come from."""

    name: str
    """`storyworld`, a local file, folder or glob (docs/DATA.md lists the formats), or `hub-id[@revision]`."""
    world: Literal["small", "large"] | None = None
    """Storyworld only: `small` (a few hundred words) or `large` (3,400); the default is `large`."""
    config: str | None = None
    """Storyworld: stories, conversations, preferences, prompts; turns (small world only). Hub: the dataset's
    configuration."""
    split: str | None = None
    """The split of a Hub dataset, or of a folder that `DatasetDict.save_to_disk` wrote; `all` joins every
    split in order. Other local files have only `all`."""
    field: str | None = None
    """The column that holds the text (default `text`), nested as in `doc.text`, or the conversation (default
    by its name)."""
    encoding: str | None = None
    """Local files of text: their encoding, a codec of Python such as `cp1252`; the default is UTF-8."""
    separator: str | None = None
    """Local plain text: the string between documents, such as `"<|endoftext|>"`; by default a file is one
    document."""
    columns: Columns | None = None
    """Columns with other names than the known ones, such as `{prompt: question, completion: reply}`."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """`skip` leaves out rows of conversations and preferences that are malformed, and counts them; `stop` is
    an error."""
    weight: Positive = 1.0
    """Weight in a mixture, relative to the other sources."""
    examples: Count | None = None
    """Number of documents or examples to train on; the default is all (required with storyworld)."""
    held_out: Literal["none", "all"] | HeldOut | None = None
    """The part that is kept for evaluation; the default is one tenth of the documents. `none` keeps nothing,
    and `all` is for a file that is only measured on."""
    held_out_examples: Count | None = None
    """Maximum number of held-out documents or examples; with storyworld, the exact number."""
    flawed_share: Probability | None = None
    """Storyworld only: the fraction of answers with an intended flaw."""
    complying_share: Probability | None = None
    """Small storyworld only: the fraction of unkind requests with which the answer complies (default 0.7)."""
    temperature: Positive | None = None
    """Storyworld only: the temperature of the noisy annotator, in units of the utility."""

    @model_validator(mode="after")
    def one_name_for_a_column(self) -> DataSource:
        if self.field is not None and self.columns is not None:
            raise ValueError("give `field` or `columns`, not both: field names the text or the messages")
        return self

    @model_validator(mode="after")
    def held_out_is_separate(self) -> DataSource:
        if isinstance(self.held_out, HeldOut):
            if self.held_out.split is not None and self.split in (self.held_out.split, "all"):
                raise ValueError(
                    f"held_out.split {self.held_out.split!r} is also trained on (split: {self.split}); name "
                    "the split for training in split"
                )
            if self.held_out.name == self.name:
                raise ValueError("held_out.name is the source itself; name another file or dataset")
        return self

    @model_validator(mode="after")
    def text_can_be_read(self) -> DataSource:
        if self.separator == "":
            raise ValueError("separator must not be empty")
        if self.encoding is not None and not _is_codec(self.encoding):
            names = sorted({name.replace("_", "-") for name in (*aliases, *aliases.values())})
            near = difflib.get_close_matches(self.encoding.lower().replace("_", "-"), names, n=3)
            close = [name for name in near if _is_codec(name)]
            hint = f"; near names are {', '.join(close)}" if close else "; examples are utf-8, utf-16, cp1252"
            raise ValueError(f"encoding must be a text codec of Python, not {self.encoding!r}{hint}")
        return self


def _is_codec(name: str) -> bool:
    try:
        codecs.getincrementaldecoder(name)
        "".encode(name)  # refuses codecs that are not text, such as hex
    except (LookupError, ValueError):
        return False
    return True


Data = DataSource | Annotated[list[DataSource], Field(min_length=1)]
"""One data source, or several that are mixed."""


def _as_list(data: DataSource | list[DataSource]) -> list[DataSource]:
    return data if isinstance(data, list) else [data]


def _single_as_mapping(sources: list[DataSource], serialize: SerializerFunctionWrapHandler) -> Any:
    """Serialize a single source as a mapping, the form that manifests of all versions hold."""
    serialized = serialize(sources)
    return serialized[0] if len(serialized) == 1 else serialized


if TYPE_CHECKING:
    DataSources = list[DataSource]
else:
    DataSources = Annotated[Data, AfterValidator(_as_list), WrapSerializer(_single_as_mapping)]
"""A setting that takes one source or a list of sources; its value is always a list."""


@dataclass(frozen=True)
class PlannedWork:
    """How much a training computes, for `toolkit plan`.

    Attributes:
        tokens: of single sequences; None if it depends on the data.
        passes_per_token: training passes (forward and backward); None for those of the stage's `Cost`.
        note: what the number does not say.
    """

    tokens: float | None
    passes_per_token: float | None = None
    note: str = "at most"


UNKNOWN_WORK = PlannedWork(None, note="examples: as many as the data have")


class StageRecipe(Settings):
    """Settings of every stage."""

    operational: ClassVar[frozenset[str]] = frozenset({"run"})
    """Settings that no result depends on; they may change while a run is unfinished."""

    stage: str
    run: str | None = None
    """Path of the run below the runs directory; the default is the path of the recipe, such as `tiny/dpo`."""
    seed: Size = 0
    """The root seed of all random streams of the stage."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`cuda` fails without a GPU; `auto` uses such a GPU if there is one, else the CPU. `mps` is the GPU of
    an Apple computer: in fp32, in one process, not compiled."""
    threads: ProcessCount | None = None
    """CPU threads per process; the default is the number of cores divided by the local processes."""

    @model_validator(mode="after")
    def mps_computes_in_fp32(self) -> StageRecipe:
        if self.device != "mps":
            return self
        field = type(self).model_fields.get("precision")
        precision = getattr(self, "precision", "fp32")
        if field is not None and precision not in {"fp32", field.default}:
            raise ValueError(f"device: mps computes in fp32, not with precision: {precision}")
        for name in ("compile", "exact"):
            if getattr(self, name, False) is True:
                raise ValueError(f"device: mps allows no {name}: true")
        return self

    def longest_sequence(self, positions: int) -> int:
        """Return the tokens of the longest training sequence of a model with so many positions."""
        return positions

    def planned_work(self, positions: int) -> PlannedWork:
        """Return how much the training of a model with so many positions computes."""
        return UNKNOWN_WORK
