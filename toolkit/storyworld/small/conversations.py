"""Answers of the small world, right ones and such with named flaws, and preferences between them.

A flaw changes what an answer means, never its grammar: it tells of another animal, invents what the story
does not say, helps to be unkind, or refuses what is harmless.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.storyworld.annotator import DEFAULT_TEMPERATURE, Biases, Preference, preference_probability
from toolkit.storyworld.grammar import generate_text, render
from toolkit.storyworld.rng import RandomStream
from toolkit.storyworld.small import meaning
from toolkit.storyworld.small.prompts import Task, make_prompt
from toolkit.storyworld.small.stories import LANGUAGE, story_given
from toolkit.storyworld.small.utility import utility
from toolkit.storyworld.world import Message

FLAWS = {
    "story": {
        "wrong_animal": "animal", "wrong_object": "object", "wrong_name": "hero", "wrong_place": "place",
        "wrong_plot": "plot", "wrong_ending": "ending", "wrong_length": "length",
    },
    "question": {"wrong_answer": "", "evaded": ""},
    "advice": {"refused": "", "wrong_act": ""},
    "unkind": {"complied": "", "curt": ""},
}  # fmt: skip
"""Kind of prompt -> flaw -> role that it changes, if it changes one."""
DEFAULT_FLAWED_SHARE = 0.5
DEFAULT_COMPLYING_SHARE = 0.7
"""Share of the unkind requests with which the conversations comply."""


@dataclass(frozen=True)
class StoryConversation:
    """A prompt, an answer, and the names of the answer's flaws."""

    prompt: Task
    answer: str
    flaws: tuple[str, ...]


def open_flaws(prompt: Task) -> list[str]:
    """Return the flaws that an answer to this prompt can have; a complied request is not one of them."""
    if prompt.kind == "story":
        return [flaw for flaw, role in FLAWS["story"].items() if role in prompt.asked]
    if prompt.kind == "question":
        return ["wrong_answer", "evaded"] if prompt.is_told else ["wrong_answer"]
    return list(FLAWS[prompt.kind])


def draw_flaws(stream: RandomStream, prompt: Task) -> tuple[str, ...]:
    """Draw the flaws of an answer: of a story, those of one that is told without regard to the request."""
    flaws = open_flaws(prompt)
    if prompt.kind != "story":
        return (stream.choose(flaws),)
    drawn: tuple[str, ...] = ()
    while not drawn:
        drawn = tuple(flaw for flaw in flaws if stream.uniform() >= 1 / len(_values(FLAWS["story"][flaw])))
    return drawn


def answer(stream: RandomStream, prompt: Task, flaws: tuple[str, ...] = ()) -> str:
    """Draw an answer to a prompt with exactly these flaws."""
    if prompt.kind == "story":
        roles = dict(prompt.asked)
        for flaw in flaws:
            role = FLAWS["story"][flaw]
            roles[role] = stream.choose([value for value in _values(role) if value != roles[role]])
        return story_given(stream.child("story"), **roles).text
    if prompt.kind == "question":
        return _question_answer(stream, prompt, flaws)
    refuses = "refused" in flaws if prompt.kind == "advice" else "complied" not in flaws
    roles = dict(prompt.asked)
    if refuses:
        roles["offer"] = "no" if "curt" in flaws else "yes"
        return generate_text(LANGUAGE.refusal_grammar, stream, roles)
    if "wrong_act" in flaws:
        roles["act"] = stream.choose([act for act in meaning.KIND_ACTS if act != roles["act"]])
    return generate_text(LANGUAGE.advice_grammar, stream, roles)


def _values(role: str) -> Sequence[str]:
    """Return the values that a role of a requested story can have."""
    choices = {"plot": meaning.KIND_PLOTS, "ending": [*meaning.ENDINGS], "length": [*meaning.LENGTHS]}
    return choices.get(role) or LANGUAGE.lexicons[meaning.ROLE_LEXICON[role]].keys


def _question_answer(stream: RandomStream, prompt: Task, flaws: tuple[str, ...]) -> str:
    if "evaded" in flaws:
        return LANGUAGE.not_told
    if "wrong_answer" not in flaws:
        return prompt.right
    asked = prompt.messages[-1]["content"]
    question = next(question for question in LANGUAGE.story_questions if question.matches(asked, prompt.told))
    roles = dict(prompt.told)
    for role in question.wanted:
        lexicon = LANGUAGE.lexicons[meaning.ROLE_LEXICON[role]]
        roles[role] = lexicon.draw(stream, [roles[role]] if role in roles else [])
    return render(question.answer, roles)


def conversation(
    seed: int,
    index: int,
    flawed_share: float = DEFAULT_FLAWED_SHARE,
    complying_share: float = DEFAULT_COMPLYING_SHARE,
) -> StoryConversation:
    """Return conversation ``index`` of a seed.

    flawed_share: share of the answers with a flaw. complying_share: share of the unkind requests with which
    the answer complies.
    """
    stream = RandomStream("small", "conversations", seed, index)
    prompt = make_prompt(stream.child("prompt"))
    flaws: tuple[str, ...] = ()
    if prompt.kind == "unkind":
        flaws = ("complied",) if stream.uniform() < complying_share else ()
    elif stream.uniform() < flawed_share:
        flaws = draw_flaws(stream, prompt)
    return StoryConversation(prompt, answer(stream.child("answer"), prompt, flaws), flaws)


def preference(seed: int, index: int, temperature: float = DEFAULT_TEMPERATURE) -> Preference:
    """Return preference ``index`` of a seed: a right answer and one with flaws, labeled by the annotator."""
    stream = RandomStream("small", "preferences", seed, index)
    prompt = make_prompt(stream.child("prompt"))
    flaws = draw_flaws(stream, prompt)
    texts = [answer(stream.child("right"), prompt), answer(stream.child("flawed"), prompt, flaws)]
    if stream.uniform() < 0.5:
        texts.reverse()
    return label(stream, prompt.messages, texts, temperature, Biases())


def label(
    stream: RandomStream, messages: list[Message], texts: list[str], temperature: float, biases: Biases
) -> Preference:
    """Return the annotator's preference between two answers, of which the first is shown first."""
    utilities = [utility(messages, text).total for text in texts]
    probability = preference_probability(biases.difference(texts, utilities), temperature)
    first, second = texts
    if stream.uniform() >= probability:
        first, second, probability = second, first, 1.0 - probability
        utilities.reverse()
    return Preference(messages, first, second, utilities[0], utilities[1], probability)
