"""The user's turns: requests for a story, and questions about a story."""

import re
from dataclasses import dataclass
from functools import cache, lru_cache

from toolkit.storyworld.grammar import (
    Alternation,
    Optional,
    Roles,
    Sequence,
    Slot,
    Text,
    derivations,
    generate_text,
    render,
)
from toolkit.storyworld.large.lexicon import LEXICONS, compile_template
from toolkit.storyworld.large.stories import ALL_PLOTS
from toolkit.storyworld.rng import RandomStream
from toolkit.storyworld.template import zipf_choice

_FRAMES = [
    "Tell me a story about <who> who <does>.",
    "Write a story about <who> who <does>.",
    "Please tell me about <who> who <does>.",
    "Can you tell me a story about <who> who <does>?",
    "I would like a story about <who> who <does>.",
    "Make up a story in which <who> <does>.",
    "Do you know the tale of <who> who <does>?",
    "My [son|daughter|niece|nephew|class] wants to hear about <who> who <does>.",
    "We need a bedtime story: <who> <does>.",
    "What happens when <who> <does>?",
    "[Let us have|How about|I want] a tale about <who> who <does>[, please|].",
    "Could you write about <who> who <does>?",
]
_ENDINGS = {
    "well": [
        "Make it end well.",
        "It should have a happy ending.",
        "Let it end well.",
        "I want a happy ending.",
        "Please, nothing sad at the end.",
    ],
    "badly": [
        "Make it end badly.",
        "It should have a sad ending.",
        "Let it end badly.",
        "I want a sad ending.",
        "Do not give it a happy ending.",
    ],
}
_PLACES = [
    "Let it happen {place.at}.",
    "Set it {place.at}.",
    "It should take place {place.at}.",
    "Part of it should happen {place.at}.",
]
_FRIENDS = [
    "Give the hero a friend who is {pal.a}.",
    "There should be {pal.a} in it as well.",
    "Add {pal.a}.",
    "I also like stories with {pal.a} in them.",
]
_LENGTHS = ["Keep it short.", "Make it short.", "A few lines are enough.", "Only a short one, please."]
COMMON_QUESTIONS = {"What kind of animal was {hero}?": "{hero} was {animal.a}."}


@cache
def request_grammar() -> Sequence:
    """Return the grammar of requests; the story must have the roles that it binds."""
    who = Sequence([compile_template("{animal.a}"), compile_template("[| named {hero}| called {hero}]")])
    does = Alternation(
        {
            plot: zipf_choice([compile_template(ask) for ask in parts["ask"]])
            for plot, parts in ALL_PLOTS.items()
        },
        role="plot",
    )
    frames = [
        Sequence(
            [
                {"<who>": who, "<does>": does}.get(part) or compile_template(part)
                for part in re.split("(<who>|<does>)", frame)
            ]
        )
        for frame in _FRAMES
    ]

    def extra(templates: list[str]):
        return Sequence([Text(" "), zipf_choice([compile_template(template) for template in templates])])

    endings = Alternation({ending: extra(templates) for ending, templates in _ENDINGS.items()}, role="ending")
    return Sequence(
        [
            zipf_choice(frames),
            Optional(extra(_PLACES), probability=0.2),
            Optional(extra(_FRIENDS), probability=0.2),
            Optional(endings, probability=0.55),
            Optional(Alternation({"short": extra(_LENGTHS)}, role="length"), probability=0.2),
        ]
    )


def request(stream: RandomStream) -> tuple[str, Roles]:
    """Draw a request and its roles: animal, object, plot; perhaps hero, place, pal, ending, length."""
    roles: Roles = {}
    return generate_text(request_grammar(), stream, roles), roles


@lru_cache(maxsize=20_000)
def read_request(text: str) -> Roles:
    """Return the requested roles: by the grammar if it derives the text, else by the mentioned words."""
    readings = derivations(request_grammar(), " ".join(text.split())) if len(text) < 600 else []
    return dict(readings[0][0]) if readings else _scan(text[:2000])


def _scan(text: str) -> Roles:
    """Return the first animal, object and name, and the ending, that a free-form request mentions."""
    roles: Roles = {}
    lower = text.lower()
    for role in ("animal", "object"):
        places = {
            key: match.start()
            for key in LEXICONS[role].keys
            if key in lower and (match := re.search(rf"\b{re.escape(key)}\b", lower))
        }
        if places:
            roles[role] = min(places, key=lambda key: (places[key], -len(key)))
    named = re.search(r"\b(?:named|called) ([A-Z][a-z]+)", text)
    if named and named[1] in LEXICONS["name"].kinds:
        roles["hero"] = named[1]
    if re.search(r"\b(end(s|ing)? (well|happily)|happy end)", lower):
        roles["ending"] = "well"
    elif re.search(r"\b(end(s|ing)? (badly|sadly)|sad end)", lower):
        roles["ending"] = "badly"
    if re.search(r"\bshort\b", lower):
        roles["length"] = "short"
    return roles


@cache
def _questions() -> list[tuple[str, object, object]]:
    """Return (plot or "", question, answer) of every question."""
    listed = [("", question, answer) for question, answer in COMMON_QUESTIONS.items()]
    listed += [
        (plot, question, answer)
        for plot, parts in ALL_PLOTS.items()
        for question, answer in parts["questions"].items()
    ]
    return [(plot, compile_template(question), compile_template(answer)) for plot, question, answer in listed]


def question(stream: RandomStream, roles: Roles) -> tuple[str, str]:
    """Draw a question about a story with these roles; returns it with its answer."""
    _, asked, answer = stream.choose([entry for entry in _questions() if entry[0] in ("", roles["plot"])])
    return render(asked, roles), render(answer, roles)


def wrong_answer(stream: RandomStream, roles: Roles, asked: str) -> str:
    """Draw a well-formed answer to the same question that is wrong in every requested role."""
    node, answer = _matching(asked, roles)[0]
    told = _slots(node)
    changed = dict(roles)
    for role, slot in _slots(answer).items():
        if role not in told and role != "hero":
            apart = [roles[other] for other in slot.apart if other in roles]
            changed[role] = slot.lexicon.draw(stream, [roles[role], *apart])
    return render(answer, changed)


def _slots(node) -> dict[str, Slot]:
    return {child.role: child for child in node.children if isinstance(child, Slot)}


def _matching(asked: str, roles: Roles) -> list[tuple[object, object]]:
    plot = roles.get("plot")
    return [
        (node, answer)
        for question_plot, node, answer in _questions()
        if question_plot in ("", plot) and derivations(node, asked, roles)
    ]


@dataclass(frozen=True)
class ParsedQuestion:
    """A question that a story answers: the right answer, the grammar of answers, the requested roles."""

    right: str
    grammar: object
    roles: Roles

    def is_right(self, sentence: str) -> bool:
        """Return whether a sentence is a right answer; the hero's name does not count."""
        return any(
            all(answer_roles.get(role) == value for role, value in self.roles.items())
            for answer_roles, _ in derivations(self.grammar, sentence)
        )


def read_question(asked: str, roles: Roles) -> ParsedQuestion | None:
    """Parse a question about a story with these roles; None if the grammar or the story does not have it."""
    for node, answer in _matching(" ".join(asked.split()), roles):
        wanted = _slots(answer)
        if all(role in roles for role in wanted):
            given = {"hero", *_slots(node)}
            news = {role: roles[role] for role in wanted if role not in given}
            return ParsedQuestion(render(answer, roles), answer, news)
    return None
