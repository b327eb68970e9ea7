"""What a model wrote while it learned, on the page."""

from __future__ import annotations

from tests.report.conftest import edit
from toolkit.report.page import write_report


def test_the_page_shows_what_was_written_at_each_kept_step(seeds):
    run = seeds / "s1" / "pretrain"
    assert "wrote while it learned" not in write_report([run], seeds / "report.html").read_text()
    steps = [
        {"step": step, "tokens": 1024 * step, "samples": [{"prompt": "Once\n", "text": text, "seed": 1}]}
        for step, text in ((0, "q\x18<b>"), (10, "the the"), (500, "there was a fox."))
    ]
    edit(run, lambda numbers: numbers | {"kept_steps": steps})
    page = write_report([run], seeds / "report.html").read_text(encoding="utf-8")
    shown = [
        "What pretrain wrote while it learned",
        "before the training",
        "10,240 tokens",
        "512,000 tokens",
        "a fox.",
    ]
    places = [page.index(text) for text in shown]
    assert places == sorted(places)
    assert "q\ufffd&lt;b&gt;" in page and "\x18" not in page
