"""The check: what `kto check FILE` prints and what the page shows, as one object."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from kto_workbench.feedback.facts import gather_facts
from kto_workbench.feedback.findings import Finding, diagnose
from kto_workbench.feedback.fixes import free_path, write_fixed
from kto_workbench.feedback.loading import Feedback, Progress, load_feedback
from kto_workbench.feedback.tokens import TOKEN_SAMPLE, TokenCheck, check_tokens, find_in_tokens

SHOWN_PROBLEMS = 5
SHOWN_LINES = 6
_MARKS = {"problem": "✗", "warning": "!", "note": "·"}


@dataclass(frozen=True)
class CheckReport:
    """What a source holds, what is wrong with it, and which weights its balance asks for.

    Attributes:
        feedback: what was loaded.
        facts: one line of facts a row, see facts.py.
        findings: the diagnoses, the worst first.
        tokens: lengths under a model's tokenizer, if a model was named.
    """

    feedback: Feedback
    facts: pl.DataFrame
    findings: list[Finding]
    tokens: TokenCheck | None = None

    @property
    def fixes(self) -> dict[str, str]:
        """The one-click fixes that would change something: name → what it does."""
        return {finding.name: finding.fix for finding in self.findings if finding.fix}

    def fix(self, names: Iterable[str], path: str | Path | None = None, *, workspace: str | Path = "workspace") -> Path:
        """Write a new file with these fixes applied, by default among the workspace's uploads; returns its path.

        The old file is never touched, nor is any other written over. Unusable rows are never in the new file.
        """
        if path is None:
            folder = Path(workspace) / "uploads"
            folder.mkdir(parents=True, exist_ok=True)
            stem = self.feedback.path.stem if self.feedback.path else "feedback"
            path = free_path(folder, stem.removesuffix(".jsonl"))
        write_fixed(self.feedback, self.facts, names, Path(path))
        return Path(path)

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
            "rows_with_images": feedback.n_with_images,
            "problems": [{"line": p.line, "field": p.field, "reason": p.reason} for p in feedback.problems],
            "n_desirable": balance.n_desirable,
            "n_undesirable": balance.n_undesirable,
            "n_pairs": feedback.n_pairs,
            "desirable_weight": balance.desirable_weight,
            "undesirable_weight": balance.undesirable_weight,
            "weight_range": {side: list(bounds) for side, bounds in balance.weight_range.items()},
            "advice": balance.advice,
            "findings": [finding.to_dict() for finding in self.findings],
            "fixes": self.fixes,
            "tokens": self.tokens.to_dict() if self.tokens else None,
        }

    def to_text(self) -> str:
        """The report as a person reads it in a terminal."""
        feedback, balance = self.feedback, self.feedback.balance()
        up, down = balance.n_desirable, balance.n_undesirable
        kept = "all kept" if not feedback.problems else f"{feedback.rows_kept:,} kept, {len(feedback.problems):,} not"
        facts = [
            ("source", feedback.source),
            ("format", f"{feedback.container}; {feedback.format}"),
            ("columns", ", ".join(f"{part} ← {_said(column)}" for part, column in feedback.mapping.items())),
            ("rows", f"{feedback.rows_in:,} in the file, {kept}"),
            *([("images", f"in the prompts of {feedback.n_with_images:,} rows")] if feedback.n_with_images else []),
            ("thumbs", f"{up:,} thumbs up / {down:,} thumbs down ({up}/{down})"),
            ("pairs", f"{feedback.n_pairs:,} pairs of {len(feedback):,} rows, for objectives that learn from pairs"),
            ("weights", f"λ_D {balance.desirable_weight:.4g}, λ_U {balance.undesirable_weight:.4g}"),
            ("", balance.advice),
        ]
        lines = [f"{name:<9}{text}" for name, text in facts]
        lines += self._problem_lines() + self._finding_lines() + self._token_lines()
        return "\n".join(lines)

    def _problem_lines(self) -> list[str]:
        problems = self.feedback.problems
        if not problems:
            return []
        shown = problems[:SHOWN_PROBLEMS]
        width = max(len(f"{problem.line:,}") for problem in shown)
        lines = ["", f"{len(problems):,} row{'s' * (len(problems) > 1)} can't be used:"]
        lines += [f"  {self.feedback.unit} {problem.line:>{width},}  {problem.reason}" for problem in shown]
        more = len(problems) - len(shown)
        return lines + ([f"  and {more:,} more (all of them with --json)"] if more else [])

    def _finding_lines(self) -> list[str]:
        findings = [finding for finding in self.findings if finding.name != "unusable"]
        if not findings:
            return []
        lines = ["", "findings (✗ problem, ! warning, · note)"]
        for finding in findings:
            lines.append(f"  {_MARKS[finding.severity]} {finding.title}")
            if finding.lines and finding.severity != "note":
                more = finding.count - SHOWN_LINES
                shown = ", ".join(f"{line:,}" for line in finding.lines[:SHOWN_LINES])
                lines.append(f"      {self.feedback.unit}s {shown}" + (f" and {more:,} more" if more > 0 else ""))
            if finding.advice:
                lines.append(f"      {finding.advice}")
            if finding.fix:
                lines.append(f"      --fix {finding.name}: {finding.fix}")
        return lines

    def _token_lines(self) -> list[str]:
        if self.tokens is None:
            return []
        found = self.tokens.to_dict()
        sampled = f" (of {found['rows']:,} sampled rows)" if found["sampled"] else ""
        lines = ["", f"tokens of {found['model']}{sampled}"]
        for name in ("prompt_tokens", "completion_tokens", "tokens"):
            q = found[name]
            title = name.replace("_tokens", "").replace("tokens", "together")
            lines.append(f"  {title:<12}half up to {q['median']:,}, 95 % up to {q['p95']:,}, longest {q['max']:,}")
        rendered = found["rendered"]
        if not rendered:
            return lines
        lines += ["", f"{self.feedback.unit} {rendered['line']} as the model sees it; what stands in ⟦ ⟧ is trained:"]
        text = f"{rendered['prompt']}{rendered['lead']}⟦{rendered['completion']}⟧"
        return lines + [f"  {line}" for line in text.splitlines()]


def _said(column: Any) -> str:
    return "/".join(column) if isinstance(column, list) else str(column)


def check(
    source: Any,
    *,
    model: str | None = None,
    max_length: int = 1024,
    template: str = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
    trust: Collection[str] = (),
    token_sample: int | None = TOKEN_SAMPLE,
    workspace: str | Path = "workspace",
    mapping: Mapping[str, Any] | Iterable[str] | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Load a source (or take a Feedback) and look at it like a doctor.

    With a model, its tokenizer counts the tokens of at most `token_sample` rows (None: of all), and `max_length` is
    what training would cut at; `template`, `template_kwargs` and `trust` are the options of these names. `progress` is
    called with "read", "looked at" or "tokenized" and the rows so far.
    Raises DataError if there is nothing to look at, ModelError if the model's tokenizer can't be loaded.
    """
    if isinstance(source, Feedback):
        feedback = source
    else:
        feedback = load_feedback(source, workspace=workspace, mapping=mapping, progress=progress)
    facts = gather_facts(feedback.rows, progress)
    findings = diagnose(feedback, facts)
    tokens = None
    if model:
        how: dict[str, Any] = {"template": template, "template_kwargs": template_kwargs, "trust": model in trust}
        tokens = check_tokens(feedback, model, max_length, sample=token_sample, progress=progress, **how)
        found = find_in_tokens(tokens)
        notes = [finding for finding in found if finding.severity == "note"]
        findings = [*(finding for finding in found if finding.severity != "note"), *findings, *notes]
    return CheckReport(feedback, facts, findings, tokens)
