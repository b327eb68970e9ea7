"""The word lists of the storyworld, likeliest words first; a comma or a line separates entries."""

ANIMALS = """fox, mouse, rabbit, bear, owl, hedgehog, badger, frog, squirrel, duck, otter, hare, mole, cat,
goose, turtle, raven, beaver, dog, wolf, goat, donkey, sparrow, toad, pig, hen, deer, lamb, crow, robin,
pony, kitten, heron, swan, sheep, rooster, horse, elephant, lion, monkey, penguin, tiger, goblin, newt,
wren, puppy, elk, moose, weasel, ferret, stork, lizard, cow, turkey, raccoon, skunk, camel, llama, zebra,
giraffe, panda, koala, kangaroo, walrus, seal, puffin, gull, pelican, parrot, finch, magpie, jay, dove,
pigeon, bat, cricket, beetle, snail, tortoise, crane, gecko, lynx, stoat, marten, armadillo, anteater,
alpaca, hippo, rhino, leopard, sloth, lemur, wombat, dragon, troll, giant, porcupine, possum, dormouse,
ladybird"""

OBJECTS = """key, lantern, bell, drum, kettle, compass, map, mirror, ribbon, button, basket, teapot, candle,
clock, watch, necklace, crown, kite, scarf, hat, book, letter, feather, shell, marble, pearl, flute,
whistle, trumpet, fiddle, ball, doll, puppet, box, umbrella, pocketknife, needle, thimble, bucket, ladle,
spoon, cup, mug, plate, bowl, jar, bottle, bracelet, locket, brooch, medal, cap, cloak, mitten, boot,
slipper, blanket, quilt, pillow, lamp, diary, postcard, stamp, pebble, crystal, acorn, horn, harp, banjo,
tambourine, accordion, harmonica, rattle, lute, gong, paddle, net, hook, hammer, chisel, spade, rake,
trowel, broom, brush, comb, paintbrush, pencil, notebook, telescope, magnet, hourglass, barometer, parasol,
fan, mask, cape, wand, statue, vase, portrait, tapestry, suitcase, satchel, purse, pouch, backpack, tray,
pitcher, jug, flag, banner, badge, padlock, gear, saddle, collar, birdcage, birdhouse, footstool, cushion,
inkwell, abacus, globe, spinning top, music box, snow globe, jewel, anchor, lens, recorder, corkscrew,
goblet, candlestick, teaspoon, handkerchief, tablecloth, bookmark, keyring, yo-yo, sundial, weathervane"""

TRAITS = """small, red, shiny, old, wooden, blue, silver, tiny, golden, green, dusty, painted, little,
heavy, yellow, white, black, striped, strange, pretty, purple, brown, polished, crooked, spotted, lovely,
rusty, plain, rare, curious, grey, orange, pink, speckled, handmade, antique, bright, dark, smooth, dented,
elegant, fancy, faded, gleaming, odd, splendid, crimson, scarlet, turquoise, violet, ivory, amber, copper,
tin, patched, sturdy, delicate, dainty, enchanted, mysterious"""

NATURES = """shy, brave, curious, clever, young, lazy, kind, stubborn, cheerful, quiet, proud, sleepy,
gentle, greedy, lonely, honest, careful, hungry, silly, patient, nervous, restless, dreamy, grumpy, polite,
bold, careless, thoughtful, tidy, forgetful, merry, timid, humble, sly, eager, wise, chatty, vain, jolly,
plump, skinny, elderly, absent-minded, fearless, moody, friendly, solemn, playful, earnest, gruff, loyal,
messy, generous, bashful, plucky, wistful"""

REGIONS = """near a quiet village, by the sea, at the edge of the forest, under a tall oak, in a crooked
cottage, beside a narrow river, on a windy hill, in the valley of mills, at the end of a long lane, behind
the orchard, in a town of red roofs, on a little island, near the railway, among the reeds, in the far
north, above a bakery, next to a pond, in a hollow tree, below the mountains, on the edge of a lake, in a
house of stones, by the crossroads, in the middle of a meadow, at the foot of a lighthouse, near the
vineyards, on a farm, in an empty barn, across from the school, under a wooden bridge, in a tower without
stairs, beside the canal, in a garden of roses, near the salt marsh, on the sunny side of the hill, in a
houseboat, at the back of a library, in the snow country, by a waterfall, between two brooks, in the shade
of the castle"""

