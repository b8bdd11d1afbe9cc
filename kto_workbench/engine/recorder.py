"""Between the trainer and the run's directory: records, status, and the commands that are asked of a run."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kto_workbench.engine.crew import Crew
from kto_workbench.runs.directory import Run

if TYPE_CHECKING:
    from kto_workbench.engine.trainer import RowRewards

STATUS_SECONDS = 0.3
REWARDS_LINES = 40  # in a run; a few more where it was stopped and resumed
ROWS_A_LINE = 256


class Recorder(TrainerCallback):
    """Writes what the trainer does into the run's directory, and does what files in `commands/` ask for.

    `sample` is called with the step whenever watched prompts are due; `steps_between_samples` 0 means never.
    `on_record` is called behind each record.
    """

    def __init__(
        self,
        run: Run,
        sample: Callable[[int], None],
        steps_between_samples: int,
        *,
        progress: bool,
        on_record: Callable[[], object] = lambda: None,
    ) -> None:
        self.run, self.sample, self.every = run, sample, steps_between_samples
        self.stopped = False
        self._sampled_at: int | None = None
        self._owes_first, self._records = False, 0
        self._bar: tqdm | None = None
        self._progress, self._on_record = progress, on_record
        self._written = 0.0
        self._part: int | None = None
        self._unwritten: dict[str, Any] | None = None
        self.steps_an_epoch = 0
        self.evaluates_at_the_end = False
        # What computing the reference has taken so far, and had before the first step.
        self.reference_seconds: Callable[[], float] = lambda: 0.0
        self._before = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The first step is about to begin: time left is counted from here."""
        self._before = self.reference_seconds()
        self.run.set_status(
            state="running",
            step=state.global_step,
            first_step=state.global_step,
            total_steps=state.max_steps,
            training_started=time.time(),
            steps_an_epoch=self.steps_an_epoch,
            reference_seconds=0.0,
            message="",
        )
        if self._progress:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", desc="Training")
        # At the start the watched prompts are answered as the reference answers them, which never changes: so that can
        # wait until there are two records, and with them a curve to be seen.
        self._owes_first = bool(self.every) and state.global_step == 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Tell where we are, and look whether something was asked."""
        now = time.time()
        if now - self._written > STATUS_SECONDS or state.global_step == state.max_steps:
            self.run.set_status(
                step=state.global_step, epoch=state.epoch, reference_seconds=self.reference_seconds() - self._before
            )
            self._written = now
        if self._bar:
            self._bar.update(state.global_step - self._bar.n)
        if self.run.was_asked("stop", forget=True):
            self.run.set_status(state="stopping", step=state.global_step, message="Stopping, and saving the adapter.")
            self.stopped = control.should_training_stop = control.should_save = True
        if self.evaluates_at_the_end and state.global_step == state.max_steps:
            control.should_evaluate = True
        if self.run.was_asked("save-now", forget=True):
            control.should_save = True
        if self._owes_first and not self.stopped and (control.should_save or not control.should_log):
            self._sample_first()
        due = self.every and state.global_step % self.every == 0
        if self.run.was_asked("sample-now", forget=True) or due:
            self._sample(state.global_step)

    def _sample_first(self) -> None:
        self._owes_first = False
        self.sample(0)

    def _sample(self, step: int) -> None:
        if self._owes_first:
            self._sample_first()
        self._sampled_at = step
        self.sample(step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Append the record."""
        if logs and "train_runtime" not in logs:
            self.run.record({"step": state.global_step, **logs})
            self._on_record()
            self._records += 1
        if self._owes_first and self._records > 1:
            self._sample_first()

    def on_skipped(self, step: int, skipped: int) -> None:
        """Tell that a step was skipped, and how many there were."""
        told = f"Step {step} was skipped, since its loss or gradient was no number; {skipped} skipped so far."
        self.run.set_status(message=told)

    def on_rows(self, step: int, total_steps: int, rows: "RowRewards") -> None:
        """Note each row's reward down: evenly over the run, and at its last record, however it ends."""
        count = len(rows.rewards)
        picked = [i * count // ROWS_A_LINE for i in range(ROWS_A_LINE)] if count > ROWS_A_LINE else range(count)
        self._unwritten = {
            "step": step,
            "z0": rows.z0,
            "rewards": [round(rows.rewards[i], 6) for i in picked],
            "labels": [rows.labels[i] for i in picked],
        }
        part = (step - 1) * REWARDS_LINES // total_steps
        if part != self._part or step == total_steps:
            self._part = part
            self._write_rows()

    def _write_rows(self) -> None:
        if self._unwritten:
            self.run.record_rewards(self._unwritten)
        self._unwritten = None

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the last step down, and how the watched prompts are answered in the end."""
        self._write_rows()
        if self._owes_first and not self.stopped:
            self._sample_first()
        if self.every and self._sampled_at != state.global_step and not self.stopped:
            self.run.forget_samples(state.global_step)  # of a process that was killed after its last checkpoint
            self._sample(state.global_step)
        self.run.set_status(step=state.global_step, epoch=state.epoch)
        if self._bar:
            self._bar.close()


class RunOfCrew(Run):
    """A run as each of the processes that train it sees it: the first one writes, and what is asked is asked of all."""

    def __init__(self, run: Run, crew: Crew) -> None:
        super().__init__(run.path)
        self.crew = crew
        records = ("record", "record_rewards", "record_sample", "suggest", "note_images")
        for name in ("claim", "rewind", "set_status", *records):
            setattr(self, name, getattr(run, name) if crew.leads else _nothing)
        self._was_asked = run.was_asked

    def was_asked(self, command: str, *, forget: bool = False) -> bool:
        """Whether a command waits for the run; every process must ask."""
        return self.crew.from_first(self.crew.leads and self._was_asked(command, forget=forget))


def _nothing(*_: Any, **__: Any) -> None:
    """What a process writes that is not the first."""
