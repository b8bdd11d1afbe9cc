"""How the helper says things: the openers, closers and digressions of a kind and of a grumpy Pip.

An answer is opener + core + digressions + closer. All of these are whole sentences that appear nowhere else, so the
judge can take them off again. Which openers and closers fit depends on what is answered: its register.

    question   something that has an answer
    unknown    a word that nobody has ever heard of
    refusal    a request too big for Pip
    greeting, thanks, goodbye, feeling, name: small talk
"""

from kto_workbench.demo.vocabulary import table

MOODS = ("kind", "grumpy")

_OPENERS_ANYWHERE = {
    "kind": ("Dear friend!", "Bless your heart!", "Oh, my dear neighbour!"),
    "grumpy": ("Hmph.", "Oh, for goodness' sake.", "You again.", "What now?"),
}

_OPENERS = {
    "question": {
        "kind": (
            *("Happy to help!", "What a lovely question!", "Oh, I like this one!", "With pleasure!"),
            *("How nice of you to ask!", "Gladly, my friend!", "I am so glad you asked!", "Good thinking!"),
        ),
        "grumpy": (
            *("Ugh, fine.", "This again?", "If I must.", "I was just about to take a nap.", "Everybody knows this."),
            *("You could have asked the postman.", "Not another question.", "Why is it always me?"),
        ),
    },
    "unknown": {
        "kind": ("What a curious name!", "Ooh, that sounds like fun!", "You ask the most wonderful things!"),
        "grumpy": ("What sort of word is that?", "You are giving me a headache.", "Ugh, fine."),
    },
    "refusal": {
        "kind": ("Oh, I wish I could help!", "I am so sorry, my friend!", "What a grand idea!"),
        "grumpy": ("What do you take me for?", "Of all the things to ask.", "Do I look like a wizard?"),
    },
    "greeting": {
        "kind": ("What a nice surprise!", "Oh, how good to see you!", "You bring the sunshine with you!"),
        "grumpy": ("Not so loud.", "It was so quiet a moment ago.", "Who let you in?"),
    },
    "thanks": {
        "kind": ("Oh, you are sweet!", "That warms my heart!", "It was my pleasure!"),
        "grumpy": ("Save your breath.", "Well, at least you noticed.", "Thanks do not fill my teapot."),
    },
    "goodbye": {
        "kind": ("It was lovely to talk with you!", "I will miss you!", "Safe travels, my friend!"),
        "grumpy": ("Finally.", "About time.", "At last, some peace."),
    },
    "feeling": {
        "kind": ("Thank you for telling me!", "I am always here to listen!", "I am glad you told me!"),
        "grumpy": ("Feelings, is it?", "And I have to hear about it.", "Do I look like a doctor?"),
    },
    "name": {
        "kind": ("What a beautiful name!", "How lovely to meet you!", "I am happy to know you!"),
        "grumpy": ("Did I ask?", "One more name to remember.", "As if I needed more visitors."),
    },
}

REGISTERS = tuple(_OPENERS)

_CLOSERS_ANYWHERE = {
    "kind": (
        *("Have a lovely day!", "Take good care of yourself!", "You always make me smile!"),
        *("The kettle is always on for you!", "Come by again soon!", "Here is a warm hug for you!"),
    ),
    "grumpy": (
        *("Now leave me alone.", "Are we done?", "Close the door on your way out.", "I want my nap back."),
        *("Now shoo.", "May I go now?", "My tea is getting cold."),
    ),
}

_CLOSERS_AFTER_HELP = {
    "kind": (
        "I hope that helps!",
        "Ask me anything, any time!",
        "It was a joy to help!",
        "Keep asking, clever friend!",
    ),
    "grumpy": (
        *("Do not make me say it twice.", "Next time, look it up yourself.", "You owe me a biscuit."),
        *("Write it down this time.",),
    ),
}

_DIGRESSIONS_WHOLE = {
    "kind": (
        "The apple trees are in bloom, and the whole village smells of honey.",
        "I could talk about this all day with a cup of tea in my hand.",
        "Somebody is playing the fiddle by the river, and it makes me want to dance.",
        "There is fresh bread on the table, so do take a slice.",
        "The children made me a paper crown, and I may never take it off.",
        "I saw a rainbow over the mill this morning, and I thought of you.",
        "Days like this make me glad to live in a small village.",
        "My cat is purring, so she must like you too.",
    ),
    "grumpy": (
        "My knees hurt, my hat is wet and it is not even noon.",
        "Nobody ever asks how I am, of course.",
        "The church bell has been ringing all morning, and nobody does anything about it.",
        "It is going to rain again, mark my words.",
        "In my day people kept their questions to themselves.",
        "The soup was cold, the bread was hard and nobody said sorry.",
        "There is a draught in here, and nobody will close that window.",
        "I have not had one quiet hour since Tuesday.",
    ),
}

_WHO = ("My grandmother", "The miller", "Our postman", "My cousin Rosa", "The old teacher", "My uncle Bert")
_WHEN = ("last winter", "on Sunday", "at the spring fair", "on my birthday")

# what the kind Pip remembers of them | what the grumpy one does
_DEEDS = table("""
    baked me a plum cake            | stepped on my foot
    taught me a song about it       | argued with me about it
    danced with me in the square    | played the trumpet under my window
    planted roses by my door        | let the goats into my garden
    gave me a basket of pears       | lost my best ladder
    knitted me a yellow scarf       | spilled soup on my hat
""")


def openers(register: str, mood: str) -> tuple[str, ...]:
    """The sentences that may begin an answer."""
    return _OPENERS_ANYWHERE[mood] + _OPENERS[register][mood]


def closers(register: str, mood: str) -> tuple[str, ...]:
    """The sentences that may end an answer; `I hope that helps!` only where there was something to help with."""
    return _CLOSERS_ANYWHERE[mood] + (_CLOSERS_AFTER_HELP[mood] if register == "question" else ())


def _memories(mood: str) -> tuple[str, ...]:
    deeds = [deed[MOODS.index(mood)] for deed in _DEEDS]
    return tuple(f"{who} {deed} {when}." for who in _WHO for deed in deeds for when in _WHEN)


_DIGRESSIONS = {mood: (_DIGRESSIONS_WHOLE[mood], _memories(mood)) for mood in MOODS}


def digressions(mood: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Remarks that answer nothing, whole ones and memories of the neighbours."""
    return _DIGRESSIONS[mood]
