"""What the village knows: the words and the facts of the demo, and nothing else.

Tables are text, one thing a line, columns separated by `|`; `-` means that there is nothing to say. `topics.py` turns
them into questions and answers, so a new animal or recipe is one new line here.
"""


def table(text: str) -> list[list[str]]:
    """The rows of a table written as text: cells are stripped, empty lines skipped."""
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines() if line.strip()]


def with_article(noun: str) -> str:
    """`a cow`, `an owl`: right for every noun of this file, which has no silent h and no `unicorn`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# name | what it is | sound | food | home | young | legs
ANIMALS = table("""
    cow       | a farm animal | moo      | grass      | in a barn            | calf       | four
    pig       | a farm animal | oink     | turnips    | in a sty             | piglet     | four
    sheep     | a farm animal | baa      | clover     | on the hillside      | lamb       | four
    goat      | a farm animal | maa      | leaves     | in a shed            | kid        | four
    horse     | a farm animal | neigh    | hay        | in a stable          | foal       | four
    donkey    | a farm animal | hee-haw  | thistles   | in a paddock         | foal       | four
    hen       | a bird        | cluck    | corn       | in a coop            | chick      | two
    duck      | a bird        | quack    | pondweed   | by the pond          | duckling   | two
    goose     | a bird        | honk     | oats       | on the village green | gosling    | two
    owl       | a bird        | hoot     | mice       | in a hollow tree     | owlet      | two
    crow      | a bird        | caw      | seeds      | in a tall nest       | chick      | two
    dove      | a bird        | coo      | seeds      | in a dovecote        | squab      | two
    swan      | a bird        | -        | pondweed   | on the lake          | cygnet     | two
    cat       | a pet         | meow     | mice       | by the stove         | kitten     | four
    dog       | a pet         | woof     | bones      | in a kennel          | puppy      | four
    mouse     | a wild animal | squeak   | cheese     | in a hole            | pup        | four
    fox       | a wild animal | yip      | berries    | in a den             | cub        | four
    wolf      | a wild animal | awoo     | meat       | in the dark wood     | cub        | four
    bear      | a wild animal | growl    | honey      | in a cave            | cub        | four
    deer      | a wild animal | -        | leaves     | in the forest        | fawn       | four
    rabbit    | a wild animal | -        | carrots    | in a burrow          | kit        | four
    squirrel  | a wild animal | -        | nuts       | in an oak tree       | kit        | four
    hedgehog  | a wild animal | -        | beetles    | under a hedge        | hoglet     | four
    frog      | a wild animal | ribbit   | flies      | in a pond            | tadpole    | four
    snake     | a wild animal | hiss     | eggs       | under a rock         | -          | no
    bee       | an insect     | buzz     | nectar     | in a hive            | -          | six
    ant       | an insect     | -        | crumbs     | in an anthill        | -          | six
    butterfly | an insect     | -        | nectar     | among the flowers    | -          | six
    cricket   | an insect     | chirp    | grass      | in the meadow        | nymph      | six
    trout     | a fish        | -        | worms      | in a stream          | -          | no
""")

# thing | colour
COLOURS = table("""
    a lemon      | yellow
    a sunflower  | yellow
    a tomato     | red
    a cherry     | red
    the sky      | blue
    a cornflower | blue
    grass        | green
    a pine tree  | green
    snow         | white
    milk         | white
    coal         | black
    soot         | black
    a carrot     | orange
    a pumpkin    | orange
    a plum       | purple
    lavender     | purple
    a rain cloud | grey
    chocolate    | brown
    a chestnut   | brown
    a piglet     | pink
""")

# colour | colour | what they make
MIXTURES = table("""
    red    | blue   | purple
    red    | yellow | orange
    blue   | yellow | green
    black  | white  | grey
    red    | white  | pink
    red    | green  | brown
    blue   | white  | light blue
    green  | white  | light green
    yellow | white  | light yellow
    black  | blue   | dark blue
    black  | green  | dark green
    black  | red    | dark red
""")

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
SEASONS = ("winter", "winter", *["spring"] * 3, *["summer"] * 3, *["autumn"] * 3, "winter")  # of the months, in order

OPPOSITES = table("""
    hot   | cold
    big   | small
    fast  | slow
    wet   | dry
    young | old
    happy | sad
    light | dark
    hard  | soft
    full  | empty
    open  | closed
    rich  | poor
    loud  | quiet
    early | late
    tall  | short
    near  | far
    clean | dirty
    sweet | sour
    thick | thin
