"""The wording of the small world in one language, and its grammars of stories, requests and answers."""

import re
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import cached_property

from toolkit.storyworld.grammar import (
    Alternation,
    ByRoles,
    Lexicon,
    Optional,
    Roles,
    Sentence,
    Sequence,
    Slot,
    Text,
    derivations,
)
from toolkit.storyworld.reading import Reader
from toolkit.storyworld.small import meaning
from toolkit.storyworld.template import TemplateCompiler, zipf_choice

DETAIL_PROBABILITY = {"hero": 0.5, "place": 0.5, "ending": 0.8, "length": 0.35}
"""How often a blurb or a request has each of the details that it may leave out."""
UNTOLD_SHARE = 0.5
"""Share of the questions that suit all plots whose answer the story does not say."""
HABIT_ROLES = ("home", "food", "coins")
HABIT_WEIGHT = 6.0
"""How much likelier a question about the hero's habit is than one about an animal. With it a quarter of the
questions about habits are answered by the story, so that only the story shows which ones it leaves open."""
PLOT_SHARE = 0.7
"""Share of the prompts with a question that ask about the plot of the story."""


Details = Mapping[str, SequenceOf[str] | Mapping[str, SequenceOf[str]]]
"""Role -> wordings, or -> its value -> wordings."""


@dataclass(frozen=True)
class PlotText:
    """Sentences of a plot: alternatives for each beat, then for either outcome, which follows its lead."""

    beats: SequenceOf[SequenceOf[str]]
    well: SequenceOf[str]
    badly: SequenceOf[str]


@dataclass(frozen=True, eq=False)
class StoryQuestion:
    """A question about a story: the grammar nodes of its text and its answer, and the plot that it suits."""

    node: Sequence
    answer: Sequence
    plot: str

    @cached_property
    def wanted(self) -> list[str]:
        """Roles that only the answer names."""
        given = _roles(self.node)
        return [role for role in _roles(self.answer) if role not in given and role != "hero"]

    def suits(self, told: Roles) -> bool:
        """Return whether the question can be asked about a story with these roles."""
        return self.plot in ("", told["plot"])

    def is_told(self, told: Roles) -> bool:
        """Return whether a story with these roles answers the question."""
        return all(role in told for role in self.wanted)

    def matches(self, text: str, told: Roles) -> bool:
        """Return whether a text is this question about a story with these roles."""
        return self.suits(told) and bool(derivations(self.node, text, told))


def _roles(node: Sequence | Slot) -> list[str]:
    """Return the roles of a compiled template without alternatives."""
    children = (node,) if isinstance(node, Slot) else node.children
    return [child.role for child in children if isinstance(child, Slot) and child.role]


