"""The Chat room in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest
import torch

from tests.playground.conftest import Server, faults, serving
from tests.playground.test_load import Slowly, eventually
from toolkit.inference import sampling
from toolkit.inference.opening import open_model

pytestmark = pytest.mark.slow
EVIL = "<img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def two(model_folder, tmp_path_factory) -> Iterator[Server]:
    """Serve two models; the name of the second is HTML."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copytree(model_folder, "one")
        shutil.copytree(model_folder, EVIL)
        with serving(["one", EVIL], folder) as running:
            yield running


@pytest.fixture
def chat(page, two):
    page.goto(f"{two.url}/#/chat?models=one&max=12")
    page.wait_for_selector(".composer")
    return page


def ask(page, text: str, *, ended: bool = True) -> None:
    page.fill(".composer textarea", text)
    page.keyboard.press("Enter")
    if ended:
        rest(page)


def rest(page) -> None:
    """Wait until no answer is made."""
    page.wait_for_selector(".answer[aria-busy=false]")
    page.wait_for_selector(".answer[aria-busy=true]", state="detached")


def said(page) -> list[str]:
    return page.locator(".said").all_text_contents()


@pytest.fixture(scope="module")
def tokenizer(model_folder):
    return open_model(str(model_folder)).tokenizer


def spelling(monkeypatch, tokenizer, text: str) -> None:
    """Let the model answer with a text, a byte each token."""
    spelled = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(spelled) == len(text.encode())

    def steps(model, prompt, **settings):
        row = torch.zeros(261)
        yield from (sampling.Step(token, False, row) for token in spelled)

    monkeypatch.setattr(sampling, "steps", steps)


def test_an_answer_is_shown_with_its_end_and_outlives_a_reload(chat):
    ask(chat, "the fox?")
    first = said(chat)
    assert len(first) == 1 and first[0]
    foot = chat.locator(".foot").inner_text()
    assert "12 tokens" in foot and "cut off" in foot
    chat.reload()
    chat.wait_for_selector(".said")
    assert said(chat) == first and chat.locator(".asked").inner_text() == "the fox?"
    chat.goto(chat.url.replace("#/chat", "#/next"))
    chat.wait_for_selector(".room-next")
    chat.go_back()
    chat.wait_for_selector(".said")
    assert said(chat) == first


def test_stop_ends_the_model_and_keeps_what_was_said(chat, monkeypatch):
    slowly = Slowly()
    monkeypatch.setattr(sampling, "steps", slowly)
    chat.goto(chat.url.replace("max=12", "max=50"))
    chat.reload()
    chat.wait_for_selector(".composer")
    ask(chat, "tell", ended=False)
    eventually(lambda: len(slowly.made) > 3)
    assert not chat.get_by_role("button", name="Send").is_visible()
    chat.get_by_role("button", name="Stop").click()
    chat.wait_for_selector(".answer[aria-busy=false]")
    count = len(slowly.made)
    chat.wait_for_timeout(600)
    assert len(slowly.made) <= count + 2
    assert "stopped" in chat.locator(".foot").inner_text() and said(chat)[0]
    slowly.hurry.set()
    ask(chat, "and now?")  # a conversation goes on after it was stopped
    assert len(said(chat)) == 2


def test_leaving_the_room_stops_the_model(chat, monkeypatch):
    slowly = Slowly()
    monkeypatch.setattr(sampling, "steps", slowly)
    ask(chat, "tell", ended=False)
    eventually(lambda: len(slowly.made) > 1)
    chat.get_by_role("link", name="Runs").click()
    chat.wait_for_selector(".room-runs")
    count = len(slowly.made)
    chat.wait_for_timeout(600)
    assert len(slowly.made) <= count + 2


