"""Check before the first step that the fast kernels are used and that no token sees the future.

Shapes: rows, length = tokens of a row, width = of the hidden states.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from toolkit.base.console import tell
from toolkit.base.errors import ToolkitError
from toolkit.config.schema import PretrainRecipe
from toolkit.pretrain.loss import LONGEST_PLAIN, TrainingKernels, TrainingLoss
from toolkit.runtime.upstream_private import graph_break_error

ROWS = 2
LEAK = 1e-3
"""Tolerated change, as a fraction of the change that a token makes to its own hidden state. Different kernels
at different positions cause 1e-6 in fp32."""


@dataclass
class CapturedGraph:
    """The graph of a loss as torch.compile traces it."""

    graphs: list[fx.GraphModule] = field(default_factory=list)
    break_reason: str | None = None
    """Why the loss could not be captured as a single graph."""

    def attention_nodes(self) -> Iterator[fx.Node]:
        """Yield the nodes that are attention kernels."""
        for graph in self.graphs:
            for node in graph.graph.nodes:
                if node.op == "call_function" and "scaled_dot_product_attention" in str(node.target):
                    yield node


def is_enabled(recipe: PretrainRecipe, *, compiled: bool) -> bool:
    """Say whether the recipe's `preflight` asks for the check."""
    is_foreign = recipe.checkpoint is not None
    return compiled or is_foreign if recipe.preflight == "auto" else recipe.preflight


def check(
    loss: TrainingLoss, recipe: PretrainRecipe, training_kernels: TrainingKernels, *, vocab_size: int,
    compiled: bool, run_name: str, verbose: bool,
) -> None:  # fmt: skip
    """Check the graph of the loss, the attention kernel, and which tokens influence which.

    Call it before the model is wrapped or sharded.

    Args:
        vocab_size: the tokenizer has the ids below it.
        verbose: print a line if all is well.

    Raises:
        ToolkitError: lists all problems; nothing was trained.
    """
    model, length = loss.model, recipe.row_tokens()
    rows = random_rows(length, vocab_size, loss.end_id or 0).to(model.device)
    training = model.training
    model.eval()  # dropout would differ between forward passes
    try:
        with training_kernels(), torch.no_grad():
            problems = find_leaks(loss, rows)
            if compiled:
                problems += find_slow_paths(loss, rows)
                problems += find_kernel_problems(loss, length, dropout=recipe.dropout)
    finally:
        model.train(training)
    if problems:
        raise ToolkitError(
            "the preflight found:\n    " + "\n    ".join(problems), where=run_name,
            fix="fix these problems, or set preflight: false to train regardless",
        )  # fmt: skip
    if verbose:
        graph = "a single graph, no dense mask, " if compiled and loss.end_id is None else ""
        tell(f"{run_name}: preflight: {graph}no token depends on one it must not see")


def random_rows(length: int, vocab_size: int, end_id: int) -> Tensor:
    """Return rows of random ids, (2, length + 1), with the token before a document in the middle of each."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, vocab_size, (ROWS, length + 1), generator=generator)
    rows[rows == end_id] = (end_id + 1) % vocab_size
    rows[:, length // 2] = end_id
    return rows


def capture_graph(loss: TrainingLoss, rows: Tensor) -> CapturedGraph:
    """Trace the loss as a single graph without compiling it."""
    captured = CapturedGraph()

    def backend(graph: fx.GraphModule, inputs: list[Tensor]) -> fx.GraphModule:
        captured.graphs.append(graph)
        return graph

    try:
        torch.compile(loss.forward, backend=backend, fullgraph=True, dynamic=False)(rows)
    except graph_break_error() as error:
        captured.break_reason = str(error).strip().splitlines()[0]
    finally:
        torch.compiler.reset()
    return captured


def find_slow_paths(loss: TrainingLoss, rows: Tensor) -> list[str]:
    """Return the problems that would make the compiled training slow."""
    captured = capture_graph(loss, rows)
    if captured.break_reason:
        return [f"the graph breaks, so it is compiled in pieces: {captured.break_reason}"]
    kernels = list(captured.attention_nodes())
    if not kernels and not _uses_matmul_attention(loss, rows):
        return ["the graph has no attention kernel: attention is computed from elementary operations"]
    problems = []
    masked = [node for node in kernels if _argument(node, 3, "attn_mask") is not None]
    if masked and loss.end_id is None:
        problems.append(
            f"{len(masked)} of {len(kernels)} attentions get a dense mask, which disables the flash kernel; "
            "set speed.causal_attention: true"
        )
    if any(not _argument(node, 5, "is_causal") for node in kernels if node not in masked):
        problems.append("an attention has neither a mask nor is_causal: it sees the future")
    return problems


def _argument(node: fx.Node, index: int, name: str) -> object:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name)


def _uses_matmul_attention(loss: TrainingLoss, rows: Tensor) -> bool:
    """Say whether attention is computed by matrix products, as in bf16 on a CPU (`loss.causal_attention`)."""
    return loss.bf16 and rows.device.type == "cpu" and rows.shape[1] - 1 <= LONGEST_PLAIN


def find_kernel_problems(loss: TrainingLoss, length: int, *, dropout: float) -> list[str]:
    """Check whether a GPU's flash kernel supports this training's queries; a CPU has only one kernel."""
    device = loss.model.device
    if device.type != "cuda" or loss.end_id is not None:
        return []
    dtype = torch.bfloat16 if loss.bf16 else torch.float32
    config = loss.model.config.get_text_config()
    heads = config.num_attention_heads
    size = (1, heads, length, getattr(config, "head_dim", None) or config.hidden_size // heads)
    query = torch.zeros(size, dtype=dtype, device=device)
    parameters = torch.backends.cuda.SDPAParams(query, query, query, None, dropout, True, False)
    if torch.backends.cuda.can_use_flash_attention(parameters, False):
        return []
    return [f"the GPU's flash attention does not support {dtype} heads of {size[-1]}: use precision: bf16"]


def find_leaks(loss: TrainingLoss, rows: Tensor, *, tolerated: float = LEAK) -> list[str]:
    """Change one token; hidden states of earlier positions and of other documents must not change.

    Args:
        tolerated: change, as a fraction of the change that the token makes to its own hidden state.
    """
    length = rows.shape[1] - 1
    problems = []
    if length < 4:
        return problems
    hidden = loss.hidden(rows).float()
    late = length - 2
    change = _max_change(hidden, loss.hidden(_replace_token(rows, late)).float())
    if change[:, :late].max() > tolerated * change[:, late].max():
        problems.append("a token changes the hidden states before it: attention sees the future")
    if loss.end_id is not None:
        early, border = 1, length // 2
        change = _max_change(hidden, loss.hidden(_replace_token(rows, early)).float())
        if change[:, border:].max() > tolerated * change[:, early].max():
            problems.append("a token changes the hidden states of the next document: documents leak")
    return problems


def _replace_token(rows: Tensor, position: int) -> Tensor:
    replaced = rows.clone()
    replaced[:, position] = torch.where(rows[:, position] == 1, 2, 1)
    return replaced


def _max_change(before: Tensor, after: Tensor) -> Tensor:
    """Return the largest change of each position's hidden state, (rows, length)."""
    return (after - before).abs().amax(-1)
