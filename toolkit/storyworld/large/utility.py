"""The gold utility: what people in this world like in an answer, read from (prompt, answer) text alone."""

from functools import lru_cache

from toolkit.storyworld.grammar import Roles, derivations
from toolkit.storyworld.large.conversations import word_range
from toolkit.storyworld.large.lexicon import LEXICONS
from toolkit.storyworld.large.requests import ParsedQuestion, read_question, read_request
from toolkit.storyworld.large.stories import reader
from toolkit.storyworld.reading import ParsedText, split_sentences
from toolkit.storyworld.utility import Utility
from toolkit.storyworld.world import Message

WEIGHTS = {
    "request": 4.0,
    "consistency": 2.0,
    "ending": 1.5,
    "length": 1.5,
    "repetition": 1.5,
    "wellformed": 3.0,
}
"""What each term can add; a flawless answer has their sum."""

ANSWER_WORDS = (2, 14)
_LONGEST_ANSWER = 4000  # characters; what follows is not read, and the length term is long gone
_MISS = 1.75  # one missed wish of three costs more than half of the request term
_WRONG_ANSWER = 0.2  # what a whole sentence that answers wrongly keeps of the request term
_CONFLICT = 0.7  # the share of the consistency term that one contradicting sentence costs


def utility(prompt_messages: list[Message], answer: str) -> Utility:
    """The utility of any text as an answer to any prompt; never raises.

    About 0 for an empty answer, ``sum(WEIGHTS.values())`` for a flawless one; a flaw costs between 1 and 3.
    """
    contents = [str(message.get("content", "")) for message in prompt_messages]
    text = str(answer).strip()[:_LONGEST_ANSWER]
    told = _told(contents)
    asked = read_question(contents[-1], told) if told else None
    if asked is not None:
        terms = _question_terms(text, asked, told)
    else:
        terms = _story_terms(text, read_request(contents[-1] if contents else ""))
    return Utility(sum(weight * terms[term] for term, weight in WEIGHTS.items()), terms)


def _told(contents: list[str]) -> Roles:
    """The facts of the story that was told before, if one was."""
    return _facts(contents[-2]) if len(contents) >= 3 else {}


@lru_cache(maxsize=20_000)
def _facts(story: str) -> Roles:
    return reader.read(story[:_LONGEST_ANSWER]).facts


def _story_terms(text: str, asked: Roles) -> dict[str, float]:
    story = reader.read(text)
    wishes = [role for role in asked if role != "length"]
    missed = sum(story.facts.get(role) != asked[role] for role in wishes) / max(1, len(wishes))
    derivable = sum(kind is not None for kind in story.kinds)
    has_hero = "hero" in story.facts
    return {
        "request": max(0.0, 1.0 - _MISS * missed) if has_hero else 0.0,
        "consistency": max(0.0, 1.0 - _CONFLICT * story.conflicts) if has_hero else 0.0,
        "ending": _ending_term(story),
        "length": _length_term(len(text.split()), *word_range(asked)),
        "repetition": _repetition_term(story.sentences, text),
        "wellformed": derivable / max(1, len(story.kinds)),
    }


def _ending_term(story: ParsedText) -> float:
    """1 for a last sentence that closes a story, 0.3 for any other whole sentence of the grammar."""
    last = story.kinds[-1] if story.kinds else None
    return {"closing": 1.0, None: 0.0}.get(last, 0.3)


def _length_term(words: int, fewest: int, most: int) -> float:
    """1 inside the range; 0 at half of the fewest and at 1.3 times the most, linear between."""
    if words < fewest:
        return max(0.0, 1.0 - (fewest - words) / (0.5 * fewest))
    return max(0.0, 1.0 - max(0, words - most) / (0.3 * most))


def _repetition_term(sentences: list[str], text: str) -> float:
    """0 as soon as a sentence occurs twice, and less than 1 where many of the three-word runs do."""
    if not sentences or len({sentence.lower() for sentence in sentences}) < len(sentences):
        return 0.0
    words = text.lower().split()
    runs = list(zip(words, words[1:], words[2:], strict=False))
    distinct = len(set(runs)) / len(runs) if runs else 1.0
    return max(0.0, min(1.0, (distinct - 0.4) / 0.4))


def _question_terms(text: str, asked: ParsedQuestion, told: Roles) -> dict[str, float]:
    sentences = split_sentences(text)
    first = sentences[0] if sentences else ""
    whole = bool(derivations(asked.grammar, first))
    # An answer that breaks off answers as far as it goes.
    begun = 0.0 if whole or not first else _shared_start(first, asked.right)
    names = LEXICONS["name"].kinds
    words = [word.strip(".,!?\"'").removesuffix("'s") for word in text.split()]
    characters = (told.get("hero"), told.get("friend"))
    strangers = sum(word in names and word not in characters for word in set(words))
    return {
        "request": (1.0 if asked.is_right(first) else _WRONG_ANSWER) if whole else begun,
        "consistency": max(0.0, 1.0 - _CONFLICT * strangers) if whole or begun else 0.0,
        "ending": 1.0 if whole and text.endswith(".") else 0.0,
        "length": _length_term(len(words), *ANSWER_WORDS),
        "repetition": _repetition_term(sentences, text),
        "wellformed": 1.0 if whole else 0.0,
    }


def _shared_start(text: str, right: str) -> float:
    """The share of the right answer's words that the text begins with, 0 if it goes on differently."""
    words, wanted = text.rstrip(".").split(), right.rstrip(".").split()
    return len(words) / len(wanted) if words == wanted[: len(words)] else 0.0
