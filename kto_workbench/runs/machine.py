"""The machine as a program may use it: memory and cores within a container's limits, what the GPU's driver says.

Asked without torch, since whoever decides whether to start a training is not the process that trains.
"""

import os
import shutil
import subprocess
from pathlib import Path

import psutil

CONTAINER = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes of memory that a new process may take here, within the limit of a container if there is one."""
    available = psutil.virtual_memory().available
    try:
        limit = int((CONTAINER / "memory.max").read_text())
        used = int((CONTAINER / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or one without a limit
        return available
    return min(available, max(0, limit - used))


def processors() -> float:
    """Cores that this process may use at once: those it may run on, within a container's share of time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (CONTAINER / "cpu.max").read_text().split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # no container, or one whose share is "max"
        return cores


def ask_driver(*fields: str) -> list[list[str]]:
    """What NVIDIA's own tool says of each GPU, by the names of its fields; nothing where there is none to ask."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return []
    return [[value.strip() for value in line.split(",")] for line in said.stdout.splitlines() if line.strip()]