HABITS = """count|counting|the stars, paint|painting|clouds, collect|collecting|leaves, bake|baking|bread,
sing|singing|at dawn, climb|climbing|trees, draw|drawing|maps, tell|telling|jokes, read|reading|by the fire,
dance|dancing|in the rain, swim|swimming|before breakfast, build|building|tiny boats, grow|growing|pumpkins,
watch|watching|the moon, write|writing|poems, fly|flying|kites, cook|cooking|soup, play|playing|chess,
whistle|whistling|at the wind, gather|gathering|berries, knit|knitting|socks, sew|sewing|curtains,
carve|carving|spoons, feed|feeding|the ducks, plant|planting|tulips, solve|solving|riddles,
learn|learning|long words, juggle|juggling|apples, race|racing|the wind, chase|chasing|butterflies,
skip|skipping|stones, ring|ringing|the bells, sail|sailing|paper boats, dig|digging|tunnels,
sleep|sleeping|until noon, catch|catching|snowflakes, listen|listening|to the rain, walk|walking|on walls,
polish|polishing|boots, sort|sorting|buttons, weave|weaving|baskets, mend|mending|nets, make|making|jam,
roll|rolling|down hills, hunt|hunting|for mushrooms, invent|inventing|games, train|training|snails,
brew|brewing|tea, keep|keeping|bees, press|pressing|flowers, skate|skating|on the pond,
visit|visiting|neighbors, paint|painting|fences, fold|folding|napkins, study|studying|insects,
chop|chopping|wood, toast|toasting|chestnuts, name|naming|the clouds, imitate|imitating|the cuckoo,
tidy|tidying|the attic"""

PLACES = """at|old mill, by|river, in|market, at|harbor, in|pine forest, on|beach, at|train station,
in|orchard, by|lake, in|castle garden, on|stone bridge, in|meadow, at|bakery, by|well, in|village square,
on|hilltop, in|barn, at|lighthouse, in|churchyard, by|waterfall, at|crossroads, in|cave, on|frozen pond,
in|vineyard, at|blacksmith shop, in|library, at|windmill, on|pier, in|cornfield, by|fountain, in|ruined
tower, at|ferry landing, in|birch grove, on|mountain path, at|school gate, in|swamp, by|beaver dam, in|rose
garden, at|toll gate, on|island, in|wheat field, at|inn, in|museum, on|riverboat, at|sawmill, in|greenhouse,
by|duck pond, at|fish market, in|theater, on|cliff, in|clock tower, at|watchtower, in|quarry, by|canal,
in|apple cellar, at|racetrack, in|town hall, on|sand dune, in|cherry grove, at|lumber yard"""

HIDINGS = """under|a|flat stone, inside|a|hollow log, behind|a|woodpile, under|a|loose floorboard,
inside|an|empty barrel, behind|a|blue door, in|a|clay pot, beneath|a|wide bridge, under|a|heap of leaves,
inside|a|broken chimney, behind|a|tall hedge, in|a|rabbit hole, under|a|straw mattress, inside|a|drainpipe,
behind|a|haystack, in|an|old boot, beneath|a|willow root, under|a|garden bench, inside|a|scarecrow,
behind|a|dusty bookshelf, in|a|bird nest, beneath|a|mossy step, under|an|upturned boat, inside|a|beehive,
behind|a|waterwheel, in|a|flour sack, beneath|a|marble statue, under|a|cracked bathtub, inside|a|grandfather
clock, behind|a|velvet curtain, in|a|pickle jar, beneath|a|doghouse, under|a|cabbage patch, inside|a|suit of
armor, behind|a|rain barrel, in|a|coal shed, beneath|a|park swing, under|a|wicker chair, inside|a|church
organ, behind|a|picture frame, in|a|watering can, beneath|a|snowdrift, under|a|rug, inside|a|piano,
behind|a|gravestone, in|a|cookie tin, beneath|a|trapdoor, under|a|thorn bush, inside|a|pumpkin,
behind|a|furnace"""

WEATHERS = """sunny, rainy, misty, windy, cold, frosty, cloudy, warm, foggy, stormy, snowy, grey, golden,
still, hot, damp, breezy, drizzly, chilly, clear, gloomy, hazy, humid, icy, mild, pale, silent, gusty,
bright, dreary, crisp"""

TIMES = """morning, evening, afternoon, day, Sunday, Monday, market day, Friday, Tuesday, Saturday, holiday,
Thursday, feast day, Wednesday, washing day, school day"""

LATERS = """The next morning, A week later, Three days later, Before long, That evening, After supper, At
sunrise, At the end of the month, When the snow had melted, Two nights later, When the moon was full, In the
spring, At noon, When the rain stopped, On the first day of autumn, Ten days later, After a long winter,
When the swallows returned, Just before midnight, On the last day of summer, By the time the plums were
ripe, Much later, A fortnight later, At harvest time, When the church bells rang, After many weeks, In the
first light of day, On a Sunday"""

