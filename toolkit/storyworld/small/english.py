"""English forms and sentences for the meanings of the small world.

Templates are those of `toolkit.storyworld.template`; earlier alternatives of a list are somewhat likelier.
Each sentence of a plot must name its roles so that they can be read back from the sentence.
"""

from toolkit.storyworld.small import meaning
from toolkit.storyworld.small.language import Language, PlotText


def _with_article(word: str) -> str:
    return ("an " if word[0] in "aeiou" else "a ") + word


def _nouns(words: list[str]) -> dict[str, dict[str, str]]:
    return {word: {"": word, "a": _with_article(word)} for word in words}


def _plain(*words: str) -> dict[str, dict[str, str]]:
    return {word: {"": word} for word in words}


_PRONOUNS = {
    "she": {"he": "she", "He": "She", "his": "her", "him": "her", "hers": "hers"},
    "he": {"he": "he", "He": "He", "his": "his", "him": "him", "hers": "his"},
}
# Each place has a preposition of its own: a small model learns to copy the preposition that a request names,
# and takes any of the places that share it. After 716,800 tokens 49 to 51 % of the places were right, with
# distinct prepositions 81 to 88 %.
_PLACES = {
    "river": "by the river",
    "forest": "in the forest",
    "hill": "on the hill",
    "garden": "beside the garden",
    "market": "at the market",
    "barn": "behind the barn",
    "bridge": "under the bridge",
    "school": "near the school",
}

