"""`toolkit explain`: the answers of the interface in one file, which a browser shows without a server."""

from __future__ import annotations

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.playground.conftest import faults
from toolkit.base.errors import ToolkitError
from toolkit.cli.main import main
from toolkit.playground.bundle import bundled
from toolkit.playground.explain import Recorder, key
from toolkit.playground.library import Library, entries_of

TEXT = "a fox & <b>é</b>"


@pytest.fixture(scope="module")
def output(model_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("explain") / "missing" / "page.html"
    assert main(["explain", str(model_folder), "--text", TEXT, "--output", str(path)]) == 0
    return path


def test_modules_become_one_script_with_their_own_names():
    contents = {
        "/js/a.js": 'import { twice as double, ONE } from "./b/c.js";\nexport const SUM = double(ONE);\n',
        "/js/b/c.js": 'import { get } from "../api.js";\n'
        "export function twice(x) { return 2 * x; }\nexport const ONE = 1;\n",
        "/js/recorded.js": "export async function get() {}\n",
        "/js/api.js": "export async function get() { return fetch(0); }\n",
    }
    script = bundled(contents, "/js/a.js")
    assert 'const { twice: double, ONE } = modules["/js/b/c.js"];' in script
    assert script.index('modules["/js/recorded.js"] = { get };') < script.index("function twice")
    assert "fetch" not in script and "import" not in script and "export" not in script


@pytest.mark.parametrize("source", ["import x from './b.js';\n", "export default 1;\n", "export { x };\n"])
def test_another_form_of_import_is_refused(source):
    with pytest.raises(ValueError, match="/js/a.js: (import|export)"):
        bundled({"/js/a.js": source}, "/js/a.js")


def test_a_recorded_answer_is_that_of_the_server(server, model_folder):
    body = {"model": str(model_folder), "text": TEXT, "chat": False, "appended": [], "at": 3}
    recorder = Recorder(Library(entries_of([str(model_folder)], server.folder)))
    assert recorder.ask("/api/next", body) == server.post("/api/next", body)
    assert recorder.answers.keys() == {key("/api/next", body)}
    with pytest.raises(ToolkitError, match="no language model"):
        recorder.ask("/api/next", {**body, "model": "x"})


def test_the_page_holds_every_position_and_head_and_may_load_nothing(output, model_folder):
    page = output.read_text(encoding="utf-8")
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    answers = json.loads(embedded[1])["answers"]
    asked = [json.loads(name) for name in answers]
    length = len(answers[key("/api/next", {"model": str(model_folder), "text": TEXT, "chat": False,
                                           "appended": [], "at": None})]["tokens"])  # fmt: skip
    assert {question[-1] for question in asked if question[0] == "/api/next"} == {None, *range(1, length + 1)}
    heads = [tuple(question[4:]) for question in asked if question[0] == "/api/attention/head"]
    assert sorted(heads) == sorted(
        (first, layer, head) for first in (False, True) for layer in (0, 1) for head in (0, 1)
    )
    assert "default-src 'none'" in page and "<b>" not in embedded[1]
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_reward_models_alone_are_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2ForSequenceClassification"]}')
    assert main(["explain", str(tmp_path), "--output", str(tmp_path / "page.html")]) == 2
    assert "no MODEL is a language model" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 360])
def test_a_browser_shows_the_page_without_a_server(page, axe, output, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(output.as_uri())
    page.wait_for_selector("section#attention .card")
    assert page.locator(".problem").count() == 0
    assert page.locator("section#next .bars li").count() >= 10
    page.locator("section#next .strip button").nth(2).click()  # another position: also recorded
    page.wait_for_timeout(200)
    assert page.locator(".problem").count() == 0
    page.get_by_role("button", name="日本語").click()
    page.wait_for_selector("html[lang=ja]")
    page.wait_for_selector("section#attention .card")
    assert faults(page, axe) == []


def test_answers_are_recorded_inside_an_event_loop(model_folder, tmp_path):
    async def recorded():
        recorder = Recorder(Library(entries_of([str(model_folder)], tmp_path)))
        return recorder.ask("/api/next", {"model": str(model_folder), "text": TEXT})

    with ThreadPoolExecutor(1) as thread:  # browser tests leave a running loop in this one
        assert thread.submit(asyncio.run, recorded()).result()["tokens"]


def test_a_page_that_cannot_be_written_is_told_before_a_model_is_loaded(model_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    output = str(tmp_path / "file" / "page.html")
    assert main(["explain", str(model_folder), "--output", output]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path / "file") in said and "recording" not in said
