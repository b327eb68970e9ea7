"""The page: language, glossary, plots and tables that fit a phone."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import pytest

from tests.report.conftest import OLD_RUNS, edit
from tests.report.test_run_names import STAGES
from toolkit.cli import main
from toolkit.report import glossary
from toolkit.report.english import ENGLISH
from toolkit.report.page import write_report

VOID = {"meta", "br", "link", "img"}


class Elements(HTMLParser):
    """Collects the elements of a page with their attributes, and checks that they are properly nested."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()


RUNS = [OLD_RUNS / stage for stage in STAGES]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """The English page of all runs."""
    return write_report(RUNS, tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


def test_ids_are_unique_and_buttons_have_their_definition(page):
    elements = Elements(page).found
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["popovertarget"] for tag, attributes in elements if tag == "button"}
    assert len(targets) >= 7 and targets <= set(ids)
    assert {f"define-{term}" for term in glossary.TERMS} <= set(ids)


def test_the_page_needs_nothing_else(page):
    assert not re.search(r"<script|<link|src=|@import|url\((?!#)|https?://(?!www\.w3\.org)", page)


def test_every_plot_has_a_text_and_colours_of_the_theme(page):
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) > 10
    for plot in plots:
        label = re.search(r'aria-label="([^"]+)"', plot)
        assert label and "{" not in label[1]
        assert "width=" not in plot[: plot.index(">")]  # it takes the width of its place
        assert not re.findall(r"(?<!, )#(?!000000|ffffff)[0-9a-f]{6}", plot)


def test_cells_of_tables_have_their_heading_for_a_narrow_screen(page):
    elements = Elements(page).found
    cells = [attributes for tag, attributes in elements if tag == "td"]
    assert len(cells) > 30 and all(cell["data-heading"] for cell in cells)


def test_a_term_is_marked_once_and_not_in_headings_or_what_models_wrote():
    page = "<h2>win rate</h2><blockquote>KL</blockquote><p>The win rate, a Win rate; skill, KL.</p>"
    marked = glossary.mark(page, ENGLISH)
    assert marked.count("<button") == 2
    assert '>win rate</button>, a Win rate; skill, <button type="button" class="term"' in marked
    assert marked.startswith("<h2>win rate</h2><blockquote>KL</blockquote>")
    assert html.escape(ENGLISH["term.kl.definition"]) in marked


def test_a_japanese_page(page, tmp_path):
    arguments = [*map(str, RUNS), "--language", "ja", "--output", str(tmp_path / "ja.html")]
    assert main.main(["report", *arguments]) == 0
    text = (tmp_path / "ja.html").read_text(encoding="utf-8")
    assert text.count('<html lang="ja">') == 1 and page.count('<html lang="en">') == 1
    for words in (
        "予測を学ぶ",
        "どのモデルの回答が優れているか",
        "10の用語",
        "次に試すこと",
        "ゴールド判定者",
    ):
        assert words in text
    written = r'<(pre|code|blockquote|style)\b.*?</\1>|<p class="prompt">.*?</p>'
    shown = re.sub(rf"{written}|<[^>]*>", " ", text, flags=re.DOTALL)
    shown = re.sub("judge unfit: .*? baseline&#39;s", "", shown)  # a reason in evaluation.json is English
    assert re.findall(r".{20}\b(?:the|of|and|is)\b", shown) == []


def test_an_unknown_language_is_an_error(capsys):
    assert main.main(["report", str(RUNS[0]), "--language", "fr"]) == 2
    assert "'fr'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("language", "words"), [("en", ("rows read", "left out")), ("ja", ("読んだ行", "除いた行"))]
)
def test_rows_of_the_training_data_are_shown(seeds, tmp_path, language, words):
    sources = [
        {
            "name": "pairs.jsonl", "read": 2312, "used": 2049, "other_part": 254,
            "left_out": {"an answer is empty": {"rows": 9, "first": "pairs.jsonl:31"}},
        }
    ]  # fmt: skip
    sources.append({"name": "few.jsonl", "read": 9, "used": 7, "not_mixed": 2, "left_out": {}})
    for source in sources:
        source["share"] = source["used"] / 2056
    test = {"name": "test.jsonl", "read": 31, "used": 31, "other_part": 5555, "left_out": {}}
    lengths = {"limit": 321, "rows": 654, "shortened": 0, "cut": 87, "left_out": 0}
    counts = {"sources": sources, "held_out": [test], "lengths": lengths}
    edit(seeds / "s1" / "dpo", lambda numbers: numbers | {"data": counts})
    output = tmp_path / "report.html"
    text = write_report([seeds / "s1" / "dpo"], output, language=language).read_text(encoding="utf-8")
    table = text[text.index("pairs.jsonl") - 2000 : text.index("pairs.jsonl:31") + 400]
    assert all(word in table for word in words)
    assert [count in table for count in ("2,312", "2,049", "254", ">9<")] == [True] * 4
    assert "an answer is empty" in table and "99.7%" in table and ">-<" in table
    assert "5,555" not in table, "the training part of held-out rows is not held out"
    assert all(count in table for count in ("321", "654", "87"))


def test_rows_of_stages_without_a_section_are_shown(seeds, tmp_path):
    sources = [{"name": "texts.jsonl", "read": 7654, "used": 7653, "left_out": {}}]
    edit(seeds / "s1" / "corpus", lambda numbers: numbers | {"data": {"sources": sources}})
    runs = [seeds / "s1" / name for name in ("corpus", "pretrain")]
    text = write_report(runs, tmp_path / "report.html").read_text(encoding="utf-8")
    section = text[text.index("What was read") :]
    assert section.index("Rows of the data of corpus") < section.index("texts.jsonl") < section.index("7,654")
