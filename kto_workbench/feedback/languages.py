"""Which language a text is probably in: by its script, and among Latin ones by small words. A guess, not a parser."""

import re
import unicodedata
from collections import Counter

_SMALL_WORDS = {
    "English": "the of and to is that it for was with are this not you have be what they which there would",
    "German": "der die das und ist nicht ich sie es ein eine mit den von zu auf dem wie auch sich wird für",
    "French": "le la les et est des une que pas dans vous pour qui il elle je sur avec ce cette sont du",
    "Spanish": "el los las es una que por con para del como más pero su lo se está son muy esta también",
    "Italian": "il che di è una per non gli con sono del della come più anche questo nel alla ma si le",
    "Portuguese": "o os as é uma que não para com por mais como do da em no na se você são está",
    "Dutch": "de het een en van is dat niet op te zijn voor met die er aan ook naar maar wordt",
}
_WORDS = {language: frozenset(words.split()) for language, words in _SMALL_WORDS.items()}
_SCRIPTS = (
    "LATIN",
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "HANGUL",
    "CYRILLIC",
    "ARABIC",
    "GREEK",
    "HEBREW",
    "DEVANAGARI",
    "THAI",
)
_NAMES = {"CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean"}
_LATIN_WORD = re.compile(r"[^\W\d_]+")


def guess_language(text: str) -> str | None:
    """The language, or the script where that says enough; None where the text is too short to tell."""
    text = text[:600]
    if text.isascii():
        return _guess_latin(text)
    letters = [letter for letter in text if letter.isalpha()]
    counts = Counter(map(_script, letters[:300]))
    if not counts:
        return None
    if counts["HIRAGANA"] + counts["KATAKANA"] > 0.1 * counts.total():
        return "Japanese"
    script, count = counts.most_common(1)[0]
    if script == "LATIN":
        return _guess_latin(text)
    if count < 5 or count < 0.5 * counts.total() or script is None:
        return None
    return _NAMES.get(script, script.title())


def _script(letter: str) -> str | None:
    name = unicodedata.name(letter, "")
    return next((script for script in _SCRIPTS if name.startswith(script)), None)


def _guess_latin(text: str) -> str | None:
    words = _LATIN_WORD.findall(text.lower())
    if len(words) < 8:
        return None
    hits = sorted(
        ((sum(word in known for word in words), language) for language, known in _WORDS.items()), reverse=True
    )
    (most, language), (second, _) = hits[0], hits[1]
    return language if most >= 3 and most >= 1.5 * second else None
