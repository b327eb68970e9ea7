"""Answers made together and one by one are those of the model to the prompt."""

from __future__ import annotations

import threading

import pytest
import torch

from tests.architectures import build_architecture
from toolkit.inference.opening import open_model
from toolkit.playground import answers_ahead
from toolkit.playground.answers_ahead import Producer
from toolkit.playground.contest import AHEAD, MAX_AHEAD, BlindContest, ContestSettings
from toolkit.playground.library import Library, entries_of

PROMPTS = [[{"role": "user", "content": text}] for text in ("Hi", "Hello, you there", "Why?")]


@pytest.fixture(scope="module")
def opened(tiny_tokenizer, tmp_path_factory):
    """Open a model whose answers depend on the prompt."""
    folder = tmp_path_factory.mktemp("llama")
    build_architecture("llama", tiny_tokenizer).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return open_model(str(folder))


def greedy(opened, prompt, limit):
    """Return the most probable answer as transformers generates it."""
    ids = torch.tensor([opened.chat_ids(prompt)])
    pad = opened.tokenizer.pad_token_id
    options = {"do_sample": False, "max_new_tokens": limit, "pad_token_id": pad, "suppress_tokens": [pad]}
    made = opened.model.generate(ids, **options)
    return opened.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)


def test_both_ways_give_the_answer_of_the_model(opened):
    settings = ContestSettings(("m",), max_new_tokens=6, temperature=0.0)
    asked = [
        answers_ahead._Asked(answers_ahead._Draft(number, prompt, ("m", "m")), 0, "contest")
        for number, prompt in enumerate(PROMPTS)
    ]
    expected = [greedy(opened, prompt, 6) for prompt in PROMPTS]
    together = answers_ahead._batch(opened, asked, settings, 0)
    single = [answers_ahead._single(opened, one, settings, 0, threading.Event()) for one in asked]
    assert [found.text for found in together] == [found.text for found in single] == expected
    assert len(set(expected)) > 1


def test_an_answer_takes_half_of_the_context_at_most(opened):
    settings = ContestSettings(("m",), max_new_tokens=4000)
    assert answers_ahead._limit(opened, settings) == opened.context_length // 2
    ids = answers_ahead._prompt_ids(opened, [{"role": "user", "content": "word " * 500}], 32)
    assert len(ids) <= opened.context_length - 32


def test_as_many_pairs_are_made_ahead_as_people_vote_and_no_more(model_folder):
    library = Library(entries_of([str(model_folder)], model_folder))
    settings = ContestSettings((str(model_folder),), max_new_tokens=4, temperature=2.0)
    contest = BlindContest(settings)
    producer = Producer(contest, library, lambda: PROMPTS)
    producer.wake()
    producer._thread.join(60)
    assert contest.wanted() == 0 and len(contest._open) == AHEAD
    for number in range(30):
        contest.next(f"voter {number}")
    producer.wake()
    producer._thread.join(60)
    assert contest.wanted() == 0 and len([pair for pair in contest._open if not pair.given]) == MAX_AHEAD
    library.close()
