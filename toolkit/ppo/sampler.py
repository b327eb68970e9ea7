"""Answers that the policy samples to rows of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.data.chat import answer_end, fitting
from toolkit.inference.sampling import generate
from toolkit.models.soundness import PROBE_ROWS
from toolkit.models.stop_tokens import StopTokens
from toolkit.ppo.config import PPOConfig
from toolkit.ppo.episode import Episode, Messages


def answer(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, object]],
    *,
    indices: Sequence[int],
    seeds: Sequence[int],
    args: PPOConfig,
) -> list[Episode]:
    """Return one episode for each row, without scores.

    Args:
        rows: `prompt`, a text or a conversation, and any other columns.
        indices: of the episodes in their rollout.
        seeds: of each answer's own random stream.
    """
    prompts, prompt_ids = [], []
    for row in rows:
        prompt, ids = _encode(tokenizer, row["prompt"], max_tokens=args.max_prompt_tokens)
        prompts.append(prompt)
        prompt_ids.append(ids)
    answers = generate(
        policy,
        prompt_ids,
        seed=seeds,
        end_id=StopTokens.of(policy, tokenizer).ids,
        pad_id=tokenizer.pad_token_id,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
    )
    sampled_ids = answers.ids_with_stops()
    texts = [answer_text(tokenizer, ids) for ids in answers.ids]
    return [
        Episode(
            index=indices[row],
            prompt=prompts[row],
            prompt_ids=prompt_ids[row],
            answer_ids=sampled_ids[row],
            ended=answers.ended[row],
            text=texts[row],
            unfinished=answer_end.is_unfinished(tokenizer, prompt_ids[row], texts[row]),
            columns={name: value for name, value in rows[row].items() if name != "prompt"},
        )
        for row in range(len(rows))
    ]


def answer_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return an answer as the rewards read it, with any role tokens that the policy sampled."""
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def prompt_rows(tokenizer: PreTrainedTokenizerBase, prompts: Dataset, *, max_tokens: int) -> list[list[int]]:
    """Return the token ids of some prompts, for ModelWriter."""
    first = prompts.select(range(min(PROBE_ROWS, len(prompts))))
    return [_encode(tokenizer, row["prompt"], max_tokens=max_tokens)[1] for row in first]


def _encode(
    tokenizer: PreTrainedTokenizerBase, prompt: Messages | str, *, max_tokens: int
) -> tuple[Messages | str, list[int]]:
    """Return a prompt and its ids; a long one loses its oldest turns, or its beginning if it is a text."""
    if isinstance(prompt, str):
        return prompt, tokenizer(prompt)["input_ids"][-max_tokens:]
    prompt = fitting.shorten(tokenizer, prompt, max_tokens=max_tokens)
    return prompt, fitting.prompt_ids(tokenizer, prompt)
