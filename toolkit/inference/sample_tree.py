"""The same prompt many times: a tree of what was drawn, beside the probabilities that predict it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from toolkit.base.rng import derive
from toolkit.inference import next_token, sampling
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.opening import OpenModel
from toolkit.inference.restricted import restricted
from toolkit.stats.goodness_of_fit import GoodnessOfFit, chi_squared, together

SMALLEST_SHARE = 0.04
"""Share of all samples below which a branch does not stand by itself: there are at most 25 at each depth."""
BATCHES = 10
"""Times that a growing tree is returned."""
ROUNDING = 1e-6
"""Probability that nothing has: the sum of a distribution in fp32 differs from 1 by less."""

Path = tuple[int, ...]


@dataclass(frozen=True)
class SampleNode:
    """A token that followed a prefix.

    Attributes:
        token: None for the root, and for all tokens together that have no branch of their own.
        count: samples that took it.
        probability: of the token after its prefix, as the sampler draws it.
        fit: of the tokens that followed; None without any, or where too few did.
    """

    token: int | None
    count: int
    probability: float
    children: list[SampleNode] = field(default_factory=list)
    fit: GoodnessOfFit | None = None


@dataclass(frozen=True)
class SampleTree:
    """Samples of one prompt, and how well all branches together fit the predicted probabilities."""

    root: SampleNode
    fit: GoodnessOfFit | None


def grow(
    opened: OpenModel,
    ids: list[int],
    *,
    settings: GenerationSettings,
    count: int,
    cancelled: threading.Event | None = None,
) -> Iterator[SampleTree]:
    """Sample `count` continuations of a prompt as `toolkit generate` does, and yield the growing tree.

    Sample i is the same for every `count`.

    Args:
        settings: `max_new_tokens` is the depth of the tree.
        cancelled: ends the growth when it is set.

    Raises:
        ToolkitError: prompt and continuation do not fit in the context.
    """
    settings = settings.for_opened(opened)
    keywords, predict = settings.for_model(opened), _Predictions(opened, ids, settings)
    seeds = [derive(settings.seed, "tree", number) for number in range(count)]
    paths: list[Path] = []
    size = max(1, -(-count // BATCHES))
    for at in range(0, count, size):
        if cancelled is not None and cancelled.is_set():
            return
        batch = seeds[at : at + size]
        sampled = sampling.generate(opened.model, [ids] * len(batch), seed=batch, **keywords)
        paths += [tuple(path) for path in sampled.ids_with_stops()]
        smallest = max(2.0, SMALLEST_SHARE * count)
        root = tree_of(paths, depth=settings.max_new_tokens, smallest=smallest, predict=predict)
        yield SampleTree(root, together(node.fit for node in _nodes(root)))


class _Predictions:
    """The distributions from which the sampler draws after a prefix; each is computed once."""

    def __init__(self, opened: OpenModel, ids: Sequence[int], settings: GenerationSettings):
        self._opened, self._ids = opened, list(ids)
        self._settings = {name: getattr(settings, name) for name in ("temperature", "top_k", "top_p")}
        self._allowed, self._found = next_token.allowed(opened), dict[Path, np.ndarray]()

    def __call__(self, prefix: Path) -> np.ndarray:
        if prefix not in self._found:
            model = next_token.distribution(self._opened, [*self._ids, *prefix])
            with np.errstate(divide="ignore"):
                logprobs = np.log(model)
            drawn = restricted(logprobs, allowed=self._allowed, **self._settings).probabilities
            self._found[prefix] = drawn.astype(np.float32)
        return self._found[prefix].astype(np.float64)


def tree_of(
    paths: Sequence[Path], *, depth: int, smallest: float, predict: Callable[[Path], np.ndarray]
) -> SampleNode:
    """Return the tree of sampled continuations.

    Args:
        paths: tokens of each; one that has ended is shorter than `depth`.
        smallest: samples that a branch of its own has at least.
        predict: prefix -> probabilities of the next token, (vocabulary,).
    """

    def branches(node: SampleNode, prefix: Path, members: Sequence[Path]) -> SampleNode:
        level = len(prefix)
        going_on = [path for path in members if len(path) > level]
        if level == depth or not going_on:
            return node
        counts, probabilities = Counter(path[level] for path in going_on), predict(prefix)
        observed = np.bincount([path[level] for path in going_on], minlength=len(probabilities))
        shown = [token for token, number in counts.most_common() if number >= smallest]
        children = []
        for token in shown:
            child = SampleNode(token, counts[token], float(probabilities[token]))
            below = [path for path in going_on if path[level] == token]
            children.append(branches(child, (*prefix, token), below))
        rest = len(going_on) - sum(counts[token] for token in shown)
        left = max(0.0, 1.0 - float(probabilities[shown].sum()))
        if rest or left > ROUNDING:
            children.append(SampleNode(None, rest, left))
        return replace(node, children=children, fit=chi_squared(observed, probabilities))

    return branches(SampleNode(None, len(paths), 1.0), (), paths)


def _nodes(node: SampleNode) -> Iterator[SampleNode]:
    yield node
    for child in node.children:
        yield from _nodes(child)
