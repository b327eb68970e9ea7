"""A training that memorizes its text says so, on stderr and in evaluation.json."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.pretrain.conftest import WORDS, write_part
from toolkit.pretrain import memorization
from toolkit.pretrain.memorization import Memorization

KEYS = {"lowest_bits_per_byte", "lowest_at_tokens", "train_loss", "held_out_loss"}


def rows(*bits: float, loss: float) -> list[dict]:
    """Return lines of metrics.jsonl: an evaluation each 100 tokens, and the loss of the last steps."""
    evaluations = [{"step": i, "tokens": 100 * i, "bits_per_byte": value} for i, value in enumerate(bits)]
    return [{"step": 0, "tokens": 0, "loss": 5.0}, {"step": 9, "tokens": 900, "loss": loss}, *evaluations]


@pytest.mark.parametrize(
    ("bits", "loss", "expected"),
    [
        ((4.6, 3.0, 2.2, 2.22), 2.0, None),  # within the tolerance
        ((4.6, 3.0, 2.2, 2.4), 2.0, Memorization(2.2, 200, 2.0, 3.0)),  # it rose
        ((4.6, 4.9, 6.0, 5.5), 2.0, Memorization(4.6, 0, 2.0, 3.0)),  # never better than untrained
        ((4.6, 3.0, 2.2, 2.2), 1.4, Memorization(2.2, 200, 1.4, 3.0)),  # it knows its text by heart
    ],
)
def test_signs_of_memorization(bits, loss, expected):
    assert memorization.find(rows(*bits, loss=loss), held_out_loss=3.0) == expected


def test_a_training_that_memorizes_its_text_warns(pretrain, tmp_path, tiny_tokenizer, corpus, capsys):
    generator = np.random.default_rng(1)
    write_part(tmp_path / "small" / "train", tiny_tokenizer, [" ".join(generator.choice(WORDS, 20))])
    held_out = [" ".join(generator.choice(WORDS, 8)) for _ in range(12)]
    write_part(tmp_path / "small" / "held_out", tiny_tokenizer, held_out)
    tiny_tokenizer.save_pretrained(tmp_path / "small" / "tokenizer")
    optimizer = {"name": "muon", "learning_rate": 0.05, "adam_learning_rate": 0.02}
    settings = {"train_tokens": 256 * 60, "optimizer": optimizer}
    run = pretrain("memorized", tokens=tmp_path / "small", **settings)
    numbers, err = json.loads((run / "evaluation.json").read_text()), capsys.readouterr().err
    assert numbers.keys() >= KEYS and numbers["train_loss"] < 0.5 * numbers["held_out_loss"]
    assert numbers["lowest_bits_per_byte"] < numbers["bits_per_byte"]
    assert "warning: the model memorized its training text" in err
    assert f"fix: use more text, or train_tokens={numbers['lowest_at_tokens']}\n" in err
    assert f"more than {memorization.MANY_EPOCHS} times learns hardly anything new" in err

    run = pretrain("learned", **settings)  # reads a larger corpus 2 times
    assert not KEYS & json.loads((run / "evaluation.json").read_text()).keys()
    assert "warning" not in capsys.readouterr().err
