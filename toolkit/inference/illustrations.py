"""What only illustrates a model, such as samples for people: its failure must not cost the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from toolkit.base.console import tell_once

Value = TypeVar("Value")


def attempt(
    make: Callable[[], Value], *, keys: Sequence[str], run: str, missing: dict[str, str] | None = None
) -> Value | None:
    """Return what `make` returns; if it raises, None, with a warning on stderr.

    Args:
        keys: of evaluation.json, what is missing then.
        run: the name of the run.
        missing: receives the reason under each key, for `not_measured` of evaluation.json.
    """
    try:
        return make()
    except Exception as error:  # of any library: none of them is worth the training
        first_line = str(error).strip().partition("\n")[0]
        reason = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
        names = " and ".join(keys)
        tell_once(f"{run}: warning: no {names}, because sampling failed; the model is unaffected ({reason})")
        if missing is not None:
            missing |= dict.fromkeys(keys, reason)
        return None
