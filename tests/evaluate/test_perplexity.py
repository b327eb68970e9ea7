"""Bits per byte against hand counts: the denominator is the original text, and nothing is left unscored."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.architectures import build_architecture
from toolkit.base.errors import DataError, ToolkitError
from toolkit.config.schema import DataSource, HeldOut
from toolkit.data.text.shards import TokenWriter
from toolkit.evaluate import perplexity
from toolkit.evaluate.perplexity import HeldOutText, ScoringSettings
from toolkit.inference.logprobs import score_documents
from toolkit.stages.tokenizer import learn
from toolkit.stats import block_bootstrap
from toolkit.storyworld import LARGE

TEXTS = [
    "the fox",
    "きつね🦊 two  spaces",
    "a<|endoftext|>b",
    "line\n\nline",
    *(f"hare {i}" for i in range(8)),
]


def numbers(model, tokenizer, text, **settings):
    measured = perplexity.measure(model, tokenizer, text, settings=ScoringSettings(**settings))
    return perplexity.summarize(measured, text, seed=0).to_json()


@torch.no_grad()
def naive_bits(model, tokenizer, text):
    """Every token after its whole context, end-of-text included; no window is full here."""
    end = tokenizer.eos_token_id
    ids = [end, *tokenizer(text, split_special_tokens=True)["input_ids"], end]
    logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    return -sum(logprobs[i, ids[i + 1]].item() for i in range(len(ids) - 1)) / math.log(2)


def test_bits_per_byte_by_hand(model, tokenizer):
    result = numbers(model, tokenizer, HeldOutText("texts", texts=TEXTS))
    bits = sum(naive_bits(model, tokenizer, text) for text in TEXTS)
    total = sum(len(text.encode()) for text in TEXTS)
    assert result["bytes"] == total and result["documents"] == len(TEXTS)
    assert result["bits_per_byte"] == pytest.approx(bits / total, rel=1e-5)
    assert result["perplexity"] == pytest.approx(2 ** (bits / result["tokens"]), rel=1e-4)
    assert result["word_perplexity"] == pytest.approx(
        2 ** (bits / sum(len(t.split()) for t in TEXTS)), rel=1e-3
    )
    assert result["character_perplexity"] == pytest.approx(2 ** (bits / sum(map(len, TEXTS))), rel=1e-3)
    assert result["byte_perplexity"] == pytest.approx(2 ** (bits / total), rel=1e-4)
    low, high = result["bits_per_byte_interval"]
    assert low < result["bits_per_byte"] < high and result["interval_over"] == "documents"
    json.dumps(result, allow_nan=False)


def test_tokenizers_share_the_denominator_and_a_uniform_model_is_known(model, tokenizer):
    with torch.no_grad():
        uniform = type(model)(model.config)
        uniform.transformer.wte.weight.zero_()
    coarse, fine = tokenizer, learn(["x"], vocab_size=262)
    for chosen in (coarse, fine):
        result = numbers(uniform, chosen, HeldOutText("texts", texts=TEXTS))
        tokens = sum(len(chosen(text, split_special_tokens=True)["input_ids"]) + 1 for text in TEXTS)
        assert result["bytes"] == sum(len(text.encode()) for text in TEXTS)
        assert result["bits_per_byte"] == pytest.approx(
            tokens * math.log2(448) / result["bytes"]
        )  # 400 -> 448
        assert result["perplexity"] == pytest.approx(448)


def test_few_documents_are_scored_token_by_token_in_the_same_windows(model, tokenizer, stories):
    text = HeldOutText("one", texts=[" ".join(stories)])
    settings = ScoringSettings(window=64, stride=24)
    measured = perplexity.measure(model, tokenizer, text, settings=settings)
    end = tokenizer.eos_token_id
    whole = score_documents(model, text.ids(tokenizer), prefix_id=end, end_id=end, window=64, stride=24)
    assert measured.nats == pytest.approx(whole.tolist(), rel=1e-5)
    result = perplexity.summarize(measured, text, seed=0).to_json()
    assert result["bits_per_byte"] == pytest.approx(whole[0] / math.log(2) / len(text.texts[0].encode()))
    size = len(text.texts[0].encode())
    block, tile = min(64 * size // measured.tokens[0], size // 20), size // 160
    assert result["interval_over"] == f"blocks of {round(block / tile) * tile} bytes"
    assert result["interval_units"] >= 20
    low, high = result["bits_per_byte_interval"]
    assert low < result["bits_per_byte"] < high
    low, high = result["perplexity_interval"]
    assert low < result["perplexity"] < high


def test_bytes_of_tokens_are_exact_for_bytelevel(tokenizer):
    text = "きつね and the fox"
    ids = tokenizer(text)["input_ids"]
    sizes = block_bootstrap.token_bytes(tokenizer, ids, len(text.encode()))
    assert sizes.sum() == len(text.encode())
    assert sizes.tolist() == [len(tokenizer.convert_ids_to_tokens(i)) for i in ids]


def corpus(folder, tokenizer, texts, logprobs=None):
    writer = TokenWriter(
        folder / "corpus" / "held_out", vocab_size=len(tokenizer), end_id=tokenizer.eos_token_id
    )
    for i, text in enumerate(texts):
        ids = tokenizer(text, split_special_tokens=True)["input_ids"]
        writer.add(ids, num_bytes=len(text.encode()), logprob=logprobs[i] if logprobs else None)
    writer.finish()
    tokenizer.save_pretrained(folder / "corpus" / "tokenizer")
    return perplexity.from_corpus(folder)


def test_a_corpus_gives_the_numbers_of_its_text(model, tokenizer, tmp_path):
    first = numbers(model, tokenizer, corpus(tmp_path, tokenizer, TEXTS))
    second = numbers(model, tokenizer, HeldOutText("texts", texts=TEXTS))
    assert first == second


def test_a_corpus_of_another_vocabulary_is_refused(model, tokenizer, tmp_path):
    text = corpus(tmp_path, learn(["other words entirely " * 9], vocab_size=300), TEXTS)
    with pytest.raises(ToolkitError, match="vocabulary differs"):
        perplexity.measure(model, tokenizer, text)


def test_the_floor_is_the_entropy_of_these_documents(tokenizer, tmp_path):
    data = DataSource(name="storyworld", config="stories", held_out_examples=12)
    text = perplexity.from_data(data, part="held_out", seed=0)
    rows = list(LARGE.rows("stories", 0, "held_out", 12))
    bits = -sum(row["logprob"] for row in rows) / math.log(2)
    total = sum(len(row["text"].encode()) for row in rows)
    assert text.floor == pytest.approx(bits / total) and 0.1 < text.floor < 2
    shards = corpus(tmp_path, tokenizer, [row["text"] for row in rows], [row["logprob"] for row in rows])
    assert shards.floor == pytest.approx(text.floor)


def test_files(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("a" * 90 + "b" * 10)
    cut = DataSource(name=str(path), held_out=HeldOut(last_characters=0.1))
    assert perplexity.from_data(cut, part="held_out", seed=0).texts == ["b" * 10]
    assert perplexity.from_data(DataSource(name=str(path)), part="all", seed=0).floor is None
    with pytest.raises(DataError, match="held-out part is empty"):
        perplexity.from_data(DataSource(name=str(path)), part="held_out", seed=0)


def test_a_paired_difference_is_narrower_than_two_intervals(model, tokenizer, stories):
    text = HeldOutText("stories", texts=stories)
    first = perplexity.measure(model, tokenizer, text)
    second = replace(first, nats=[nats * 1.01 for nats in first.nats])
    found = perplexity.difference(second, first, text, seed=0)
    bits = perplexity.summarize(first, text, seed=0).to_json()
    assert found.estimate == pytest.approx(0.01 * bits["bits_per_byte"]) and found.excludes(0)
    low, high = bits["bits_per_byte_interval"]
    assert found.high - found.low < (high - low) / 10


def test_a_diverged_model_is_an_error_and_no_number(model, tokenizer):
    text = HeldOutText("texts", texts=TEXTS)
    measured = perplexity.measure(model, tokenizer, text)
    measured.nats[3] = float("nan")
    with pytest.raises(ToolkitError, match="1 documents is not finite"):
        perplexity.summarize(measured, text, seed=0)


@pytest.mark.parametrize("prefix", ["end", "none"])
@pytest.mark.parametrize("score_end", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_progress_reaches_the_number_that_it_was_told(model, tokenizer, stories, prefix, score_end, packed):
    for texts in (stories, stories[:3]):
        seen, totals = [], []
        settings = ScoringSettings(prefix=prefix, score_end=score_end, packed=packed)
        measured = perplexity.measure(
            model, tokenizer, HeldOutText("s", texts=texts), settings=settings,
            start=lambda total: totals.append(total) or seen.append,  # noqa: B023
        )  # fmt: skip
        assert seen == sorted(seen) and seen[-1] == totals[0]
        assert np.isfinite(measured.nats).all()


def test_windows_are_at_most_4096_tokens_by_default_and_that_is_said_once(tokenizer, stories, capsys):
    """The position limit of a model may be 131,072: windows of that length take minutes without a word."""
    model = build_architecture("llama", tokenizer)
    model.config.max_position_embeddings = 131072
    for _ in range(2):
        measured = perplexity.measure(model, tokenizer, HeldOutText("texts", texts=stories[:1]))
        assert (measured.window, measured.stride) == (4096, 2048)
    assert capsys.readouterr().err.count("windows of 4096 tokens, although the model takes 131072") == 1
    settings = ScoringSettings(window=8192)
    long = perplexity.measure(model, tokenizer, HeldOutText("texts", texts=stories[:1]), settings=settings)
    endless = build_architecture("mamba", tokenizer)
    default = perplexity.measure(endless, tokenizer, HeldOutText("texts", texts=stories[:1]))
    assert (long.window, default.window) == (8192, 2048) and capsys.readouterr().err == ""
