"""More plots, in the same form as those in ``plots``."""

MORE_PLOTS: dict[str, dict] = {
    "signal": {
        "ask": ["saves a friend with {object.a}", "uses {object.a} to rescue a friend"],
        "talk": False,
        "beats": [
            [
                "One {*weather} {*time}, {friend} the {pal} got lost {place.at}.",
                "{friend}, {pal.a} with {*feature}, got lost on a trip {place.to}.",
                "A [snowstorm|fog] caught {friend} the {pal} {place.at}.",
            ],
            [
                0.12,
                "The neighbors called, but only {*singer} answered.",
                "{hero} could not [sleep|sit still] for worry.",
                "It was growing dark, and {*mishap}.",
            ],
            [
                "{hero} [hung|set|tied] {trait.a} {object} on a tall {*tree} tree as a sign.",
                "{hero} climbed on a roof and {*manner} waved {trait.a} {object}.",
                "{hero} held up {trait.a} {object} in the [moonlight|wind|rain].",
            ],
            [
                0.5,
                "{friend} was [shivering|waiting|crying|resting] {hiding}.",
                "By then {friend} was asleep {hiding}.",
                "{friend} sat {hiding} and saw only the sky.",
            ],
        ],
        "well": [
            [
                "{*later} {friend} saw the {trait} {object} and followed it home.",
                "At last {friend} saw the {object}, and {hero} came running.",
                "The {trait} {object} [shone|swung|flashed], and {friend} found the path.",
            ],
            [
                "{hero} and {friend} shared {*food}, and the {object} lay by the fire.",
                "The {trait} {object} still hangs by {hero}'s door, in case {friend} is late.",
            ],
        ],
        "badly": [
            [
                "But {friend} never saw the {trait} {object} in the dark.",
                "The wind tore the {trait} {object} away, and {friend} walked the wrong way.",
                "{*later} they found {friend}, who had caught a fever, but not the {object}.",
            ],
            [
                "{hero} smashed the {object}, and {friend} stayed indoors for a year.",
                "{friend} never quite trusted {hero} after that.",
            ],
        ],
        "questions": {
            "What did {hero} use as a sign?": "{hero} used {object.a}.",
            "Who was lost?": "{friend} the {pal} was lost.",
            "Where did {friend} get lost?": "{friend} got lost {place.at}.",
        },
    },
    "quarrel": {
        "ask": ["quarrels over {object.a}", "fights with a friend about {object.a}"],
        "talk": False,
        "beats": [
            [
                "One {*time}, {he} and {friend} the {pal} both wanted {trait.a} {object} {place.at}.",
                "{He} and {friend} the {pal} won {trait.a} {object} at a fair {place.at}.",
                "{place.At} lay {trait.a} {object}, but {friend}, {pal.a} with {*feature}, had seen it first.",  # noqa: E501
            ],
            [
                0.4,
                "They [pulled|shouted|argued] until {*mishap}.",
                '"It is mine!" cried {friend}, and {hero} {*manner} said no.',
                "They called each other {*quirk} and worse.",
            ],
            [
                "In the end {hero} hid it {hiding}.",
                "At night {friend} hid it {hiding}.",
                "A [judge|teacher|policeman] locked it away {hiding}.",
            ],
        ],
        "well": [
            [
                "{*later} {hero} brought {*food} and said sorry, and so did {friend}.",
                "{*later} they took the {object} from {hiding.noun} and began to laugh.",
                "{*later} they agreed to share the {object} every {*time}.",
            ],
            [
                "Now the {trait} {object} belongs to {hero} and {friend} together.",
                "{hero} and {friend} gave the {object} to a child and stayed friends.",
            ],
        ],
        "badly": [
            [
                "{*later} the {trait} {object} was in pieces, and each blamed the other.",
                "Neither of them said sorry, and {*later.L} {friend} moved away.",
                "While they quarreled, a [thief|magpie|peddler] took the {trait} {object}.",
            ],
            ["{hero} had lost both the {object} and {friend}.", "{hero} and {friend} have not spoken since."],
        ],
        "questions": {
            "What did they quarrel about?": "They quarreled about {object.a}.",
            "Who did {hero} quarrel with?": "{hero} quarreled with {friend} the {pal}.",
            "Where did they see the {object}?": "They saw it {place.at}.",
            "Where was the {object} hidden?": "It was hidden {hiding}.",
        },
    },
    "borrow": {
        "ask": ["borrows {object.a}", "forgets to return {object.a}"],
        "talk": False,
        "beats": [
            [
                "{place.At}, {he} borrowed {trait.a} {object} from {friend} the {pal}.",
                "{friend} the {pal} {*manner} lent {him} {trait.a} {object} {place.at}.",
                "One {*time} {place.at}, {friend}, {pal.a} with {*feature}, lent {him} {trait.a} {object}.",
            ],
            [
                0.12,
                '"Please bring it back before supper," said {friend}.',
                "{He} {*manner} shook hands on it.",
                "{He} had never been trusted with anything so {*quirk}.",
            ],
            [
                "But {*mishap}, and it got a [scratch|crack|hole|stain].",
                "That night {he} dropped it, and it [cracked|split|bent].",
                "{He} left it in the rain, and it was soon [bent|faded|ruined].",
            ],
            [
                "{*manner.C}, {he} hid it {hiding}.",
                "{He} pushed it {hiding} and said nothing.",
                "{He} said it was lost, but it lay {hiding}.",
            ],
        ],
        "well": [
            [
                "{*later} {he} told the truth, and {friend} laughed and mended the {object}.",
                "{*later} {friend} found the {object} {hiding.the} and forgave {him}.",
                "{*later} {he} gave back the {trait} {object}, better than new.",
            ],
            [
                "Since then, {hero} tells {friend} the truth, even about {object.a}.",
                '"Friends matter more than {object.a}," {friend} told {hero}.',
            ],
        ],
        "badly": [
            [
                "{*later} {friend} found the {trait} {object} {hiding.the} and left without a word.",
                "{*later} {he} told the truth about the {object}, but {friend} would not listen.",
                "{He} kept silent, and the {trait} {object} fell apart {hiding.the}.",
            ],
            [
                "{friend} never lent {hero} anything again, not even {*food}.",
                "{hero} lost a good friend over {trait.a} {object}.",
            ],
        ],
        "questions": {
            "What did {hero} borrow?": "{hero} borrowed {object.a}.",
            "Who lent {hero} the {object}?": "{friend} the {pal} lent it.",
            "Where did {hero} hide the {object}?": "{hero} hid it {hiding}.",
        },
    },
    "mend": {
        "ask": ["repairs {object.a}", "mends {object.a}", "tries to fix {object.a}"],
        "talk": True,
        "beats": [
            [
                "One {*time}, {he} was given {trait.a} {object} {place.at}, but it was broken.",
                "{His} {trait} {object} broke in two on a visit {place.to}.",
                "{place.At}, {he} bought {trait.a} {object}, but it did not work.",
            ],
            [
                "{He} looked for [a screw|some glue|a spring|a drop of oil] {hiding}.",
                "The missing piece lay {hiding}.",
                "{He} worked {*manner} and kept the pieces {hiding}.",
            ],
            [
                0.12,
                "{He} burned {his} [paw|nose|tail] when {*mishap}.",
                "A new one cost too many {*money}, and the bank was closed.",
                "It looked worse with every hour.",
            ],
            [
                "{friend} the {pal}, who had {*feature}, held the lamp.",
                "{friend} the {pal} brought {food} and [advice|a box of tools].",
                "{friend}, {pal.a} with {*feature}, had mended worse things.",
            ],
        ],
        "well": [
            [
                "{*later} the {trait} {object} was as good as new.",
                "{*later} {friend} found the last piece, and the {object} was whole.",
                "With one {*quirk} click, the {trait} {object} worked again.",
            ],
            [
                "{hero} made {friend} {object.a} too, and it is even more {trait}.",
                "Neighbors now bring broken things to {hero} and {friend}.",
            ],
        ],
        "badly": [
            [
                "{*later} the {trait} {object} fell apart for good.",
                "{*later} {friend} stepped on the {object}, and it was dust.",
                "The glue never dried, and the {trait} {object} stuck to {his} tail.",
            ],
            [
                "{hero} buried the {object}, and {friend} sang a sad song.",
                "{hero} put the {object} in a drawer and never opened it again.",
            ],
        ],
        "questions": {
            "What did {hero} try to mend?": "{hero} tried to mend {object.a}.",
            "Who helped {hero}?": "{friend} the {pal} helped {hero}.",
            "What kind of animal was {friend}?": "{friend} was {pal.a}.",
        },
    },
    "fair": {
        "ask": ["enters a contest with {object.a}", "shows {object.a} at the fair"],
        "talk": True,
        "beats": [
            [
                "One {*weather} {*time}, {he} brought {trait.a} {object} to a contest {place.at}.",
                "{He} took {his} {trait} {object} {place.to} for a contest.",
                "{place.At}, [forty|fifty|sixty] {*money} awaited the best {object}, and {hers} was {trait}.",
            ],
            [
                "{friend} the {pal} came along to sell {*food}.",
                "{His} rival was {friend}, {pal.a} with {*feature}.",
                "{friend} the {pal} {*manner} wished {him} luck.",
            ],
            [
                "The night before, {he} kept it {hiding}.",
                "Just before the start, {he} found it {hiding}.",
                "When {*mishap}, {he} had to hide it {hiding}.",
            ],
            [
                0.15,
                "The judge had {*feature} and looked {*quirk}.",
                "{*singer.C} made the music, and the air smelled of {*food}.",
                "{His} {kin} had come to watch.",
            ],
        ],
        "well": [
            [
                "The judge held up the {trait} {object} and gave {him} first prize.",
                "{*later} the crowd clapped for the {object}, and even {friend} cheered.",
                "The {trait} {object} came in last, but {friend} shared the prize with {him}.",
            ],
            [
                "{hero} put the prize in the bank and took {friend} out for {*food}.",
                "{hero} and {friend} danced through the streets, {*glad} and full of {*food}.",
            ],
        ],
        "badly": [
            [
                "The judge laughed at the {trait} {object} and walked on.",
                "{*later} {he} tripped on the stage, and the {trait} {object} broke.",
                "A cheat won the prize, and someone stole the {object} as well.",
            ],
            [
                "{hero} walked home with {friend}, and neither said a word.",
                "{hero} sold the {object} for {*food} and wept.",
            ],
        ],
        "questions": {
            "What did {hero} bring to the contest?": "{hero} brought {object.a}.",
            "Where was the contest?": "The contest was {place.at}.",
            "Who did {hero} meet there?": "{hero} met {friend} the {pal}.",
            "Where was the {object}?": "It was {hiding}.",
        },
    },
    "guard": {
        "ask": ["guards {object.a}", "looks after {object.a} for a friend"],
        "talk": False,
        "beats": [
            [
                "{friend} the {pal} went {place.to} and left {him} {trait.a} {object}.",
                "Before going {place.to}, {friend} the {pal} gave {him} {trait.a} {object} to guard.",
                '"Guard my {trait} {object}," said {friend} the {pal} and left for {place}.',
            ],
            [
                "{He} put it {hiding} and sat down with {*food}.",
                "{He} {*manner} hid it {hiding}.",
                "{He} did not dare to sleep, so {he} hid it {hiding}.",
            ],
            [
                0.4,
                "On the [second|third|fifth|ninth] night {*mishap}.",
                "One {*time} a stranger with {*feature} asked to see it.",
                "{He} longed to {habit}, but {he} stayed at home.",
            ],
            [
                0.12,
                "The house creaked, and somewhere {*singer} sang.",
                "{He} wrote to {friend} that all was well.",
                "A clerk from the bank offered {him} [thirty|ninety] {*money} for it.",
            ],
        ],
        "well": [
            [
                "{*later} {friend} looked {hiding.the} and found the {trait} {object} safe.",
                "{*later} {he} gave the {object} back without a scratch.",
                "The thief {he} feared was only {friend}, back for the {object}.",
            ],
            [
                "{friend} brought {hero} {*food} and called {him} a hero.",
                "As thanks, {friend} lets {hero} keep the {trait} {object} every summer.",
            ],
        ],
        "badly": [
            [
                "{*later} {friend} came back, but {hiding.the} there was no {object}.",
                "{*later} {he} woke up, and the {trait} {object} had been stolen.",
                "When {friend} came home, the {trait} {object} was ruined.",
            ],
            [
                "{friend} wept for the {object}, and {hero} could only say sorry.",
                "{hero} ran away and left {friend} a note about the {object}.",
            ],
        ],
        "questions": {
            "What did {hero} guard?": "{hero} guarded {object.a}.",
            "Who left the {object} with {hero}?": "{friend} the {pal} left it with {hero}.",
            "Where did {friend} go?": "{friend} went {place.to}.",
            "Where did {hero} hide the {object}?": "{hero} hid it {hiding}.",
        },
    },
}
