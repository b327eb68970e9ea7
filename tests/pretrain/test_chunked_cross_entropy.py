"""The chunked cross-entropy matches `functional.cross_entropy`, eager and compiled."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from toolkit.models.shape import head_block
from toolkit.pretrain.chunked_cross_entropy import chunked_cross_entropy

POSITIONS, WIDTH, VOCABULARY = 50, 16, 97


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, generator=generator)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator)
    targets = torch.randint(0, VOCABULARY, (POSITIONS,), generator=generator)
    targets[3:9] = targets[3]  # a target that occurs more than once in a block
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def with_gradients(loss, hidden, weight):
    """Return (loss, d hidden, d weight) of three times the loss, so that the incoming gradient is not 1."""
    return loss.detach(), *torch.autograd.grad(3.0 * loss, (hidden, weight))


def plain(hidden, weight, targets, *, bf16=False):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        logits = functional.linear(hidden, weight)
    return functional.cross_entropy(logits.float(), targets)


@pytest.mark.parametrize("block", [1, 7, 25, 49, 50, 64])
def test_value_and_gradients_in_fp32(tensors, block):
    hidden, weight, targets = tensors
    loss = chunked_cross_entropy(hidden, weight, targets, block=block, bf16=False)
    torch.testing.assert_close(
        with_gradients(loss, hidden, weight),
        with_gradients(plain(*tensors), hidden, weight),
        atol=1e-6,
        rtol=1e-6,
    )


def test_gradients_against_finite_differences(tensors):
    hidden, weight, targets = (tensor.detach() for tensor in tensors)
    # the loss is summed in fp32: a step of 1e-3 in float64 products leaves 1e-4
    inputs = (hidden.double()[:6].requires_grad_(), weight.double()[:11].requires_grad_())
    assert torch.autograd.gradcheck(
        lambda a, b: chunked_cross_entropy(
            a, b, targets[:6] % 11, block=4, bf16=False
        ).double(),
        inputs, eps=1e-2, atol=2e-3, rtol=1e-2,
    )  # fmt: skip


@pytest.mark.parametrize("block", [7, 50])
def test_bf16_error_is_no_larger_than_that_of_the_plain_head(tensors, block):
    """In bf16 (8 bits) the error is 1 % of the largest gradient, as with autocast."""
    hidden, weight, targets = tensors
    exactly = with_gradients(plain(*tensors), hidden, weight)
    loss = chunked_cross_entropy(hidden, weight, targets, block=block, bf16=True)
    ours = with_gradients(loss, hidden, weight)
    usual = with_gradients(plain(*tensors, bf16=True), hidden, weight)
    assert ours[0].dtype == torch.float32 and ours[1].dtype == ours[2].dtype == torch.float32
    for ours_grad, usual_grad, true in zip(ours, usual, exactly, strict=True):
        error, usual_error = (
            (value - true).abs().max() / true.abs().max() for value in (ours_grad, usual_grad)
        )
        assert error < max(0.01, 1.5 * usual_error)
    # the products are computed in bf16
    assert not torch.allclose(ours[1], exactly[1], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("bf16", [False, True])
def test_compiled_matches_eager(tensors, backend, bf16):
    hidden, weight, targets = tensors

    def loss(hidden, weight):
        return chunked_cross_entropy(hidden, weight, targets, block=16, bf16=bf16)

    torch.compiler.reset()
    compiled = torch.compile(loss, backend=backend, fullgraph=True, dynamic=False)
    torch.testing.assert_close(
        with_gradients(compiled(hidden, weight), hidden, weight),
        with_gradients(loss(hidden, weight), hidden, weight),
        atol=1e-6,
        rtol=1e-6,
    )


def test_wrong_gradient_is_detected(tensors, monkeypatch):
    """Planted fault: without the minus one at the target the loss is correct but the gradient is wrong."""
    hidden, weight, targets = tensors
    expected = with_gradients(plain(*tensors), hidden, weight)
    monkeypatch.setattr(torch.Tensor, "scatter_add_", lambda self, *words: self)
    loss = chunked_cross_entropy(hidden, weight, targets, block=7, bf16=False)
    wrong = with_gradients(loss, hidden, weight)
    torch.testing.assert_close(wrong[0], expected[0], atol=1e-6, rtol=1e-6)
    for ours_grad, usual_grad in zip(wrong[1:], expected[1:], strict=True):
        assert not torch.allclose(ours_grad, usual_grad, atol=1e-3, rtol=1e-3)


def test_large_logit_differences_do_not_overflow():
    hidden, weight = torch.tensor([[1e4], [-1e4]], requires_grad=True), torch.tensor([[1.0], [-1.0]])
    weight.requires_grad_()
    loss = chunked_cross_entropy(hidden, weight, torch.tensor([0, 0]), block=1, bf16=False)
    assert loss.item() == pytest.approx(1e4)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    torch.testing.assert_close(gradients[0], torch.tensor([[0.0], [-1.0]]))


def test_auto_chunks_only_large_logits():
    assert head_block("auto", positions=2**12, vocabulary=2**15) == 0
    assert head_block("auto", positions=2**12 + 1, vocabulary=2**15) == 2**10
    assert head_block("auto", positions=2**40, vocabulary=2**30) == 1
    assert head_block(7, positions=1, vocabulary=1) == 7


def test_training_with_chunks_gives_the_same_losses(pretrain):
    losses = []
    for name, block in (("whole", 0), ("blocks", 48)):
        run = pretrain(name, speed={"head_block_tokens": block}, samples={"prompts": []})
        losses.append(torch.tensor([float(row["loss"]) for row in _rows(run)]))
    assert len(losses[0]) == 12
    torch.testing.assert_close(losses[1], losses[0], atol=1e-4, rtol=1e-5)


def _rows(run):
    from toolkit.runs import metrics

    return metrics.read(run / "steps.jsonl")
