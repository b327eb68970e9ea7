"""The tree of samples: its counts, its predictions and its test."""

from __future__ import annotations

import copy
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from toolkit.base.rng import derive
from toolkit.inference import sampling
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.opening import OpenModel
from toolkit.inference.sample_tree import grow, tree_of
from toolkit.models.description import vocabulary

SETTINGS = GenerationSettings(2, temperature=1.0, top_k=12, top_p=0.9, seed=3)


@pytest.fixture(scope="module")
def opened(tiny_model, tiny_tokenizer):
    """Return a model whose probabilities are far from equal."""
    model = copy.deepcopy(tiny_model)
    with torch.no_grad():
        model.transformer.wte.weight.mul_(4)
    return OpenModel(model, tiny_tokenizer, is_chat_model=False)


def grown(opened, count=100, settings=SETTINGS):
    *_, last = grow(opened, opened.text_ids("The fox"), settings=settings, count=count)
    return last


def test_counts_are_those_of_the_sampler(opened):
    ids, seeds = opened.text_ids("The fox"), [derive(3, "tree", number) for number in range(100)]
    keywords = SETTINGS.for_model(opened)
    sampled = sampling.generate(opened.model, [ids] * 100, seed=seeds, **keywords).ids_with_stops()
    root = grown(opened).root
    counts = Counter(answer[0] for answer in sampled)
    assert {child.token: child.count for child in root.children if child.token is not None} == {
        token: number for token, number in counts.items() if number >= 4
    }
    assert sum(child.count for child in root.children) == root.count == 100
    child = root.children[0]
    below = Counter(answer[1] for answer in sampled if answer[0] == child.token)
    assert child.children[0].count == max(below.values())
    assert sum(one.count for one in child.children) == child.count


def test_predictions_are_the_restricted_softmax_after_each_prefix(opened):
    ids, root = opened.text_ids("The fox"), grown(opened).root
    child = root.children[0]
    for prefix, node in [((), root), ((child.token,), child)]:
        with torch.no_grad():
            logits = opened.model(torch.tensor([[*ids, *prefix]])).logits[0, -1].double()
        logits[opened.tokenizer.pad_token_id] = -torch.inf
        logits[len(opened.tokenizer) :] = -torch.inf
        best = logits.topk(12)
        shares = torch.softmax(best.values, 0)
        kept = [p for p, before in zip(shares, shares.cumsum(0) - shares, strict=True) if before < 0.9]
        tokens = best.indices[: len(kept)].tolist()
        expected = dict(zip(tokens, (torch.stack(kept) / sum(kept)).tolist(), strict=True))
        for one in node.children:
            if one.token is not None:
                assert one.probability == pytest.approx(expected[one.token], abs=1e-5)
        assert sum(one.probability for one in node.children) == pytest.approx(1, abs=1e-5)


def test_frequencies_fit_the_predictions_and_not_those_of_another_temperature(opened):
    tree = grown(opened, 500)
    assert tree.fit.p_value > 0.001
    other = GenerationSettings(2, temperature=0.5, top_k=12, top_p=0.9, seed=3)
    predicted, observed = grown(opened, 500, other).root, tree.root
    counts = {child.token: child.count for child in observed.children if child.token is not None}
    wrong = {child.token: child.probability for child in predicted.children if child.token is not None}
    both = sorted(set(counts) & set(wrong))
    seen = np.array([*(counts[token] for token in both), 500 - sum(counts[token] for token in both)])
    shares = np.array([wrong[token] for token in both])
    assert stats.chisquare(seen, 500 * np.append(shares, 1 - shares.sum())).pvalue < 1e-6


def test_a_tree_of_a_known_distribution():
    chain = {(): [0.5, 0.3, 0.2], (0,): [0.1, 0.9, 0.0], (1,): [0.4, 0.4, 0.2], (2,): [0.0, 0.0, 1.0]}
    generator = np.random.default_rng(0)
    paths = []
    for _ in range(400):
        first = int(generator.choice(3, p=chain[()]))
        paths.append((first, int(generator.choice(3, p=chain[(first,)]))))
    root = tree_of(paths, depth=2, smallest=4, predict=lambda prefix: np.array(chain[prefix]))
    firsts = np.bincount([path[0] for path in paths], minlength=3)
    assert [child.count for child in root.children] == sorted(firsts, reverse=True)
    expected = stats.chisquare(firsts, 400 * np.array(chain[()]))
    assert (root.fit.statistic, root.fit.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    of_first = next(child for child in root.children if child.token == 0)
    seconds = np.bincount([path[1] for path in paths if path[0] == 0], minlength=3)[:2]
    below = stats.chisquare(seconds, of_first.count * np.array([0.1, 0.9]))
    assert of_first.fit.statistic == pytest.approx(below.statistic)
    assert next(child for child in root.children if child.token == 2).fit is None


def test_rare_branches_are_together_and_ended_ones_have_none():
    paths = [(5,)] * 50 + [(1, 2)] * 48 + [(3, 0), (4, 0)]
    probabilities = np.full(6, 1 / 6)
    root = tree_of(paths, depth=2, smallest=4, predict=lambda prefix: probabilities)
    assert [(child.token, child.count) for child in root.children] == [(5, 50), (1, 48), (None, 2)]
    assert root.children[2].probability == pytest.approx(4 / 6)
    assert root.children[0].children == []


def test_samples_do_not_depend_on_their_number_and_a_tree_can_be_stopped(opened):
    growing = list(grow(opened, opened.text_ids("The fox"), settings=SETTINGS, count=20))
    assert [tree.root.count for tree in growing] == list(range(2, 21, 2))
    stop = threading.Event()
    stop.set()
    assert list(grow(opened, [1], settings=SETTINGS, count=20, cancelled=stop)) == []
    assert vocabulary(opened.model) >= len(opened.tokenizer)
