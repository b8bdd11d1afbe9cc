"""A judge while training: how good the answers are, and so when to stop and which step to keep.

Held-out prompts are answered by the tuned model with the same seed each time, beside the reference's answers, which
never change. Recorded in metrics.jsonl, as records of their own:

    judged_win_rate    (wins + ties / 2) / judged: above a half, the tuned side is better
    judged_error       its standard error over the prompts; null for a single one
    judged_count       answers that were judged, with judged_wins, judged_ties and judged_losses
    judged_length_ratio  how many times as long as the reference's the answers are, in words

The best step is the first one with the highest win rate. It is read from these records, so a resumed run knows what the
one before it knew. Nothing here touches a weight or a random number of the training.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kto_workbench.engine.crew import Crew
from kto_workbench.judging.statistics import mean_error
from kto_workbench.judging.verdicts import REFERENCE, TIE, TUNED, Case, Judge, about_answers, length_ratio, summarize
from kto_workbench.runs.checkpoints import flaw
from kto_workbench.runs.directory import Run

log = logging.getLogger(__name__)

WIN_RATE = "judged_win_rate"
POINTS = {TUNED: 1.0, TIE: 0.5, REFERENCE: 0.0}


class Judged(TrainerCallback):
    """Has the answers judged when it is due, stops the run early, and keeps the best step's checkpoint.

    Args:
        run: whose records are written.
        judge: who says which answer is better; only the first process asks.
        answers: gives the tuned model's answers and the reference's to `prompts`; every process calls it.
        prompts: held out.
        every: steps between two judgements.
        early_stop: judgements in a row without a higher win rate that end the run; 0 never.
        keep_best: whether the best step's checkpoint is kept.
        crew: the processes that train.
    """

    def __init__(
        self,
        run: Run,
        judge: Judge | None,
        answers: Callable[[], tuple[list[str], list[str]]],
        prompts: Sequence[Any],
        every: int,
        *,
        early_stop: int,
        keep_best: bool,
        crew: Crew,
    ) -> None:
        self.run, self.judge, self.answers, self.prompts, self.every = run, judge, answers, prompts, every
        self.early_stop, self.keep_best, self.crew = early_stop, keep_best, crew
        self.ended_early = False
        self._known: list[tuple[int, float]] = []  # (step, win rate), in order

    @property
    def best(self) -> int | None:
        """The first step with the highest win rate; None before any judgement."""
        return best_step(self._known)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take up what was judged before a resume; what came after the checkpoint is forgotten already."""
        self._known = self.crew.from_first(judgements(self.run.metrics()) if self.crew.leads else [])
        self._protect(args, state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Judge when it is due, and at the end."""
        step = state.global_step
        if step % self.every and step != state.max_steps:
            return
        tuned, reference = self.answers()
        found = self.crew.from_first(self._ask(step, tuned, reference) if self.crew.leads else None)
        if found is None:
            return
        self.run.record({"step": step, **found})
        self._known.append((step, found[WIN_RATE]))
        if self.best == step and self.keep_best:
            control.should_save = True
            self._protect(args, state)
        since = [one for one, _ in self._known].index(self.best)
        if self.early_stop and len(self._known) - 1 - since >= self.early_stop and step < state.max_steps:
            log.info("The win rate has not risen since step %d: ended at step %d.", self.best, step)
            self.ended_early = control.should_training_stop = control.should_evaluate = True

    def _protect(self, args: TrainingArguments, state: TrainerState) -> None:
        """Have the Trainer leave the best checkpoint where it is when it takes older ones away."""
        if self.keep_best and self.best is not None:
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{self.best}")

    def told(self, step: int, kept: int) -> str:
        """How the run ended, if not as any other does: where it was ended early, and which step it keeps."""
        if self.ended_early:
            ended = f"Ended early: the judge has seen no better answers since step {self.best}"
            return f"{ended}; the model is that of step {kept}."
        return f"The model is that of step {kept}, whose answers the judge liked best." if kept != step else ""

    def _ask(self, step: int, tuned: Sequence[str], reference: Sequence[str]) -> dict[str, Any] | None:
        """What the judge says; None, with a line in the log, where it can't: that costs a point of the curve."""
        cases = [Case(*one) for one in zip(self.prompts, reference, tuned, strict=True)]
        try:
            verdicts = self.judge.verdicts(cases, lambda done, total: None)
        except Exception as error:  # whatever a server or a template does, the training goes on
            log.warning("Step %d is not judged: %s", step, error)
            return None
        points = [POINTS[winner] for winner in verdicts.winners if winner is not None]
        if not points:
            log.warning("Step %d is not judged: nothing that %s said could be read.", step, self.judge.name)
            return None
        found = summarize(verdicts)
        return {
            WIN_RATE: found["win_rate"],
            "judged_error": mean_error(points),
            "judged_count": found["n"],
            **{f"judged_{name}": found[name] for name in ("wins", "ties", "losses")},
            "judged_length_ratio": length_ratio(about_answers(reference), about_answers(tuned)),
        }

    def best_checkpoint(self, last_step: int) -> Path | None:
        """The checkpoint of the best step; None where that is the last one, or where the checkpoint is gone."""
        if not self.keep_best or self.best in (None, last_step):
            return None
        checkpoint = self.run.path / "checkpoints" / f"checkpoint-{self.best}"
        if problem := flaw(checkpoint):
            log.warning("%s %s, so the last step is kept instead.", checkpoint.name, problem)
            return None
        return checkpoint


def judgements(records: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    """(step, win rate) of each judgement among a run's records."""
    return [(one["step"], one[WIN_RATE]) for one in records if one.get(WIN_RATE) is not None]


def best_step(known: Sequence[tuple[int, float]]) -> int | None:
    """The first step with the highest win rate, None of nothing."""
    return max(known, key=lambda one: (one[1], -one[0]))[0] if known else None
