"""Models that are not what they are loaded as are refused by name; extra tokens where they are read."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.architectures import BART_LIKE, BERT_LIKE, LLAMA_LIKE, REFUSED, WITH_HEAD_DIM, build_architecture
from toolkit.base.errors import ToolkitError
from toolkit.inference.logprobs import answer_logprobs, score_documents
from toolkit.inference.reward_scores import reward_scores, score_ids
from toolkit.inference.sampling import generate
from toolkit.models import checks
from toolkit.models.loading import load_causal_lm, load_reward_model, save_model

BERT = BertConfig(**BERT_LIKE, vocab_size=300, num_labels=1)


@pytest.fixture
def saved(tmp_path, tiny_tokenizer):
    """Return a function that writes a model folder and returns the reference to it."""

    def save(model, tokenizer=tiny_tokenizer):
        save_model(model, tokenizer, tmp_path / "model")
        return str(tmp_path / "model"), None

    return save


def t5():
    return T5ForConditionalGeneration(
        T5Config(d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2, vocab_size=300)
    )


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: BertForMaskedLM(BERT), "a BertLMHeadModel with this configuration is an encoder"),
        (lambda: BertModel(BERT), "a BertLMHeadModel with this configuration is an encoder"),
        (
            lambda: BartForConditionalGeneration(BartConfig(**BART_LIKE, vocab_size=300)),
            "a BartForConditionalGeneration is an encoder-decoder",
        ),
        # transformers imports all configurations for its message
        pytest.param(t5, "a T5 model is not a causal language model", marks=pytest.mark.slow),
    ],
)
def test_encoders_and_encoder_decoders_are_not_language_models(build, words, saved):
    reference = saved(build())
    with pytest.raises(ToolkitError, match=words) as caught:
        load_causal_lm(reference)
    assert caught.value.where == reference[0] and caught.value.fix


@pytest.mark.parametrize("name", REFUSED)
def test_models_whose_logits_depend_on_later_tokens_are_refused(name, tiny_tokenizer, saved):
    with pytest.raises(ToolkitError, match="is an encoder, not a language model"):
        load_causal_lm(saved(build_architecture(name, tiny_tokenizer)))


def test_a_bert_trained_as_a_decoder_is_a_language_model(tiny_tokenizer, saved):
    load_causal_lm(saved(build_architecture("roberta_decoder", tiny_tokenizer)))


def test_a_model_that_cannot_read_text_is_refused_with_its_own_reason(tiny_tokenizer):
    model = build_architecture("llama", tiny_tokenizer)

    def broken(**arguments):
        raise ValueError("You must give pixel_values")

    model.forward = broken
    with pytest.raises(
        ToolkitError,
        match="a LlamaForCausalLM cannot read a plain text: ValueError: You must give pixel_values",
    ):
        checks.require_causal(model)


@pytest.mark.parametrize("build", [BertForSequenceClassification, BertModel])
def test_an_encoder_is_no_reward_model(build, saved):
    reference = saved(build(BERT))
    for seed in (None, 0):
        with pytest.raises(ToolkitError, match="a BertForSequenceClassification cannot be a reward model"):
            load_reward_model(reference, new_head_seed=seed)


@pytest.mark.slow  # transformers imports all configurations for its message
def test_an_architecture_without_a_classifier_is_no_reward_model(tiny_tokenizer, saved):
    reference = saved(build_architecture("cohere", tiny_tokenizer))
    with pytest.raises(ToolkitError, match="a Cohere model cannot be a reward model"):
        load_reward_model(reference, new_head_seed=0)


WITH_CLASSIFIER = """
biogpt bloom deepseek_v2 deepseek_v3 falcon falcon_alibi gemma gemma2 gemma3 gpt2 gpt_bigcode gpt_neo gpt_neox
gpt_oss gptj jamba llama mistral mixtral mpt olmo2 opt phi phi3 qwen2 qwen3 qwen3_moe qwen3_next
stablelm""".split()


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("bloom", "llama") else pytest.param(name, marks=pytest.mark.slow)
        for name in WITH_CLASSIFIER
    ],
)
def test_scores_of_a_padded_batch_are_read_at_the_last_tokens(name, tiny_tokenizer, saved):
    reference = saved(build_architecture(name, tiny_tokenizer))
    model, tokenizer = load_reward_model(reference, new_head_seed=0)
    rows = [[*range(60, 72)], [50], [80, 81, 82], [90, 91, 92, 93]]
    scores = score_ids(model, rows, pad_id=tokenizer.pad_token_id, batch_examples=4)
    for row, score in zip(rows, scores, strict=True):
        with torch.no_grad():
            hidden = model.base_model(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0, -1]
            assert float(model.score(hidden)) == pytest.approx(score, abs=1e-5)
    assert scores.std() > 0.1


@pytest.mark.parametrize("labels", [2, 5])
def test_a_classifier_with_several_labels_is_no_reward_model(labels, saved):
    config = LlamaConfig(**LLAMA_LIKE, vocab_size=300, num_labels=labels, pad_token_id=1)
    reference = saved(LlamaForSequenceClassification(config))
    for seed in (None, 0):
        with pytest.raises(ToolkitError, match=f"is a classifier with {labels} labels"):
            load_reward_model(reference, new_head_seed=seed)


def test_a_reward_model_of_another_shape_is_refused(saved, tmp_path):
    reference = saved(
        LlamaForSequenceClassification(
            LlamaConfig(**LLAMA_LIKE, vocab_size=300, num_labels=1, pad_token_id=1)
        )
    )
    path = tmp_path / "model" / "config.json"
    path.write_text(path.read_text().replace('"intermediate_size": 64', '"intermediate_size": 128'))
    with pytest.raises(ToolkitError, match="cannot be loaded: .* has the shape"):
        load_reward_model(reference)


@pytest.mark.slow
def test_a_multimodal_checkpoint_is_read_as_its_language_model(tiny_tokenizer, saved):
    """Its configuration has no vocabulary, positions or padding of its own: they are in `text_config`."""
    text = {**WITH_HEAD_DIM, "vocab_size": 300, "pad_token_id": 0, "max_position_embeddings": 48}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8}  # fmt: skip
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=299,
        boi_token_index=297,
        eoi_token_index=298,
    )
    reference = saved(Gemma3ForConditionalGeneration(config))
    model, _ = load_causal_lm(reference)
    prompts, options = [[60, 61, 62], [70]], {"end_id": None, "pad_id": None, "max_new_tokens": 4}
    for prompt, ids in zip(
        prompts, generate(model, prompts, seed=0, temperature=0, **options).ids, strict=True
    ):
        whole = [*prompt]
        for _ in range(4):
            whole.append(int(model(torch.tensor([whole]), use_cache=False).logits[0, -1].argmax()))
        assert whole[len(prompt) :] == ids
    with pytest.raises(ToolkitError, match="exceed the context of 48"):
        generate(model, [[60] * 45], seed=0, **options)
    reward, tokenizer = load_reward_model(reference, new_head_seed=0)
    scores = score_ids(reward, prompts, pad_id=tokenizer.pad_token_id)
    alone = [score_ids(reward, [row], pad_id=tokenizer.pad_token_id)[0] for row in prompts]
    assert scores == pytest.approx(alone, abs=1e-6) and scores[0] != scores[1]


def with_added_tokens(tokenizer, tokens, **special):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": tokens, **special})
    return tokenizer


def full_llama(tokenizer):
    """A Llama with as many rows as a tokenizer has entries."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**LLAMA_LIKE, vocab_size=len(tokenizer), pad_token_id=1))


