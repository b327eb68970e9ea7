"""The Attention room in a browser."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import parse_qs, quote

import pytest

from tests.playground.conftest import serving
from tests.playground.test_attention import keep_steps

pytestmark = pytest.mark.slow
AXE = os.environ.get("AXE_CORE")
TEXT = "a fox, a fox, <b>a</b>"
SENSES = "word=bank&a=a+red+bank|the+red+bank&b=my+red+bank|one+red+bank"
VIEWS = ("look", "lens", "senses", "growth")


@pytest.fixture(scope="module")
def server(model_folder, tmp_path_factory):
    folder = keep_steps(model_folder, tmp_path_factory.mktemp("runs") / "kept")
    with serving([str(folder), str(model_folder)], tmp_path_factory.mktemp("server")) as running:
        yield running


def visit(page, server, query=""):
    page.goto(f"{server.url}/#/attention?text={quote(TEXT)}&{query}")
    page.wait_for_load_state("networkidle")


def params(page):
    return {name: values[0] for name, values in parse_qs(page.url.partition("?")[2]).items()}


def test_a_chosen_head_and_token_are_in_the_address_and_come_back(page, server):
    visit(page, server)
    page.locator(".att-cell").nth(3).click()
    page.get_by_role("heading", name="Layer 2, head 2").wait_for()
    page.locator(".att-token").nth(5).click()
    page.get_by_role("heading", name="“x” looks at").wait_for()
    assert (params(page)["head"], params(page)["at"]) == ("2.2", "5")
    page.reload()
    page.get_by_role("heading", name="“x” looks at").wait_for()
    assert page.locator(".att-cell[aria-pressed=true]").get_attribute("title") == "Layer 2, head 2"


def test_a_row_of_the_table_adds_up_to_100_percent(page, server):
    visit(page, server)
    page.get_by_text("Table of the numbers").click()
    rows = page.locator(".att-token").count()
    cells = page.locator("details[open] tbody tr").nth(rows - 1).locator("td").all_inner_texts()
    assert cells[0] == "0.0%"  # without the first position
    assert sum(float(cell.rstrip("%")) for cell in cells) == pytest.approx(100, abs=0.05 * rows)
    page.get_by_label("Show the first position").check()
    page.locator("details[open]").wait_for(state="detached")  # drawn again
    page.get_by_text("Table of the numbers").click()
    cells = page.locator("details[open] tbody tr").nth(rows - 1).locator("td").all_inner_texts()
    assert float(cells[0].rstrip("%")) > 0
    assert params(page)["first"] == "1"


def test_the_arrow_keys_move_among_heads_and_tokens(page, server):
    visit(page, server)
    page.locator(".att-cell").nth(0).click()
    page.get_by_role("heading", name="Layer 1, head 1").wait_for()
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    page.get_by_role("heading", name="Layer 2, head 2").wait_for()
    token = page.locator(".att-token")
    token.nth(4).focus()
    page.keyboard.press("ArrowRight")
    assert token.nth(5).evaluate("element => element === document.activeElement")
    assert token.nth(5).get_attribute("aria-pressed") == "true"
    assert page.locator(".att-token[tabindex='0']").count() == 1


def test_text_of_a_person_is_never_markup(page, server):
    for view in ("look", "lens", "growth"):
        visit(page, server, f"view={view}")
        assert page.locator("#main b").count() == 0


def test_the_lens_shows_a_row_for_each_layer_with_the_model_on_top(page, server):
    visit(page, server, "view=lens")
    table = page.locator(".att-lens")
    assert table.locator("tbody th").all_inner_texts() == ["Layer 2", "Layer 1", "Embeddings"]
    answer = server.post("/api/attention/lens", {"model": models(server)[0], "text": TEXT})
    top = table.locator("tbody tr").first.locator("td").last.inner_text()
    assert top == answer["rows"][-1][-1]["text"].replace(" ", "·").replace("\n", "↵")
    table.locator("thead button").nth(3).click()
    page.get_by_role("heading", name="After “f”").wait_for()


def models(server):
    return [model["id"] for model in server.get("/api/models")["models"]]


def test_a_word_is_chosen_by_a_click_and_compared(page, server):
    page.goto(f"{server.url}/#/attention?view=senses&{SENSES}")
    page.get_by_role("heading", name="Does the model tell the meanings apart?").wait_for()
    page.locator(".chip", has_text="red").click()
    page.get_by_text("“red”").first.wait_for()
    assert params(page)["word"] == "red"
    page.get_by_label("Second meaning (B), one sentence a line").fill("my red bank")
    page.get_by_text("at least two sentences").wait_for()


def test_a_sentence_without_the_word_is_named(chromium, server):
    with chromium.new_context(locale="en-US") as context:
        page = context.new_page()
        page.goto(f"{server.url}/#/attention?view=senses&{SENSES}&word=my")
        page.locator(".problem").wait_for()
        assert (
            "sense 1, sentence 1: there is no 'my' in 'a red bank'" in page.locator(".problem").inner_text()
        )


def test_the_slider_goes_through_the_kept_steps(page, server):
    from playwright.sync_api import expect  # where playwright is missing, these tests are skipped

    visit(page, server, "view=growth")
    page.get_by_text("Surprise of the text: bits per token").first.wait_for()
    assert page.locator(".slider output").inner_text() == "20 (1,280 tokens read)"
    last, looks = page.locator(".bars").first.inner_text(), page.locator(".att-detail .bars").inner_text()
    page.locator(".slider input").press("Home")
    page.wait_for_load_state("networkidle")
    assert page.locator(".slider output").inner_text() == "0 (0 tokens read)"
    assert page.locator(".bars").first.inner_text() != last
    expect(page.locator(".att-detail .bars")).not_to_have_text(looks, use_inner_text=True)
    assert params(page)["step"] == "0"
    assert page.locator(".att-quads circle").count() >= 2 * 3  # two charts of three steps
    page.reload()
    page.get_by_text("0 (0 tokens read)").wait_for()


def test_another_model_shows_the_kept_steps_of_one_that_has_some(page, server):
    kept, other = models(server)
    visit(page, server, f"view=growth&model={quote(other)}")
    page.get_by_text(f"{other} has kept no weights of its own; shown is {kept}.").wait_for()


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_off_the_screen_of_a_phone_and_axe_finds_no_fault(page, server, view, language):
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto(server.url)
    page.evaluate(f"localStorage.setItem('playground.language', '\"{language}\"')")
    for theme in ("light", "dark"):
        page.evaluate(f"localStorage.setItem('playground.theme', '\"{theme}\"')")
        visit(page, server, f"view={view}&{SENSES}")
        page.reload()
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        if AXE:
            page.evaluate(Path(AXE).read_text(encoding="utf-8"))
            found = page.evaluate("axe.run().then(result => result.violations)")
            assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []


def test_a_long_text_survives_a_reload_and_says_that_it_is_cut(page, server):
    visit(page, server)
    page.get_by_role("textbox", name="Text").fill("many words " * 200)
    page.get_by_text("the first 64 are shown").wait_for()
    assert "text" not in params(page)
    page.reload()
    page.get_by_text("the first 64 are shown").wait_for()
    assert page.get_by_role("textbox", name="Text").input_value() == "many words " * 200


def test_the_theme_changes_the_colour_of_the_pictures(page, server):
    visit(page, server)
    pixel = (
        "document.querySelector('.att-matrix canvas').getContext('2d').getImageData(1, 2, 1, 1).data.join()"
    )
    before = page.evaluate(pixel)
    page.get_by_label("Light or dark").click()
    assert page.evaluate(pixel) != before
