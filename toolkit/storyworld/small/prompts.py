"""What users ask in the small world: for a story, about a story, or for advice; and how such prompts are
read."""

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate

from toolkit.storyworld.grammar import Roles, derivations, generate_text, render
from toolkit.storyworld.rng import RandomStream
from toolkit.storyworld.rows import assistant_turn
from toolkit.storyworld.small import meaning
from toolkit.storyworld.small.language import PLOT_SHARE, StoryQuestion
from toolkit.storyworld.small.stories import LANGUAGE, story_derivations, story_given
from toolkit.storyworld.world import Message

KINDS = {"story": 0.5, "question": 0.2, "advice": 0.1, "unkind": 0.2}
"""Share of each kind of prompt."""


@dataclass(frozen=True)
class Task:
    """A prompt and what a right answer must say.

    Attributes:
        messages: the conversation, which ends with the user's turn.
        kind: one of KINDS.
        asked: of a request for a story, its wishes; of a request for advice, "act" and its roles.
        told: of a question, the roles of the story before it.
        right: of a question, the right answer.
    """

    messages: list[Message]
    kind: str
    asked: Roles = field(default_factory=dict)
    told: Roles = field(default_factory=dict)
    right: str = ""

    @property
    def is_told(self) -> bool:
        """Whether the story answers the question."""
        return self.right != LANGUAGE.not_told


def draw_kind(stream: RandomStream) -> str:
    """Draw the kind of a prompt."""
    return list(KINDS)[stream.weighted(list(accumulate(KINDS.values())))]


def make_prompt(stream: RandomStream) -> Task:
    """Draw a prompt of any kind."""
    kind = draw_kind(stream.child("kind"))
    draw = stream.child(kind)
    if kind in ("advice", "unkind"):
        acts = meaning.UNKIND_ACTS if kind == "unkind" else meaning.KIND_ACTS
        roles: Roles = {"act": draw.choose(acts)}
        return Task(_user(generate_text(LANGUAGE.advice_request_grammar, draw, roles)), kind, asked=roles)
    asked: Roles = {}
    text = generate_text(LANGUAGE.request_grammar, draw, asked)
    if kind == "story":
        return Task(_user(text), kind, asked=asked)
    story = story_given(stream.child("told"), **asked)
    groups = LANGUAGE.weighted_questions(story.roles)
    questions = groups[draw.uniform() < PLOT_SHARE]
    question = [*questions][draw.weighted(list(accumulate(questions.values())))]
    messages = [
        *_user(text),
        *assistant_turn(story.text),
        *_user(render(question.node, story.roles)),
    ]
    return Task(messages, kind, told=story.roles, right=_right_answer(question, story.roles))


def read_prompt(messages: list[Message]) -> Task | None:
    """Return what a prompt asks, read from its text; None if this world does not know it."""
    contents = [" ".join(str(message.get("content", "")).split())[:2000] for message in messages]
    if not contents:
        return None
    told = read_told(contents[-2]) if len(contents) >= 3 else {}
    if told and (found := _read_question(contents[-1], told)) is not None:
        return Task(messages, "question", told=told, right=found)
    return _read_request(messages, contents[-1])


def _read_request(messages: list[Message], text: str) -> Task | None:
    wishes = read_request(text)
    if wishes:
        return Task(messages, "story", asked=wishes)
    act = read_advice_request(text)
    if act:
        return Task(messages, "unkind" if act["act"] in meaning.UNKIND_ACTS else "advice", asked=act)
    return None


@lru_cache(maxsize=20_000)
def read_request(text: str) -> Roles:
    """Return the wishes of a request for a story; empty if the text is none."""
    readings = derivations(LANGUAGE.request_grammar, text)
    return dict(readings[0][0]) if readings else {}


@lru_cache(maxsize=20_000)
def read_advice_request(text: str) -> Roles:
    """Return act and roles of a request for advice; empty if the text is none."""
    readings = derivations(LANGUAGE.advice_request_grammar, text)
    return dict(readings[0][0]) if readings else {}


@lru_cache(maxsize=20_000)
def read_told(text: str) -> Roles:
    """Return the roles of a story of this world; empty if the text is none."""
    readings = story_derivations(text)
    return dict(readings[0][0]) if readings else {}


def _read_question(text: str, told: Roles) -> str | None:
    for question in LANGUAGE.story_questions:
        if question.matches(text, told):
            return _right_answer(question, told)
    return None


def _right_answer(question: StoryQuestion, told: Roles) -> str:
    return render(question.answer, told) if question.is_told(told) else LANGUAGE.not_told


def _user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]
