"""A trained model's number for a text is the same everywhere: training, `evaluate`, `next`, tasks."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.pretrain.conftest import corpus, write_part, write_recipe  # noqa: F401 (fixture)
from toolkit.cli import main
from toolkit.config import loader
from toolkit.data.text.shards import TokenShards
from toolkit.evaluate import perplexity, stage
from toolkit.inference import next_token
from toolkit.inference.logprobs import score_tokens
from toolkit.inference.opening import open_model
from toolkit.pretrain import stage as pretraining
from toolkit.runs.opening import open_run
from toolkit.runtime import devices

NUMBERS = ("bits_per_byte", "bits_per_byte_interval", "perplexity")
WORDS = (
    "interval_over", "window", "stride", "prefix", "end_scored", "packed", "dtype", "tokenizer_digest",
)  # fmt: skip


def sealed(path, folder, work):
    """Carry out a recipe and seal its run."""
    loaded = loader.load(path)
    with open_run(loaded, runs_dir=folder / "runs") as run:
        devices.configure(loaded.recipe)
        work(loaded.recipe, run)
        run.seal()
    return folder / "runs" / "t" / path.stem


@pytest.fixture(params=["documents", "long"])
def trained(request, tmp_path, corpus, tiny_tokenizer):  # noqa: F811
    """The sealed run of a training, and its held-out texts: 30 documents, or one of many windows."""
    texts, place = documents_of(corpus, tiny_tokenizer), corpus
    if request.param == "long":
        place, texts = tmp_path / "long", [" ".join(texts)]
        write_part(place / "train", tiny_tokenizer, ["the river sings to the moon. " * 40])
        write_part(place / "held_out", tiny_tokenizer, texts)
        tiny_tokenizer.save_pretrained(place / "tokenizer")
    run = sealed(write_recipe(tmp_path, place), tmp_path, pretraining.run)
    return run, texts, place


def documents_of(folder, tokenizer):
    shards = TokenShards.open(folder / "held_out")
    return [tokenizer.decode(shards.document(index)) for index in range(shards.documents)]


def test_training_evaluate_and_next_agree(trained, tmp_path, capsys):
    run, texts, place = trained
    in_training = json.loads((run / "evaluation.json").read_text())
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert main.main(["evaluate", str(run), "--data", str(path), "--json"]) == 0
    from_text = json.loads(capsys.readouterr().out)["models"]["first"]
    for key in NUMBERS:
        assert from_text[key] == pytest.approx(in_training[key], rel=1e-6), key
    assert {key: from_text[key] for key in WORDS} == {key: in_training[key] for key in WORDS}
    assert from_text["tokens"] == in_training["held_out_tokens"]
    # the corpus's own tokens, not the text
    (tmp_path / "corpus").mkdir()
    for part in ("held_out", "tokenizer"):
        (tmp_path / "corpus" / part).symlink_to(place / part)
    text = perplexity.from_corpus(tmp_path)
    opened = open_model(str(run))
    measured = perplexity.measure(opened.model, opened.tokenizer, text)
    assert perplexity.summarize(measured, text, seed=0).bits_per_byte.estimate == pytest.approx(
        in_training["bits_per_byte"], rel=1e-6
    )


def test_next_gives_each_token_what_the_scorer_gives_it(trained):
    run, texts, _ = trained
    opened = open_model(str(run))
    window = opened.context_length
    ids = opened.text_ids(texts[0])[:window]
    (scored,) = score_tokens(opened.model, [ids[1:]], prefix_id=ids[0], end_id=None, window=window)
    shown = [-math.log(next_token.distribution(opened, ids[:at])[ids[at]]) for at in range(1, len(ids))]
    np.testing.assert_allclose(shown, scored, rtol=1e-5)


def test_settings_of_the_recipe_reach_the_number(trained, tmp_path, capsys):
    run, texts, _ = trained
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts * 2))
    content = {
        "stage": "evaluate",
        "models": [str(run)],
        "precision": "bf16",
        "perplexity": {
            "data": {"name": str(path), "held_out": {"documents": 0.9}},
            "window": 16, "stride": 4, "prefix": "none", "score_end": False, "packed": True,
        },
    }  # fmt: skip
    recipe = tmp_path / "recipes" / "t" / "evaluate.yaml"
    recipe.write_text(json.dumps(content))
    row = json.loads((sealed(recipe, tmp_path, stage.run) / "evaluation.json").read_text())["models"]["first"]
    expected = {
        "window": 16, "stride": 4, "prefix": "none", "end_scored": False, "packed": True,
        "dtype": "bfloat16", "unscored_tokens": 1,
    }  # fmt: skip
    assert {key: row[key] for key in expected} == expected
