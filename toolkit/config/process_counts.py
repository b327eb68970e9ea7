"""How a batch is divided among processes; sizes that cannot be divided are refused."""

from __future__ import annotations

from toolkit.base.errors import ToolkitError
from toolkit.config.schema import PpoRecipe, PretrainRecipe, StageRecipe, TrainerRecipe


def require_divisible(recipe: StageRecipe, *, processes: int) -> None:
    """Refuse a number of processes that cannot share the batches of a recipe.

    Raises:
        ToolkitError: its `where` is the key of the setting.
    """
    if isinstance(recipe, TrainerRecipe):
        split_batch(recipe, processes=processes)
    elif isinstance(recipe, PretrainRecipe):
        micro_rows(recipe, processes=processes)
    elif isinstance(recipe, PpoRecipe):
        settings = recipe.trainer
        try:
            share_of(settings.rollout_examples, settings.minibatches, processes=processes)
        except ValueError as error:
            raise ToolkitError(str(error), where="trainer.rollout_examples") from error


def split_batch(recipe: TrainerRecipe, *, processes: int) -> tuple[int, int]:
    """Return (examples per forward pass and process, forward passes per optimizer step).

    Raises:
        ToolkitError: a batch that cannot be divided equally, so that examples would have unequal weights.
    """
    share, rest = divmod(recipe.batch_examples, processes)
    if rest or not share:
        raise ToolkitError(
            f"batch_examples {recipe.batch_examples} cannot be divided equally among {processes} processes",
            where="batch_examples", fix=f"use a multiple of {processes}",
        )  # fmt: skip
    micro = recipe.micro_batch_examples or share
    if share % micro:
        raise ToolkitError(
            f"micro_batch_examples {micro} does not divide the {share} examples of each process",
            where="micro_batch_examples", fix=f"use a divisor of {share}",
        )  # fmt: skip
    return micro, share // micro


def micro_rows(recipe: PretrainRecipe, *, processes: int) -> int:
    """Return the rows of one forward pass on one process.

    Raises:
        ToolkitError: the batch cannot be divided into whole rows on each process.
    """
    length = recipe.row_tokens()
    local_rows, rest = divmod(recipe.batch_tokens, length * processes)
    if rest or not local_rows:
        raise ToolkitError(
            f"batch_tokens {recipe.batch_tokens} is not a multiple of {length * processes} "
            f"({length} tokens a row on each of {processes} process(es))",
            where="batch_tokens", fix=f"use {max(1, local_rows) * length * processes}",
        )  # fmt: skip
    if recipe.exact:
        _require_power_of_two(recipe, processes)
    if recipe.micro_batch_tokens is None:
        return local_rows
    return min(recipe.micro_batch_tokens // length, local_rows)


def _require_power_of_two(recipe: PretrainRecipe, processes: int) -> None:
    """Refuse a number of processes over which the tree of micro-batches cannot be divided."""
    micro_batches = recipe.batch_tokens // (recipe.micro_batch_tokens or recipe.batch_tokens)
    if processes & (processes - 1) or processes > micro_batches:
        raise ToolkitError(
            f"{micro_batches} micro-batches cannot be divided among {processes} processes",
            where="exact", fix=f"start a power of two of processes, at most {micro_batches}",
        )  # fmt: skip


def share_of(rollout_examples: int, minibatches: int, *, processes: int) -> int:
    """Return the answers of one minibatch on one process; raise ValueError if processes would differ."""
    parts = minibatches * processes
    share, rest = divmod(rollout_examples, parts)
    if rest or not share:
        raise ValueError(
            f"rollout_examples {rollout_examples} cannot be shared equally by {minibatches} "
            f"minibatches on {processes} processes; take a multiple of {parts}"
        )
    return share