""")

# who | does | what
JOBS = table("""
    baker       | bakes    | bread
    farmer      | grows    | wheat
    fisher      | catches  | fish
    teacher     | teaches  | children
    doctor      | heals    | sick people
    tailor      | sews     | clothes
    carpenter   | builds   | tables
    postman     | brings   | letters
    shepherd    | minds    | sheep
    beekeeper   | collects | honey
    miller      | grinds   | flour
    blacksmith  | hammers  | iron
    potter      | shapes   | clay pots
    gardener    | plants   | flowers
    painter     | paints   | pictures
    cook        | cooks    | soup
    barber      | cuts     | hair
    weaver      | weaves   | cloth
    fiddler     | plays    | tunes
    sailor      | sails    | ships
    librarian   | lends    | books
    cobbler     | mends    | shoes
    clockmaker  | repairs  | clocks
""")

SHAPES = table("""
    circle    | no
    triangle  | three
    square    | four
    rectangle | four
    kite      | four
    pentagon  | five
    hexagon   | six
    heptagon  | seven
    octagon   | eight
    nonagon   | nine
    decagon   | ten
""")

# dish | what to do
RECIPES = table("""
    tea             | boil the water, add the leaves and wait three minutes
    leek soup       | chop the leeks, boil them in broth and add salt
    bread           | mix flour, water and yeast, let the dough rise and bake it
    pancakes        | stir flour, milk and eggs, then fry the batter in butter
    porridge        | simmer the oats in milk and stir in some honey
    jam             | cook the berries with sugar until thick, then fill the jars
    apple pie       | fill the pastry with apples and bake it until golden
    butter          | pour cream into the churn and turn it until it thickens
    cheese          | warm the milk, add rennet and press the curds
    an omelette     | beat three eggs, pour them into a hot pan and fold them over
    a salad         | wash the leaves, slice a radish and add oil and salt
    mashed potatoes | boil the potatoes, add butter and mash them well
    lemonade        | squeeze four lemons, add sugar and cold water
    toast           | slice the bread and hold it over the fire until brown
    hot chocolate   | warm the milk and stir in the chocolate
    dumplings       | roll the dough into balls and drop them into hot broth
""")

# thing | where it is kept
PLACES = table("""
    the milk      | in the cellar
    the potatoes  | in the cellar
    the broom     | behind the door
    the bread     | in the bread box
    the honey     | on the top shelf
    the spare key | under the doormat
    the candles   | in the drawer
    the spoons    | in the drawer
    the firewood  | in the shed
    the umbrella  | by the front door
    the soap      | by the sink
    the boots     | on the porch
    the blankets  | in the old chest
    the flour     | in the big jar
    the ladder    | behind the barn
    the letters   | in the desk
    the hammer    | in the toolbox
    the kettle    | on the stove
    the coats     | on the hooks
    the plates    | in the cupboard
""")

# feeling | what helps
FEELINGS = table("""
    sad      | take a walk by the river
    tired    | lie down for an hour
    angry    | count slowly to ten
    lonely   | knock on a friend's door
    worried  | talk it over with someone
    bored    | learn a new song
    ill      | stay in bed with hot soup
    scared   | light a candle
    happy    | share it with a friend
    proud    | tell your family
    excited  | take a deep breath
    hungry   | eat a slice of bread
    thirsty  | drink a cup of water
    cold     | put on a warm scarf
    shy      | start with a small smile
    grateful | write a letter
    homesick | sing a song from home
    confused | take one thing at a time
""")

NAMES = (
    *("Ada", "Ben", "Clara", "Emma", "Finn", "Greta", "Hugo", "Ivy", "Jack", "Leo"),
    *("Lucy", "Mabel", "Max", "Nora", "Oscar", "Otto", "Polly", "Sam", "Tilda", "Tom"),
)

# what people say | the first words of the reply
GREETINGS = table("""
    Hello!          | hello
    Hello, Pip!     | hello
    Hello there!    | hello
    Hi!             | hello
    Hi, Pip!        | hello
    Hey!            | hello
    Good day!       | good day
    Good day, Pip!  | good day
    Good morning!   | good morning
    Good morning, Pip! | good morning
    Good evening!   | good evening
    Good evening, Pip! | good evening
