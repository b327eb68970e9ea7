"""The small world: a few hundred words, seven plots, and alignment's three goals.

story(1, 0).text, story_logprob(text)        stories and the log of their exact probability
conversation(1, 0), preference(1, 0)         what supervised and preference training read
utility(messages, answer), measure(...)      the gold utility, and the facts that it is made of
"""

from toolkit.storyworld.small.conversations import FLAWS, StoryConversation, conversation, preference
from toolkit.storyworld.small.stories import story, story_derivations, story_logprob
from toolkit.storyworld.small.utility import WEIGHTS, Measurement, measure, utility
from toolkit.storyworld.small.world import SMALL

__all__ = [
    "FLAWS",
    "SMALL",
    "WEIGHTS",
    "Measurement",
    "StoryConversation",
    "conversation",
    "measure",
    "preference",
    "story",
    "story_derivations",
    "story_logprob",
    "utility",
]
