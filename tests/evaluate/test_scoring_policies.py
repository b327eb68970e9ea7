"""What a number is measured on: any architecture, prefix, end, packing, precision; all of it written down."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.architectures import REPRESENTATIVES, build_architecture
from toolkit.base.errors import ToolkitError
from toolkit.base.files import sha256
from toolkit.cli import main
from toolkit.evaluate import perplexity
from toolkit.evaluate.perplexity import HeldOutText, ScoringSettings
from toolkit.models import loading
from toolkit.models.tokenizer_loading import tokenizer_digest
from toolkit.stages.tokenizer import learn
from toolkit.stats import block_bootstrap


@torch.no_grad()
def reference(model, ids):
    """-log p of ids[1:] by the model's own logits, log-softmax in fp32; no window is full here."""
    logits = model(torch.tensor([ids])).logits[0, :-1].float()
    return -torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].double().numpy()


def measure(model, tokenizer, texts, **settings):
    text = HeldOutText("texts", texts=texts)
    measured = perplexity.measure(model, tokenizer, text, settings=ScoringSettings(**settings))
    return measured, perplexity.summarize(measured, text, seed=0).to_json()


def encode(tokenizer, text):
    return tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_any_architecture_from_a_folder_is_its_own_log_softmax(name, tokenizer, stories, tmp_path, capsys):
    loading.save_model(build_architecture(name, tokenizer), tokenizer, tmp_path / name)
    model, _ = loading.load_causal_lm((str(tmp_path / name), None))
    end, texts = tokenizer.eos_token_id, stories[:12]
    expected = [reference(model, [end, *encode(tokenizer, text), end]).sum() for text in texts]
    measured, result = measure(model, tokenizer, texts)
    np.testing.assert_allclose(measured.nats, expected, rtol=1e-6)
    spread = np.abs(np.array(expected) / np.array(measured.tokens) - math.log(len(tokenizer) + 7))
    assert spread.max() > 0.05  # not uniform, or nothing would be tested
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert main.main(["evaluate", str(tmp_path / name), "--data", str(path), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["models"][name]
    assert row["bits_per_byte"] == pytest.approx(result["bits_per_byte"], rel=1e-9)


@pytest.fixture(scope="module")
def two_ends(tokenizer):
    """The tokenizer with a beginning-of-text of its own."""
    own = learn(["the fox and the hare " * 9], vocab_size=300)
    own.add_special_tokens({"bos_token": "<|begin|>"})
    assert own.bos_token_id != own.eos_token_id
    return own


@pytest.mark.parametrize("prefix", ["bos", "end", "none"])
@pytest.mark.parametrize("score_end", [True, False])
def test_prefix_and_end_by_hand(prefix, score_end, two_ends, build_model, stories):
    model, texts = build_model(3), [*(story[:150] for story in stories[:12]), "", "x"]
    before = {"bos": [two_ends.bos_token_id], "end": [two_ends.eos_token_id], "none": []}[prefix]
    after = [two_ends.eos_token_id] if score_end else []
    measured, result = measure(model, two_ends, texts, prefix=prefix, score_end=score_end)
    tokens = nats = 0
    for text, found in zip(texts, measured.nats, strict=True):
        sequence = [*before, *encode(two_ends, text), *after]
        expected = reference(model, sequence) if len(sequence) > 1 else np.zeros(0)
        assert found == pytest.approx(expected.sum(), rel=1e-5)
        tokens, nats = tokens + len(expected), nats + expected.sum()
    assert (result["tokens"], result["prefix"], result["end_scored"]) == (tokens, prefix, score_end)
    assert result["prefix_token"] == {"bos": "<|begin|>", "end": "<|endoftext|>", "none": None}[prefix]
    unscored = sum(bool(encode(two_ends, text)) or score_end for text in texts) if prefix == "none" else 0
    assert result["unscored_tokens"] == unscored
    assert result["bytes"] == sum(len(text.encode()) for text in texts)
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / result["bytes"], rel=1e-5)


def test_auto_asks_the_configuration_then_the_tokenizer(two_ends, build_model, stories):
    model = build_model(3)
    model.config.bos_token_id = two_ends.eos_token_id  # as pretraining here writes it
    assert measure(model, two_ends, stories)[1]["prefix"] == "end"
    model.config.bos_token_id = two_ends.bos_token_id
    assert measure(model, two_ends, stories)[1]["prefix"] == "bos"
    model.config.bos_token_id = None
    assert measure(model, two_ends, stories)[1]["prefix"] == "bos"
    bare = learn(["the fox and the hare " * 9], vocab_size=300)
    bare.bos_token = None
    assert measure(model, bare, stories)[1]["prefix"] == "end"
    with pytest.raises(ToolkitError, match="has no beginning-of-text"):
        measure(model, bare, stories, prefix="bos")
    bare.eos_token = None
    result = measure(model, bare, stories)[1]
    assert (result["prefix"], result["end_scored"]) == ("none", False)
    with pytest.raises(ToolkitError, match="to separate documents"):
        measure(model, bare, stories, packed=True)


@pytest.mark.parametrize("prefix", ["end", "none"])
@pytest.mark.parametrize("score_end", [True, False])
def test_packed_documents_are_one_text(prefix, score_end, tokenizer, build_model):
    model, end = build_model(3), tokenizer.eos_token_id
    texts = [f"fox {number}" for number in range(11)]
    documents = [encode(tokenizer, text) for text in texts]
    joined = [one for document in documents for one in [*document, end]]
    before = [end] if prefix == "end" else []
    expected = reference(model, [*before, *joined])
    expected = expected if before else np.append(0.0, expected)
    measured, result = measure(model, tokenizer, texts, packed=True, prefix=prefix, score_end=score_end)
    at = 0
    for document, nats in zip(documents, measured.nats, strict=True):
        assert nats == pytest.approx(expected[at : at + len(document) + score_end].sum(), rel=1e-5)
        at += len(document) + 1
    total = sum(map(len, documents)) + 11 * score_end
    assert result["tokens"] == total - (prefix == "none") and result["packed"]
    apart = measure(model, tokenizer, texts)[1]
    assert result["bits_per_byte"] != pytest.approx(apart["bits_per_byte"], rel=1e-3)  # they see each other


def test_bf16_weights_with_an_fp32_log_softmax(folders, stories, tmp_path, capsys):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in stories[:12]))
    found = {}
    for precision in ("fp32", "bf16"):
        arguments = ["evaluate", str(folders / "first"), "--data", str(path), "--precision", precision]
        assert main.main([*arguments, "--json"]) == 0
        found[precision] = json.loads(capsys.readouterr().out)["models"]["first"]
    assert (found["fp32"]["dtype"], found["bf16"]["dtype"]) == ("float32", "bfloat16")
    assert found["bf16"]["bits_per_byte"] != found["fp32"]["bits_per_byte"]
    assert found["bf16"]["bits_per_byte"] == pytest.approx(found["fp32"]["bits_per_byte"], rel=0.02)
    model, tokenizer = loading.load_causal_lm((str(folders / "first"), None), dtype=torch.bfloat16)
    end = tokenizer.eos_token_id
    nats = sum(reference(model, [end, *encode(tokenizer, text), end]).sum() for text in stories[:12])
    bits = nats / math.log(2) / found["bf16"]["bytes"]
    # bf16 rounds at 3 digits, and other kernels round otherwise; a log-softmax in bf16 would be 1e-2 off
    assert found["bf16"]["bits_per_byte"] == pytest.approx(bits, rel=3e-4)


