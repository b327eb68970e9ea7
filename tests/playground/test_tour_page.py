"""The tour and the frame of the page in a browser: state in the address, focus, languages."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.slow


def bars(page) -> None:
    page.wait_for_selector(".bars li")


def test_each_step_opens_its_room_and_shows_one_heading(page, server):
    page.goto(f"{server.url}/#/tour")
    for number in range(1, 9):
        page.wait_for_selector(f'.dots a[aria-current="step"][href="#/tour?number={number}"]')
        page.wait_for_selector(".tour-room > *")
        assert page.locator("h1:visible").count() == 1
        if number < 8:
            page.locator("a.button.primary").click()
    assert "reward" in page.locator(".tour-room .problem").inner_text()  # there is no reward model here


def test_a_changed_step_survives_reload_language_and_the_back_button(page, server):
    page.goto(f"{server.url}/#/tour?number=3")
    bars(page)
    temperature = page.locator("#next-temperature")
    assert temperature.input_value() == "1.5"
    page.locator("#next-text").fill("my own text")
    temperature.fill("1")  # the room's usual value, which the address leaves out
    page.wait_for_url(lambda url: "my+own+text" in url and "temperature" not in url)

    opens = page.locator(".step a.button").last
    assert "my+own+text" in opens.get_attribute("href")

    def kept() -> bool:
        bars(page)
        return (page.locator("#next-text").input_value(), temperature.input_value()) == ("my own text", "1")

    page.reload()
    assert kept()
    page.get_by_role("button", name="日本語").click()
    page.wait_for_selector("html[lang=ja] .bars li")
    assert page.evaluate("document.activeElement.textContent") == "English"
    assert kept()
    page.locator("a.button.primary").click()
    page.wait_for_url("**/#/tour?number=4*")
    page.go_back()
    page.wait_for_url("**/#/tour?number=3*")
    page.wait_for_selector("#next-text")
    assert kept()
    opens.click()  # it opens the room with the same state
    page.wait_for_selector(".room-next")
    assert kept()


def test_another_room_begins_at_its_top_for_the_eye_and_the_keyboard(page, server):
    page.goto(f"{server.url}/#/attention")
    page.wait_for_selector(".att-matrix")
    page.evaluate("scrollTo(0, 200)")
    page.locator("nav a", has_text="Next word").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".room-next .bars li")
    assert page.evaluate("[scrollY, document.activeElement.id]") == [0, "main"]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.room-next') !== null")


def test_without_kept_weights_the_step_on_pretraining_shows_surprise(page, server):
    page.goto(f"{server.url}/#/tour?number=5")
    page.wait_for_selector(".room-surprise .heat")
    assert re.search("fnids", page.locator("#surprise-text").input_value())
    assert "typo" in page.locator(".try").inner_text()
