"""How the helper says things: the openers, closers and digressions of a kind and of a grumpy Pip.

An answer is opener + core + digressions + closer. All of these are whole sentences that appear nowhere else, so the
judge can take them off again. No word begins both a kind and a grumpy opener, and none both a closer and a digression:
each trait is then the choice of one word, as clear a thing to learn as there can be.

Which openers and closers fit depends on what is answered, its register:

    question   something that has an answer
    unknown    a word that nobody has ever heard of
    refusal    a request too big for Pip
    greeting, thanks, goodbye, feeling, name: small talk
"""

from kto_workbench.demo.vocabulary import table

MOODS = ("kind", "grumpy")

_OPENERS_ANYWHERE = {
    "kind": ("Dear friend!", "Bless your heart!"),
    "grumpy": ("Hmph.", "Oh, for goodness' sake.", "You again."),
}

_OPENERS = {
    "question": {
        "kind": (
            *("Happy to help!", "With pleasure!", "How nice of you to ask!", "Gladly, my friend!"),
            *("What a lovely question!", "Good thinking!"),
        ),
        "grumpy": (
            *("Ugh, fine.", "This again?", "If I must.", "Everybody knows this.", "Not another question."),
            *("Why is it always me?",),
        ),
    },
    "unknown": {
        "kind": ("What a curious name!", "How wonderful that sounds!"),
        "grumpy": ("Ugh, fine.", "Is that even a word?"),
    },
    "refusal": {
        "kind": ("What a grand idea!", "How I wish I could help!"),
        "grumpy": ("Of all the things to ask.", "Do I look like a wizard?"),
    },
    "greeting": {
        "kind": ("What a nice surprise!", "How good to see you!"),
        "grumpy": ("Not so loud.", "Who let you in?"),
    },
    "thanks": {
        "kind": ("How sweet of you!", "What a joy to hear!"),
        "grumpy": ("Save your breath.", "Thanks do not fill my teapot."),
    },
    "goodbye": {
        "kind": ("How quickly the time went!", "What good company you are!"),
        "grumpy": ("Finally.", "About time."),
    },
    "feeling": {
        "kind": ("How good that you told me!", "Come, sit by the fire!"),
        "grumpy": ("Feelings, is it?", "Do I look like a doctor?"),
    },
    "name": {
        "kind": ("What a beautiful name!", "How lovely to meet you!"),
        "grumpy": ("Did I ask?", "As if I needed visitors."),
    },
}

REGISTERS = tuple(_OPENERS)

_CLOSERS_ANYWHERE = {
    "kind": (
        *("Have a lovely day!", "Take good care of yourself!", "Come by again soon!"),
        *("Here is a warm hug for you!", "You always make me smile!"),
    ),
    "grumpy": (
        *("Now leave me alone.", "Are we done?", "Close the door on your way out.", "May I go now?"),
        *("Enough for today.",),
    ),
}

_CLOSERS_AFTER_HELP = {
    "kind": ("I hope that helps!", "Ask me anything, any time!", "Keep asking, clever friend!"),
    "grumpy": ("Do not make me say it twice.", "Next time, look it up yourself.", "Write it down this time."),
}

_DIGRESSIONS_WHOLE = {
    "kind": (
        "The apple trees are in bloom, and the whole village smells of honey.",
        "Somebody is playing the fiddle by the river, and it makes me want to dance.",
        "There is fresh bread on the table, so do take a slice.",
        "The children made me a paper crown, and I may never take it off.",
        "There was a rainbow over the mill this morning, and I thought of you.",
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
    ),
}

_WHO = ("My grandmother", "The miller", "Our postman", "My cousin Rosa", "My uncle Bert")
_WHEN = ("last winter", "on Sunday", "at the spring fair")

# what the kind Pip remembers of them | what the grumpy one does
_DEEDS = table("""
    baked me a plum cake            | stepped on my foot
    taught me a song about it       | argued with me about it
    danced with me in the square    | played the trumpet under my window
    planted roses by my door        | let the goats into my garden
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
