"""The doctor's checks in their order, done in a child process and handed on as they come. Imports no torch."""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from kto_workbench.doctor.results import BROKEN, Result, Subject

# A check that takes longer hangs: the slowest loads a large model, perhaps from the hub.
PATIENCE = 900.0


@dataclass(frozen=True)
class Check:
    """Where a check is, as module.function of this room, and those without which it makes no sense."""

    where: str
    needs: tuple[str, ...] = ()


CHECKS = {
    "python": Check("machine.python"),
    "libraries": Check("machine.libraries"),
    "processor": Check("machine.processor"),
    "workspace": Check("machine.workspace"),
    "hub": Check("machine.hub"),
    "torch": Check("device.torch_build"),
    "gpu": Check("device.gpus", needs=("torch",)),
    "bfloat16": Check("device.bfloat16", needs=("torch",)),
    "attention": Check("device.attention", needs=("torch",)),
    "matrix rate": Check("device.matrix_rate", needs=("torch",)),
    "memory rate": Check("device.memory_rate", needs=("torch",)),
    "4-bit": Check("arithmetic.four_bit", needs=("torch",)),
    "packed": Check("arithmetic.packed", needs=("4-bit",)),
    "model": Check("model.files"),
    "template": Check("model.template", needs=("model",)),
    "memory": Check("model.memory", needs=("model",)),
    "family": Check("model.family", needs=("model", "4-bit")),
    "step": Check("model.step", needs=("family",)),
}
OF_A_MODEL = ("model", "template", "memory", "family", "step")


def checks_of(subject: Subject) -> list[str]:
    """The names of the checks to do, in order."""
    return [*CHECKS] if subject.model else [name for name in CHECKS if name not in OF_A_MODEL]


def without(names: Iterable[str], broken: str) -> list[str]:
    """Those that make sense although one is broken."""
    gone, kept = {broken}, []
    for name in names:
        if gone.intersection(CHECKS[name].needs):
            gone.add(name)
        else:
            kept.append(name)
    return kept


def examine(subject: Subject) -> Iterator[Result]:
    """Do the checks, each result as it comes; those that need a broken one are left out."""
    left = checks_of(subject)
    while left:
        begun = left[0]
        with tempfile.TemporaryFile() as log, _child(subject, left, log) as child:
            for event in _events(child):
                if "end" in event:
                    return
                if "begins" in event:
                    begun = event["begins"]
                    continue
                result = Result(**event)
                if not result.ok:
                    left = without(left, result.name)
                yield result
            code = child.wait()
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()
        yield Result(BROKEN, _how_it_ended(begun, code, said), {"code": code}, begun)
        left = without(left[left.index(begun) + 1 :], begun)


@contextlib.contextmanager
def _child(subject: Subject, names: list[str], log: IO[bytes]) -> "Iterator[subprocess.Popen[str]]":
    model = ["--model", subject.model, *(["--trust"] if subject.trust else [])] if subject.model else []
    child = subprocess.Popen(
        [sys.executable, "-m", "kto_workbench.doctor.child", str(subject.workspace), *model, *names],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        encoding="utf-8",
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def _events(child: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    """What the child tells, until it ends or is silent for too long."""
    while True:
        watch = threading.Timer(PATIENCE, child.kill)
        watch.daemon = True
        watch.start()
        try:
            line = child.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            return
        yield json.loads(line)


def _how_it_ended(name: str, code: int, said: list[str]) -> str:
    """A sentence on a child that ended in the middle of a check."""
    if code < 0:
        how = f"by signal {-code} ({signal.Signals(-code).name})"
    else:
        how = f"with exit code {code}"
    last = f"; its last words: {said[-1][:200]}" if said else ""
    return f"The process that checked this was ended {how}{last}."
