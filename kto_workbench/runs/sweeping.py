"""The process that works on a sweep: `python -m kto_workbench.runs.sweeping SWEEP_DIRECTORY`.

It starts one trial after the other, each a process of its own that waits for the device's turn like any run, and
follows it. What it prints goes to the sweep's log.txt. Exit code 0: the sweep has ended, whether finished or stopped;
2: it failed with a sentence for the user.
"""

import logging
import signal
import sys
import time

from kto_workbench import files
from kto_workbench.errors import RunError, WorkbenchError
from kto_workbench.runs.directory import Run
from kto_workbench.runs.launch import create_run, follow, requeue, start, stop
from kto_workbench.runs.naming import differences
from kto_workbench.runs.sweeps import Plan, Sweep, Trial
from kto_workbench.runs.trials import left_behind, outcome_at, points_of

log = logging.getLogger(__name__)


class _Asked(Exception):
    """The sweep was asked to stop."""


def main(path: str) -> int:
    """Work on the sweep in a directory until it ends."""
    sweep = Sweep(path)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    try:
        sweep.claim()
    except RunError as error:  # its state is another process's to say
        log.error("%s", error)
        return 2
    try:
        _Worker(sweep).work()
    except _Asked:
        sweep.was_asked_to_stop(forget=True)
        sweep.set_state(state="stopped", ended=time.time())
    except WorkbenchError as error:
        log.error("%s", error)
        sweep.set_state(state="failed", error=str(error), ended=time.time())
        return 2
    except Exception as error:
        sweep.set_state(state="failed", error=f"{type(error).__name__}: {error}", ended=time.time())
        raise
    else:
        sweep.set_state(state="finished", ended=time.time())
    return 0


class _Worker:
    """Goes through a sweep's trials, rung by rung."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.plan = sweep, sweep.plan()
        self.runs = sweep.runs()
        self.given_up: set[int] = set()  # failed, stopped by hand or deleted since this process began

    def work(self) -> None:
        """Train what is not trained yet."""
        plan: Plan = self.plan
        for part in (*plan.rungs(), None):
            out = left_behind(plan, self.runs, self.given_up)
            for point, trials in points_of(plan.trials()).items():
                if point not in out:
                    for trial in trials:
                        self._advance(trial, part)
            for point, at in left_behind(plan, self.runs, self.given_up).items():
                if point not in out:
                    log.info("%s goes no further: not among the best behind %.0f %% of its steps.", point, 100 * at)

    def _advance(self, trial: Trial, part: float | None) -> None:
        """Train one trial to its end, or to its first evaluation behind a part of its steps."""
        if self.sweep.was_asked_to_stop():
            raise _Asked
        run = self.runs.get(trial.number)
        if run is not None and not files.is_folder(run.path):
            log.warning("The run of trial %d was deleted.", trial.number)
            self.given_up.add(trial.number)
        if trial.number in self.given_up or self._has_reached(trial, part):
            return
        if run is None:
            name = f"{differences(trial.config, trial.values)} · {self.sweep.id[-4:]}"
            run = create_run(trial.config, name=name, sweep=(self.sweep.id, trial.number))
            self.runs[trial.number] = run
        status = run.status()
        if status.resumable:
            requeue(run)
        if not run.status().active or run.status().pid is None:
            start(run)
        log.info("Trial %d is run %s.", trial.number, run.id)
        self._follow(trial, run, part)

    def _follow(self, trial: Trial, run: Run, part: float | None) -> None:
        asked = reached = False
        for _ in follow(run):
            if not asked and self.sweep.was_asked_to_stop():
                asked = True
                self.sweep.set_state(state="stopping")
                _stop(run)
            if not asked and not reached and part is not None and self._has_reached(trial, part):
                reached = True
                _stop(run)
        if asked:
            raise _Asked
        status = run.status()
        if status.state != "finished" and not reached:
            self.given_up.add(trial.number)
            log.warning("Trial %d %s: %s", trial.number, status.state, status.error or status.message)

    def _has_reached(self, trial: Trial, part: float | None) -> bool:
        run = self.runs.get(trial.number)
        if run is None:
            return False
        status = run.status()
        if status.state == "finished":
            return True
        return part is not None and outcome_at(run, self.plan, part) is not None


def _stop(run: Run) -> None:
    """Ask a run to stop; it may have ended this moment."""
    try:
        stop(run)
    except RunError:
        log.info("Run %s has ended already.", run.id)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # a polite kill is a stop
        signal.signal(number, lambda *_: Sweep(sys.argv[1]).leave_stop())
    sys.exit(main(sys.argv[1]))
