"""The rooms Next word and Surprise in a browser."""

from __future__ import annotations

import os
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from scipy import stats

from tests.playground.test_surprise import folders, stages  # noqa: F401  (fixtures)
from toolkit.inference import next_token
from toolkit.inference.opening import open_model
from toolkit.inference.restricted import REASONS, draw, restricted
from toolkit.playground.rooms import next_word

pytestmark = pytest.mark.slow
TEXT = "A story about a fox"
UNCHANGED = {"temperature": 1, "top_k": 0, "top_p": 1}
SECONDS = 20


@pytest.fixture(scope="module")
def opened(model_folder):
    return open_model(str(model_folder))


@pytest.fixture
def go(server, page):
    """Return a function that opens a room and waits for its content."""

    def open_room(room: str, wait: str, **params: object):
        query = "&".join(f"{name}={quote(str(value))}" for name, value in params.items())
        page.goto(f"{server.url}/#/{room}?{query}")
        page.wait_for_selector(wait)
        return page

    return open_room


def until(page, expression: str, value: object) -> None:
    """Wait until an expression has a value. The policy of the page forbids `page.wait_for_function`."""
    end = time.monotonic() + SECONDS
    while (found := page.evaluate(expression)) != (
        pytest.approx(value, abs=1e-9) if isinstance(value, float) else value
    ):
        assert time.monotonic() < end, found
        page.wait_for_timeout(20)


def rows(page) -> list[dict[str, str]]:
    return page.eval_on_selector_all(".predictions li", "items => items.map(item => ({...item.dataset}))")


def move(page, name: str, value: float) -> None:
    page.eval_on_selector(
        f"#next-{name}",
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }",
        value,
    )


@pytest.mark.parametrize("whole", [True, False], ids=["in_the_page", "on_the_server"])
def test_the_bars_follow_the_sliders_exactly(go, opened, monkeypatch, whole):
    if not whole:
        monkeypatch.setattr(next_word, "WHOLE_VOCABULARY", 10)
    page = go("next", ".predictions li", text=TEXT)
    logprobs = np.log(next_token.distribution(opened, opened.text_ids(TEXT)))
    allowed, asked = next_token.allowed(opened), []
    page.on("request", lambda request: asked.append(request.url) if "/api/next" in request.url else None)
    for temperature, top_k, top_p in [(1, 0, 1), (0.5, 10, 1), (0.5, 10, 0.6), (2, 0, 0.05), (0, 0, 1)]:
        move(page, "temperature", temperature)
        move(page, "top-k", top_k)
        move(page, "top-p", top_p)
        expected = restricted(logprobs, allowed=allowed, temperature=temperature, top_k=top_k, top_p=top_p)
        kept = int((expected.probabilities > 0).sum())
        until(page, "+document.querySelector('[data-entropy]').dataset.entropy", expected.entropy_bits)
        assert page.get_attribute("[data-kept]", "data-kept") == str(kept)
        for row in rows(page):
            token = int(row["id"])
            assert float(row["p"]) == pytest.approx(expected.probabilities[token], abs=1e-12)
            assert float(row["softened"]) == pytest.approx(expected.softened[token], abs=1e-12)
            assert row["removed"] == REASONS[expected.removed[token]]
    assert bool(asked) != whole


def test_tokens_are_drawn_chosen_undone_and_survive_a_reload(go, opened, server):
    page = go("next", ".predictions li", text=TEXT, seed=5)
    ids = opened.text_ids(TEXT)
    probabilities = restricted(
        np.log(next_token.distribution(opened, ids)), allowed=next_token.allowed(opened), **UNCHANGED
    ).probabilities
    uniform = server.post("/api/next", {"model": opened.model.name_or_path, "text": TEXT, "seed": 5})[
        "uniform"
    ]
    drawn = draw(probabilities, order=np.argsort(-probabilities, kind="stable"), uniform=uniform)
    page.click("text=Draw by chance")
    page.wait_for_selector(".line .pointer")
    page.wait_for_selector(".history tbody tr")
    assert f"tokens={drawn.token}" in page.url
    page.click(".predictions li button >> nth=2")
    page.wait_for_selector(".history tbody tr >> nth=1")
    page.reload()
    page.wait_for_selector(".history tbody tr >> nth=1")
    assert page.locator(".strip .token.new").count() == 2
    assert "by you" in page.inner_text(".history")
    page.click("text=Undo")
    page.wait_for_selector(".history tbody tr >> nth=1", state="detached")
    assert f"tokens={drawn.token}" in page.url


def test_a_token_of_the_text_shows_what_was_expected_in_its_place(go, opened):
    page = go("next", ".predictions li", text=TEXT)
    page.focus('.strip [data-place="19"]') if page.locator(
        '.strip [data-place="19"][tabindex="0"]'
    ).count() else None
    page.click('.strip [data-place="5"]')
    page.wait_for_selector(".tag.actual")
    actual = opened.text_ids(TEXT)[5]
    logprobs = np.log(next_token.distribution(opened, opened.text_ids(TEXT)[:5]))
    expected = restricted(logprobs, allowed=next_token.allowed(opened), **UNCHANGED).probabilities[actual]
    (row,) = [row for row in rows(page) if int(row["id"]) == actual]
    assert float(row["p"]) == pytest.approx(expected, abs=1e-12)
    assert page.locator(".predictions li button").count() == 0
    until(page, "document.activeElement.dataset.place", "5")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('at=6')", True)
    page.click("text=Back to the end")
    page.wait_for_selector(".predictions li button")