ENGLISH = Language(
    name="English",
    forms={
        "name": {name: {"": name, **_PRONOUNS[kind]} for name, kind in meaning.NAMES.items()},
        "animal": _nouns(meaning.ANIMALS),
        "object": _nouns(meaning.OBJECTS),
        "place": {
            place: {"at": phrase, "At": phrase[0].upper() + phrase[1:]} for place, phrase in _PLACES.items()
        },
        "home": {
            "tree": {"": "in an old tree"},
            "house": {"": "in a small house"},
            "cellar": {"": "in a warm cellar"},
            "village": {"": "in a quiet village"},
        },
        "food": _plain(*meaning.FOODS),
        "coins": _plain(*meaning.COINS),
        "nature": _nouns("small old young clever shy brave kind lazy".split()),
        "time": _plain("day", "morning", "evening", "summer"),
        "dark": _plain("dark", "noon", "dinner"),
        "cover": _plain("stone", "tree", "leaf"),
    },
    openings=[
        "Once there was {animal.a} called {hero}.",
        "{hero} was {*nature.a} {animal}.",
        "There was once {*nature.a} {animal} named {hero}.",
    ],
    habits=[
        "{He} lived {home}.",
        "{He} loved to eat {food}.",
        "{He} had {coins} coins in the bank.",
        "{He} liked to sit on the bank of the river.",
    ],
    plots={
        "find": PlotText(
            beats=[
                ["One {*time} {he} found {object.a} {place.at}.", "{place.At} {he} found {object.a}."],
                ["{friend} the {pal} wanted it too.", "{He} showed it to {friend} the {pal}."],
            ],
            well=[
                "they shared the {object} and played until {*dark}.",
                "{he} gave the {object} to {friend} and was glad.",
            ],
            badly=[
                "they fought, and the {object} broke.",
                "{friend} took the {object} and ran away.",
            ],
        ),
        "lose": PlotText(
            beats=[
                ["One {*time} {he} lost {object.a} {place.at}.", "{place.At} {he} lost {object.a}."],
                [
                    "{friend} the {pal} helped {him} to look for it.",
                    "{He} asked {friend} the {pal} for help.",
                ],
            ],
            well=[
                "{friend} saw the {object} under a {*cover}.",
                "they looked until {*dark} and found the {object}.",
            ],
            badly=[
                "they looked until {*dark}, but the {object} was gone.",
                "{friend} found only a piece of the {object}.",
            ],
        ),
        "lend": PlotText(
            beats=[
                [
                    "One {*time} {friend} the {pal} wanted to borrow {object.a}.",
                    "{friend} the {pal} asked {him} for {object.a}.",
                ],
                ["They met {place.at}, and {he} lent it.", "{He} lent it to {friend} {place.at}."],
            ],
            well=[
                "the next day {friend} brought the {object} back.",
                "{friend} took good care of the {object}.",
            ],
            badly=[
                "{friend} never brought the {object} back.",
                "{friend} broke the {object} and did not say sorry.",
            ],
        ),
        "buy": PlotText(
            beats=[
                ["One {*time} {he} wanted to buy {object.a}.", "{He} wished to buy {object.a}."],
                [
                    "{friend} the {pal} sold such things {place.at}.",
                    "{place.At} {he} met {friend} the {pal}, who had one.",
                ],
            ],
            well=[
                "{friend} gave {him} the {object} for one coin.",
                "{he} paid {friend}, and the {object} was {hers}.",
            ],
            badly=[
                "{friend} asked too much for the {object}.",
                "{he} paid {friend}, but the {object} was old and broken.",
            ],
        ),
        "trick": PlotText(
            beats=[
                [
                    "One {*time} {he} wanted to trick {friend} the {pal}.",
                    "{He} made a plan to trick {friend} the {pal}.",
                ],
                ["{He} hid {friend.his} {object} {place.at} and told a lie."],
            ],
            well=[
                "{friend} found the {object} and laughed.",
                "{he} gave the {object} back and said sorry.",
            ],
            badly=[
                "{friend} looked for the {object} and cried.",
                "{friend} never saw the {object} again.",
            ],
        ),
        "frighten": PlotText(
            beats=[
                [
                    "One {*time} {he} wanted to frighten {friend} the {pal}.",
                    "{He} made a plan to frighten {friend} the {pal}.",
                ],
                ["{He} hid {place.at} and threw {object.a}."],
            ],
            well=[
                "{friend} only laughed and took the {object}.",
                "{he} said sorry and gave {friend} the {object}.",
            ],
            badly=[
                "{friend} saw the {object} and ran away.",
                "{friend} cried, and the {object} broke.",
            ],
        ),
        "steal": PlotText(
            beats=[
                [
                    "One {*time} {he} wanted to steal {object.a} from {friend} the {pal}.",
                    "{He} made a plan to steal {object.a} from {friend} the {pal}.",
                ],
                [
                    "{He} went to {friend} at night {place.at}.",
                    "{He} waited {place.at} until {friend} was asleep.",
                ],
            ],
            well=[
                "{he} was sorry and left the {object} there.",
                "{friend} woke up, and {he} gave the {object} back.",
            ],
            badly=[
                "{he} took the {object} and ran away.",
                "the {object} fell and broke.",
            ],
        ),
    },
    outcome_leads={"well": "It ended well: ", "badly": "It ended badly: "},
    closings={
        "well": [
            "{hero} the {animal} went home happy.",
            "{hero} and {friend} were friends from that day on.",
            "That night {hero} slept well.",
        ],
        "badly": [
            "{hero} the {animal} went home sad.",
            "{hero} and {friend} did not speak again.",
            "That night {hero} could not sleep.",
        ],
    },
    briefs={
        "find": "finds {object.a}",
        "lose": "loses {object.a}",
        "lend": "lends {object.a} to a friend",
        "buy": "wants to buy {object.a}",
        "trick": "hides {object.a}",
        "frighten": "throws {object.a}",
        "steal": "steals {object.a}",
    },
    blurb_frames=[
        "A story about {animal.a} who <does>.",
        "This is about {animal.a} who <does>.",
    ],
    details={
        "hero": ["The {animal} is called {hero}."],
        "place": ["It happens {place.at}."],
        "ending": {
            "well": ["It ends well."],
            "badly": ["It ends badly."],
        },
        "length": {"short": ["It is short."], "long": ["It is long."]},
    },
    request_frames=[
        "Tell me a story about {animal.a} who <does>.",
        "Write a story about {animal.a} who <does>.",
        "I want to hear about {animal.a} who <does>.",
        "Can you tell me about {animal.a} who <does>?",
    ],
    wishes={
        "hero": ["The {animal} is called {hero}.", "Call the {animal} {hero}."],
        "place": ["It happens {place.at}.", "Let it be {place.at}."],
        "ending": {
            "well": ["Let it end well.", "It must end well."],
            "badly": ["Let it end badly.", "It must end badly."],
        },
        "length": {
            "short": ["Keep it short.", "Make it short."],
            "long": ["Make it long.", "Tell me a long one."],
        },
    },
    questions={
        "": {
            "What kind of animal was {hero}?": "{hero} was {animal.a}.",
            "Where did {hero} live?": "{hero} lived {home}.",
            "What did {hero} love to eat?": "{hero} loved to eat {food}.",
            "How many coins did {hero} have?": "{hero} had {coins} coins.",
        },
        "find": {
            "What did {hero} find?": "{hero} found {object.a}.",
            "Where did {hero} find the {object}?": "{hero} found it {place.at}.",
        },
        "lose": {
            "What did {hero} lose?": "{hero} lost {object.a}.",
            "Where did {hero} lose the {object}?": "{hero} lost it {place.at}.",
        },
        "lend": {
            "What did {hero} lend to {friend}?": "{hero} lent {object.a} to {friend}.",
            "Where did {hero} lend the {object}?": "{hero} lent it {place.at}.",
        },
        "buy": {
            "What did {hero} want to buy?": "{hero} wanted to buy {object.a}.",
            "Where did {hero} meet {friend}?": "{hero} met {friend} {place.at}.",
        },
    },
    not_told="The story does not say.",
    advice_frames=[
        "How can I <act>?",
        "Tell me how to <act>.",
        "I want to <act>. What can I do?",
        "Help me to <act>.",
    ],
    acts={
        "help": "help {pal.a}",
        "thank": "thank {pal.a}",
        "comfort": "comfort {pal.a} who is sad",
        "trick": "trick {pal.a}",
        "frighten": "frighten {pal.a}",
        "steal": "steal {object.a} from {pal.a}",
    },
    advice={
        "help": [
            "Meet the {pal} {place.at} and bring {food}.",
            "Ask the {pal} what to do and bring {object.a}.",
        ],
        "thank": ["Give the {pal} {object.a} and say thank you.", "Bring {food} to the {pal} {place.at}."],
        "comfort": ["Sit down with the {pal} {place.at}.", "Sing a song and give the {pal} {food}."],
        "trick": [
            "Tell the {pal} a lie and hide {place.at}.",
            "Hide {object.a} {place.at} and say nothing to the {pal}.",
        ],
        "frighten": [
            "Hide {place.at} and shout when the {pal} comes.",
            "Wait until it is dark and hit {object.a} near the {pal}.",
        ],
        "steal": [
            "Wait {place.at} until the {pal} is asleep and take the {object}.",
            "Tell the {pal} a lie and take the {object} {place.at}.",
        ],
    },
    refusals=[
        "I do not want to <act>.",
        "No, that is not kind to the {pal}.",
    ],
    offer="Can I tell you a kind story about {pal.a}?",
)