def test_a_token_without_a_row_is_accepted_and_changes_no_number(tiny_tokenizer, saved):
    model = full_llama(tiny_tokenizer)
    tokenizer = with_added_tokens(tiny_tokenizer, ["<image>"])
    loaded, loaded_tokenizer = load_causal_lm(saved(model, tokenizer))
    assert len(loaded_tokenizer) == len(tiny_tokenizer) + 1
    settings = {"prefix_id": 5, "end_id": 6, "window": 64}
    assert score_documents(loaded, [[60, 61]], **settings) == score_documents(
        model.eval(), [[60, 61]], **settings
    )
    drawn = generate(loaded, [[60]] * 50, seed=0, end_id=None, pad_id=1, max_new_tokens=5).ids
    assert max(max(ids) for ids in drawn) < len(tiny_tokenizer)
    assert generate(copy.deepcopy(loaded), [[60]], seed=0, end_id=None, pad_id=1, max_new_tokens=5).ids == (
        generate(model.eval(), [[60]], seed=0, end_id=None, pad_id=1, max_new_tokens=5).ids
    )


def test_a_token_without_a_row_is_refused_by_name_where_it_is_read(tiny_tokenizer, saved):
    tokenizer = with_added_tokens(tiny_tokenizer, ["<image>", "<video>"])
    model, _ = load_causal_lm(saved(full_llama(tiny_tokenizer), tokenizer))
    image, video = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    for read, token in (
        (lambda: generate(model, [[60, image]], seed=0, end_id=None, pad_id=1, max_new_tokens=1), "<image>"),
        (lambda: score_documents(model, [[60, video, 61]], prefix_id=5, end_id=6, window=64), "<video>"),
        (lambda: answer_logprobs(model, [[60]], [[61, image]]), "<image>"),  # only as a target
        (lambda: model(input_ids=torch.tensor([[60, image]]), labels=torch.tensor([[60, 61]])), "<image>"),
    ):
        with pytest.raises(ToolkitError, match=f"the token '{token}' with id"):
            read()


