"""The logit lens: what the model would predict if it ended after each of its layers.

The final norm and the head are applied to the state after every layer (nostalgebraist, 2020,
https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from toolkit.base.errors import ToolkitError
from toolkit.inference.heads import head_in_blocks
from toolkit.inference.layer_states import layer_states
from toolkit.models import checks
from toolkit.models.description import describe
from toolkit.models.shape import BLOCK_LOGITS


@dataclass(frozen=True)
class LogitLens:
    """Predictions after each layer, arrays (layers, length).

    Attributes:
        first: number of layers before the first row; 0 if that is the embeddings.
        tokens: the most probable next token.
        probabilities: of that token.
        of_final: probability of the token that the whole model finds most probable.
    """

    first: int
    tokens: np.ndarray
    probabilities: np.ndarray
    of_final: np.ndarray


@torch.no_grad()
def logit_lens(model: PreTrainedModel, ids: Sequence[int]) -> LogitLens:
    """Return the prediction after each layer at each position of a text; the last row is the model's own.

    Raises:
        ToolkitError: the architecture has no final norm and head that can be applied to a state.
    """
    found, head = layer_states(model, ids), head_in_blocks(model)
    if found.norm is None or head is None:
        raise _unavailable(model)
    states = torch.stack(found.states)  # (layers, length, width)
    length, final = len(ids), found.logits.argmax(dim=-1)
    block = max(1, BLOCK_LOGITS // found.logits.shape[-1])
    rows, tokens, probabilities, of_final = states.flatten(0, 1), [], [], []
    wanted = final.repeat(len(states))
    for at in range(0, len(rows), block):
        logits = head(found.norm(rows[at : at + block])).float()
        top, total = logits.max(dim=-1), logits.logsumexp(dim=-1)
        tokens.append(top.indices)
        probabilities.append((top.values - total).exp())
        of_final.append((logits.gather(-1, wanted[at : at + block, None])[:, 0] - total).exp())
    whole = torch.softmax(found.logits.float(), dim=-1).amax(dim=-1)
    if not checks.agree(head(found.norm(states[-1])), found.logits, model=model, within=checks.ROUNDING):
        raise _unavailable(model)

    def table(parts: list[torch.Tensor]) -> np.ndarray:
        return torch.cat(parts).reshape(len(states), length).cpu().numpy()

    lens = LogitLens(found.first, table(tokens), table(probabilities), table(of_final))
    lens.tokens[-1] = final.cpu().numpy()  # equal logits round differently in blocks
    lens.probabilities[-1] = lens.of_final[-1] = whole.cpu().numpy()
    return lens


def _unavailable(model: PreTrainedModel) -> ToolkitError:
    return ToolkitError(f"the logit lens is not available for a {describe(model).class_name}",
                        where="logit lens", fix="choose a model such as a GPT-2 or a Llama")  # fmt: skip
