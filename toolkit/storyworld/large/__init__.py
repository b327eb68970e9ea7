"""The large world: 3,400 words, 1,600 names, fourteen plots.

story(1, 0).text, story_logprob(text)            stories and the log of their exact probability
document(story), document_logprob(text)          the same under a title, as a corpus holds them
conversation(1, 0), preference(1, 0)             what supervised and preference training read
utility(messages, answer).total                  the gold utility; .terms, WEIGHTS
"""

from toolkit.storyworld.large.conversations import FLAWS, ConversationExample, conversation
from toolkit.storyworld.large.preferences import DEFAULT_FLAWED_SHARE, preference
from toolkit.storyworld.large.stories import (
    Story,
    document,
    document_logprob,
    story,
    story_derivations,
    story_logprob,
)
from toolkit.storyworld.large.utility import WEIGHTS, utility
from toolkit.storyworld.large.world import LARGE

__all__ = [
    "DEFAULT_FLAWED_SHARE",
    "FLAWS",
    "LARGE",
    "WEIGHTS",
    "ConversationExample",
    "Story",
    "conversation",
    "document",
    "document_logprob",
    "preference",
    "story",
    "story_derivations",
    "story_logprob",
    "utility",
]
