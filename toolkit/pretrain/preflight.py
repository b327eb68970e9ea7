"""Is the fast path really taken, and does nothing leak? Looked at before the first step, not after a night.

Shapes: rows, length = tokens of a row, width = of the hidden states.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from toolkit.base.errors import ToolkitError
from toolkit.config.schema import ModelSettings, PretrainRecipe
from toolkit.pretrain.loss import LONGEST_PLAIN, Forms, TrainingLoss
from toolkit.runtime.upstream_private import graph_break_error

ROWS = 2
LEAK = 1e-3
"""Of the change that a token makes to its own hidden state (fp32, another kernel by position: 1e-6)."""


@dataclass
class Findings:
    """What the captured graph shows."""

    graphs: list[fx.GraphModule] = field(default_factory=list)
    broken: str | None = None
    """Why the graph could not be captured whole."""

    def attentions(self) -> Iterator[fx.Node]:
        """Yield the nodes that are attention kernels."""
        for graph in self.graphs:
            for node in graph.graph.nodes:
                if node.op == "call_function" and "scaled_dot_product_attention" in str(node.target):
                    yield node


def wanted(recipe: PretrainRecipe, *, compiled: bool) -> bool:
    """Say whether to look, as the recipe's `preflight` has it."""
    return compiled if recipe.preflight == "auto" else recipe.preflight


def check(
    loss: TrainingLoss, recipe: PretrainRecipe, forms: Forms, *, vocab_size: int, compiled: bool, where: str,
    say: bool,
) -> None:  # fmt: skip
    """Look at the graph of the loss, at the attention kernel, and at what tokens can see.

    Called before the model is wrapped or spread over processes.

    Args:
        forms: in which the training computes.
        vocab_size: ids below it are in the tokenizer.
        say: print what was seen.

    Raises:
        ToolkitError: all that is wrong, at once; nothing was trained.
    """
    model, length = loss.model, recipe.row_tokens()
    rows = probe(length, vocab_size, model.config.eos_token_id).to(model.device)
    training = model.training
    model.eval()  # dropout would differ from look to look
    try:
        with forms(), torch.no_grad():
            problems = leaks(loss, rows)
            if compiled:
                problems += slow_paths(loss, rows)
                problems += kernel_problems(loss, recipe.model, length)
    finally:
        model.train(training)
    if problems:
        raise ToolkitError(
            "the preflight found:\n    " + "\n    ".join(problems), where=where,
            fix="mend what it names, or set preflight: false to train all the same",
        )  # fmt: skip
    if say:
        what = "one graph, no dense mask, " if compiled and loss.end_id is None else ""
        print(f"{where}: preflight: {what}no token sees what it must not", file=sys.stderr)


def probe(length: int, vocab_size: int, end_id: int) -> Tensor:
    """Return rows of random ids, (2, length + 1), with an end-of-text in the middle of each."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, vocab_size, (ROWS, length + 1), generator=generator)
    rows[rows == end_id] = (end_id + 1) % vocab_size
    rows[:, length // 2] = end_id
    return rows


def capture(loss: TrainingLoss, rows: Tensor) -> Findings:
    """Trace the loss as one graph; nothing is compiled."""
    found = Findings()

    def backend(graph: fx.GraphModule, inputs: list[Tensor]) -> fx.GraphModule:
        found.graphs.append(graph)
        return graph

    try:
        torch.compile(loss.forward, backend=backend, fullgraph=True, dynamic=False)(rows)
    except graph_break_error() as error:
        found.broken = str(error).strip().splitlines()[0]
    finally:
        torch.compiler.reset()
    return found


def slow_paths(loss: TrainingLoss, rows: Tensor) -> list[str]:
    """Return what would make the compiled training slow."""
    found = capture(loss, rows)
    if found.broken:
        return [f"the graph breaks, so it is compiled in pieces: {found.broken}"]
    kernels = list(found.attentions())
    if not kernels and not _plain(loss, rows):
        return ["there is no attention kernel in the graph: attention is computed in pieces"]
    problems = []
    masked = [node for node in kernels if _argument(node, 3, "attn_mask") is not None]
    if masked and loss.end_id is None:
        problems.append(
            f"{len(masked)} of {len(kernels)} attentions get a dense mask, which loses the flash kernel; "
            "speed.causal_attention: true avoids it"
        )
    if any(not _argument(node, 5, "is_causal") for node in kernels if node not in masked):
        problems.append("an attention has neither a mask nor is_causal: it sees the future")
    return problems


def _argument(node: fx.Node, place: int, name: str) -> object:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name)


def _plain(loss: TrainingLoss, rows: Tensor) -> bool:
    """Whether attention is meant to be plain products: in bf16 on a CPU (see objective.causal_attention)."""
    return loss.bf16 and rows.device.type == "cpu" and rows.shape[1] - 1 <= LONGEST_PLAIN


def kernel_problems(loss: TrainingLoss, settings: ModelSettings, length: int) -> list[str]:
    """Ask a GPU whether its flash kernel takes this training's queries; a CPU has one kernel for all."""
    device = loss.model.device
    if device.type != "cuda" or loss.end_id is not None:
        return []
    dtype = torch.bfloat16 if loss.bf16 else torch.float32
    size = (1, settings.n_head, length, settings.n_embd // settings.n_head)
    query = torch.zeros(size, dtype=dtype, device=device)
    parameters = torch.backends.cuda.SDPAParams(query, query, query, None, settings.dropout, True, False)
    if torch.backends.cuda.can_use_flash_attention(parameters, False):
        return []
    return [f"the GPU's flash attention does not take {dtype} heads of {size[-1]}: use precision: bf16"]


def leaks(loss: TrainingLoss, rows: Tensor) -> list[str]:
    """Change one token and see which hidden states change: never earlier ones, never another document's."""
    length = rows.shape[1] - 1
    problems = []
    if length < 4:
        return problems
    before = loss.hidden(rows).float()
    late = length - 2
    moved = _moves(before, loss.hidden(_changed(rows, late)).float())
    if moved[:, :late].max() > LEAK * moved[:, late].max():
        problems.append("a token changes what was computed before it: attention sees the future")
    if loss.end_id is not None:
        early, border = 1, length // 2
        moved = _moves(before, loss.hidden(_changed(rows, early)).float())
        if moved[:, border:].max() > LEAK * moved[:, early].max():
            problems.append("a token changes what is computed in the next document: documents leak")
    return problems


def _changed(rows: Tensor, place: int) -> Tensor:
    other = rows.clone()
    other[:, place] = torch.where(rows[:, place] == 1, 2, 1)
    return other


def _moves(before: Tensor, after: Tensor) -> Tensor:
    """(rows, length): how far each position's hidden state moved."""
    return (after - before).abs().amax(-1)