def test_the_tree_shows_counts_and_a_test_of_them(go, server, model_folder):
    page = go("next", ".predictions li", text=TEXT, top_k=3, count=60, depth=2)
    page.click("button:has-text('Sample')")
    page.wait_for_selector("text='60 samples'")
    body = {"model": str(model_folder), "text": TEXT, "settings": {"top_k": 3}, "count": 60, "depth": 2}
    root = server.events("/api/next/tree", body)[-1]["root"]
    counts, shares = (np.array([child[key] for child in root["children"]]) for key in ("count", "p"))
    expected = stats.chisquare(counts, 60 * shares / shares.sum())
    first = page.locator(".fits li").first
    assert float(first.get_attribute("data-chi")) == pytest.approx(expected.statistic, rel=1e-5)
    assert float(first.get_attribute("data-p")) == pytest.approx(expected.pvalue, rel=1e-4)
    table = page.eval_on_selector_all(
        "details tbody tr", "rows => rows.map(row => [...row.children].map(cell => cell.textContent))"
    )
    assert [int(row[1]) for row in table if " / " not in row[0]] == counts.tolist()
    assert page.locator("svg.tree .branch").count() == len(table)


def test_what_a_person_wrote_stays_text(go):
    page = go("next", ".predictions li", text="<img src=x onerror=document.title='no'>")
    assert page.locator(".strip img").count() == 0
    page.goto(page.url.replace("/next", "/surprise"))
    page.wait_for_selector(".heatmap")
    assert page.locator(".heatmap img").count() == 0
    assert "no" not in page.title().split()


def test_surprise_by_stage(page, stages, folders):  # noqa: F811
    page.goto(f"{stages.url}/#/surprise?models={quote(','.join(folders[:3]))}&text={quote('The key.')}")
    page.wait_for_selector(".heatmap >> nth=2")
    answer = stages.events("/api/surprise", {"models": folders[:3], "text": "The key."})[-1]
    totals = page.eval_on_selector_all("td[data-bits]", "cells => cells.map(cell => +cell.dataset.bits)")
    assert totals == [row["total_bits"] for row in answer["models"]]
    shown = page.eval_on_selector_all(
        '.heatmap[data-row="1"] .heat', "items => items.map(item => +item.dataset.bits)"
    )
    assert shown == answer["models"][1]["bits"]
    page.focus('.heatmap[data-row="0"] .heat[tabindex="0"]')
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert (
        page.evaluate(
            "document.activeElement.closest('.heatmap').dataset.row + document.activeElement.dataset.i"
        )
        == "11"
    )
    assert page.inner_text(".detail .chosen") == "h"
    page.check("input[value=ratio]", force=True)
    change = answer["models"][0]["bits"][1] - answer["models"][1]["bits"][1]
    assert f"{change:.2f}" in page.get_attribute('.heatmap[data-row="1"] [data-i="1"]', "aria-label")
    less = page.eval_on_selector_all(
        '.heatmap[data-row="1"] .heat', "items => items.map(item => item.classList.contains('less'))"
    )
    ratios = np.subtract(answer["models"][0]["bits"], answer["models"][1]["bits"])
    assert less == (ratios > 0).tolist()
    page.check("input[value=previous]", force=True)
    until(page, "location.hash.includes('against=previous')", True)


@pytest.mark.parametrize("text", ["", "x" * 5000], ids=["empty", "too_long"])
def test_nothing_to_read_and_too_much_are_said(go, server, page, text):
    page.goto(f"{server.url}/#/surprise")
    page.wait_for_selector(".heatmap")
    page.fill("#surprise-text", text)
    page.wait_for_selector("text=at most 4096" if text else "text=Write a text")
    page.reload()
    page.wait_for_selector("text=at most 4096" if text else "text=Write a text")
    assert page.input_value("#surprise-text") == text


@pytest.mark.parametrize("language", ["en-US", "ja-JP"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_rooms_are_accessible_and_fit_a_phone(chromium, server, scheme, language):
    source = os.environ.get("AXE_CORE")
    context = chromium.new_context(
        viewport={"width": 360, "height": 740}, color_scheme=scheme, locale=language
    )
    opened = context.new_page()
    try:
        for room, wait in (("next", ".predictions li"), ("surprise", ".heatmap")):
            opened.goto(
                f"{server.url}/#/{room}?text={quote('A story about a fox who finds a key')}&top_k=4&top_p=0.5"
            )
            opened.wait_for_selector(wait)
            if room == "next":
                opened.click(".tree-controls + .row button")
                opened.wait_for_selector("svg.tree")
                opened.wait_for_selector(".card .busy", state="detached")
            assert opened.evaluate("document.documentElement.scrollWidth") <= 360
            if source:
                opened.evaluate(Path(source).read_text())
                found = opened.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa']})")
                assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
    finally:
        context.close()