FOODS = """warm bread, honey cakes, apple pie, mushroom soup, blueberry jam, roasted chestnuts, ginger
biscuits, plum cake, hot cocoa, cheese, pancakes, cherry tart, pea soup, walnut bread, peppermint tea,
cinnamon rolls, pickled onions, porridge, lemon cake, baked potatoes, raspberry pudding, barley stew, fried
eggs, oatmeal cookies, carrot cake, buttered toast, pear cider, noodles, dumplings, cream buns, salted
almonds, turnip stew, peach cobbler, sweet corn, strawberry ice, cabbage rolls, waffles, nettle tea, rice
pudding, smoked fish, melon slices, pretzels, caramel apples, pumpkin pie, vanilla custard, tomato soup,
garlic bread, acorn coffee, rhubarb crumble, dried figs"""

FORAGES = """mushrooms, firewood, berries, flowers, chestnuts, herbs, a lost mitten, a shortcut, pinecones,
snails, wild garlic, a quiet spot, clover, driftwood, worms, shade, nettles, acorns, a friend, seashells,
fresh water, moss, blackberries, trouble, a place to nap, feathers, four-leaf clovers, kindling, dandelions,
hazelnuts"""

FEATURES = """a long tail, a torn ear, muddy boots, a loud laugh, a soft voice, round glasses, a bent hat, a
red nose, a wooden leg, clean paws, a kind face, a big appetite, a squeaky bicycle, a bad cold, seven
cousins, a lucky coat, a sharp mind, a fine singing voice, a limp, a thousand questions, a gap in the teeth,
freckles, a wild temper, a good memory, an enormous scarf, a suspicious look, a pocket full of crumbs, very
short legs, sad eyes, a plan"""

GLADS = """happy, glad, proud, content, cheerful, grateful, merry, delighted, peaceful, joyful, pleased,
hopeful, satisfied, thankful, thrilled, calm, relieved, radiant, jolly, overjoyed"""

SADS = """sad, gloomy, weary, ashamed, lonely, sorry, miserable, bitter, heartbroken, hungry, cold, tired,
unhappy, disappointed, cross, worried, downcast, wretched, sorrowful, tearful"""

TREES = """pine, oak, apple, birch, willow, cedar, maple, elm, ash, chestnut, cherry, hazel, poplar, fir,
beech, plum, lilac, rowan, juniper, linden"""

QUIRKS = """odd, noisy, fussy, strange, serious, wild, shabby, bossy, clumsy, mysterious, dull, strict,
loud, foolish, old-fashioned, stiff, secretive, dramatic, peculiar"""

MANNERS = """quickly, carefully, quietly, gently, proudly, slowly, nervously, eagerly, gladly, boldly,
calmly, shyly, softly, solemnly, happily, patiently, secretly, clumsily, hurriedly, cheerfully"""

WATERS = """slide|slid, roll|rolled, glitter|glittered, wander|wandered, murmur|murmured, drift|drifted,
rush|rushed, tumble|tumbled, gurgle|gurgled, hurry|hurried, wind|wound, sparkle|sparkled, swirl|swirled,
foam|foamed"""

MONIES = """coins, pennies, notes, crowns, dollars, shillings, dimes, florins, ducats, cents"""

SINGERS = """a cuckoo, a nightingale, an old radio, a choir, the wind, a shepherd, a cat on a roof, a lark,
the miller, a fiddler, somebody, a blackbird, the baker, a fisherman, a thrush, the kettle on the stove"""

KIN = """grandmother, grandfather, aunt, uncle, mother, father, great-aunt, godmother, teacher, cousin, big
sister, big brother, stepfather, old nurse, first master"""

ENCOURAGEMENTS = """Do not worry, We will manage, Trust me, Follow me, I have an idea, Two heads are better
than one, Leave it to me, Let us be quick, I know what to do, We should not wait, I would do anything for
you, Stay close to me, I am not afraid, You can count on me, This will not be easy, Nobody else must know,
We will do it together, I never liked this weather, Let us try once more, Hold my hand, Keep your eyes open,
We are nearly there, Take a deep breath, First we need a plan, Slow and steady does it, I brought a sandwich
for each of us"""

MISHAPS = """a wheel came off the cart, the bridge had been washed away, a thick fog came down, the road was
full of mud, an angry bull blocked the lane, the ferry had already left, a tree had fallen across the path,
the lamps went out, a flock of geese would not let anyone pass, snow began to fall, the path split in three,
the gate was locked, a storm broke over the hills, the map turned out to be wrong, a swarm of wasps woke up,
the wind blew the signs down, the brook had become a river, the guard asked for a password, the last candle
burned out, a goat ate the directions"""
