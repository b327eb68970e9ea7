"""Scores of answers under a reward model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from toolkit.data.chat.template import encode_text, example_ids


@torch.inference_mode()
def reward_scores(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[dict[str, str]] | str],
    *,
    answers: Sequence[str],
    ended: Sequence[bool],
    batch_examples: int = 16,
) -> np.ndarray:
    """The reward model's score of each answer, float64 (examples,).

    The reward model's own chat template is applied as in its training, to at most its context (a long prompt
    loses its oldest turns first). The template closes an answer with end-of-text: it stays only where the
    answer ended. A prompt that is a text is read as it stands, with the answer right after it.
    Special tokens that an answer spells are read as broken-up text.
    2 million parameters on one core: 64 answers in batches of 16 take 0.7 s, in one batch 1.3 s (caches).
    """
    context = getattr(model.config, "max_position_embeddings", None)
    rows = []
    for prompt, answer, closed in zip(prompts, answers, ended, strict=True):
        if isinstance(prompt, str):
            head, tail = encode_text(tokenizer, prompt), encode_text(tokenizer, answer)
            head, tail = _fitting(head, [*tail, tokenizer.eos_token_id], context)
        else:
            head, tail = example_ids(tokenizer, prompt, answer, max_tokens=context)
        rows.append(head + _closed(tail, tokenizer.eos_token_id, closed))
    pad_id = tokenizer.pad_token_id
    by_length = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    scores = np.zeros(len(rows))
    was_training = model.training
    model.eval()
    for start in range(0, len(by_length), batch_examples):
        batch = by_length[start : start + batch_examples]
        longest = max(len(rows[row]) for row in batch)
        lengths = torch.tensor([len(rows[row]) for row in batch])
        ids = torch.tensor([rows[row] + [pad_id] * (longest - len(rows[row])) for row in batch])
        mask = (torch.arange(longest) < lengths[:, None]).long()
        output = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
        scores[batch] = output.logits[:, 0].double().cpu().numpy()
    model.train(was_training)
    return scores


def _fitting(head: list[int], tail: list[int], context: int | None) -> tuple[list[int], list[int]]:
    """A text and its continuation in at most `context` tokens: the beginning goes first, down to half."""
    if context is None or len(head) + len(tail) <= context:
        return head, tail
    head = head[-max(context - len(tail), context // 2) :]
    return head, tail[: context - len(head)]


def _closed(answer: list[int], end_id: int, ended: bool) -> list[int]:
    """The answer with end-of-text as its last token if it ended, else without."""
    whole = bool(answer) and answer[-1] == end_id
    if whole == ended:
        return answer
    return answer[:-1] + [end_id] * ended  # one cut to the context gives a token up for its end