def test_what_travels_with_the_number(folders, stories, tmp_path, capsys):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in stories))
    arguments = ["evaluate", str(folders / "first"), "--data", str(path), "--window", "64", "--stride", "16"]
    assert main.main([*arguments, "--prefix", "none", "--no-score-end", "--packed", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    row = result["models"]["first"]
    expected = {
        "window": 64, "stride": 16, "prefix": "none", "prefix_token": None, "end_scored": False,
        "packed": True, "unscored_tokens": 1, "dtype": "float32", "documents": 16, "level": 0.95, "seed": 0,
        "bytes": sum(len(text.encode()) for text in stories), "words": sum(len(t.split()) for t in stories),
        "characters": sum(map(len, stories)), "interval_over": "documents", "interval_units": 16,
    }  # fmt: skip
    assert {key: row[key] for key in expected} == expected
    for key in ("perplexity", "word_perplexity", "character_perplexity", "byte_perplexity", "bits_per_byte"):
        assert row[key] > 0
    assert result["versions"]["torch"] == torch.__version__
    assert result["settings"]["prefix"] == "none"
    content = json.loads((folders / "first" / "tokenizer.json").read_text())
    content |= {"padding": None, "truncation": None}
    assert row["tokenizer_digest"] == sha256(json.dumps(content, sort_keys=True))


def test_the_digest_forgets_padding_and_knows_the_vocabulary(tokenizer):
    copy = learn(["the fox and the hare " * 9], vocab_size=300)
    before = tokenizer_digest(copy)
    copy(["a", "the fox"], padding=True, truncation=True, max_length=3)
    assert tokenizer_digest(copy) == before != tokenizer_digest(tokenizer)


def test_two_models_of_one_long_text_are_paired_by_bytes(model, build_model, tokenizer, stories):
    """The tokenizers differ; the estimate is the difference, and the interval narrower than the two."""
    text = HeldOutText("one", texts=[" ".join(stories)])
    fine = learn(["x"], vocab_size=262)
    one = perplexity.measure(model, tokenizer, text)
    other = perplexity.measure(build_model(2), fine, text)
    assert one.blocks.bytes == other.blocks.bytes
    assert sum(one.blocks.bytes) == len(text.texts[0].encode())
    found = perplexity.difference(one, other, text, seed=0)
    bits = [perplexity.summarize(each, text, seed=0).bits_per_byte.estimate for each in (one, other)]
    assert found.estimate == pytest.approx(bits[0] - bits[1], rel=1e-6)
    blocks = replace(one.blocks, nats=[1.01 * nats for nats in one.blocks.nats])
    close = replace(one, blocks=blocks)
    paired = perplexity.difference(close, one, text, seed=0)
    low, high = perplexity.summarize(one, text, seed=0).bits_per_byte.interval
    assert paired.estimate == pytest.approx(0.01 * bits[0])
    assert 0 < paired.high - paired.low < (high - low) / 10


def test_tiles_by_hand():
    """Bytes 0 to 6 in tiles of 2: a token over two tiles is shared; one without bytes goes to the last."""
    nats, sizes = np.array([3.0, 4.0, 1.0, 2.0]), np.array([3.0, 1.0, 0.0, 2.0])
    edges = np.array([0.0, 2.0, 4.0, 6.0])
    assert block_bootstrap._spread(nats, np.cumsum(sizes), edges).tolist() == [2.0, 6.0, 2.0]
    empty = block_bootstrap._spread(
        np.array([1.0, 4.0]), np.array([0.0, 6.0]), edges
    )  # a document without bytes
    assert empty == pytest.approx([5 / 3] * 3)
    laid = block_bootstrap.tiles(nats, sizes, np.ones(4), window=8)
    assert laid.tile_bytes == 1 and sum(laid.nats) == pytest.approx(10) and sum(laid.tokens) == 4
