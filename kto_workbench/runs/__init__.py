"""Runs: the directory of a training, who is working on it, and the queue for the device.

    directory.py   Run, the only reader and writer of a run's directory
    launch.py      from a config to a run, from a run to a child process; follow, stop, resume
    turn.py        one device, one job: later ones wait their turn, in order, on disk
    jsonlines.py   append-only records that survive a torn last line

Nothing here imports torch: whoever looks at a run (page, shell, notebook) is not the process that trains it.
"""

from kto_workbench.runs.directory import Run, Status, find_run, list_runs
from kto_workbench.runs.launch import create_run, follow, resume, start

__all__ = ["Run", "Status", "create_run", "find_run", "follow", "list_runs", "resume", "start"]
