"""Other architectures sample and score what plain transformers samples and scores."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, RwkvConfig

from tests.architectures import ARCHITECTURES, REFUSED, build_architecture
from toolkit.base.errors import ToolkitError
from toolkit.inference import decoding, heads, logprobs, next_token
from toolkit.inference.decoding import MODES, decoding_mode
from toolkit.inference.opening import OpenModel
from toolkit.inference.sampling import generate, stream

PROMPTS = [[107, 108, 109, *range(120, 129)], [50], [60, 61, 62], [70, 71, 72, 73], [80, 81, 82]]
STEPS = 10
FAST = ("bart", "bloom", "deepseek_v3", "gpt2", "mamba", "rwkv")
"""One architecture for each decoding mode, one with latent attention, and the toolkit's own."""
UNCACHED = ("bart_one_encoder_layer", "recurrent_gemma", "rwkv", "xlstm")
OTHER_IN_TRANSFORMERS = ("bart_one_encoder_layer", "recurrent_gemma", "roberta_decoder", "xlstm")
"""`model.generate` with a cache fails, or differs from passes over whole texts (transformers 5.23)."""


def matrix(*, without=()):
    """The architectures to test; those outside of `FAST` are slow."""
    return [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in ARCHITECTURES
        if name not in without
    ]


MATRIX = matrix()


@pytest.fixture(scope="module")
def build(tiny_tokenizer):
    """Return a function that builds each model once."""
    built = {}

    def model(name):
        if name not in built:
            built[name] = build_architecture(name, tiny_tokenizer)
        return built[name]

    return model


