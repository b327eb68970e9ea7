"""The logit lens applies the model's own norm and head to each state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.architectures import ARCHITECTURES, build_architecture
from toolkit.base.errors import ToolkitError
from toolkit.inference import logit_lens as module
from toolkit.inference.layer_states import layer_states
from toolkit.inference.logit_lens import logit_lens

IDS = list(range(40, 60))
REFUSED = ("bart", "bart_one_encoder_layer", "roberta_decoder")
"""Their blocks end in norms of their own."""


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in REFUSED])
def test_the_last_row_is_the_models_own_prediction(name, tiny_tokenizer):
    model = build_architecture(name, tiny_tokenizer)
    lens = logit_lens(model, IDS)
    with torch.no_grad():
        own = torch.softmax(model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0].float(), dim=-1)
    assert lens.tokens[-1].tolist() == own.argmax(dim=-1).tolist()
    assert lens.probabilities[-1] == pytest.approx(own.amax(dim=-1).numpy())
    assert lens.of_final[-1].tolist() == lens.probabilities[-1].tolist()
    assert lens.first + len(lens.tokens) == model.config.num_hidden_layers + 1


@pytest.mark.parametrize(("name", "norm"), [("gpt2", "transformer.ln_f"), ("llama", "model.norm"),
                                            ("gpt_neox", "gpt_neox.final_layer_norm")])  # fmt: skip
@torch.no_grad()
def test_earlier_rows_are_norm_and_head_of_the_states(name, norm, tiny_tokenizer):
    model = build_architecture(name, tiny_tokenizer)
    output = model(input_ids=torch.tensor([IDS]), use_cache=False, output_hidden_states=True)
    final = output.logits[0].argmax(dim=-1)
    lens = logit_lens(model, IDS)
    for row, state in enumerate(output.hidden_states[:-1]):
        values = torch.softmax(model.get_output_embeddings()(model.get_submodule(norm)(state[0])), dim=-1)
        assert lens.tokens[row].tolist() == values.argmax(dim=-1).tolist()
        assert lens.probabilities[row] == pytest.approx(values.amax(dim=-1).numpy(), rel=1e-4)
        assert lens.of_final[row] == pytest.approx(values[range(len(IDS)), final].numpy(), rel=1e-4)


def test_blocks_of_logits_do_not_change_the_rows(tiny_model, monkeypatch):
    whole = logit_lens(tiny_model, IDS)
    monkeypatch.setattr(module, "BLOCK_LOGITS", 7 * 261)
    blocks = logit_lens(tiny_model, IDS)
    assert np.array_equal(whole.tokens, blocks.tokens)
    assert blocks.of_final == pytest.approx(whole.of_final, rel=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_an_architecture_without_a_final_norm_is_refused(name, tiny_tokenizer):
    with pytest.raises(ToolkitError, match="not available|does not return"):
        logit_lens(build_architecture(name, tiny_tokenizer), IDS)


@torch.no_grad()
def test_states_are_those_before_the_final_norm(tiny_tokenizer):
    model = build_architecture("llama", tiny_tokenizer)
    found = layer_states(model, IDS)
    assert len(found.states) == 3 and found.first == 0
    assert torch.equal(found.states[0], model.model.embed_tokens.weight[IDS])
    assert found.norm is model.model.norm
    last = model(input_ids=torch.tensor([IDS]), use_cache=False, output_hidden_states=True).hidden_states[-1][
        0
    ]
    assert torch.equal(model.model.norm(found.states[-1]), last)


def test_watching_the_norm_leaves_nothing_on_the_model(tiny_model):
    layer_states(tiny_model, IDS)  # transformers leaves hooks of its own
    seen = []
    hook = tiny_model.transformer.ln_f.register_forward_hook(lambda *given: seen.append(given))
    before = [list(module._forward_hooks) for module in tiny_model.modules()]
    layer_states(tiny_model, IDS)
    assert [list(module._forward_hooks) for module in tiny_model.modules()] == before
    assert len(seen) == 1
    hook.remove()
