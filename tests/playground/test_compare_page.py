"""The Compare room in a real browser: votes by key and click, undo, reload, statistics, accessibility."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.playground.conftest import serving
from toolkit.data import vote_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def room(model_folder, tmp_path_factory):
    """Serve the room with prompts of a file."""
    folder = tmp_path_factory.mktemp("compare")
    lines = [json.dumps({"prompt": f"Prompt {number} <b>bold</b>"}) for number in range(60)]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    with serving([str(model_folder)], folder, prompts=str(folder / "prompts.jsonl")) as running:
        yield running


def start(page, room, voter):
    page.goto(f"{room.url}/#/compare?length=20&checks=0&repeats=0")
    page.fill("#voter", voter)
    page.click("button[type=submit]")
    page.wait_for_selector(".pair")


def votes(room, voter):
    path = room.folder / "feedback.sqlite"
    return [row["vote"] for _, row in vote_file.read_rows(path) if row["voter"] == voter]


def press(page, key):
    """Press a key and wait for the next pair."""
    before = page.inner_text(".status")
    page.keyboard.press(key)
    page.wait_for_function("before => document.querySelector('.status')?.innerText !== before", arg=before)


def test_votes_by_key_and_by_click_and_an_undo(page, room):
    start(page, room, "kim")
    assert "<b>bold</b>" in page.inner_text(".prompt") and page.locator(".prompt b").count() == 0
    for key in "1234":
        press(page, key)
    assert "kim: 4 votes" in page.inner_text(".status")
    page.click(".vote-tie")
    page.wait_for_selector("text=kim: 5 votes")
    press(page, "u")
    assert "kim: 4 votes" in page.inner_text(".status")
    given = votes(room, "kim")
    assert set(given[:2]) <= {"a", "b"} and given[2:] == ["tie", "bad"]


def test_a_skip_records_nothing_and_shows_another_pair(page, room):
    start(page, room, "lee")
    before = page.inner_text(".prompt")
    page.keyboard.press("s")
    page.wait_for_selector("text=Skipped.")
    assert page.inner_text(".prompt") != before and votes(room, "lee") == []


def test_a_reload_goes_on_with_the_same_pair(page, room):
    start(page, room, "ann")
    press(page, "1")
    before = page.inner_text(".pair")
    page.reload()
    page.wait_for_selector(".pair")
    assert page.inner_text(".pair") == before and "ann: 1 vote" in page.inner_text(".status")


def test_keys_that_are_typed_into_a_field_are_no_votes(page, room):
    start(page, room, "joe")
    page.click("text=Change the comparison")
    page.fill("#voter", "")
    page.type("#voter", "joe1234")
    page.click("button[type=submit]")
    page.wait_for_selector("text=joe1234: 0 votes")
    assert votes(room, "joe") == [] == votes(room, "joe1234")


def test_statistics_are_folded_and_training_is_a_command(page, room):
    start(page, room, "sue")
    press(page, "3")
    assert not page.is_visible("dl.facts")
    page.click("text=What the votes say")
    page.wait_for_selector("dl.facts")
    page.click("text=Train on these votes")
    assert "toolkit feedback export" in page.inner_text(".folds")


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_width_scrolls_and_axe_finds_nothing(chromium, room, width, theme):
    size = {"width": width, "height": 800}
    context = chromium.new_context(viewport=size, color_scheme=theme, locale="ja-JP")
    page = context.new_page()
    start(page, room, f"{theme}{width}")
    press(page, "2")
    for summary in page.locator(".fold > summary").all():
        summary.click()
    page.wait_for_selector("dl.facts")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if axe := os.environ.get("AXE_CORE"):
        page.evaluate(Path(axe).read_text(encoding="utf-8"))
        found = page.evaluate("axe.run().then(result => result.violations)")
        assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    context.close()
