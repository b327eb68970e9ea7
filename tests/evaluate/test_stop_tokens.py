"""Models whose answers end with any of several tokens, in everything that samples from an opened model."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.config.schema import PreferencesRecipe
from toolkit.evaluate import best_of, win_rate
from toolkit.evaluate.best_of import BestOf
from toolkit.evaluate.win_rate import Contest
from toolkit.inference import generation, next_token, sampling
from toolkit.inference.generation import GenerationSettings
from toolkit.inference.logprobs import answer_logprobs
from toolkit.inference.opening import open_model
from toolkit.models.loading import save_model
from toolkit.preferences import answering

PROMPTS = [[{"role": "user", "content": f"Tell me a story about {number} foxes."}] for number in range(12)]


@pytest.fixture(scope="module")
def opened(build_model, tokenizer, tmp_path_factory):
    """A model that ends with any token whose id is a multiple of 9."""
    model = build_model(1, scale=1.5)
    model.generation_config.eos_token_id = list(range(0, len(tokenizer), 9))
    folder = tmp_path_factory.mktemp("ends") / "model"
    save_model(model, tokenizer, folder)
    return open_model(str(folder))


def is_end(token):
    return token % 9 == 0


def test_every_command_stops_at_every_end(opened):
    ids = opened.prompt_ids("Tell me a story.", chat=True)
    settings = GenerationSettings(max_new_tokens=60, temperature=1.0)
    answers, _ = generation.generate_answers(opened, ids, settings=settings, count=20)
    assert all(answer.ended and not any(map(is_end, answer.ids)) for answer in answers)
    streamed = list(sampling.stream(opened.model, ids, seed=3, **settings.for_model(opened)))
    assert len(streamed) < 60 and not any(map(is_end, streamed))
    for seed in range(5):
        steps = next_token.follow(opened, ids, top=3, steps=60, temperature=1.0, seed=seed)
        chosen = [step.chosen for step in steps]
        assert is_end(chosen[-1]) and not any(map(is_end, chosen[:-1]))


def test_answers_of_a_win_rate_know_their_end_and_kl_uses_it(opened, build_model, tokenizer):
    loaded, other = (opened.model, opened.tokenizer), (build_model(2, scale=1.5), tokenizer)
    contest = Contest(PROMPTS, seed=5, max_new_tokens=60)
    answers = win_rate.answer(loaded, contest)
    assert all(answers.ended) and all(map(is_end, answers.stops)) and set(answers.stops) != {0}
    nats = win_rate.kl_to_baseline(loaded, other, answers, contest)
    whole = [[*ids, stop] for ids, stop in zip(answers.ids, answers.stops, strict=True)]
    own, others = (answer_logprobs(each[0], answers.prompt_ids, whole) for each in (loaded, other))
    wanted = [float((a - b).sum()) for a, b in zip(own, others, strict=True)]
    np.testing.assert_allclose(nats, wanted, atol=1e-3)
    chosen = best_of.answer(
        loaded,
        contest,
        BestOf((1, 2), "longest", lambda prompts, texts, ended: [len(text) for text in texts]),
    )
    for each in chosen.values():
        assert all(each.ended) and len(each.stops) == len(PROMPTS) and all(map(is_end, each.stops))


def test_answers_that_are_compared_as_preferences_end(opened):
    recipe = PreferencesRecipe(
        stage="preferences", models=["model"], data={"name": "prompts.jsonl"}, annotator={"judge": "gold"},
        answers_per_prompt=2, max_new_tokens=60, seed=1,
    )  # fmt: skip
    rows = answering.sample_batch(recipe, opened, PROMPTS, range(len(PROMPTS)), model=0)
    assert all(answer.ended for row in rows for answer in row)
