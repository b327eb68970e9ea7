"""The reward model room in a browser."""

from __future__ import annotations

import pytest

from tests.playground.conftest import faults, serving
from tests.playground.test_reward import other_folder, reward_folder  # noqa: F401 (fixtures)
from tests.playground.test_runs_page import expect

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(reward_folder, other_folder, model_folder, tmp_path_factory):  # noqa: F811
    with serving(
        [str(reward_folder), str(other_folder), str(model_folder)], tmp_path_factory.mktemp("s")
    ) as running:
        yield running


@pytest.fixture
def reward(reward_folder) -> str:  # noqa: F811
    """Return the id of the first reward model."""
    return str(reward_folder)


def open_room(page, served, query=""):
    page.goto(f"{served.url}/#/reward{query}")
    page.wait_for_selector(".reward-heat .word")


def test_typing_changes_the_score_and_the_address(page, served, reward):
    open_room(page, served, "?prompt=Say it&answer=one two")
    expect(page.locator(".reward-heat .word")).to_have_count(2)
    page.get_by_label("Answer", exact=True).fill("one two <b>three</b>")
    expect(page.locator(".reward-heat .word")).to_have_count(3)
    expected = served.post(
        "/api/reward/score",
        {"model": reward, "prompt": "Say it", "answer": "one two <b>three</b>"},
    )
    expect(page.locator(".reward-score")).to_have_text(f"{expected['score']:.2f}")
    assert "<b>three</b>" in page.inner_text(".reward-heat")
    assert page.locator(".reward-heat b").count() == 0
    page.reload()
    expect(page.locator(".reward-heat .word")).to_have_count(3)


@pytest.mark.parametrize(
    ("change", "expected"),
    [("delete it", "one two"), ("swap with the next", "one two \U0001f98a"), ("replace it", "one cat two")],
    ids=["delete", "swap", "replace"],
)
def test_a_word_is_chosen_and_its_change_is_made_as_the_server_scores_it(
    page, served, reward, change, expected
):
    given = {"model": reward, "prompt": "Say it", "answer": expected}
    score = f"{served.post('/api/reward/score', given)['score']:.2f}"
    open_room(page, served, "?prompt=Say it&answer=one \U0001f98a two&word=cat")
    page.get_by_text(change, exact=True).locator("..").locator("input").check(force=True)
    page.locator(".reward-heat .word").nth(1).click()
    expect(page.locator(".reward-detail p")).to_contain_text(f"the score is {score} ")
    page.get_by_text("Make this change").click()
    expect(page.locator(".reward-score")).to_have_text(score)
    assert page.get_by_label("Answer", exact=True).input_value() == expected


def test_answers_are_sampled_and_two_favourites_are_shown(page, served):
    open_room(page, served, "?prompt=Say it&answer=one&n=8")
    page.get_by_text("Sample answers").click()
    page.wait_for_selector(".reward-findings")
    assert page.locator(".reward-favourite").count() in (1, 2)
    assert page.locator(".room-reward .point").count() == 10
    page.locator(".reward-judge select").select_option("logprob")
    expect(page.locator(".reward-findings")).to_contain_text("log-probability")
    assert "judge=logprob" in page.url
    page.reload()
    page.wait_for_selector(".reward-findings")
    page.locator(".point").first.dispatch_event("click")
    page.wait_for_selector(".reward-favourite.picked")


def test_an_answer_that_is_too_long_says_so(chromium, served):
    page = chromium.new_page(locale="en-US")  # the fixture refuses the browser's line about the status 400
    open_room(page, served, "?prompt=Say it&answer=one")
    page.get_by_label("Answer", exact=True).fill("a " * 201)
    expect(page.locator(".problem")).to_contain_text("the answer has 201 words")
    page.get_by_label("Answer", exact=True).fill("b")
    expect(page.locator(".reward-heat .word")).to_have_count(1)
    page.close()


def test_without_a_reward_model_the_room_says_how_to_train_one(page, model_folder, tmp_path):
    with serving([str(model_folder)], tmp_path) as server:
        page.goto(f"{server.url}/#/reward")
        page.wait_for_selector("text=toolkit run recipes/tiny/reward.yaml")
        page.goto("about:blank")


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_accessible_and_fits(page, axe, served, width, theme):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=theme)
    open_room(page, served, "?prompt=Say it&answer=one two three four five&n=8&sampled=1")
    page.wait_for_selector(".reward-findings")
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    page.locator(".reward-heat .word").first.click()
    assert faults(page, axe) == []


@pytest.mark.parametrize("room", ["next", "surprise", "attention", "compare"])
def test_a_room_says_that_there_is_no_language_model(page, other_folder, tmp_path, room):  # noqa: F811
    with serving([str(other_folder)], tmp_path) as running:
        page.goto(f"{running.url}/#/{room}")
        expect(page.locator("main .problem")).to_contain_text("There is no language model")
        page.goto("about:blank")  # it asks for nothing after the server has gone
