"""Worlds of short stories whose right answers are known exactly.

In a world small animals find, lose, borrow and quarrel over things, and it ends well or badly. One
probabilistic grammar tells the stories and reads them back, so the log-probability of every story is known,
and with it the entropy floor of a corpus: the loss that no language model can beat. A bank is the edge of
the river, or the house in town where the coins are.

Conversations ask for a story or about one. A share of the answers has named flaws. A gold utility reads
(prompt, answer) text alone, an annotator of known temperature labels pairs by it: so the best accuracy of
any reward model is known too. Everything is a pure function of (config, seed, index): no network, no files,
no global state.

`get_world("small")` has a few hundred words, which a model of half a million parameters learns in a minute;
`get_world("large")` has 3,400. `World.rows(config, seed, split, count)` gives the rows of a data set.
"""

from toolkit.storyworld.annotator import DEFAULT_TEMPERATURE, Biases, bayes_accuracy, preference_probability
from toolkit.storyworld.large import LARGE
from toolkit.storyworld.small import SMALL
from toolkit.storyworld.utility import Utility
from toolkit.storyworld.world import HELD_OUT_FRACTION, SPLITS, World, split_of

__all__ = [
    "DEFAULT_TEMPERATURE",
    "DEFAULT_WORLD",
    "HELD_OUT_FRACTION",
    "LARGE",
    "SMALL",
    "SPLITS",
    "WORLDS",
    "Biases",
    "Utility",
    "World",
    "bayes_accuracy",
    "get_world",
    "preference_probability",
    "split_of",
]

WORLDS = {world.name: world for world in (SMALL, LARGE)}
DEFAULT_WORLD = "large"
"""The world of a data source that names none, as all sources did before there were two."""


def get_world(name: str | None = None) -> World:
    """Return a world by its name; without one, the default world. Raises ValueError for an unknown name."""
    if name is not None and name not in WORLDS:
        raise ValueError(f"unknown world {name!r}; there are {', '.join(WORLDS)}")
    return WORLDS[name or DEFAULT_WORLD]
