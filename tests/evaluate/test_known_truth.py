"""A model that is given the truth's probabilities scores exactly the entropy floor."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from toolkit.evaluate import perplexity
from toolkit.evaluate.perplexity import HeldOutText
from toolkit.stages.tokenizer import learn
from toolkit.storyworld import SMALL
from toolkit.storyworld.small.stories import next_token_truth

DOCUMENTS = list(SMALL.rows("stories", 3, "held_out", 12))


class TruthConfig(GPT2Config):
    model_type = "truth"


class TruthModel(GPT2LMHeadModel):
    """Returns log-probabilities of the storyworld as logits, after each prefix of a document."""

    def known(self, tokenizer, texts, floor=1e-30):
        truth = next_token_truth(tokenizer)
        self.logits_of = {}
        for text in texts:
            ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
            logits = torch.full((len(ids) + 1, self.config.vocab_size), math.log(floor))
            for position, known in enumerate(truth(text)):
                for token, probability in known.probabilities.items():
                    logits[position, token] = math.log(max(probability, floor))
            self.logits_of[ids] = logits
        return self

    def forward(self, input_ids, use_cache=False):
        logits = torch.zeros((*input_ids.shape, self.config.vocab_size))
        for row, sequence in enumerate(input_ids.tolist()):
            for ids, known in self.logits_of.items():
                if tuple(sequence[1 : 1 + len(ids)]) == ids:
                    logits[row, : len(known)] = known
        return SimpleNamespace(logits=logits)


@pytest.fixture(scope="module")
def tokenizer():
    return learn((row["text"] + " " for row in SMALL.rows("stories", 0, "train", 300)), vocab_size=700)


def test_the_truth_scores_the_entropy_floor(tokenizer):
    config = TruthConfig(vocab_size=len(tokenizer), n_layer=1, n_head=1, n_embd=4, n_positions=256)
    texts = [row["text"] for row in DOCUMENTS]
    model = TruthModel(config).known(tokenizer, texts)
    floor = -sum(row["logprob"] for row in DOCUMENTS) / math.log(2) / sum(len(t.encode()) for t in texts)
    scores = perplexity.measure(model, tokenizer, HeldOutText("truth", texts=texts, floor=floor))
    for nats, row in zip(scores.nats, DOCUMENTS, strict=True):
        assert nats == pytest.approx(-row["logprob"], rel=1e-5)
    summary = perplexity.summarize(scores, HeldOutText("truth", texts=texts, floor=floor), seed=0)
    assert summary.bits_per_byte.estimate == pytest.approx(floor, rel=1e-5)
    # One position that the truth does not give its probability moves the number away from the floor.
    model.logits_of[next(iter(model.logits_of))][0] = 0.0
    worse = perplexity.measure(model, tokenizer, HeldOutText("truth", texts=texts, floor=floor))
    assert sum(worse.nats) > sum(scores.nats) + 1.0
