"""`exact: true` gives bitwise identical weights on 1, 2, 4 processes (tier C); a plain sum does not."""

from __future__ import annotations

import queue
import signal
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch

from tests.pretrain import trainings
from tests.pretrain.conftest import write_recipe
from toolkit.base.errors import RecipeError, ToolkitError
from toolkit.config import loader
from toolkit.config.process_counts import micro_rows
from toolkit.pretrain import deterministic_reduce

EXACT = {
    "exact": True, "micro_batch_tokens": 32, "train_tokens": 256 * 10, "evaluate_every_tokens": 256 * 10,
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 32, "dropout": 0.1},
}  # fmt: skip
LLAMA = {
    "architecture": "llama", "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "n_positions": 32
}  # fmt: skip
RECIPES = {
    "adamw": EXACT,
    "muon": EXACT | {"optimizer": {"name": "muon"}},
    "guarded": EXACT | {"guard": {"z_score": 50.0, "window": 10}, "batch_tokens": 512},
    "llama": EXACT | {"model": LLAMA, "optimizer": {"name": "muon"}, "separate_documents": True},
    "plain": EXACT | {"exact": False},
}


def leaves(count: int, seed: int = 0) -> list[deterministic_reduce.Leaf]:
    generator = torch.Generator().manual_seed(seed)
    return [
        [torch.randn(33, generator=generator), torch.randn((), generator=generator)] for _ in range(count)
    ]


def linear_sum(parts) -> deterministic_reduce.Leaf:
    """Sum in sequence, as gradient accumulation does."""
    total, *rest = [[tensor.clone() for tensor in leaf] for leaf in parts]
    for leaf in rest:
        total = [a + b for a, b in zip(total, leaf, strict=True)]
    return total


class Processes:
    """Point-to-point messages between threads that replace torch.distributed."""

    isend, irecv = "isend", "irecv"

    def __init__(self, number: int):
        self.number, self.here = number, threading.local()
        self.wires = {(a, b): queue.Queue() for a in range(number) for b in range(number)}
        self.sent = 0

    def get_rank(self) -> int:
        return self.here.rank

    def get_world_size(self) -> int:
        return self.number

    def P2POp(self, kind, tensor, peer):  # noqa: N802
        return kind, tensor, peer

    def batch_isend_irecv(self, operations):
        requests = []
        for kind, tensor, peer in operations:
            if kind == self.isend:
                # delivered late, which reveals a sum that overwrites a buffer before it is sent
                self.sent += tensor.numel()
                self.wires[self.here.rank, peer].put(tensor)
            else:
                wait = self.wires[peer, self.here.rank].get
                requests.append(
                    SimpleNamespace(wait=lambda wait=wait, into=tensor: into.copy_(wait(timeout=10)))
                )
        return requests

    def all_reduce(
        self, parts: list[deterministic_reduce.Leaf], within=deterministic_reduce.tree_sum
    ) -> list[deterministic_reduce.Leaf]:
        share, totals = len(parts) // self.number, {}

        def work(rank: int) -> None:
            self.here.rank = rank
            mine = within(parts[rank * share : (rank + 1) * share])
            totals[rank] = deterministic_reduce.pairwise_all_reduce(mine) if self.number > 1 else mine

        workers = [threading.Thread(target=work, args=(rank,)) for rank in range(self.number)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return [totals[rank] for rank in range(self.number)]


def same(first: deterministic_reduce.Leaf, second: deterministic_reduce.Leaf) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("within", "holds"), [(deterministic_reduce.tree_sum, True), (linear_sum, False)])
def test_sum_is_bitwise_independent_of_the_number_of_processes(monkeypatch, within, holds):
    """Sums sixteen leaves on 1, 2, 4, 8, 16 processes; sequential sums within a process fail this test."""
    results = []
    for number in (1, 2, 4, 8, 16):
        group = Processes(number)
        monkeypatch.setattr(deterministic_reduce, "dist", group)
        totals = group.all_reduce([[t.clone() for t in leaf] for leaf in leaves(16)], within)
        assert all(same(totals[0], total) for total in totals)  # the processes always agree
        assert group.sent == number * (number.bit_length() - 1) * 34
        results.append(totals[0])
    assert all(same(results[0], total) for total in results) is holds
    torch.testing.assert_close(results[0], linear_sum(leaves(16)))


