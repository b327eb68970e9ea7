"""The wording of the small world in one language, and its grammars of stories, requests and answers."""

import re
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import cached_property

from toolkit.storyworld.grammar import Alternation, Lexicon, Optional, Sentence, Sequence, Text
from toolkit.storyworld.reading import Reader
from toolkit.storyworld.small import meaning
from toolkit.storyworld.template import TemplateCompiler, zipf_choice

WISH_PROBABILITY = {"hero": 0.5, "place": 0.35, "ending": 0.6, "length": 0.35}
"""How often a request has each of the wishes that it may leave out."""


@dataclass(frozen=True)
class PlotText:
    """Sentences of a plot: alternatives for each beat, then for the outcome of either ending.

    turn: which of the language's `turns` suit the plot.
    """

    turn: str
    beats: SequenceOf[SequenceOf[str]]
    well: SequenceOf[str]
    badly: SequenceOf[str]


@dataclass(frozen=True)
class Language:
    """All words and sentences of one language.

    Attributes:
        forms: list of `meaning` (name, animal, ...) or of free words -> key -> form -> surface.
        titles: of a story, in a corpus, by plot.
        openings, closings: first sentences of stories; last sentences by ending.
        habits, turns: sentences that only a long story has, after the opening and before the outcome.
        plots: the sentences of each plot.
        request_frames, request_plots, wishes: requests for a story; `<does>` stands for the plot.
        questions: plot ("" for all) -> question -> answer.
        not_told: the right answer to a question that the story leaves open.
        advice_frames, acts, advice: requests for advice (`<act>` stands for the act) and their answers.
        refusals, offer: how an unkind request is declined, and what is offered instead.
    """

    name: str
    titles: Mapping[str, str]
    forms: Mapping[str, Mapping[str, dict[str, str]]]
    openings: SequenceOf[str]
    habits: SequenceOf[str]
    turns: Mapping[str, SequenceOf[str]]
    plots: Mapping[str, PlotText]
    closings: Mapping[str, SequenceOf[str]]
    request_frames: SequenceOf[str]
    request_plots: Mapping[str, str]
    wishes: Mapping[str, SequenceOf[str] | Mapping[str, SequenceOf[str]]]
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
                    [self._sentences(outcome), self._sentences(self.closings[ending], "closing")]
                )
                for ending, outcome in (("well", plot.well), ("badly", plot.badly))
            }
            plots[name] = Sequence(
                [
                    *(self._sentences(beat) for beat in plot.beats),
                    self._if_long(self.turns[plot.turn]),
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
        """The grammar of stories under their titles.

        The story determines the title, so both have the same probability. A model that reads the title learns
        to look back at it, as at a request: after 430,000 tokens (Muon at 0.02, AdamW at 3e-3) a model of
        0.56 million parameters was 6.1 nats a story above the entropy floor, without titles 11.6.
        """
        title = Alternation(
            {plot: self.compile(text) for plot, text in self.titles.items()},
            weights=[meaning.PLOTS[plot].share for plot in self.titles],
            role="plot",
        )
        return Sequence([title, Text("\n"), self.story_grammar])

    @cached_property
    def reader(self) -> Reader:
        """Reads any text by the sentences of the stories."""
        return Reader(lambda: self.story_grammar, self.lexicons["name"])

    @cached_property
    def request_grammar(self) -> Sequence:
        """The grammar of requests for a story; the story must have the roles that it binds."""
        does = Alternation(
            {plot: self.compile(text) for plot, text in self.request_plots.items()}, role="plot"
        )
        frames = [self._framed(frame, {"<does>": does}) for frame in self.request_frames]
        nodes: list = [zipf_choice(frames)]
        for wish, wording in self.wishes.items():
            if isinstance(wording, Mapping):
                node = Alternation({value: self._extra(texts) for value, texts in wording.items()}, role=wish)
            else:
                node = self._extra(wording)
            nodes.append(Optional(node, probability=WISH_PROBABILITY[wish]))
        return Sequence(nodes)

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

    def _framed(self, frame: str, parts: Mapping[str, object]) -> Sequence:
        pieces = re.split("(<does>|<act>)", frame)
        return Sequence([parts.get(piece) or self.compile(piece) for piece in pieces if piece])

    def _extra(self, templates: SequenceOf[str]) -> Sequence:
        return Sequence([Text(" "), zipf_choice([self.compile(text) for text in templates])])
