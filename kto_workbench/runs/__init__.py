"""Runs: the directory of a training, who is working on it, and the queue for the device.

    directory.py   Run, the only reader and writer of a run's directory
    launch.py      from a config to a run, from a run to a child process; follow, stop, resume
    children.py    processes that outlive whoever started them
    heartbeat.py   a sign of life from whoever works on a run
    turn.py        one device, one job: later ones wait their turn, in order, on disk
    sides.py       what can stand on a side of a comparison: tuned model, reference, checkpoint
    endpoints.py   the names that the owner has given to OpenAI-compatible servers
    completions.py asking one of them: one client, for sides and for judges
    answering.py   answers from a child process that keeps models warm, asked without torch
    memory.py      what a training will take, by arithmetic
    settings.py    settings that follow from the model, with their reasons
    machine.py     this machine as a program may use it: memory, cores, the GPU's driver
    sweeps.py      a grid of runs: its plan and its directory
    trials.py      what came of a sweep's trials: who goes on, who is best
    sweeping.py    the process that works on a sweep
    shelf.py       name, note, delete and take back
    naming.py      a name for a new run, from what differs
    jsonlines.py   append-only records that survive a torn last line
    schemas.py     what each file of a run holds
    checkpoints.py which checkpoints are whole, by checksum

Nothing here imports torch: whoever looks at a run (page, shell, notebook) is not the process that trains it. What
starts runs reads feedback, with libraries that a process which waits for its turn does without: it loads when first
used.
"""

from typing import Any

from kto_workbench.runs.directory import Run, Status, find_run, list_runs

__all__ = ["Run", "Status", "create_run", "find_run", "follow", "list_runs", "resume", "start"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kto_workbench.runs import launch

    return getattr(launch, name)
