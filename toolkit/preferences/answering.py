"""The answers of models to training prompts, sampled in batches that a resumed run does not repeat.

A batch is some prompts of similar length with the answers of one model. Its content depends on nothing but
the recipe: not on the number of processes or workers, and not on where a run was interrupted. Each batch is a
file in the run's scratch folder, written atomically by the process that samples it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from toolkit.base import files, ranks
from toolkit.base.console import tell
from toolkit.base.errors import RunError, ToolkitError
from toolkit.base.progress import Progress
from toolkit.base.rng import derive
from toolkit.config.schema import PreferencesRecipe
from toolkit.data.chat import answer_end
from toolkit.data.chat.template import Message
from toolkit.inference.opening import OpenModel, open_reference
from toolkit.inference.prompts import encode_prompts
from toolkit.inference.sampling import generate
from toolkit.models.stop_tokens import record_date
from toolkit.runs import layout
from toolkit.runs.run import Run
from toolkit.runtime import signals
from toolkit.runtime.devices import select

Messages = Sequence[Message]


@dataclass(frozen=True)
class Answer:
    """An answer, the model that gave it, and whether it ended before max_new_tokens.

    An answer that ends within its thought is no answer: it counts as cut off, and a judge reads nothing.
    """

    text: str
    model: str
    ended: bool
    unfinished: bool = False

    @property
    def judged(self) -> str:
        """The text that a judge reads."""
        return "" if self.unfinished else self.text


def sample_answers(recipe: PreferencesRecipe, run: Run, prompts: Sequence[Messages]) -> None:
    """Sample the batches of this process that are not on the disk yet."""
    batches = batches_of(recipe, prompts)
    own = range(ranks.rank(), len(batches), ranks.world_size())
    for index, model in enumerate(recipe.models):
        missing = [batch for batch in own if _read_batch(run, index, batch, batches[batch]) is None]
        if not missing:
            continue
        opened = open_reference(run.model_reference(model), device=select(recipe.device))
        tokens = opened.stop_tokens.as_tokens(opened.tokenizer)
        run.describe("stop_tokens", {**(run.decisions.stop_tokens or {}), model: tokens})
        record_date(run, opened.tokenizer)
        total = sum(len(batches[batch]) for batch in own)
        done = total - sum(len(batches[batch]) for batch in missing)
        sampler = _Sampler(recipe, run, opened, prompts, batches, index)
        # Workers are forked before the progress starts a thread.
        with (
            _sampling(sampler, missing) as sampled,
            Progress(f"{run.name}: answers of {model}", total, "prompt") as progress,
        ):
            progress.update(done)
            for batch in sampled:
                done += len(batches[batch])
                progress.update(done)


@dataclass(frozen=True)
class _Sampler:
    """Samples batches of one model, the one of this position in the recipe, and writes their files."""

    recipe: PreferencesRecipe
    run: Run
    opened: OpenModel
    prompts: Sequence[Messages]
    batches: Sequence[Sequence[int]]
    model: int

    @property
    def workers(self) -> int:
        """Number of processes that sample. A launch has its processes, a GPU serves one.

        Only Linux forks a process with torch safely; a new process would take seconds to import torch.
        """
        on_cpu = self.opened.model.device.type == "cpu"
        return self.recipe.workers if on_cpu and sys.platform == "linux" and ranks.world_size() == 1 else 1

    def sample(self, batch: int) -> int:
        positions = self.batches[batch]
        rows = sample_batch(self.recipe, self.opened, self.prompts, positions, model=self.model)
        path = batch_file(self.run, self.model, batch)
        path.parent.mkdir(parents=True, exist_ok=True)
        answers = [[asdict(answer) for answer in row] for row in rows]
        files.write_checked_json(path, {"prompts": positions, "answers": answers})
        return batch


@contextmanager
def _sampling(sampler: _Sampler, batches: Sequence[int]) -> Iterator[Iterable[int]]:
    """Let the recipe's workers sample batches; iterate over the numbers of those that are written.

    No worker runs any more when the context ends, whatever ends it: the files are written atomically, and
    another command may continue the run at once.
    """
    count = min(sampler.workers, len(batches))
    if count == 1:
        yield map(sampler.sample, batches)
        return
    workers: list[_Worker] = []
    try:
        for number in range(count):
            workers.append(_Worker(sampler, batches[number::count]))
        yield _results(workers, where=sampler.run.name)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()


class _Worker:
    """A forked process that samples batches, and sends the number of each one, or an error."""

    def __init__(self, sampler: _Sampler, batches: Sequence[int]):
        context = multiprocessing.get_context("fork")
        self.results, sender = context.Pipe(duplex=False)
        with sender:  # closed here, so that the worker's end is the end of the results
            self.process = context.Process(
                target=_work, args=(sampler, batches, sender, os.getpid()), daemon=True
            )
            self.process.start()


def _work(sampler: _Sampler, batches: Sequence[int], sender: Connection, parent: int) -> None:
    signals.leave_to_parent()
    signals.die_with_parent(parent)
    try:
        for batch in batches:
            sender.send(sampler.sample(batch))
    except Exception as error:  # the parent raises it again
        sender.send(error)


def _results(workers: Sequence[_Worker], *, where: str) -> Iterator[int]:
    """Yield what the workers send until all of them have ended.

    Raises:
        ToolkitError: a worker died, usually because the system ran out of memory.
        Exception: an error of a worker.
    """
    running = {worker.results: worker for worker in workers}
    while running:
        for results in wait(list(running)):
            try:
                sent = results.recv()
            except EOFError:
                process = running.pop(results).process
                process.join()
                if process.exitcode != 0:
                    raise ToolkitError(
                        "a process that samples died, perhaps for lack of memory",
                        where=where,
                        fix="reduce `workers`; the same command resumes from here",
                    ) from None
                continue
            if isinstance(sent, Exception):
                raise sent
            yield sent


def batches_of(recipe: PreferencesRecipe, prompts: Sequence[Messages]) -> list[list[int]]:
    """Return the positions of the prompts of each batch.

    Prompts of similar length share a batch, because the rows of a batch are padded to the longest one; the
    longest come first, so that a lack of memory shows at the beginning.
    """
    lengths = [sum(len(message["content"]) for message in prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda row: -lengths[row])
    size = recipe.batch_examples
    return [order[start : start + size] for start in range(0, len(order), size)]


def batch_file(run: Run, model: int, batch: int) -> Path:
    """Return the file of a batch."""
    return run.path / layout.SAMPLED_ANSWERS / f"{model}-{batch:06d}.json"


def _read_batch(
    run: Run, model: int, batch: int, positions: Sequence[int]
) -> list[list[dict[str, Any]]] | None:
    """Return the sampled answers of a batch; None if they are not on the disk as they were written."""
    path = batch_file(run, model, batch)
    if not path.exists():
        return None
    try:
        content = files.read_checked_json(path)
    except RunError as error:
        tell(f"{path}: {error.what}; its answers are sampled again")
        return None
    return content["answers"] if content.get("prompts") == list(positions) else None


def sample_batch(
    recipe: PreferencesRecipe,
    opened: OpenModel,
    prompts: Sequence[Messages],
    batch: Sequence[int],
    *,
    model: int,
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
    asked = [prompt for prompt in ids for _ in numbers]
    sampled = generate(
        opened.model,
        asked,
        seed=[derive(recipe.seed, "answer", row, number) for row in batch for number in numbers],
        end_id=opened.stop_tokens.ids,
        pad_id=tokenizer.pad_token_id,
        max_new_tokens=recipe.max_new_tokens,
        temperature=recipe.temperature,
        top_k=recipe.top_k,
        top_p=recipe.top_p,
        batch_rows=len(batch) * len(numbers),
    )
    texts = [answer_end.decode_answer(tokenizer, tokens) for tokens in sampled.ids]
    cut = [answer_end.is_unfinished(tokenizer, *pair) for pair in zip(asked, texts, strict=True)]
    answers = [
        Answer(text, recipe.models[model], ended and not unfinished, unfinished)
        for text, ended, unfinished in zip(texts, sampled.ended, cut, strict=True)
    ]
    return [answers[start : start + len(numbers)] for start in range(0, len(answers), len(numbers))]


def read_answers(recipe: PreferencesRecipe, run: Run, prompts: Sequence[Messages]) -> list[list[Answer]]:
    """Return the answers to every prompt in their order, once all batches are on the disk."""
    answers: list[list[Answer]] = [[] for _ in prompts]
    for batch, positions in enumerate(batches_of(recipe, prompts)):
        by_model = []
        for index in range(len(recipe.models)):
            rows = _read_batch(run, index, batch, positions)
            assert rows is not None
            by_model.append([[Answer(**answer) for answer in row] for row in rows])
        for position, rows in zip(positions, zip(*by_model, strict=True), strict=True):
            answers[position] = [answer for turn in zip(*rows, strict=True) for answer in turn]
    return answers
