"""Every room in the browser: accessible, nothing off the screen, in both languages and themes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.playground.conftest import faults, serving

STATIC = Path(__file__).parents[2] / "toolkit" / "playground" / "static"
ROOMS = ("chat", "next", "surprise", "attention", "compare", "runs", "reward", "tour")
VIEWS = [(1280, "light", "en"), (1280, "dark", "ja"), (360, "dark", "en"), (360, "light", "ja")]


def strings(language: str) -> dict[str, str]:
    return json.loads((STATIC / "i18n" / f"{language}.json").read_text(encoding="utf-8"))


def script(path: Path) -> str:
    """Return a file; a script without its comments."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".js":
        text = re.sub(r"/\*.*?\*/", "", re.sub(r"(?m)^\s*//.*$", "", text), flags=re.DOTALL)
    return text


def test_both_languages_have_the_same_strings_with_the_same_fields():
    english, japanese = strings("en"), strings("ja")
    assert english.keys() == japanese.keys()
    for key, text in english.items():
        fields = set(re.findall(r"\{(\w+)\}", text))
        assert fields == set(re.findall(r"\{(\w+)\}", japanese[key])), key


def test_scripts_use_strings_that_exist_and_every_string_is_used():
    source = "\n".join(script(path) for path in sorted((STATIC / "js").rglob("*.js")))
    used = set(re.findall(r'\bt\(\s*"([\w.]+)"', source))
    assert used - strings("en").keys() == set()
    named = {key for key in strings("en") if f'"{key}"' in source}
    prefixes = tuple(re.findall(r"\bt\(\s*`([\w.]+)\$\{", source))  # such as t(`room.${name}`)
    assert {key for key in strings("en") if key not in named and not key.startswith(prefixes)} == set()


def test_the_page_names_no_other_server_and_has_no_inline_script():
    for path in STATIC.rglob("*"):
        if path.suffix in (".html", ".css", ".js"):
            text = script(path).replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://|//[a-z0-9.-]+\.[a-z]{2,}/", text), path
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]* src=)|\son\w+=|\sstyle=", page)


@pytest.mark.slow
@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize(("width", "theme", "language"), VIEWS)
def test_a_room_is_accessible_and_fits_the_screen(chromium, server, axe, room, width, theme, language):
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=theme,
                                   locale={"en": "en-US", "ja": "ja-JP"}[language])  # fmt: skip
    page = context.new_page()
    page.goto(f"{server.url}/#/{room}")
    page.wait_for_load_state("networkidle")
    assert page.locator("h1:visible").count() == 1
    assert page.evaluate("document.documentElement.lang") == language
    assert faults(page, axe) == []
    context.close()


@pytest.mark.slow
def test_a_link_with_the_token_opens_from_a_page_of_another_site(page, model_folder, tmp_path):
    with serving([str(model_folder)], tmp_path, token="secret") as running:
        for address in (f"{running.url}/?token=secret#/runs", f"{running.url}/#/runs"):  # later without it
            page.goto(f"data:text/html,<a href='{address.replace('#', '%23')}'>lesson</a>")
            page.get_by_role("link").click()
            page.wait_for_selector(".room-runs h1")
            assert page.url == f"{running.url}/#/runs"
