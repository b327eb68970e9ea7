"""The answers of models to training prompts, sampled in batches that a resumed run does not repeat.

A batch is some prompts in their order with the answers of one model. Its content depends on nothing but the
recipe: not on the number of processes, and not on where a run was interrupted. Each batch is a file in the
run's scratch folder, written atomically by the process that samples it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from toolkit.base import files, ranks
from toolkit.base.progress import Progress
from toolkit.base.rng import derive
from toolkit.config.schema import PreferencesRecipe
from toolkit.data.chat import template
from toolkit.data.chat.template import Message
from toolkit.inference.opening import OpenModel, open_reference
from toolkit.inference.prompts import encode_prompts
from toolkit.inference.sampling import generate
from toolkit.runs import layout
from toolkit.runs.run import Run
from toolkit.runtime.devices import select

Messages = Sequence[Message]


@dataclass(frozen=True)
class Answer:
    """An answer, the model that gave it, and whether it ended before max_new_tokens."""

    text: str
    model: str
    ended: bool


def sample_answers(recipe: PreferencesRecipe, run: Run, prompts: Sequence[Messages]) -> None:
    """Sample the batches of this process that are not on the disk yet."""
    batches = batches_of(recipe, prompts)
    own = range(ranks.rank(), len(batches), ranks.world_size())
    for index, model in enumerate(recipe.models):
        missing = [batch for batch in own if not batch_file(run, index, batch).exists()]
        if not missing:
            continue
        opened = open_reference(run.model_reference(model), device=select(recipe.device))
        total = sum(len(batches[batch]) for batch in own)
        done = total - sum(len(batches[batch]) for batch in missing)
        with Progress(f"{run.name}: answers of {model}", total, "prompt") as progress:
            progress.update(done)
            for batch in missing:
                rows = sample_batch(recipe, opened, prompts, batches[batch], model=index)
                path = batch_file(run, index, batch)
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_json(path, [[asdict(answer) for answer in row] for row in rows])
                done += len(batches[batch])
                progress.update(done)


def batches_of(recipe: PreferencesRecipe, prompts: Sequence[Messages]) -> list[range]:
    """Return the positions of the prompts of each batch."""
    size = recipe.batch_examples
    return [range(start, min(start + size, len(prompts))) for start in range(0, len(prompts), size)]


def batch_file(run: Run, model: int, batch: int) -> Path:
    """Return the file of a batch."""
    return run.path / layout.SAMPLED_ANSWERS / f"{model}-{batch:06d}.json"


def sample_batch(
    recipe: PreferencesRecipe, opened: OpenModel, prompts: Sequence[Messages], batch: range, *, model: int
) -> list[list[Answer]]:
    """Return the answers of one model to each prompt of a batch, `answers_per_prompt / models` for each.

    Raises:
        ToolkitError: answers of `max_new_tokens` leave no room for a prompt.
    """
    tokenizer = opened.tokenizer
    numbers = range(model, recipe.answers_per_prompt, len(recipe.models))
    ids = encode_prompts(
        opened.model,
        tokenizer,
        [prompts[row] for row in batch],
        max_prompt_tokens=recipe.max_prompt_tokens,
        max_new_tokens=recipe.max_new_tokens,
    )
    sampled = generate(
        opened.model,
        [prompt for prompt in ids for _ in numbers],
        seed=[derive(recipe.seed, "answer", row, number) for row in batch for number in numbers],
        end_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        max_new_tokens=recipe.max_new_tokens,
        temperature=recipe.temperature,
        top_k=recipe.top_k,
        top_p=recipe.top_p,
        batch_rows=len(batch) * len(numbers),
    )
    texts = [template.decode_answer(tokenizer, tokens) for tokens in sampled.ids]
    answers = [
        Answer(text, recipe.models[model], ended) for text, ended in zip(texts, sampled.ended, strict=True)
    ]
    return [answers[start : start + len(numbers)] for start in range(0, len(answers), len(numbers))]


def read_answers(recipe: PreferencesRecipe, run: Run, prompts: Sequence[Messages]) -> list[list[Answer]]:
    """Return the answers to every prompt in their order, once all batches are on the disk."""
    answers: list[list[Answer]] = []
    for batch in range(len(batches_of(recipe, prompts))):
        by_model = [
            [[Answer(**answer) for answer in row] for row in files.read_json(batch_file(run, index, batch))]
            for index in range(len(recipe.models))
        ]
        for rows in zip(*by_model, strict=True):
            answers.append([answer for turn in zip(*rows, strict=True) for answer in turn])
    return answers
