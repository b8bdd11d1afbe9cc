"""What is printed only prints: names, answers and messages may hold what a terminal would obey, or show backwards."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

# Control characters but tab and line feed, and those that turn text around.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def tame(text: str, bars: bool = False) -> str:
    """A text in which control characters are written out as JSON does; but the carriage returns of progress bars."""
    return _OBEYED.sub(lambda found: "\r" if bars and found[0] == "\r" else f"\\u{ord(found[0]):04x}", text)


class _Tame:
    """A stream to which only such text gets."""

    def __init__(self, stream: TextIO, bars: bool = False) -> None:
        self._stream, self._bars = stream, bars

    def write(self, text: str) -> int:
        """Write a text, tamed; returns how much of it was written: all."""
        self._stream.write(tame(text, self._bars))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def tamed() -> Iterator[None]:
    """Print to the terminal, and to a log, in this way; colours of libraries would be written out, too."""
    os.environ.setdefault("NO_COLOR", "1")
    out, err = _Tame(sys.stdout), _Tame(sys.stderr, bars=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):  # type: ignore[type-var]
        yield
