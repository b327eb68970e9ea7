"""What recipes/hh reads of real data, as docs/DATA.md shows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from toolkit.config import loader
from toolkit.data.chat import sources
from toolkit.data.chat.pairs import held_out_pairs, training_pairs
from toolkit.data.chat.report import ReadingReport
from toolkit.data.text.documents import Stream, whole_words
from toolkit.stages import sft
from toolkit.stages.tokenizer import learn

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("TOOLKIT_TEST_DATA", ROOT.parent / "shared" / "data"))
HH = "hh-rlhf-harmless-test.jsonl.gz"


def recipe(stage):
    return loader.load(ROOT / f"recipes/hh/{stage}.yaml", [f"data.name={HH}"]).recipe


@pytest.fixture(scope="module")
def tokenizer():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REAL)
        settings = recipe("tokenizer")
        pieces = whole_words(Stream(settings.data, part="train", seed=settings.seed))
        return learn((piece.text for piece in pieces), vocab_size=settings.vocab_size)


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / HH).exists(), reason=f"no real data at {REAL}: set TOOLKIT_TEST_DATA")
def test_hh_says_what_it_uses_cuts_and_leaves_out(tokenizer, monkeypatch):
    monkeypatch.chdir(REAL)
    settings, report = recipe("reward"), ReadingReport()
    length = settings.trainer["max_length"]
    train = sources.preferences(settings.data, part="train", seed=settings.seed, report=report)
    table, report.lengths = training_pairs(train, tokenizer, max_length=length, joined=True)
    held_out = sources.measured_while_training(
        sources.preferences, settings.data, seed=settings.seed, tokenizer=tokenizer, report=report
    )
    found = held_out_pairs(held_out, tokenizer, max_length=length)
    report.held_out_lengths = found.lengths
    shown = "".join(f"    {line}\n" for line in str(report).splitlines())
    assert shown in (ROOT / "docs/DATA.md").read_text(encoding="utf-8")
    assert (report.kept, len(table), len(found.pairs)) == (2045, 2045 - 253, 231 - 34)
    for file in ("README.md", "recipes/hh/evaluate.yaml"):
        assert f"from {report.kept:,} pairs" in (ROOT / file).read_text(encoding="utf-8")

    settings, report = recipe("sft"), ReadingReport()
    assert len(sft.conversation_rows(settings, tokenizer, length, report=report)) == report.kept == 2049
    assert (report.lengths.cut, report.lengths.shortened) == (49, 469)