def test_the_tokens_are_shown_as_they_are(chat):
    ask(chat, "hi <|user|>")
    text = said(chat)[0]
    chat.get_by_label("Show the tokens").check()
    boxes = chat.locator(".token").all_text_contents()
    special = chat.locator(".token.special").all_text_contents()
    assert special[:2] == ["<|user|>", "<|assistant|>"]
    assert "".join(boxes).startswith("<|user|>hi·<·|user|><|assistant|>")
    assert chat.locator(".token:not(.given)").count() == 12
    assert "tokens=1" in chat.url
    chat.get_by_label("Show the tokens").uncheck()
    assert said(chat) == [text]


def test_another_answer_edit_take_back_and_clear(chat):
    ask(chat, "one")
    first = said(chat)
    chat.get_by_role("button", name="Another answer").click()
    chat.wait_for_selector(".answer[aria-busy=false]")
    assert len(said(chat)) == 1 and said(chat) != first
    ask(chat, "two")
    chat.get_by_role("button", name="Edit").click()
    assert chat.locator(".composer textarea").input_value() == "two" and len(said(chat)) == 1
    chat.keyboard.press("Enter")
    chat.wait_for_selector(".turn:nth-child(2) .answer[aria-busy=false]")
    chat.get_by_role("button", name="Take back").click()
    assert chat.locator(".asked").all_text_contents() == ["one"]
    chat.get_by_role("button", name="Clear").click()
    assert chat.locator(".turn").count() == 0
    ask(chat, "one")
    assert said(chat) == first  # a new conversation begins with the same chance


def test_models_answer_side_by_side_and_settings_are_in_the_address(chat, axe):
    chat.get_by_label(EVIL).check()
    ask(chat, "the fox?")
    assert chat.locator(".answer h2").all_text_contents() == ["one", EVIL]
    assert said(chat)[0] == said(chat)[1]  # two copies of one model
    chat.get_by_text("Settings").click()
    chat.locator("#chat-temperature").fill("0")
    assert "temperature=0" in chat.url
    chat.get_by_role("button", name="Another answer").click()
    rest(chat)
    greedy = said(chat)
    chat.get_by_role("button", name="Another answer").click()
    rest(chat)
    assert said(chat) == greedy
    assert faults(chat, axe) == []
    chat.set_viewport_size({"width": 360, "height": 700})
    assert faults(chat, axe) == []


def test_what_a_model_or_a_person_writes_is_text(chat, monkeypatch, tokenizer):
    spelling(monkeypatch, tokenizer, EVIL)
    chat.get_by_label(EVIL).check()
    ask(chat, EVIL)
    assert said(chat) == [EVIL, EVIL] and chat.locator(".asked").inner_text() == EVIL
    chat.get_by_label("Show the tokens").check()
    chat.get_by_text("Settings").click()
    assert chat.locator("main img").count() == 0
    assert chat.evaluate("window.hacked") is None


def test_japanese_and_emoji_are_whole(chat, monkeypatch, tokenizer):
    text = "きつねは🦊と👨‍👩‍👧、そして橋。"
    spelling(monkeypatch, tokenizer, text)
    seen = chat.evaluate_handle("""() => {
      const seen = [], said = document.getElementsByClassName("said");
      new MutationObserver(() => { for (const one of said) seen.push(one.textContent); })
        .observe(document.body, { childList: true, subtree: true });
      return seen;
    }""")
    ask(chat, "x")
    assert said(chat) == [text]
    assert all(text.startswith(part) for part in seen.json_value())


def test_an_error_is_shown_and_the_conversation_goes_on(chat):
    ask(chat, "a long message " * 10)
    problem = chat.locator(".answer .problem").inner_text()
    assert "too long" in problem and "fewer words" in problem
    ask(chat, "ok")
    assert len(said(chat)) == 2 and re.search(r"\w", said(chat)[1])


def test_a_prompt_in_the_address_is_ready_to_send(page, two):
    page.goto(f"{two.url}/#/chat?models=one&prompt=Tell+me&max=5")
    page.wait_for_selector(".composer")
    assert page.locator(".composer textarea").input_value() == "Tell me"
    assert page.locator(".turn").count() == 0
    page.get_by_role("button", name="Send").click()
    page.wait_for_selector(".answer[aria-busy=false]")
    assert "prompt=" not in page.url
