"""The process that trains one run: `python -m kto_workbench.engine.child RUN_DIRECTORY`.

Where the run wants several processes, it becomes Accelerate's launcher, which starts this module again in each of them.
What they print goes to the run's log.txt. Exit code 0: the run has ended, whether finished or stopped; 2: the run
failed with a sentence for the user; 1: with a defect of ours, whose traceback is in the log.
"""

import contextlib
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from kto_workbench.config import KTOConfig
from kto_workbench.errors import ConfigError, WorkbenchError
from kto_workbench.runs.children import large_imports, launched
from kto_workbench.runs.directory import Run
from kto_workbench.runs.turn import StoppedEarly, turn

if TYPE_CHECKING:
    from kto_workbench.engine.crew import Crew


def main(path: str) -> int:
    """Train the run in a directory."""
    run = Run(path)
    alone = not launched()
    try:
        if alone:
            run.claim()
    except WorkbenchError as error:  # it is another process's, whose status stays
        print(error, flush=True)
        return 2
    try:
        config = run.config()
        if alone:
            _wait(run, config)
            if (processes := _processes(config)) > 1:
                _become_launcher(config, processes, path)
        with large_imports():
            from kto_workbench.engine.crew import join

        crew = join(config.device, config.sharding)
    except StoppedEarly as said:
        run.set_status(state="stopped", message=str(said), ended=time.time())
        return 0
    except WorkbenchError as error:
        run.set_status(state="failed", error=str(error), message="", ended=time.time())
        print(error, flush=True)
        return 2
    return work(run, crew)


def _wait(run: Run, config: KTOConfig) -> None:
    """Wait for the device before anything large is loaded, and let it go again: whoever trains takes it.

    Those that were queued later wait on, since this run counts as queued until its training begins.
    """
    # A polite kill (a scheduler's, a shutdown's) is a stop: the adapter is saved. Of several processes, one is killed
    # because another has died, and there is nothing to wait for.
    signal.signal(signal.SIGTERM, lambda *_: run.leave("stop"))
    with contextlib.suppress(OSError), turn(run, config.workspace):  # a disk without room for locks: told by training
        run.set_status(message="Starting the training process.")


def work(run: Run, crew: "Crew") -> int:
    """Train the run as one of a crew; returns the exit code."""
    level = logging.INFO if crew.leads else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    for name in ("httpx", "urllib3", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with large_imports():
        from kto_workbench.engine.training import train_run

    try:
        train_run(run, crew=crew)
    except WorkbenchError as error:
        print(error, flush=True)
        return 2
    return 0


def _processes(config: KTOConfig) -> int:
    """How many processes a config asks for on this machine. Raises ConfigError where it has fewer GPUs."""
    import torch

    from kto_workbench.engine.crew import too_many

    gpus = 0 if config.device == "cpu" else torch.cuda.device_count()
    if config.processes == "auto":
        return max(gpus, 1)
    if gpus and config.processes > gpus:
        raise ConfigError(too_many(config.processes, gpus))
    return config.processes


def _become_launcher(config: KTOConfig, processes: int, path: str) -> None:
    """Replace this process by Accelerate's launcher of so many."""
    import torch

    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    command += ["--num_processes", str(processes), "--main_process_port", "0"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "kto_workbench.engine.child", path]
    environment = dict(os.environ)
    if config.device == "cpu" or not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "true"
        # Each with its part of the cores; torchrun would give it one.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.execve(sys.executable, command, environment)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
