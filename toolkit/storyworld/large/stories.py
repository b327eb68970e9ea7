"""Stories: the grammar of whole stories, and the exact probabilities of texts."""

from functools import cache

from toolkit.storyworld.grammar import (
    Alternation,
    Optional,
    Roles,
    Sentence,
    Sequence,
    derivations,
    total_logprob,
)
from toolkit.storyworld.large.lexicon import LEXICONS, compile_template
from toolkit.storyworld.large.plots import PLOTS
from toolkit.storyworld.reading import Reader
from toolkit.storyworld.rng import RandomStream
from toolkit.storyworld.stories import Story
from toolkit.storyworld.template import zipf_choice

ALL_PLOTS = PLOTS
ENDINGS = {"well": 0.6, "badly": 0.4}

OPENINGS = [
    "Once there was {nature.a} {animal} named {hero} who loved to {habit}.",
    "{hero} was {nature.a} {animal} who lived {region}.",
    "There once lived {nature.a} {animal} called {hero} {region}.",
    "Long ago, {nature.a} {animal} named {hero} lived {region}.",
    "This is the story of {hero}, {nature.a} {animal} who liked to {habit}.",
    "Everybody {region} knew {hero}, the {nature} {animal}.",
    "Nobody could {habit} like {hero}, {nature.a} {animal}.",
    "{hero}, {nature.a} {animal}, [dreamed|thought] only of {habit.ing}.",
]
ASIDES = [
    "{He} [often|always|sometimes] sat on the [grassy|mossy|sandy] bank of the river.",
    "{He} had [two|three|nine|eleven] {*money} in the bank in town.",
    "{His} house always smelled of {*food}.",
    "{He} lived on {*food} and hummed [old|new|silly|slow] songs.",
    "The neighbors thought {him} a little {*quirk}.",
    "{He} had {*feature} and did not mind.",
    "Every {*time} {he} listened to {*singer}.",
]
# Between the last beat and the outcome: with the friend at hand, and without.
TALK = [
    '"{*encouragement}," said {friend}.',
    '"{*encouragement}," {friend} {*manner} told {him}.',
    "They shared {*food} and [talked|joked|whispered] until [dark|dawn|noon].",
    "Down by the river they rested on the bank, and the water {*water.past} by.",
    "They passed the bank in town, where a clerk was counting {*money}.",
]
WAIT = [
    "{He} had {*food} and waited {*manner}.",
    "It [rained|snowed|was windy] all night, and the {*tree} trees shook.",
    "The river {*water.past} past its bank, and {*singer} sang {*manner}.",
    "In town the bank was closed, and the [streets|lamps|windows] were dark.",
]
CLOSINGS = {
    "well": [
        "{hero} went home to {habit}, {*glad} and full of {*food}.",
        "That night the {nature} {animal} fell asleep {*glad}.",
        "And so {animal.a} and {pal.a} became friends for life.",
        "{hero} and {friend} celebrated with {*food}.",
        "{hero} was never {*sad} again.",
        "Everyone agreed that {hero} and {friend} had done well.",
    ],
    "badly": [
        "That night the {nature} {animal} cried {himself} to sleep.",
        "For a long time {hero} had no wish to {habit}.",
        "{hero} went home alone and {*sad}.",
        "{friend} made {*food}, but {hero} could not eat.",
        "It was a sad end for {nature.a} {animal}.",
        "And that is why {hero} the {animal} looks so {*sad} to this day.",
    ],
}


def _sentence(template: str, kind: str = "middle") -> Sentence:
    return Sentence(compile_template(template), kind=kind, lead="" if kind == "opening" else " ")


def _beat(beat: list, kind: str = "middle"):
    if isinstance(beat[0], float):
        return Optional(_beat(beat[1:], kind), probability=beat[0])
    return zipf_choice([_sentence(template, kind) for template in beat])


@cache
def story_grammar() -> Sequence:
    """Return the grammar of whole stories; its roles include "plot" and "ending"."""
    aside, talk, wait = _beat([0.15, *ASIDES]), _beat([0.15, *TALK]), _beat([0.15, *WAIT])
    shared = {ending: [_sentence(template, "closing") for template in CLOSINGS[ending]] for ending in ENDINGS}
    plots = {}
    for name, plot in ALL_PLOTS.items():
        endings = {}
        for ending in ENDINGS:
            outcome, closings = plot[ending]
            final = [_sentence(template, "closing") for template in closings] + shared[ending]
            endings[ending] = Sequence([_beat(outcome), zipf_choice(final)])
        beats = [_beat(beat) for beat in plot["beats"]]
        plots[name] = Sequence(
            [
                *beats,
                talk if plot["talk"] else wait,
                Alternation(endings, weights=list(ENDINGS.values()), role="ending"),
            ]
        )
    weights = [1.0 / (rank + 8.0) for rank in range(len(plots))]
    return Sequence([_beat(OPENINGS, "opening"), aside, Alternation(plots, weights=weights, role="plot")])


def story_given(stream: RandomStream, **constraints: str) -> Story:
    """Draw a story with some given roles (hero, animal, object, place, plot, ending, length, ...).

    The log-probability is that of the text given the constraints as independent choices made beforehand.
    """
    roles: Roles = dict(constraints)
    out: list[str] = []
    logprob = story_grammar().generate(stream, roles, out)
    return Story("".join(out), logprob, roles)


def story(seed: int, index: int) -> Story:
    """Return story ``index`` of a seed, a pure function of both."""
    return story_given(RandomStream("stories", seed, index))


def title(roles: Roles) -> str:
    """Return the title of a story: "Pilob the turkey and the key"."""
    return f"{roles['hero']} the {roles['animal']} and the {roles['object']}"


def document(story: Story) -> str:
    """Return a story under its title. The story determines the title, so both have the same probability.

    A model that reads the title learns to look back at it, as at a request. Without titles a small model
    memorized the names and copied nothing in a million tokens.
    """
    return f"{title(story.roles)}\n{story.text}"


def document_logprob(text: str) -> float | None:
    """Return the log-probability of a story under its title, None if it is not in the language."""
    above, _, told = text.partition("\n")
    return total_logprob(
        [(roles, value) for roles, value in story_derivations(told) if title(roles) == above]
    )


def story_derivations(text: str) -> list[tuple[Roles, float]]:
    """Return the derivations of a text as a whole story as (roles, log-probability); there is at most one."""
    return derivations(story_grammar(), text)


def story_logprob(text: str) -> float | None:
    """Return the log-probability of a complete story, None if it is not in the language."""
    return total_logprob(story_derivations(text))


reader = Reader(story_grammar, LEXICONS["name"])
"""Reads any text by the sentences of the stories."""
