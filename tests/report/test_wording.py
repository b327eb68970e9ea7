"""English and Japanese: the same messages with the same fields, and every message that the code names."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

import toolkit.report
from toolkit.config.registry import STAGES
from toolkit.report import glossary
from toolkit.report.english import ENGLISH
from toolkit.report.japanese import JAPANESE, JAPANESE_STAGES
from toolkit.report.wording import LANGUAGES, message, of_registry, say

PACKAGE = Path(toolkit.report.__file__).parents[1]


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def registry_texts() -> list[str]:
    """Return the texts of stages that a page shows."""
    texts: list[str] = []
    for stage in STAGES.values():
        texts += [stage.title, stage.description, stage.row_title]
        texts += [text for change in stage.changes for text in (change.label, change.if_worse)]
        texts += [note.text for note in stage.notes]
        texts += [text for curve in stage.curves for text in (curve.title, *curve.levels.values())]
        texts += [column.heading for column in stage.row]
        texts += [text for card in stage.cards for text in (card.label, card.limit_label)]
    return [text for text in dict.fromkeys(texts) if text]


def test_both_languages_have_the_same_messages_with_the_same_fields():
    assert JAPANESE.keys() == ENGLISH.keys()
    assert [key for key in ENGLISH if fields(ENGLISH[key]) != fields(JAPANESE[key])] == []


def test_the_texts_of_the_stages_are_translated():
    texts = registry_texts()
    assert [*JAPANESE_STAGES] == [text for text in JAPANESE_STAGES if text in texts]
    assert [text for text in texts if text not in JAPANESE_STAGES] == []
    assert [text for text in texts if fields(text) != fields(JAPANESE_STAGES[text])] == []


def test_no_japanese_text_is_english():
    same = [key for key in ENGLISH if ENGLISH[key] == JAPANESE[key]]
    assert [key for key in same if re.search("[a-z]{2}", re.sub("{.*?}", "", ENGLISH[key]))] == []
    assert [text for text, translated in JAPANESE_STAGES.items() if translated.isascii()] == []


def test_every_message_that_the_code_names_exists():
    sources = [*(PACKAGE / "report").glob("*.py"), *(PACKAGE / "report").glob("*.j2")]
    sources += [*(PACKAGE / "cli").glob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    named = set(re.findall(r'(?:message|say)\(\s*"([a-z]\w*(?:\.\w+)*)"', text))
    assert len(named) > 60
    assert named - ENGLISH.keys() == set()


def test_terms_have_a_definition_and_a_form_that_the_page_uses():
    for wording in LANGUAGES.values():
        texts = [text for key, text in wording.items() if not key.startswith("term.")]
        texts += registry_texts() if wording is ENGLISH else []
        page = " ".join(texts).lower()
        for term in glossary.TERMS:
            assert wording[f"term.{term}.definition"]
            assert any(form.lower() in page for form in glossary.forms(term, wording)), term


def test_a_text_without_translation_is_english():
    japanese = LANGUAGES["ja"]
    assert say(of_registry("untrained"), japanese) == "学習前"
    assert say(of_registry("grips {n:.1f} times", n=3), japanese) == "grips 3.0 times"
    with pytest.raises(KeyError):
        say(message("no.such.key"), japanese)
