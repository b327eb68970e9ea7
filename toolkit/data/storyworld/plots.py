"""The plots: what happens to the hero, the friend and the object.

A plot is ``ask`` (how a request names it), ``beats`` (its sentences in order; a beat that starts with a
probability may be left out), ``well`` and ``badly`` (the outcome, then the last sentence), ``talk``
(whether the friend is at the hero's side before the outcome) and ``questions`` (question -> answer, each
answer about something that every story of the plot tells). Templates: see ``template``.
"""

PLOTS: dict[str, dict] = {
    "find": {
        "ask": ["finds {object.a}", "discovers {object.a}", "stumbles upon {object.a}"],
        "talk": True,
        "beats": [
            [
                "One {*weather} {*time}, {he} found {trait.a} {object} {place.at}.",
                "While looking for {*forage} {place.at}, {he} [spotted|noticed|stepped on] {trait.a} {object}.",  # noqa: E501
                "That spring {he} dug up {trait.a} {object} {place.at}.",
                "{place.At}, under {*tree.a} tree, {he} found {trait.a} {object}.",
            ],
            [
                0.12,
                "It was the [best|finest|oddest] thing {he} had ever [seen|owned|held].",
                "Nobody knew [who had left it there|where it came from].",
                "It smelled of {*tree} and {*food}.",
            ],
            [
                "{He} hid it {hiding} [and told no one|for the night|].",
                "{*manner.C}, {he} [tucked|slipped|pushed] it {hiding}.",
                "To keep it safe, {he} [hid|put|left] it {hiding}.",
            ],
            [
                "Only {friend} the {pal} [knew|saw it|was told].",
                "{friend} the {pal} [swore|promised] to help guard it.",
                "{friend}, {pal.a} with {*feature}, kept watch.",
                "{friend} the {pal} saw everything but told nobody.",
            ],
        ],
        "well": [
            [
                "{*later} the {trait} {object} was still {hiding.the}.",
                "{*later} {he} reached {hiding.the}, and there was the {object}, as {trait} as ever.",
                "Thieves came, but {friend} kept the {object} {hiding.the} safe.",
            ],
            [
                "Now {hero} and {friend} [share|polish|guard] the {trait} {object} every {*time}.",
                "{hero} kept the {object} all {his} life and never forgot {friend}.",
            ],
        ],
        "badly": [
            [
                "{*later} {he} looked {hiding.the}, but the {trait} {object} was gone.",
                "{*later} there was nothing {hiding.the}, for {friend} had fallen asleep.",
                "But a flood came, and the {object} was washed away.",
            ],
            [
                "{hero} never saw the {trait} {object} again.",
                "{hero} blamed {friend} and searched for the {object} all winter.",
            ],
        ],
        "questions": {
            "What did {hero} find?": "{hero} found {object.a}.",
            "Where did {hero} hide the {object}?": "{hero} hid it {hiding}.",
            "Where did {hero} find the {object}?": "{hero} found it {place.at}.",
            "Who knew {hero}'s secret?": "{friend} the {pal} knew the secret.",
        },
    },
    "lose": {
        "ask": ["loses {object.a}", "cannot find {object.a}", "searches for {object.a}"],
        "talk": True,
        "beats": [
            [
                "One {*weather} {*time} {he} lost {his} {kin}'s {trait} {object} {place.at}.",
                "One {*time} {he} dropped {his} {kin}'s {trait} {object} {place.at}.",
                "{place.At}, {he} lost the {trait} {object} that {his} {kin} had given {him}.",
            ],
            [
                0.12,
                "In {his} pockets {he} found only {*food}.",
                "Without it, {he} felt {*sad} from ears to toes.",
                "{He} looked [under the bed|on the stairs|in the garden] [twice|until dark].",
            ],
            [
                "{friend} the {pal} {*manner} joined the search.",
                "{friend}, {pal.a} with {*feature}, helped {him} look.",
                "{friend} the {pal} showed everyone a picture of the {object}.",
            ],
            [
                "They searched {hiding}, but {*mishap}.",
                "They {*manner} dug {hiding}.",
                "A trail of [crumbs|footprints|feathers] led to something {hiding}.",
            ],
        ],
        "well": [
            [
                "{*later} the {trait} {object} turned up {hiding.the} after all.",
                "{*later} {friend} pulled out the {trait} {object} and shouted for joy.",
                "Suddenly {friend} heard the {object} fall with a [thud|clang|squeak].",
            ],
            [
                "{His} {kin} never knew that {hero} had lost the {object}.",
                "{hero} hugged {friend} and tied the {object} to {his} [belt|wrist|tail].",
            ],
        ],
        "badly": [
            [
                "{*later} they gave up, and the {trait} {object} stayed lost.",
                "{*later} {friend} found only a broken piece of the {object}.",
                "Alas, a [peddler|crow|sailor] had already sold the {trait} {object}.",
            ],
            [
                "{hero} told {his} {kin} the truth, and the {kin} [wept|sighed|turned away].",
                "{hero} still dreams of the {trait} {object} {his} {kin} gave {him}.",
            ],
        ],
        "questions": {
            "What did {hero} lose?": "{hero} lost {object.a}.",
            "Where did {hero} lose the {object}?": "{hero} lost it {place.at}.",
            "Who helped {hero} search?": "{friend} the {pal} helped {hero}.",
            "Who gave {hero} the {object}?": "{hero}'s {kin} gave it to {him}.",
        },
    },
    "gift": {
        "ask": ["gives {object.a} to a friend", "gives away {object.a}", "brings a friend {object.a}"],
        "talk": False,
        "beats": [
            [
                "For {friend} the {pal} {he} chose {trait.a} {object} {place.at}.",
                "For the birthday of {friend} the {pal}, {he} bought {trait.a} {object} {place.at}.",
                "{place.At}, {he} traded {food} for {trait.a} {object} to give {friend} the {pal}.",
            ],
            [
                0.15,
                "It cost [seven|nine|twelve|twenty] {*money}, all {he} had in the bank.",
                "{He} wrapped it in [paper|leaves|an old map] and [string|red wool].",
                "Then {*mishap}, and {he} nearly turned back.",
            ],
            [
                "Until the party, {he} kept it {hiding}.",
                "So that {friend} would not peek, {he} hid it {hiding}.",
                "It was a surprise, so {he} {*manner} set it {hiding}.",
            ],
        ],
        "well": [
            [
                "{*later} {friend} opened the parcel, saw the {object} and [laughed|danced|cheered].",
                "{*later} {he} took the {trait} {object} to {friend}, who had always wanted one.",
                "{friend} loved the {trait} {object} and took it to bed.",
            ],
            [
                "{friend} gave {hero} {*food} in return, and both were {*glad}.",
                "The {object} still [hangs|stands] in {friend}'s kitchen, to the joy of {hero}.",
            ],
        ],
        "badly": [
            [
                "{*later} {friend} opened the parcel, but the {object} was broken.",
                "{*later} it turned out that {friend} was afraid of such {object.a}.",
                "But {hiding.the}, mice had chewed the {trait} {object} to bits.",
            ],
            [
                "{friend} tried to smile, but {hero} went home {*sad}.",
                "{hero} threw the {object} away, and {friend} never learned why.",
            ],
        ],
        "questions": {
            "What did {hero} want to give away?": "{hero} wanted to give away {object.a}.",
            "Who was the gift for?": "The gift was for {friend} the {pal}.",
            "Where did {hero} hide the {object}?": "{hero} hid it {hiding}.",
            "Where did {hero} get the {object}?": "{hero} got it {place.at}.",
        },
    },
    "carry": {
        "ask": ["has to deliver {object.a}", "carries {object.a} a long way", "travels with {object.a}"],
        "talk": True,
        "beats": [
            [
                "One {*weather} {*time}, {his} {kin} sent {him} {place.to} with {trait.a} {object}.",
                "{He} set out {place.to} to bring {his} {kin} {trait.a} {object}.",
                "{His} {kin} needed {trait.a} {object} {place.at} [by nightfall|at once].",
            ],
            [
                "{friend} the {pal} went along [for company|to see the world].",
                "{friend}, {pal.a} with {*feature}, knew the way.",
                "Because {he} was {nature}, {he} took {friend} the {pal} along.",
            ],
            [
                "Halfway there, {*mishap}.",
                "They had not gone far when {*mishap}.",
                "All went well until {*mishap}.",
            ],
            [
                0.15,
                "They slept {hiding}, while {*singer} sang.",
                "They crossed the river where the bank was [low|dry|firm].",
                "They stopped at the bank to change [nine|forty|sixty] {*money}.",
            ],
        ],
        "well": [
            [
                "But {friend} knew another road, and the {object} arrived safe and {trait}.",
                "{*later} {he} handed over the {trait} {object}, and {his} {kin} cried with joy.",
                "But {friend} carried {him} and the {trait} {object} there.",
            ],
            [
                "{hero} got a [medal|warm bed|big reward], and {friend} got half of it.",
                "{hero} went home to {habit}, and {his} {kin} boasted for years.",
            ],
        ],
        "badly": [
            [
                "They turned back {*sad}, with a crack in the {trait} {object}.",
                "{*later} {he} arrived with the {object}, but {his} {kin} had left.",
                "The {trait} {object} fell into a ditch, and {friend} could not reach it.",
            ],
            [
                "{His} {kin} never asked {hero} for help again.",
                "{hero} never delivered the {object}, and {friend} never spoke of it.",
            ],
        ],
        "questions": {
            "What did {hero} carry?": "{hero} carried {object.a}.",
            "Who went with {hero}?": "{friend} the {pal} went with {hero}.",
            "Where did {hero} take the {object}?": "{hero} took it {place.to}.",
        },
    },
    "buy": {
        "ask": ["saves up for {object.a}", "buys {object.a}", "wants to buy {object.a}"],
        "talk": True,
        "beats": [
            [
                "In a shop {place.at}, {he} saw {trait.a} {object} for [ten|thirty|fifty|ninety] {money}.",
                "A peddler {place.at} had {trait.a} {object}, and {he} wanted it badly.",
                "{place.At}, {he} stared at {trait.a} {object} until the shop closed.",
            ],
            [
                "{He} sold {food} and put [nine|forty|sixty] {money} in the bank.",
                "{He} sold {food}, and the bank {*manner} kept {his} {money}.",
                "The bank lent {him} nothing, so {he} sold {food}.",
            ],
            [
                "{friend} the {pal} lent {him} the last {money}.",
                "{friend}, {pal.a} with {*feature}, helped {him} work.",
                "{friend} the {pal} watched the shop window for {him}.",
            ],
        ],
        "well": [
            [
                "{*later} {he} walked home with the {trait} {object}.",
                "{*later} the price was cut in half, and the {object} was {hers}.",
                "Quite touched, they sold {him} the {trait} {object} for a song.",
            ],
            [
                "{hero} let {friend} hold the {object} first, on the steps of the bank.",
                "Each {*time} {hero} and {friend} sit with the {object} and laugh.",
            ],
        ],
        "badly": [
            [
                "{*later} {he} came with the {money}, but the {trait} {object} was sold.",
                "{*later} the bank was robbed, and {he} could not pay for the {object}.",
                "{He} bought the {trait} {object}, but it broke on the way home.",
            ],
            [
                "{hero} walked home with [empty|cold] hands, and {friend} said nothing.",
                "{hero} gave {friend} the rest of the {food} and never saved again.",
            ],
        ],
        "questions": {
            "What did {hero} want to buy?": "{hero} wanted to buy {object.a}.",
            "What did {hero} sell?": "{hero} sold {food}.",
            "Where was the {object} for sale?": "It was for sale {place.at}.",
            "Who helped {hero}?": "{friend} the {pal} helped {hero}.",
        },
    },
    "river": {
        "ask": ["drops {object.a} into the water", "lets {object.a} fall into the river"],
        "talk": False,
        "beats": [
            [
                "On the way {place.to}, {his} {trait} {object} fell from the muddy bank into the river.",
                "Going {place.to}, {he} slipped on the river bank, and {his} {trait} {object} sank.",
                "{He} dropped {trait.a} {object} from the river bank on {his} way {place.to}.",
            ],
            [
                0.15,
                "The water {*water.past} past, [brown|green|cold] and deep.",
                "A [trout|carp|pike|eel] {*manner} swam around it.",
                "{He} could almost touch it among the [weeds|stones].",
            ],
            [
                "{friend} the {pal} [jumped|dived|waded] in from the other bank.",
                "{friend}, {pal.a} with {*feature}, came with a [rope|net|pole].",
                "{He} called until {friend} the {pal} looked up from {*food}.",
            ],
            [
                0.4,
                "They left their coats {hiding} and [dived|searched] {*manner}.",
                "They warmed their feet {hiding}, and then {*mishap}.",
                "They rested {hiding}, cold and [wet|dripping|muddy].",
            ],
        ],
        "well": [
            [
                "{*later} {friend} came up with the {trait} {object}.",
                "{*later} the {object} washed up on the bank, {trait} and clean.",
                "Then the {trait} {object} floated up, and {friend} [caught|grabbed] it.",
            ],
            [
                "{hero} dried the {object} in the sun and taught {friend} to {habit}.",
                "{hero} and {friend} sat on the bank with the {object} until dark.",
            ],
        ],
        "badly": [
            [
                "{*later} they gave up, and the river kept the {trait} {object}.",
                "They only caught [an old boot|a rusty pot|an angry crab], and the {object} was lost.",
                "The {object} drifted out to sea, and {friend} caught a cold.",
            ],
            [
                "{hero} sits on that bank and mourns the {trait} {object}.",
                "{hero} never went near the water again, not even with {friend}.",
            ],
        ],
        "questions": {
            "What fell into the river?": "{hero}'s {object} fell into the river.",
            "Who tried to help {hero}?": "{friend} the {pal} tried to help.",
            "Where was {hero} going?": "{hero} was going {place.to}.",
        },
    },
}
