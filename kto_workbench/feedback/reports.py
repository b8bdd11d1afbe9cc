"""The check: what `kto check FILE` prints and what the page shows, as one object."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kto_workbench.feedback.loading import Feedback, Progress, load_feedback

SHOWN_PROBLEMS = 5


@dataclass(frozen=True)
class CheckReport:
    """What a source holds, what can't be used, and which weights its balance asks for."""

    feedback: Feedback

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON types; `problems` is complete."""
        feedback, balance = self.feedback, self.feedback.balance()
        return {
            "source": feedback.source,
            "container": feedback.container,
            "format": feedback.format,
            "mapping": feedback.mapping,
            "rows_in": feedback.rows_in,
            "rows_kept": feedback.rows_kept,
            "problems": [{"line": p.line, "field": p.field, "reason": p.reason} for p in feedback.problems],
            "n_desirable": balance.n_desirable,
            "n_undesirable": balance.n_undesirable,
            "desirable_weight": balance.desirable_weight,
            "undesirable_weight": balance.undesirable_weight,
            "weight_range": {side: list(bounds) for side, bounds in balance.weight_range.items()},
            "advice": balance.advice,
            "findings": [],
        }

    def to_text(self) -> str:
        """The report as a person reads it in a terminal."""
        feedback, balance = self.feedback, self.feedback.balance()
        up, down = balance.n_desirable, balance.n_undesirable
        kept = "all kept" if not feedback.problems else f"{feedback.rows_kept:,} kept, {len(feedback.problems):,} not"
        facts = [
            ("source", feedback.source),
            ("format", f"{feedback.container}; {feedback.format}"),
            ("columns", ", ".join(f"{part} ← {column}" for part, column in feedback.mapping.items())),
            ("rows", f"{feedback.rows_in:,} in the file, {kept}"),
            ("thumbs", f"{up:,} thumbs up / {down:,} thumbs down ({up}/{down})"),
            ("weights", f"λ_D {balance.desirable_weight:.4g}, λ_U {balance.undesirable_weight:.4g}"),
            ("", balance.advice),
        ]
        lines = [f"{name:<9}{text}" for name, text in facts]
        if feedback.problems:
            lines += ["", f"{len(feedback.problems):,} rows can't be used:"]
            shown = feedback.problems[:SHOWN_PROBLEMS]
            width = max(len(f"{problem.line:,}") for problem in shown)
            lines += [f"  line {problem.line:>{width},}  {problem.reason}" for problem in shown]
            more = len(feedback.problems) - len(shown)
            lines += [f"  and {more:,} more (all of them with --json)"] if more else []
        return "\n".join(lines)


def check(
    source: Any,
    *,
    model: str | None = None,
    max_length: int = 1024,
    workspace: str | Path = "workspace",
    mapping: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Load a source and look at it like a doctor; raises DataError if there is nothing to look at."""
    feedback = (
        source
        if isinstance(source, Feedback)
        else load_feedback(source, workspace=workspace, mapping=mapping, progress=progress)
    )
    return CheckReport(feedback)
