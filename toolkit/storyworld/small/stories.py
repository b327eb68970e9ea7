"""Stories of the small world and the exact probabilities of texts."""

from toolkit.storyworld.grammar import Roles, derivations, total_logprob
from toolkit.storyworld.next_token import NextTokenTruth
from toolkit.storyworld.rng import RandomStream
from toolkit.storyworld.small.english import ENGLISH
from toolkit.storyworld.stories import Story

LANGUAGE = ENGLISH


def story_given(stream: RandomStream, **constraints: str) -> Story:
    """Draw a story with some given roles (hero, animal, object, place, plot, ending, length, ...).

    The log-probability is that of the text given the constraints as independent choices made beforehand.
    """
    roles: Roles = dict(constraints)
    out: list[str] = []
    logprob = LANGUAGE.story_grammar.generate(stream, roles, out)
    return Story("".join(out), logprob, roles)


def story(seed: int, index: int) -> Story:
    """Return story ``index`` of a seed, a pure function of both."""
    return story_given(RandomStream("small", "stories", seed, index))


def document(seed: int, index: int) -> Story:
    """Return document ``index`` of a corpus: a blurb, the story, and questions with their answers."""
    stream, roles, out = RandomStream("small", "documents", seed, index), {}, []
    logprob = LANGUAGE.document_grammar.generate(stream, roles, out)
    return Story("".join(out), logprob, roles)


def story_derivations(text: str) -> list[tuple[Roles, float]]:
    """Return the derivations of a text as a whole story as (roles, log-probability)."""
    return derivations(LANGUAGE.story_grammar, text)


def story_logprob(text: str) -> float | None:
    """Return the log-probability of a complete story, None if it is not in the language."""
    return total_logprob(story_derivations(text))


def document_logprob(text: str) -> float | None:
    """Return the log-probability of a document of a corpus, None if it is not in the language."""
    return total_logprob(derivations(LANGUAGE.document_grammar, text))


def next_token_truth(tokenizer) -> NextTokenTruth:
    """Return the computation of the true next-token distributions of documents for a tokenizer."""
    return NextTokenTruth.of_tokenizer(LANGUAGE.document_grammar, tokenizer)
