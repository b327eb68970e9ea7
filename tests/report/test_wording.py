"""English and Japanese: the same messages with the same fields, and every message that the code names."""

from __future__ import annotations

import ast
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


def keys_in(path: Path) -> set[str]:
    """Return the literal keys of messages in a module, `*` for a part that is computed."""
    keys = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = getattr(getattr(node, "func", None), "id", "")
        if isinstance(node, ast.Call) and name in ("message", "StageSentence"):
            for part in ast.walk(node.args[0]):
                if isinstance(part, ast.JoinedStr):
                    values = (
                        value.value if isinstance(value, ast.Constant) else "*" for value in part.values
                    )
                    keys.add("".join(values))
                elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                    keys.add(part.value)
    return {key for key in keys if re.fullmatch(r"\w+(\.[\w*]+)+", key)}


def constants_in(path: Path) -> set[str]:
    """Return the texts in a module."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_message_has_a_template_and_every_template_a_message():
    modules = [*(PACKAGE / "report").glob("*.py"), PACKAGE / "cli" / "summary_tables.py"]
    modules = [path for path in modules if path.stem not in ("english", "japanese")]
    modules.append(PACKAGE / "config" / "registry.py")
    template = (PACKAGE / "report" / "page.html.j2").read_text(encoding="utf-8")
    named = set().union(*map(keys_in, modules), re.findall(r'say\("([\w.]+)"[,)]', template))
    assert len(named) > 100
    assert [key for key in named if "*" not in key and key not in ENGLISH] == []
    used = named | set().union(*map(constants_in, modules)) | {"term.*", "term.*.definition", "term.*.forms"}
    used |= {"tone.*"}  # of the template
    patterns = [re.compile(re.escape(key).replace(r"\*", r"\w+")) for key in used if len(key) < 40]
    assert [key for key in ENGLISH if not any(pattern.fullmatch(key) for pattern in patterns)] == []


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
