"""The process that trains one run: `python -m kto_workbench.engine.child RUN_DIRECTORY`.

What it prints goes to the run's log.txt. Exit code 0: the run has ended, whether finished or stopped; 2: the run failed
with a sentence for the user; 1: with a defect of ours, whose traceback is in the log.
"""

import logging
import signal
import sys

from kto_workbench.errors import WorkbenchError
from kto_workbench.runs.directory import Run


def main(path: str) -> int:
    """Train the run in a directory."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    for name in ("httpx", "urllib3", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
    run = Run(path)
    # A polite kill (a scheduler's, a shutdown's) is a stop: the adapter is saved.
    signal.signal(signal.SIGTERM, lambda *_: run.leave("stop"))
    from kto_workbench.engine.training import train_run

    try:
        train_run(run)
    except WorkbenchError as error:
        print(error, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
