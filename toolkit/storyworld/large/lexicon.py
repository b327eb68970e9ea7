"""Lexicons with their surface forms, the roles that draw from them, and the composed names."""

from zlib import crc32

from toolkit.storyworld.grammar import Lexicon
from toolkit.storyworld.large import words
from toolkit.storyworld.template import TemplateCompiler

VERSION = 1
"""Version of the dataset; it increases with every change of a row."""
DIGEST = "5dfb6971be4c8ca98ae576c6031c0e21924d837fab3eff56c17d951148a74d1d"
"""Digest of this version's rows (`rows.compute_digest`)."""
NAMES_PER_KIND = 800

_PRONOUNS = {
    "she": {
        "he": "she",
        "He": "She",
        "his": "her",
        "His": "Her",
        "him": "her",
        "himself": "herself",
        "hers": "hers",
    },
    "he": {
        "he": "he",
        "He": "He",
        "his": "his",
        "His": "His",
        "him": "him",
        "himself": "himself",
        "hers": "his",
    },
}
_ONSETS = "B D F G H J K L M N P R S T V W Z Br Fl Gr St Tr Th".split()
_VOWELS = "a e i o u".split()
_MIDDLES = "r l n m d v s bb nn ll lk nd rt nk lm".split()
_ENDINGS = {"she": "a ia ina ella ika issa elle etta".split(), "he": "o or in ek ard us is ob".split()}
# Composed by chance but also English words, well-known brands or unkind: not for heroes.
_AVOIDED = set(
    """Banda Bandor Basin Basis Bobbin Bonus Bravo Bulla Demo Dobbin Donor Farta Fartek Fartia
Fartin Fartis Fartor Fartus Fortor Genus Gonna Granda Gurus Hella Hello Hero Homina Homo Horis Humor Jello
Ladina Lamina Lenin Limo Linus Mallard Mania Manna Manor Media Memo Mesa Minor Minus Monkia Mortis Mundo Nada
Nudek Nudia Nudika Nudina Nudo Panda Penis Pollard Polo Punkin Rabbis Radia Resin Rodin Rondo Rosin Rumor
Sador Sinus Soda Sodo Solo Stadia Standard Stevia Tennis Tenor Terob Teror Thallus Thesis Tumor Tuna Vendor
Venin Venus Villa Wanna Windor Wonka""".split()
)


def a_or_an(phrase: str) -> str:
    """The phrase with its indefinite article ("an owl", "an honest fox")."""
    vowel_sound = phrase[0].lower() in "aeiou" or phrase.startswith(("honest", "hour"))
    return ("an " if vowel_sound else "a ") + phrase


def split_words(text: str) -> list[str]:
    """The entries of a word list of ``words``."""
    return [" ".join(entry.split()) for entry in text.split(",")]


def compose_names() -> list[tuple[str, str]]:
    """(name, kind) pairs from syllables, in an order that a checksum fixes; kind is "she" or "he" in turn."""
    chosen = []
    for endings in _ENDINGS.values():
        names = [
            onset + vowel + middle + ending
            for onset in _ONSETS
            for vowel in _VOWELS
            for middle in _MIDDLES
            for ending in endings
            if len(middle + ending) < 5 and len(onset + middle) < 4
        ]
        # The odd factor (Knuth's) breaks up the runs of similar names that a plain checksum leaves.
        names.sort(key=lambda name: (crc32(name.encode()) ** 2 * 2654435761 >> 7 & 0xFFFFFFFF, name))
        chosen.append([name for name in names if name not in _AVOIDED][:NAMES_PER_KIND])
    return [
        (name, kind) for pair in zip(*chosen, strict=True) for name, kind in zip(pair, _ENDINGS, strict=True)
    ]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _plain(text: str) -> Lexicon:
    return Lexicon(
        [
            (word, {"": word, "a": a_or_an(word), "C": _capital(word), "L": word[0].lower() + word[1:]})
            for word in split_words(text)
        ]
    )


def _names() -> Lexicon:
    composed = compose_names()
    return Lexicon(
        [(name, {"": name, **_PRONOUNS[kind]}) for name, kind in composed],
        exponent=0.7,
        offset=10.0,
        kinds=dict(composed),
    )


def _habits() -> Lexicon:
    entries = [entry.split("|") for entry in split_words(words.HABITS)]
    return Lexicon(
        [
            (f"{verb} {rest}", {"": f"{verb} {rest}", "ing": f"{gerund} {rest}"})
            for verb, gerund, rest in entries
        ]
    )


def _waters() -> Lexicon:
    entries = [entry.split("|") for entry in split_words(words.WATERS)]
    return Lexicon([(present, {"": present, "past": past}) for present, past in entries])


def _places() -> Lexicon:
    entries = [entry.split("|") for entry in split_words(words.PLACES)]
    return Lexicon(
        [
            (
                noun,
                {
                    "": f"the {noun}",
                    "at": f"{preposition} the {noun}",
                    "At": f"{_capital(preposition)} the {noun}",
                    "to": f"to the {noun}",
                },
            )
            for preposition, noun in entries
        ]
    )


def _hidings() -> Lexicon:
    entries = [entry.split("|") for entry in split_words(words.HIDINGS)]
    return Lexicon(
        [
            (
                f"{preposition} {article} {noun}",
                {
                    "": f"{preposition} {article} {noun}",
                    "the": f"{preposition} the {noun}",
                    "noun": f"the {noun}",
                },
            )
            for preposition, article, noun in entries
        ]
    )


LEXICONS: dict[str, Lexicon] = {
    "name": _names(),
    "habit": _habits(),
    "place": _places(),
    "hiding": _hidings(),
    "water": _waters(),
    **{
        name: _plain(text)
        for name, text in {
            "animal": words.ANIMALS,
            "object": words.OBJECTS,
            "trait": words.TRAITS,
            "nature": words.NATURES,
            "region": words.REGIONS,
            "weather": words.WEATHERS,
            "time": words.TIMES,
            "later": words.LATERS,
            "food": words.FOODS,
            "forage": words.FORAGES,
            "feature": words.FEATURES,
            "glad": words.GLADS,
            "sad": words.SADS,
            "tree": words.TREES,
            "quirk": words.QUIRKS,
            "manner": words.MANNERS,
            "money": words.MONIES,
            "singer": words.SINGERS,
            "kin": words.KIN,
            "encouragement": words.ENCOURAGEMENTS,
            "mishap": words.MISHAPS,
        }.items()
    },
}

ROLE_LEXICON = {
    "hero": "name",
    "friend": "name",
    "animal": "animal",
    "pal": "animal",
    "object": "object",
    "trait": "trait",
    "nature": "nature",
    "region": "region",
    "habit": "habit",
    "place": "place",
    "hiding": "hiding",
    "food": "food",
    "kin": "kin",
    "money": "money",
}
APART = {"hero": ("friend",), "friend": ("hero",), "animal": ("pal",), "pal": ("animal",)}

compile_template = TemplateCompiler(LEXICONS, ROLE_LEXICON, APART)
