"""The runs room in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.playground.conftest import faults, serving
from tests.playground.test_runs import append, write_run
from toolkit.runs import layout

pytestmark = pytest.mark.slow
expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
expect.set_options(timeout=30_000)


def parent(name: str) -> dict[str, str]:
    return {"kind": "run", "path": f"../{name}", "digest": "0"}


def finish(run: Path, **numbers: object) -> None:
    (run / layout.EVALUATION).write_text(json.dumps(numbers))
    (run / layout.LOCK).write_text("{}")


def edit_setting(run: Path, old: str, new: str) -> None:
    path = run / layout.RESOLVED
    path.write_text(path.read_text().replace(old, new))


@pytest.fixture
def served(model_folder, tmp_path):
    """Serve a small family: two finished runs, one that trains, and one that is damaged."""
    finish(write_run(tmp_path / "t/corpus", stage="corpus"))
    finish(
        write_run(tmp_path / "t/sft", parents={"data": parent("corpus")}, steps=40),
        held_out_loss=0.5, held_out_loss_interval=[0.4, 0.6],
        samples=[{"prompt": "<b>Hi</b>", "answer": "<img src=x onerror=alert(1)>"}],
    )  # fmt: skip
    other = write_run(tmp_path / "t/sft2", parents={"model": parent("sft")}, steps=20)
    edit_setting(other, "seed: 0", "seed: 1")
    finish(other, held_out_loss=0.75)
    write_run(tmp_path / "t/live", parents={"model": parent("sft")}, steps=4)
    damaged = write_run(tmp_path / "t/damaged")
    (damaged / layout.MANIFEST).write_text("{")
    with serving([str(model_folder)], tmp_path) as running:
        yield running


def test_a_run_is_found_opened_and_left_by_its_lineage(page, served):
    page.goto(f"{served.url}/#/runs")
    page.wait_for_selector(".runs-list a")
    assert "t/damaged: manifest.json" in page.inner_text(".problem")
    page.click(".runs-list .name:text-is('sft')")
    page.wait_for_selector("svg.lineage")
    assert page.inner_text("h1") == "t/sft"
    assert page.locator("svg.lineage .node").count() == 4
    assert "[0.4, 0.6]" in page.inner_text("table:has-text('held_out_loss')")
    page.locator("svg.lineage a").filter(has_text="corpus").click()
    expect(page.locator("h1")).to_have_text("t/corpus")
    page.go_back()
    expect(page.locator("h1")).to_have_text("t/sft")


def test_what_a_model_wrote_is_text(page, served):
    page.goto(f"{served.url}/#/runs?run=t/sft")
    page.wait_for_selector(".runs-samples blockquote")
    assert page.inner_text(".runs-samples blockquote") == "<img src=x onerror=alert(1)>"
    assert page.locator("main img, main b").count() == 0


def test_curves_grow_while_a_run_trains_and_its_end_shows_the_numbers(page, served):
    run = served.folder / "t/live"
    page.goto(f"{served.url}/#/runs?run=t/live")
    page.wait_for_selector(".runs-progress")
    assert "Step 4 of 40" in page.inner_text(".runs-progress")
    page.locator(".runs-chart summary").first.click()
    append(run, 5, 6)
    expect(page.locator(".runs-progress")).to_contain_text("Step 6 of 40")
    expect(page.locator(".runs-chart").first.locator("tbody tr")).to_have_count(6)
    assert page.locator(".runs-chart details[open]").count() == 1
    finish(run, held_out_loss=0.125)
    expect(page.locator("main")).to_contain_text("0.125")
    assert page.locator(".runs-progress").count() == 0


def test_a_hidden_tab_and_a_finished_run_ask_for_nothing(page, served):
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/api/runs" in request.url else None)
    page.goto(f"{served.url}/#/runs?run=t/sft")
    page.wait_for_selector(".runs-chart")
    count = len(asked)
    page.wait_for_timeout(3500)
    assert len(asked) == count
    page.goto(f"{served.url}/#/runs?run=t/live")
    page.wait_for_selector(".runs-progress")
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    page.wait_for_timeout(2000)
    count = len(asked)
    page.wait_for_timeout(3500)
    assert len(asked) <= count
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(2500)
    assert len(asked) > count


def test_two_runs_side_by_side(page, served):
    page.goto(f"{served.url}/#/runs?run=t/sft")
    page.wait_for_selector(".runs-tools select")
    page.select_option(".runs-tools select", "t/sft2")
    page.wait_for_selector("tr.differs")
    assert page.locator("tr.differs th").all_inner_texts() == ["seed"]
    assert page.locator("tr.differs td").all_inner_texts() == ["0", "1"]
    page.locator(".runs-chart").first.locator("polyline").nth(1).wait_for(state="attached")
    assert page.locator(".runs-chart").first.locator("polyline").count() == 2
    assert "0.75" in page.inner_text("table:has-text('held_out_loss')")
    assert "with=t%2Fsft2" in page.url
    page.reload()
    page.wait_for_selector("tr.differs")


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_accessible_and_fits(page, axe, served, width, theme):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme)
    for address in ("#/runs", "#/runs?run=t/sft", "#/runs?run=t/live", "#/runs?run=t/sft&with=t/sft2"):
        page.goto(f"{served.url}/{address}")
        page.wait_for_selector(".runs-list a, .runs-chart")
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert faults(page, axe) == [], address


def test_every_run_is_reached_by_the_keyboard(page, served):
    page.goto(f"{served.url}/#/runs")
    page.wait_for_selector(".runs-list a")
    page.locator(".runs-list a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('t/')")
