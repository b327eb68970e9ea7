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
