"""Sentences of the page follow from the numbers."""

from __future__ import annotations

import json

import pytest

from tests.report.conftest import edit
from toolkit.report.blocks import PageTable, Paragraph, TextList, unfolded
from toolkit.report.page import page_sections, read_runs


@pytest.fixture
def page(seeds):
    """Return a function that changes numbers of a run of s1 and returns the text of a page about it."""

    def text(run: str, numbers: dict, *others: str) -> str:
        edit(seeds / "s1" / run, lambda before: before | numbers)
        runs = [seeds / "s1" / name for name in (run, *others)]
        sections = page_sections(runs, *read_runs(runs))
        return "\n".join(line for section in sections for line in lines(section.blocks))

    return text


def lines(blocks):
    """Yield the texts of blocks; plots are not drawn."""
    for block in unfolded(blocks):
        if isinstance(block, Paragraph):
            yield block.text
        elif isinstance(block, TextList):
            yield from (text for _, text in block.items)
        elif isinstance(block, PageTable):
            yield from (cell.text for row in block.rows for cell in row.cells)


def score(before: float, after: float, reach: float) -> dict:
    return {
        "reference": {"score": before, "score_interval": [before - reach, before + reach], "length": 8.0},
        "score": after, "score_interval": [after - reach, after + reach], "length": 9.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("after", "reach", "sentence", "is_worse"),
    [
        (1.5, 0.25, "The score of the answers to training prompts rose from 0.5 to 1.5.", False),
        (-0.5, 0.25, "The score of the answers to training prompts fell from 0.5 to -0.5.", True),
        (0.75, 1.0, "did not change clearly: it was 0.5 before the training and is 0.75 after it.", False),
    ],
)
def test_a_score_rises_falls_or_does_not_change_clearly(page, after, reach, sentence, is_worse):
    text = page("ppo", score(0.5, after, reach))
    assert sentence in text
    assert ("That is worse than before the training." in text) == is_worse
    assert "moved towards" not in text


def test_a_number_without_interval_has_no_direction(page):
    text = page("ppo", score(0.5, 1.5, 0.25))
    assert "The mean length of the answers (tokens) was 8 before the training and is 9 after it." in text


def test_a_model_that_memorized_its_text_is_reported(page):
    numbers = {"bits_per_byte": 5.52, "bits_per_byte_interval": [5.4, 5.6], "untrained_bits_per_byte": 4.59}
    text = page("pretrain", numbers)
    assert "Bits per byte of held-out text rose from 4.59 to 5.52. That is worse" in text
    assert "the model has memorized its training text" in text
    assert "4.590 \N{RIGHTWARDS ARROW} 5.520 bits per byte of unseen text. That is no better" in text
    text = page("pretrain", {"bits_per_byte": 2.0, "bits_per_byte_interval": [1.9, 2.1]})
    assert "fell from 4.59 to 2." in text and "memorized" not in text and "no better" not in text


def test_the_number_of_held_out_examples_of_curves_is_said_where_it_is_smaller(page):
    said = "The curves of held-out data are measured on the first 100 of 500 held-out examples"
    assert said in page("reward", {"n": 500})
    assert "The curves of held-out data" not in page("reward", {"n": 100})


def test_what_the_annotator_is_is_said_only_where_it_is_known(page):
    assert "The annotator is a program" in page("reward", {"bayes_accuracy": 0.9})
    text = page("reward", {"bayes_accuracy": None})
    assert "The annotator is a program" not in text and "what people prefer" not in text


@pytest.mark.parametrize(
    ("judge", "sentence"),
    [
        ({"name": "gold"}, "The gold judge, which knows the true utility"),
        ({"name": "votes.jsonl", "votes": 1234, "voters": 3}, "People chose the better one (1,234 votes)."),
        ({"name": "runs/reward", "accuracy": 0.75, "accuracy_interval": [0.7, 0.8], "n": 500},
         "The judge (runs/reward) chose the better one. It agrees with 75.0% [70.0, 80.0] of 500 held-out"),
        ({"name": "llm", "doubt": "its accuracy is not known"}, "Its verdicts do not count: its accuracy is"),
    ],
)  # fmt: skip
def test_who_judged_is_said(page, judge, sentence):
    text = page("evaluate", {"judge": judge}, "sft", "dpo")
    assert sentence in text and "answered the same 8 held-out prompts" in text


@pytest.mark.parametrize(
    ("low", "high", "verdict", "sentence"),
    [
        (0.6, 0.9, "better", "on 75% [60, 90] of the prompts: clearly better."),
        (0.45, 0.9, "no verdict", "[45, 90] of the prompts: no verdict, because the interval contains 50%."),
        (0.1, 0.3, "worse", "clearly worse."),
    ],
)  # fmt: skip
def test_a_win_rate_has_a_verdict_or_none(page, seeds, low, high, verdict, sentence):
    models = json.loads((seeds / "s1" / "evaluate" / "evaluation.json").read_text())["models"]
    models["dpo"]["win_rate"] |= {"estimate": 0.75, "low": low, "high": high, "verdict": verdict}
    text = page("evaluate", {"models": models, "judge": {"name": "gold"}}, "sft", "dpo")
    assert sentence in text
    assert text.count("(no verdict)") == (4 if verdict == "no verdict" else 2)  # pretrain has none either way