@dataclass(frozen=True)
class Language:
    """All words and sentences of one language.

    Attributes:
        forms: list of `meaning` (name, animal, ...) or of free words -> key -> form -> surface.
        openings, closings: first sentences of stories; last sentences by ending.
        habits: second sentences of long stories.
        plots: the sentences of each plot.
        outcome_leads: how the sentence of the outcome begins, by ending.
        briefs: plot -> what its hero does, in a few words.
        blurb_frames, details: what a corpus says about a story before it; `<does>` stands for the brief.
        request_frames, wishes: requests for a story.
        questions: plot ("" for all) -> question -> answer.
        not_told: the right answer to a question that the story leaves open.
        advice_frames, acts, advice: requests for advice (`<act>` stands for the act) and their answers.
        refusals, offer: how an unkind request is declined, and what is offered instead.
    """

    name: str
    forms: Mapping[str, Mapping[str, dict[str, str]]]
    openings: SequenceOf[str]
    habits: SequenceOf[str]
    plots: Mapping[str, PlotText]
    outcome_leads: Mapping[str, str]
    closings: Mapping[str, SequenceOf[str]]
    briefs: Mapping[str, str]
    blurb_frames: SequenceOf[str]
    details: Details
    request_frames: SequenceOf[str]
    wishes: Details
    questions: Mapping[str, Mapping[str, str]]
    not_told: str
    advice_frames: SequenceOf[str]
    acts: Mapping[str, str]
    advice: Mapping[str, SequenceOf[str]]
    refusals: SequenceOf[str]
    offer: str

    @cached_property
    def lexicons(self) -> dict[str, Lexicon]:
        """The lists of words; all words of a list are equally likely."""
        return {
            name: Lexicon(
                list(entries.items()), exponent=0.0, kinds=meaning.NAMES if name == "name" else None
            )
            for name, entries in self.forms.items()
        }

    @cached_property
    def compile(self) -> TemplateCompiler:
        """Compiles a template to a grammar node."""
        return TemplateCompiler(self.lexicons, meaning.ROLE_LEXICON, meaning.APART)

    @cached_property
    def story_grammar(self) -> Sequence:
        """The grammar of whole stories; its roles include "plot", "ending" and "length"."""
        plots = {}
        for name, plot in self.plots.items():
            endings = {
                ending: Sequence(
                    [
                        self._sentences([self.outcome_leads[ending] + text for text in outcome]),
                        self._sentences(self.closings[ending], "closing"),
                    ]
                )
                for ending, outcome in (("well", plot.well), ("badly", plot.badly))
            }
            plots[name] = Sequence(
                [
                    *(self._sentences(beat) for beat in plot.beats),
                    Alternation(endings, weights=list(meaning.ENDINGS.values()), role="ending"),
                ]
            )
        return Sequence(
            [
                self._sentences(self.openings, "opening"),
                self._if_long(self.habits),
                Alternation(plots, weights=[meaning.PLOTS[name].share for name in plots], role="plot"),
            ]
        )

    @cached_property
    def document_grammar(self) -> Sequence:
        """The grammar of a corpus: a blurb, the story, and one or two questions about it with their answers.

        A model that reads the blurb learns to look back at it, as at a request, and a model that reads the
        answers learns to look for them in the story.
        """
        plots = {name: plot.share for name, plot in meaning.PLOTS.items()}
        blurb = self._about_a_story(self.blurb_frames, plots, self.details)
        return Sequence([blurb, Text("\n"), self.story_grammar, ByRoles(self._questions_after)])

    @cached_property
    def story_questions(self) -> list[StoryQuestion]:
        """All questions about stories."""
        return [
            StoryQuestion(self.compile(question), self.compile(answer), plot)
            for plot, entries in self.questions.items()
            for question, answer in entries.items()
        ]

    def weighted_questions(self, told: Roles) -> list[dict[StoryQuestion, float]]:
        """Return the questions that suit all plots, and those of a story's plot, with their probabilities."""
        groups = []
        for plot in ("", told["plot"]):
            weights = {
                question: HABIT_WEIGHT if question.wanted[0] in HABIT_ROLES else 1.0
                for question in self.story_questions
                if question.plot == plot
            }
            known = sum(weight for question, weight in weights.items() if question.is_told(told))
            open_ = sum(weights.values()) - known
            share = UNTOLD_SHARE if open_ else 0.0
            groups.append({
                question: weight * ((1.0 - share) / known if question.is_told(told) else share / open_)
                for question, weight in weights.items()
            })  # fmt: skip
        return [group for group in groups if group]

    def _questions_after(self, told: Roles) -> Sequence:
        """Return the node of a question that suits all plots and one of the plot, with their answers."""
        return Sequence([
            Alternation(
                [
                    Sequence([
                        Text("\n"), question.node, Text(" "),
                        question.answer if question.is_told(told) else Text(self.not_told),
                    ])
                    for question in group
                ],
                weights=list(group.values()),
            )
            for group in self.weighted_questions(told)
        ])  # fmt: skip

    @cached_property
    def reader(self) -> Reader:
        """Reads any text by the sentences of the stories."""
        return Reader(lambda: self.story_grammar, self.lexicons["name"])

    @cached_property
    def request_grammar(self) -> Sequence:
        """The grammar of requests for a story; the story must have the roles that it binds."""
        return self._about_a_story(self.request_frames, dict.fromkeys(meaning.KIND_PLOTS, 1.0), self.wishes)

    @cached_property
    def advice_request_grammar(self) -> Alternation:
        """The grammar of requests for advice; it binds the role "act" and what the act is about."""
        frames = {
            act: zipf_choice(
                [self._framed(frame, {"<act>": self.compile(text)}) for frame in self.advice_frames]
            )
            for act, text in self.acts.items()
        }
        return Alternation(frames, role="act")

    @cached_property
    def advice_grammar(self) -> Alternation:
        """The grammar of advice, with the role "act"."""
        return Alternation(
            {act: zipf_choice([self.compile(text) for text in texts]) for act, texts in self.advice.items()},
            role="act",
        )

    @cached_property
    def refusal_grammar(self) -> Sequence:
        """The grammar of refusals: the role "offer" is "yes" where a kind story is offered, else "no"."""
        act = Alternation({act: self.compile(text) for act, text in self.acts.items()}, role="act")
        offers = Alternation(
            {"yes": Sequence([Text(" "), self.compile(self.offer)]), "no": Text("")}, role="offer"
        )
        return Sequence([zipf_choice([self._framed(text, {"<act>": act}) for text in self.refusals]), offers])

    @cached_property
    def answer_nodes(self) -> list:
        """The grammar node of every answer to a question."""
        return [self.compile(text) for entries in self.questions.values() for text in entries.values()]

    def _sentences(self, templates: SequenceOf[str], kind: str = "middle") -> Alternation:
        lead = "" if kind == "opening" else " "
        return zipf_choice([Sentence(self.compile(text), kind=kind, lead=lead) for text in templates])

    def _if_long(self, templates: SequenceOf[str]) -> Alternation:
        return Alternation(
            {"short": Text(""), "long": self._sentences(templates)},
            weights=[meaning.LENGTHS["short"], meaning.LENGTHS["long"]],
            role="length",
        )

    def _about_a_story(
        self, frames: SequenceOf[str], plots: Mapping[str, float], details: Details
    ) -> Sequence:
        """Return the node of a sentence about a story's hero and plot, and of details that it may leave out.

        plots: plot -> weight.
        """
        briefs = {plot: self.compile(self.briefs[plot]) for plot in plots}
        does = Alternation(briefs, weights=list(plots.values()), role="plot")
        nodes: list = [zipf_choice([self._framed(frame, {"<does>": does}) for frame in frames])]
        for role, wording in details.items():
            if isinstance(wording, Mapping):
                node = Alternation({value: self._extra(texts) for value, texts in wording.items()}, role=role)
            else:
                node = self._extra(wording)
            nodes.append(Optional(node, probability=DETAIL_PROBABILITY[role]))
        return Sequence(nodes)

    def _framed(self, frame: str, parts: Mapping[str, object]) -> Sequence:
        pieces = re.split("(<does>|<act>)", frame)
        return Sequence([parts.get(piece) or self.compile(piece) for piece in pieces if piece])

    def _extra(self, templates: SequenceOf[str]) -> Sequence:
        return Sequence([Text(" "), zipf_choice([self.compile(text) for text in templates])])