@torch.no_grad()
def whole_pass(model, ids):
    """The logits of a text without cache and padding, (length, vocab)."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def reference_answer(model, prompt, *, seed, temperature, end_id):
    """Sample one row by whole passes: ids, whether it ended, log-probabilities."""
    ids, nats = list(prompt), []
    for number in np.random.Generator(np.random.Philox(key=seed)).random(STEPS):
        probabilities = (whole_pass(model, ids)[-1].double() / (temperature or 1)).softmax(-1)
        cumulative = probabilities.cumsum(-1)
        token = int(probabilities.argmax()) if temperature == 0 else int((cumulative <= number).sum())
        nats.append(float(probabilities[token].log()))
        ids.append(token)
        if token == end_id:
            return ids[len(prompt) : -1], True, nats
    return ids[len(prompt) :], False, nats


@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_sampling_equals_whole_passes_for_single_prompts_and_batches(name, temperature, build):
    model = build(name)
    options = {"temperature": temperature, "pad_id": None}
    answers = [
        reference_answer(model, prompt, seed=11 + row, temperature=temperature, end_id=None)[0]
        for row, prompt in enumerate(PROMPTS)
    ]
    # The end is a token of some answers: these rows leave the batch. Greedy answers may all be alike.
    shares = {token: sum(token in ids for ids in answers) for sampled in answers for token in sampled}
    end_id = next((token for token, share in shares.items() if share < len(PROMPTS)), None)
    assert end_id is not None or temperature == 0
    expected = [
        reference_answer(model, prompt, seed=11 + row, temperature=temperature, end_id=end_id)
        for row, prompt in enumerate(PROMPTS)
    ]
    batch = generate(model, PROMPTS, seed=[*range(11, 16)], end_id=end_id, max_new_tokens=STEPS, **options)
    for row, (ids, ended, nats) in enumerate(expected):
        single = generate(
            model, [PROMPTS[row]], seed=[11 + row], end_id=end_id, max_new_tokens=STEPS, **options
        )
        streamed = stream(model, PROMPTS[row], seed=11 + row, end_id=end_id, max_new_tokens=STEPS, **options)
        assert batch.ids[row] == single.ids[0] == list(streamed) == ids
        assert batch.ended[row] == single.ended[0] == ended
        for logprobs_of_row in (batch.logprobs[row], single.logprobs[0]):
            np.testing.assert_allclose(logprobs_of_row, nats, atol=1e-4)


@pytest.mark.parametrize("name", matrix(without=OTHER_IN_TRANSFORMERS))
def test_greedy_text_equals_transformers_generate(name, build):
    model = build(name)
    answers = generate(model, PROMPTS, seed=0, end_id=None, pad_id=None, max_new_tokens=STEPS, temperature=0)
    for prompt, ids in zip(PROMPTS, answers.ids, strict=True):
        row = torch.tensor([prompt])
        theirs = model.generate(
            row, attention_mask=torch.ones_like(row), do_sample=False, max_new_tokens=STEPS,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert theirs[0, len(prompt) :].tolist() == ids


@pytest.mark.parametrize("name", MATRIX)
def test_next_token_probabilities_are_the_softmax_of_the_logits(name, build, tiny_tokenizer):
    model = build(name)
    opened = OpenModel(model, tiny_tokenizer, is_chat_model=False)
    expected = whole_pass(model, PROMPTS[0])[-1].double().softmax(-1)
    np.testing.assert_allclose(next_token.distribution(opened, PROMPTS[0]), expected, atol=1e-6)
    assert next_token.allowed(opened).shape == expected.shape


@pytest.mark.parametrize("name", MATRIX)
def test_log_probabilities_in_blocks_are_the_log_softmax_of_the_logits(name, build, monkeypatch):
    model, progress, generator = build(name), [], np.random.default_rng(0)
    vocabulary = whole_pass(model, [50]).shape[-1]
    documents = [generator.integers(20, 250, size).tolist() for size in (30, 3, 17, 1)]
    monkeypatch.setattr(logprobs, "BLOCK_LOGITS", 9 * vocabulary)
    scored = logprobs.score_tokens(
        model, documents, prefix_id=5, end_id=6, window=31, progress=progress.append
    )
    for document, nats in zip(documents, scored, strict=True):
        text = [5, *document, 6]
        logits = whole_pass(model, text[:-1]).log_softmax(-1)
        np.testing.assert_allclose(-nats, logits[range(len(text) - 1), text[1:]], atol=2e-5)
    assert progress[-1] == sum(map(len, documents)) + 4
    assert max(np.diff([0, *progress])) <= 9  # a block of logits at a time


@pytest.mark.parametrize("name", MATRIX)
def test_cached_decoding_is_used_where_it_is_right(name, build, capsys):
    decoding._modes.pop(build(name), None)
    decoding.console.tell_once.cache_clear()
    assert decoding_mode(build(name)).cached == (name not in UNCACHED)
    said = capsys.readouterr().err
    assert said.count("without a cache") == (name in UNCACHED) and said.count("\n") == (name in UNCACHED)
    decoding_mode(build(name))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["bloom", "deepseek_v3", "rwkv"])
def test_trying_a_model_changes_nothing_and_draws_nothing(name, build):
    model = build(name)
    decoding._modes.pop(model, None)
    weights, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.train()
    generate(model, [[50]], seed=0, end_id=None, pad_id=None, max_new_tokens=1)
    assert model.training
    model.eval()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_the_mode_that_gpt2_skips_the_trial_for_is_the_one_that_it_would_get(build):
    class Other(GPT2LMHeadModel):
        pass

    model = Other(build("gpt2").config).eval()
    assert decoding_mode(model) == decoding_mode(build("gpt2")) == MODES[0]
    assert model in decoding._modes and build("gpt2") not in decoding._modes


@pytest.mark.parametrize(
    ("name", "place"), [("deepseek_v3", 0), ("gpt2", 0), ("bloom", 1), ("mamba", 2), ("bart", 2), ("rwkv", 3)]
)
def test_the_fastest_right_mode_is_chosen(name, place, build):
    """Latent attention caches keys and values of different widths; BLOOM takes no prepared mask."""
    assert decoding_mode(build(name)) == MODES[place]


@pytest.mark.parametrize("name", ["mamba", "bloom", "llama"])
def test_no_mode_with_wrong_logits_is_chosen(name, build):
    """Each earlier mode than the chosen one fails the trial, and a fault in a right one is seen."""
    model = build(name)
    chosen = MODES.index(decoding_mode(model))
    assert [decoding._is_right(model, mode) for mode in MODES[:chosen]] == [False] * chosen


@pytest.mark.parametrize("fault", ["positions", "mask", "kept rows"])
def test_a_fault_of_padded_decoding_is_seen(fault, build, monkeypatch):
    reading, keep = decoding.Decoder._reading, decoding.Decoder.keep

    def broken_reading(self, count):
        arguments = reading(self, count)
        if fault == "positions" and self.mode.padded:
            arguments["position_ids"] = torch.arange(self.width - count, self.width)[None].expand(
                len(arguments["position_ids"]), -1
            )
        if fault == "mask" and self.mode.padded:
            arguments.pop("attention_mask")
        return arguments

    def broken_keep(self, rows):
        keep(self, rows.flip(0) if fault == "kept rows" else rows)

    monkeypatch.setattr(decoding.Decoder, "_reading", broken_reading)
    monkeypatch.setattr(decoding.Decoder, "keep", broken_keep)
    assert not decoding._is_right(build("gpt2"), MODES[0])
    assert not decoding._is_right(build("gpt2"), MODES[1])
    assert decoding._is_right(build("gpt2"), MODES[2]) == (fault != "kept rows")


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_whose_logits_depend_on_later_tokens_is_not_sampled(name, build):
    with pytest.raises(ToolkitError, match=f"a {type(build(name)).__name__} .* is an encoder"):
        generate(build(name), [[50]], seed=0, end_id=None, pad_id=None, max_new_tokens=1)


def test_a_head_that_cannot_be_called_apart_scores_few_rows_at_once(build, monkeypatch):
    model, shapes = build("gemma2"), []
    documents = [[*range(20, 80)], [*range(90, 120)]]
    settings = {"prefix_id": 5, "end_id": 6, "window": 20, "stride": 4}
    expected = logprobs.score_documents(model, documents, **settings)
    monkeypatch.setattr(logprobs, "head_in_blocks", lambda model: None)
    monkeypatch.setattr(logprobs, "BLOCK_LOGITS", 40 * 268)
    hook = model.lm_head.register_forward_hook(lambda head, inputs, output: shapes.append(output.shape))
    np.testing.assert_allclose(logprobs.score_documents(model, documents, **settings), expected, rtol=1e-5)
    hook.remove()
    assert sum(shape[1] == 4 for shape in shapes) > 2  # only the columns asked for
    assert max(shape.numel() for shape in shapes) <= 40 * 268


def test_a_head_that_changes_what_the_matrix_gives_is_applied_whole(build):
    """Gemma 2 caps its logits: the output embedding alone is not the head."""
    model = build("gemma2")
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        hidden = model.base_model(input_ids=ids).last_hidden_state[0]
        logits = heads.head_in_blocks(model)(hidden)
        torch.testing.assert_close(logits, whole_pass(model, PROMPTS[0]))
        assert (logits - model.lm_head(hidden)).abs().max() > 1
    assert "forward" not in vars(model.base_model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["gpt2", "mamba"])
def test_logits_that_are_not_finite_are_refused(name, value, build, tiny_tokenizer):
    model = copy.deepcopy(build(name))
    with torch.no_grad():
        model.get_input_embeddings().weight[50] = value
    opened = OpenModel(model, tiny_tokenizer, is_chat_model=False)
    options = {"end_id": None, "pad_id": None, "max_new_tokens": 3}
    for read in (
        lambda: generate(model, [[60, 50]], seed=0, **options),
        lambda: generate(model, [[60, 50]], seed=0, temperature=0, **options),
        lambda: list(stream(model, [60, 50], seed=0, **options)),
        lambda: next_token.distribution(opened, [60, 50]),
    ):
        with pytest.raises(ToolkitError, match="logits are not finite"):
            read()


def test_a_configuration_without_token_ids_is_read(tiny_tokenizer):
    """RWKV's configuration has no padding id, not even None."""
    config = RwkvConfig(vocab_size=268, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2)
    assert not hasattr(config, "pad_token_id")
    model = AutoModelForCausalLM.from_config(config).eval()
    nats = logprobs.score_documents(model, [[60, 61], [62]], prefix_id=5, end_id=None, window=8)
    assert np.isfinite(nats).all()
    assert logprobs.start_id(model, tiny_tokenizer) == tiny_tokenizer.bos_token_id
    generate(model, [[60], [61, 62]], seed=0, end_id=None, pad_id=None, max_new_tokens=2)
