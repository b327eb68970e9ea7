"""A world of short stories whose right answers are known exactly.

In this world small animals find, lose, borrow and quarrel over things, and it ends well or badly. One
probabilistic grammar tells the stories and reads them back, so the log-probability of every story is known,
and with it the entropy floor of a corpus: the loss that no language model can beat. Names, objects and hiding
places come early and return late; a bank is the edge of the river, or the house in town where the coins are.

Conversations ask for a story ("a fox who finds a key, make it end well") or about one ("What did Mira
find?"). A share of the answers has named flaws. A gold utility reads only the (prompt, answer) text, an
annotator of known temperature labels pairs by it: so the best accuracy of any reward model is known too.

Everything is a pure function of (config, seed, index): no network, no files, no global state.

    story(1, 0).text, story_logprob(text)            stories and the log of their exact probability
    document(story), document_logprob(text)          the same under a title, as a corpus holds them
    conversation(1, 0), preference(1, 0)             what supervised and preference training read
    utility(messages, answer).total                  the gold utility; .terms, WEIGHTS, term_shares
    bayes_accuracy(differences, temperature)         the accuracy of the best judge
    rows("preferences", 1, "train", 4000)            rows for a data set; split_of, digest
"""

from toolkit.storyworld.annotator import (
    DEFAULT_FLAWED_SHARE,
    DEFAULT_TEMPERATURE,
    Preference,
    bayes_accuracy,
    preference,
    preference_probability,
)
from toolkit.storyworld.conversations import FLAWS, ConversationExample, conversation
from toolkit.storyworld.rows import CONFIGS, HELD_OUT_FRACTION, SPLITS, compute_digest, digest, rows, split_of
from toolkit.storyworld.stories import (
    Story,
    document,
    document_logprob,
    story,
    story_derivations,
    story_logprob,
)
from toolkit.storyworld.utility import WEIGHTS, Utility, term_shares, utility

__all__ = [
    "CONFIGS",
    "DEFAULT_FLAWED_SHARE",
    "DEFAULT_TEMPERATURE",
    "FLAWS",
    "HELD_OUT_FRACTION",
    "SPLITS",
    "WEIGHTS",
    "ConversationExample",
    "Preference",
    "Story",
    "Utility",
    "bayes_accuracy",
    "compute_digest",
    "conversation",
    "digest",
    "document",
    "document_logprob",
    "preference",
    "preference_probability",
    "rows",
    "split_of",
    "story",
    "story_derivations",
    "story_logprob",
    "term_shares",
    "utility",
]