def test_tree_sum_is_balanced_and_keeps_few_leaves():
    """The sum is ((a+b)+(c+d)); in fp32, 1e8 + 1 - 1e8 - 1 distinguishes the orders."""
    values = [1e8, 1.0, -1e8, -1.0]
    parts = lambda: [[torch.tensor(value)] for value in values]  # noqa: E731
    assert deterministic_reduce.tree_sum(parts())[0].item() == 0.0
    assert linear_sum(parts())[0].item() == -1.0
    made, held = [], []

    def watched():
        for number in range(64):
            made.append(weakref.ref(tensor := torch.tensor([float(number)])))
            yield [tensor]
            del tensor
            held.append(sum(reference() is not None for reference in made))

    assert deterministic_reduce.tree_sum(watched())[0].item() == 64 * 63 / 2
    assert max(held) == 6
    held.clear()
    made.clear()
    deterministic_reduce.tree_sum(list(watched()))
    assert max(held) > 60  # keeping a list of all leaves would fail
    for count in (3, 6, 0):
        with pytest.raises(ValueError, match="power of two"):
            deterministic_reduce.tree_sum(leaves(count))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"micro_batch_tokens": None}, "exact: needs micro_batch_tokens"),
        ({"batch_tokens": 192}, "to be a power of two, not 192 / 32"),
        ({"batch_tokens": 256, "micro_batch_tokens": 96}, "to be a power of two, not 256 / 96"),
        ({"threads": None}, "exact: needs threads"),
        ({"shard_weights": True}, "shard_weights must be false"),
    ],
)
def test_recipes_incompatible_with_exact_are_refused(tmp_path, corpus, settings, words):
    path = write_recipe(tmp_path, corpus, **EXACT | settings)
    with pytest.raises(RecipeError, match=words):
        loader.load(path)


def test_process_counts_incompatible_with_exact_are_refused(tmp_path, corpus):
    recipe = loader.load(write_recipe(tmp_path, corpus, **EXACT)).recipe
    assert [micro_rows(recipe, processes=number) for number in (1, 2, 4, 8)] == [1, 1, 1, 1]
    shared = recipe.model_copy(update={"batch_tokens": 32 * 12 * 2, "micro_batch_tokens": 32 * 12})
    for refused, number in ((shared, 3), (shared, 4), (shared, 6)):
        with pytest.raises(ToolkitError, match=f"2 micro-batches cannot be divided among {number}") as caught:
            micro_rows(refused, processes=number)
        assert caught.value.fix == "start a power of two of processes, at most 2"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus):
    """Return {(name, processes): run} of all recipes on 1, 2 and 4 processes."""
    runs = {}
    for number in (1, 2, 4):
        folder = tmp_path_factory.mktemp(f"on-{number}")
        recipes = [write_recipe(folder, corpus, name, **settings) for name, settings in RECIPES.items()]
        trainings.finish(*recipes, folder=folder, processes=number)
        runs |= {(recipe.stem, number): trainings.run_dir(recipe, folder) for recipe in recipes}
    return runs


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["adamw", "muon", "guarded", "llama"])
def test_exact_weights_are_identical_on_1_2_and_4_processes(trained, name):
    """Tier C: weights, optimizer state, and loss and norm of every step, with dropout."""
    for number in (2, 4):
        differing = trainings.differing(trained[name, 1], trained[name, number])
        assert not {"weights", "optimizer", "steps"} & set(differing), (number, differing)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_plain_sum_differs_between_process_counts(trained):
    """Control: the same micro-batches, dropout and tokens, summed as in DDP."""
    different = [trainings.differing(trained["plain", 1], trained["plain", number]) for number in (2, 4)]
    assert any({"weights", "optimizer", "steps"} <= set(names) for names in different)


@pytest.mark.slow
def test_exact_run_killed_on_one_process_resumes_identically_on_two(trained, tmp_path, corpus):
    settings = EXACT | {"train_tokens": 256 * 100, "checkpoint_every_tokens": 256 * 8}
    recipes = [write_recipe(tmp_path, corpus, name, **settings) for name in ("whole", "moved")]
    whole = trainings.finish(recipes[0], folder=tmp_path)
    process = trainings.start(recipes[1], folder=tmp_path)
    moved = trainings.run_dir(recipes[1], tmp_path)
    assert trainings.kill_when(process, lambda: trainings.newest(moved) >= 64)
    assert process.returncode == -signal.SIGKILL
    status, err = trainings.wait_for_end(trainings.start(recipes[1], folder=tmp_path, processes=2))
    assert status == 0, err
    assert "world_size: 1 -> 2" in err and "exact" in err
    assert not {"weights", "optimizer", "steps"} & set(trainings.differing(whole, moved))


@pytest.mark.slow
def test_three_processes_are_refused_before_anything_is_written(tmp_path, corpus):
    settings = EXACT | {"batch_tokens": 96 * 4, "micro_batch_tokens": 96}
    recipe = write_recipe(tmp_path, corpus, "three", **settings)
    status, err = trainings.wait_for_end(trainings.start(recipe, folder=tmp_path, processes=3))
    assert status != 0
    problem = "4 micro-batches cannot be divided among 3 processes"
    told = [line for line in err.splitlines() if problem in line]
    # torchrun's table repeats it as the root cause
    assert [line.startswith(str(recipe)) for line in told] == [True, False]
    assert not (trainings.run_dir(recipe, tmp_path) / "metrics.jsonl").exists()
