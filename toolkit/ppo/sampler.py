"""Answers of the policy to rows of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.data.chat import template
from toolkit.inference.sampling import generate
from toolkit.ppo.config import PPOConfig
from toolkit.ppo.rollout import Episode, Messages


def answer(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    *,
    places: Sequence[int],
    seeds: Sequence[int],
    args: PPOConfig,
) -> list[Episode]:
    """One episode for each row, without scores.

    Args:
        rows: `prompt`, a text or a conversation, and any other columns.
        places: of the episodes in their rollout.
        seeds: of each answer's own random stream.
    """
    prompts, prompt_ids = [], []
    for row in rows:
        prompt, ids = _encode(tokenizer, row["prompt"], longest=args.max_prompt_tokens)
        prompts.append(prompt)
        prompt_ids.append(ids)
    end_id = tokenizer.eos_token_id
    answers = generate(
        policy,
        prompt_ids,
        seed=seeds,
        end_id=end_id,
        pad_id=tokenizer.pad_token_id,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
    )
    episodes = []
    for number, (ids, ended) in enumerate(zip(answers.ids, answers.ended, strict=True)):
        text = text_of(tokenizer, ids)
        columns = {name: value for name, value in rows[number].items() if name != "prompt"}
        episodes.append(
            Episode(
                places[number],
                prompts[number],
                prompt_ids[number],
                ids + [end_id] * ended,
                ended,
                text,
                columns=columns,
            )
        )
    return episodes


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """An answer as the rewards read it: role tokens that the policy sampled stay visible to them."""
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _encode(
    tokenizer: PreTrainedTokenizerBase, prompt: Messages | str, *, longest: int
) -> tuple[Messages | str, list[int]]:
    """A prompt that is too long loses its oldest turns, or its beginning where it is a text."""
    if isinstance(prompt, str):
        return prompt, tokenizer(prompt)["input_ids"][-longest:]
    prompt = template.shorten(tokenizer, prompt, max_tokens=longest)
    return prompt, template.prompt_ids(tokenizer, prompt)
