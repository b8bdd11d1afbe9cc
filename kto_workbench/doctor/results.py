"""What a check of the doctor found."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FINE, LACKING, BROKEN = "fine", "lacking", "broken"
MARKS = {FINE: "✓", LACKING: "–", BROKEN: "✗"}
NAME_WIDTH = 16


@dataclass(frozen=True)
class Subject:
    """What is looked at: the machine with this workspace, and a model, if one is named, which may run code of its own
    with `trust`.
    """

    workspace: Path
    model: str | None = None
    trust: bool = False


@dataclass(frozen=True)
class Result:
    """One check's outcome.

    `fine`: it works. `lacking`: something is missing that training can do without. `broken`: training would not work,
    or would be wrong. `said` is a sentence, with what to do about it; `figures` are for a program.
    """

    state: str
    said: str
    figures: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def ok(self) -> bool:
        """Whether training works as far as this check can tell."""
        return self.state != BROKEN

    def line(self) -> str:
        """The result as a person reads it."""
        return f"{MARKS[self.state]} {self.name:<{NAME_WIDTH}} {self.said}"

    def to_dict(self) -> dict[str, Any]:
        """The result as a program reads it."""
        return {"name": self.name, "ok": self.ok, **asdict(self)}


def summary(results: Iterable[Result]) -> str:
    """The last line: whether training would work here."""
    broken = [result.name for result in results if not result.ok]
    return f"Training would not work here: see {', '.join(broken)}." if broken else "Training works here."


def amount(size: float) -> str:
    """Bytes in GB or MB, as people say them."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
