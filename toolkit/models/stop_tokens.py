"""The tokens that end an answer or a text of a model, decided in one place for everything that samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.base.console import tell_once
from toolkit.data.chat import answer_end
from toolkit.data.chat.dates import TEMPLATE_DATE, prints_date
from toolkit.models.description import text_config, vocabulary
from toolkit.runs.run import Run


@dataclass(frozen=True)
class StopTokens:
    """The tokens at which generation stops.

    Attributes:
        end_id: the token with which the chat template ends an answer, end-of-text without a template; None if
            the tokenizer has neither.
        ids: all of them, `end_id` first; empty if there is none.
    """

    end_id: int | None
    ids: tuple[int, ...]

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> StopTokens:
        """Return the stop tokens of a model.

        They are the union of the token that ends an answer in the chat template, the tokenizer's
        `eos_token`, `generation_config.eos_token_id`, and `eos_token_id` of the model's config. Gemma, Phi-3,
        Llama 3 and Qwen end answers with any of several tokens. Entries that are no token of the model are
        ignored with a notice.
        """
        end, named = answer_end.end_id(tokenizer), named_ends(model, tokenizer)
        ids = [token for tokens in named.values() for token in tokens]
        return cls(end if end in ids else None, tuple(dict.fromkeys(ids)))

    def as_tokens(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
        """Return the id of each token, as a run records them."""
        return {str(tokenizer.convert_ids_to_tokens(token)): token for token in self.ids}


def named_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """Return the stop tokens by who names them; entries that are no token are ignored with a notice."""
    config, rows = text_config(model.config), vocabulary(model)
    named = {
        "the chat template": [answer_end.end_id(tokenizer)] if tokenizer.chat_template else [],
        "the tokenizer": [tokenizer.eos_token_id],
        "generation_config": _entries(getattr(model, "generation_config", None)),
        "config": [*_entries(model.config), *_entries(config)],
    }
    return {source: list(_valid(values, rows, source)) for source, values in named.items()}


def stop_at_all_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> StopTokens:
    """Let `generation_config.eos_token_id` name all stop tokens of the model, and return them.

    Every program that generates with transformers then stops where the toolkit does, TRL's trainers included.
    """
    stops, config = StopTokens.of(model, tokenizer), model.generation_config
    named = _entries(config)
    if not all(token in named for token in stops.ids) or not all(entry in stops.ids for entry in named):
        config.eos_token_id = list(stops.ids) or None
    return stops


def record(run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Record in a run the stop tokens of its model, and the date that its chat template prints."""
    run.decide("stop_tokens", StopTokens.of(model, tokenizer).as_tokens(tokenizer))
    record_date(run, tokenizer)


def record_date(run: Run, tokenizer: PreTrainedTokenizerBase) -> None:
    """Record in a run the date that its chat template prints, if it prints one."""
    if prints_date(tokenizer.chat_template):
        run.describe("chat_template_date", TEMPLATE_DATE.isoformat())


def _entries(config: Any) -> list[Any]:
    """Return `eos_token_id` of a configuration as a list."""
    value = getattr(config, "eos_token_id", None)
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _valid(values: Iterable[Any], rows: int, source: str) -> Iterator[int]:
    """Yield the token ids below `rows`; None stands for no token, and other values are named in a notice."""
    for value in values:
        if type(value) is int and 0 <= value < rows:
            yield value
        elif value is not None:
            tell_once(
                f"eos_token_id {value!r} of {source} is ignored: it is no token of the model's {rows:,}"
            )
