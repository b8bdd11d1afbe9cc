"""What a figure was measured on, and how its time and memory were read. Imports torch only where it is asked for."""

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def describe_machine(threads: int) -> dict[str, Any]:
    """Cores, CPU model and memory of this machine, and the threads that were used."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load_1_min": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that matter, where installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@dataclass
class Cost:
    """What a piece of work took: `wall` and `cpu` in seconds, `cpu` summed over the threads of this process."""

    wall: float
    cpu: float


def clock(work: Callable[[], Any]) -> Cost:
    """Do the work once and say what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def matmul_rate(size: int = 1024, times: int = 12) -> Cost:
    """Floating-point operations a second of a float32 matrix product: by wall time and by CPU time, the best of some.

    Each is a rate here, not a duration: operations ÷ wall seconds, operations ÷ CPU seconds.
    """
    import torch

    a, b = torch.randn(size, size), torch.randn(size, size)
    costs = [clock(lambda: a @ b) for _ in range(times)][2:]
    operations = 2 * size**3
    return Cost(operations / min(c.wall for c in costs), operations / min(c.cpu for c in costs))


def peak_memory() -> int:
    """The largest resident set of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def run_fresh(module: str, arguments: list[str], threads: int, **more: str) -> dict[str, Any]:
    """Run `python -m module …` with so many threads and return the JSON object on the last line of its output.

    `more` are environment variables.

    The caller should be small: on Linux a process starts with its parent's largest resident set as its own.
    """
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"PYTHONWARNINGS": "ignore"} | more
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"`python -m {module} {' '.join(arguments)}` failed; its reason is above.")
    return json.loads(done.stdout.strip().splitlines()[-1])


def say(text: str) -> None:
    """A line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