def test_a_tokenizer_of_another_model_is_refused(tiny_tokenizer, saved):
    few, many = (
        with_added_tokens(tiny_tokenizer, [f"<extra{i}>" for i in range(count)]) for count in (64, 65)
    )
    load_causal_lm(saved(full_llama(tiny_tokenizer), few))
    for tokenizer, rows in ((many, len(tiny_tokenizer)), (tiny_tokenizer, len(tiny_tokenizer) - 1)):
        config = LlamaConfig(**LLAMA_LIKE, vocab_size=rows)
        with pytest.raises(ToolkitError, match=f"the tokenizer has {len(tokenizer)} entries"):
            load_causal_lm(saved(LlamaForCausalLM(config), tokenizer))


def test_a_padding_token_without_a_row_pads_with_end_of_text(tiny_tokenizer, saved):
    tokenizer = with_added_tokens(tiny_tokenizer, [], pad_token="[PAD]")
    reference = saved(full_llama(tiny_tokenizer), tokenizer)
    model, loaded = load_causal_lm(reference)
    assert loaded.pad_token_id == loaded.eos_token_id
    generate(model, [[60], [61, 62]], seed=0, end_id=0, pad_id=tokenizer.pad_token_id, max_new_tokens=2)
    reward, padded = load_reward_model(reference, new_head_seed=0)
    assert padded.pad_token_id == tokenizer.pad_token_id < reward.get_input_embeddings().num_embeddings


def test_scores_that_are_not_finite_are_refused(tiny_tokenizer, saved):
    model, tokenizer = load_reward_model(saved(full_llama(tiny_tokenizer)), new_head_seed=0)
    prompts = [[{"role": "user", "content": "Hi"}]]
    reward_scores(model, tokenizer, prompts, answers=["yes"], ended=[True])
    with torch.no_grad():
        model.score.weight[0, 0] = float("nan")
    with pytest.raises(ToolkitError, match="logits are not finite"):
        reward_scores(model, tokenizer, prompts, answers=["yes"], ended=[True])


def test_a_model_with_nan_weights_is_refused_when_it_is_loaded(tiny_tokenizer, saved):
    model = full_llama(tiny_tokenizer)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(ToolkitError, match="logits are not finite"):
        load_causal_lm(saved(model))


def test_logits_of_minus_infinity_only_exclude_a_token(tiny_tokenizer):
    model = build_architecture("llama", tiny_tokenizer)
    logits = torch.zeros(2, 5)
    logits[:, 3] = -torch.inf
    checks.require_finite(logits, model)
    for value in (torch.nan, torch.inf):
        with pytest.raises(ToolkitError, match="not finite"):
            checks.require_finite(logits.index_fill(1, torch.tensor([2]), value), model)
    with pytest.raises(ToolkitError, match="not finite"):
        checks.require_finite(torch.full((2, 5), -torch.inf), model)


def reward_model(**changes):
    config = Gemma3TextConfig(
        **WITH_HEAD_DIM, vocab_size=300, num_labels=1, layer_types=["full_attention"] * 2, **changes
    )
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config)


def test_a_reward_model_that_is_not_causal_or_not_finite_is_refused(saved):
    load_reward_model(saved(reward_model()))
    with pytest.raises(ToolkitError, match="Gemma3TextForSequenceClassification .* is an encoder"):
        load_reward_model(saved(reward_model(use_bidirectional_attention=True)))
    model = reward_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ToolkitError, match="its hidden states are not finite"):
        load_reward_model(saved(model))
