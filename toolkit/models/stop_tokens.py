"""The tokens at which generation stops, as a model's generation_config names them."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toolkit.data.chat import template


def stop_at_turn_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let `generation_config.eos_token_id` contain the token that ends an answer in the chat template.

    Every program that generates with transformers then stops there, TRL's trainers included.
    """
    end, config = template.end_id(tokenizer), model.generation_config
    named = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if end is not None and end not in named:
        config.eos_token_id = [end, *(token for token in named if token is not None)]
