"""What differs between two texts, word by word.

only_here("A cow says moo.", "A dog says moo.")    [("A ", False), ("cow", True), (" says moo.", False)]
"""

import re
from collections import Counter
from difflib import SequenceMatcher
from itertools import groupby

# A run of letters and digits, a character of a script without spaces, a sign, or white space.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_PIECE = re.compile(rf"\s+|[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+(?:['’]\w+)*|[^\w\s]")
# Texts that go round in circles cost the number of equal pairs, once for every part that they share.
MOST_PIECES, MOST_EQUAL_PAIRS, CIRCLING = 1200, 50_000, 250


def only_here(text: str, other: str) -> list[tuple[str, bool]]:
    """A text in parts, each with whether `other` lacks it at this place; the parts joined are the text.

    White space counts only between words. Beyond the first 1,200 words of either text nothing is told apart; of texts
    that go round in circles, beyond the first 250.
    """
    pieces = _PIECE.findall(text)
    places = [place for place, piece in enumerate(pieces) if not piece.isspace()]
    mine = [pieces[place] for place in places][:MOST_PIECES]
    theirs = [piece for piece in _PIECE.findall(other) if not piece.isspace()][:MOST_PIECES]
    times = Counter(theirs)
    if sum(times[piece] for piece in mine) > MOST_EQUAL_PAIRS:
        mine, theirs = mine[:CIRCLING], theirs[:CIRCLING]
    lacking = [False] * len(pieces)
    for kind, start, end, *_ in SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes():
        if kind in ("replace", "delete"):
            for place in range(places[start], places[end - 1] + 1):
                lacking[place] = True
    marked = zip(pieces, lacking, strict=True)
    return [("".join(piece for piece, _ in part), lacks) for lacks, part in groupby(marked, key=lambda one: one[1])]
