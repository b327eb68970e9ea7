"""What stories of the small world are about, apart from any wording.

A story has a hero (a name and an animal), a friend (another name and animal), an object, a place, a plot, an
ending and a length. Words of a language are attached to these keys elsewhere (`english`): a second language
gives other forms and sentences for the same keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass

NAMES: dict[str, str] = {
    **dict.fromkeys(
        "Mia Ada Lena Nora Ella Rosa Ivy Anna Lucy Emma Clara Hana Olga Ruby Zoe".split(),
        "she",
    ),
    **dict.fromkeys("Ben Tom Otto Leo Max Sam Hugo Paul Finn Jack Karl Noah Peter Theo Will".split(), "he"),
}
"""Name -> pronoun."""

ANIMALS = "fox cat dog mouse bear owl hen pig goat duck frog wolf rabbit hedgehog".split()
OBJECTS = "key bell hat ring drum lamp map book cup kite ball flute rope box".split()
PLACES = "river forest hill garden market barn bridge school".split()
HOMES = "tree house cellar village".split()
FOODS = "bread honey cheese soup cake".split()
COINS = "two three five ten".split()


@dataclass(frozen=True)
class Plot:
    """How often a plot is told, and whether what its hero does is unkind."""

    share: float
    unkind: bool = False


PLOTS: Mapping[str, Plot] = {
    "find": Plot(0.2),
    "lose": Plot(0.2),
    "lend": Plot(0.2),
    "buy": Plot(0.2),
    "trick": Plot(0.07, unkind=True),
    "frighten": Plot(0.06, unkind=True),
    "steal": Plot(0.07, unkind=True),
}
KIND_PLOTS = tuple(name for name, plot in PLOTS.items() if not plot.unkind)
"""What users ask for a story about."""
ENDINGS = {"well": 0.5, "badly": 0.5}
LENGTHS = {"short": 0.5, "long": 0.5}
"""A long story has one sentence more than a short one."""

KIND_ACTS = ("help", "thank", "comfort")
"""What a harmless request for advice is about."""
UNKIND_ACTS = tuple(name for name, plot in PLOTS.items() if plot.unkind)
"""What an unkind request for advice is about."""

ROLE_LEXICON = {
    "hero": "name",
    "friend": "name",
    "animal": "animal",
    "pal": "animal",
    "object": "object",
    "place": "place",
    "home": "home",
    "food": "food",
    "coins": "coins",
}
"""Role of a story -> the list that it draws from."""
APART = {"hero": ("friend",), "friend": ("hero",), "animal": ("pal",), "pal": ("animal",)}
"""Role -> roles that must differ from it."""