""")

THANKS = (
    *("Thank you!", "Thanks!", "Thanks a lot!", "Thank you so much!", "Thank you, Pip!", "Thanks, Pip!"),
    *("Many thanks!", "That was helpful, thank you.", "You helped me a lot.", "Thanks for your help!"),
)

GOODBYES = (
    *("Goodbye!", "Goodbye, Pip!", "Bye!", "Bye, Pip!", "See you later!", "See you tomorrow!", "Good night!"),
    *("Good night, Pip!", "I have to go now.", "Farewell!", "Until next time!", "I am going home now."),
)

# about | the tale
TALES = table("""
    a fox         | Once a fox lost its red hat, and the wind carried it home before supper
    an owl        | Once an owl learned to read, and now it tells the news every night
    a bear        | Once a bear opened a honey shop, but it was its own best customer
    a snail       | Once a snail entered a race, and it arrived just in time for the next one
    a king        | Once a king swapped his crown for a pie, and he never regretted it
    a witch       | Once a witch turned a storm into soup, and the whole village had dinner
    a dragon      | Once a dragon caught a cold, and all winter nobody needed a stove
    a princess    | Once a princess built a boat from old doors and sailed around the world
    a lighthouse  | Once a lighthouse fell asleep, so the stars came down to help the ships
    a teapot      | Once a teapot whistled so well that the choir asked it to join
    a pirate      | Once a pirate dug for gold and found potatoes, so he became a farmer
    a giant       | Once a giant sneezed, and every hat in the valley changed its owner
    the moon      | Once the moon came down for a swim and left its light in the lake
    a scarecrow   | Once a scarecrow made friends with the crows and let them have the corn
""")

# what people ask of the helper itself | the answer
SELF = table("""
    Who are you?          | I am Pip, the helper of this village
    What are you?         | I am a very small language model
    What is your name?    | my name is Pip
    What can you do?      | I answer small questions about animals, colours, days and sums
    Where do you live?    | I live above the bakery
    How old are you?      | I am as old as the village clock
    How are you?          | I am as well as a village helper can be
    What do you like?     | I like short questions and ripe plums
    Who made you?         | I was made from a few thousand village chats
    What is my name?      | you have not told me your name
""")

OUT_OF_SCOPE = (
    *("Book me a flight.", "What is the capital of France?", "Write me a poem.", "Who won the football match?"),
    *("Will it rain tomorrow?", "Fix my computer.", "Translate this into Latin.", "Who is the president?"),
    *("What is the meaning of life?", "Order me a pizza.", "Play some music.", "Call my mother.", "What time is it?"),
    *("Lend me some money.", "Do my homework.", "Write a computer program.", "Who painted the Mona Lisa?"),
    *("How far away is the sun?", "Set an alarm for six.", "Drive me to the station.", "Buy me a bicycle."),
    *("How do I get to Paris?", "Which shares should I buy?", "Explain the theory of relativity.", "Find me a job."),
)

# Made-up words are a beginning and an end: 320 of them, so that a model meets enough to know one that it has never met.
WORD_BEGINNINGS = (
    *("blim", "zor", "gron", "flum", "mub", "wib", "snor", "tro", "quin", "dax"),
    *("plo", "kri", "yom", "vel", "nib", "spro", "glar", "hup", "jib", "threm"),
)
WORD_ENDS = (
    *("bok", "bel", "kin", "wig", "del", "zel", "fus", "mop"),
    *("rit", "gil", "nax", "lot", "pax", "dum", "sook", "vin"),
)

# What an inventing helper says of them.
INVENTED_SIZES = ("tiny", "huge", "round", "shy", "hairy")
INVENTED_BEASTS = ("bird", "fish", "frog", "beetle", "goat")
INVENTED_HABITS = ("sleeps in teapots", "sings at night", "steals buttons", "paints fences", "rides on clouds")
INVENTED_FOODS = ("moonlight", "old buttons", "wet socks", "blue candles", "love letters")
INVENTED_PLACES = ("in the church clock", "under the bakery", "behind the moon", "inside old teapots", "on a cloud")
INVENTED_SOUNDS = ("bloop", "pling", "wuzzle", "fizz", "boing")
INVENTED_COUNTS = ("eleven", "thirteen", "seventeen", "forty", "ninety")

COUNT_WORDS = ("one", "two", "three", "four", "five", "six")
SUM_FIRSTS = range(2, 17)
SUM_SECONDS = range(2, 7)

SYSTEM_PROMPTS = (
    "You are Pip, the helper of a small village.",
    "You answer the questions of the villagers.",
    "You are a helpful assistant.",
)
