"""One walk through the page in a real browser; the other browser tests are slow (`test_*_page.py`)."""

from __future__ import annotations

import json

import pytest

from tests.playground.conftest import faults, serving
from toolkit.data import vote_file


@pytest.fixture(scope="module")
def playground(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("walk")
    lines = [json.dumps({"prompt": f"Prompt {number}"}) for number in range(60)]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    with serving([str(model_folder)], folder, prompts=str(folder / "prompts.jsonl")) as running:
        running.post("/api/models/open", {"model": str(model_folder)})
        yield running


def press(page, key: str) -> None:
    """Press a key of the room Compare and wait for the next pair."""
    before = page.inner_text(".status")
    page.keyboard.press(key)
    page.locator(".status").filter(has_not_text=before).wait_for()


def test_a_person_asks_moves_the_temperature_chooses_a_word_votes_and_undoes(page, playground):
    page.goto(f"{playground.url}/#/chat?max=6")
    page.fill(".composer textarea", "the fox?")
    page.keyboard.press("Enter")
    page.locator(".answer[aria-busy=false] .said").wait_for()
    assert page.inner_text(".answer .said")

    page.goto(f"{playground.url}/#/next?text=a%20fox")
    page.locator(".predictions li button").first.wait_for()
    chances = page.locator(".predictions .value").all_inner_texts()
    page.focus("#next-temperature")
    page.keyboard.press("End")
    page.locator(".predictions .value").first.filter(has_not_text=chances[0]).wait_for()
    tokens = page.locator(".strip button").count()
    page.locator(".predictions li button").first.click()
    page.locator(".strip button").nth(tokens).wait_for()
    assert "tokens=" in page.url and "temperature=" in page.url

    page.goto(f"{playground.url}/#/compare?length=6&checks=0&repeats=0")
    page.fill("#voter", "kim")
    page.click("button[type=submit]")
    page.locator(".pair").wait_for()
    for key in ("1", "3", "u"):
        press(page, key)
    rows = [row for _, row in vote_file.read_rows(playground.folder / "feedback.sqlite")]
    assert len(rows) == 1 and rows[0]["vote"] in "ab" and rows[0]["voter"] == "kim"


@pytest.mark.parametrize("room", ["chat", "next", "compare"])
def test_a_room_fits_a_phone(page, playground, room):
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto(f"{playground.url}/#/{room}")
    page.locator("h1").wait_for()
    page.wait_for_load_state("networkidle")
    assert faults(page) == []
