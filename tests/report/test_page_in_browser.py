"""The page in a browser: axe-core finds no fault, nothing is off the screen of a phone, text can be read.

It needs Chromium or Chrome, and axe-core where CONTRIBUTING.md installs it.
"""

from __future__ import annotations

import pytest

from tests.report.conftest import OLD_RUNS
from tests.report.test_run_names import STAGES
from toolkit.report.page import write_report
from tools.check_page import VIEWS, View, axe_core, browser, faults, screenshot

AXE = axe_core()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser() is None, reason="neither Chromium nor Chrome is installed"),
]
needs_axe = pytest.mark.skipif(AXE is None, reason="axe-core is not installed (CONTRIBUTING.md)")
PHONE = View(390, is_dark=False)


@pytest.fixture(scope="module", params=["en", "ja"])
def page(request, tmp_path_factory) -> str:
    output = tmp_path_factory.mktemp("page") / "report.html"
    write_report([OLD_RUNS / stage for stage in STAGES], output, language=request.param)
    return output.read_text(encoding="utf-8")


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_nothing_is_off_the_screen_or_too_small_and_axe_finds_no_fault(page, view):
    assert faults(page, view, axe=AXE) == []


def test_a_wide_part_and_small_text_are_found(page):
    wide = page.replace("</header>", '<p style="width:600px">wide</p></header>', 1)
    assert any("wide</p>" in fault for fault in faults(wide, PHONE))
    small = page.replace("figure svg {", "figure svg { max-width: 150px;")
    assert any("px: " in fault for fault in faults(small, PHONE))


@needs_axe
def test_low_contrast_is_found(page):
    pale = page.replace("--muted: #566472", "--muted: #b0b8c0")
    assert any(fault.startswith("color-contrast") for fault in faults(pale, PHONE, axe=AXE))


def test_a_picture_is_written(page, tmp_path):
    screenshot(page, PHONE, tmp_path / "page.png", height=300)
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
