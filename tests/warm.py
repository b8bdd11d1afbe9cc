"""A Python that has imported what the `kto` command imports, and forks for each call: seconds less for every command.

    python = WarmPython()
    subprocess.run([*python.command(), "-m", "kto_workbench", "runs"], env=python.environment())

What runs is a process of its own all the same: with the caller's folder, environment, arguments and streams, ending as
any Python ends, with its exit code or signal. Who calls is a small process that stands for it, and takes it along when
it is killed. Only imports are shared; where those are what is tested, start a Python of your own.
"""

import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

THIS = Path(__file__).resolve()
SOCKET = "KTO_WARM_PYTHON"  # the variable that says where it listens
IMPORTS = ("answers.comparison", "answers.evaluation", "answers.export", "engine.training", "engine.judges", "__main__")
READ_ON_IMPORT = ("HF_", "PYTHON", "OMP_")  # variables that libraries, and Python itself, look at once
LENGTH = struct.Struct("!I")
CODE = struct.Struct("!i")


class WarmPython:
    """The process that forks; `close` ends it, and so does the end of whoever made it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kto-warm-")  # a socket's path must be short
        self._begun_with = _read_on_import()
        self._process = subprocess.Popen(
            [sys.executable, str(THIS)], env=self.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout.read(1) == b"!", "it could not start"

    def command(self) -> list[str]:
        """What stands for `python`; a fresh one, where variables have changed that it would no longer see."""
        return [sys.executable, *(["-IS", str(THIS)] if _read_on_import() == self._begun_with else [])]

    def environment(self, **variables: str) -> dict[str, str]:
        """This process's, with some variables set, and where the warm one listens."""
        return {**os.environ, **variables, SOCKET: f"{self._folder.name}/socket"}

    def close(self) -> None:
        """End it; what it has forked goes on."""
        self._process.communicate(timeout=60)
        self._folder.cleanup()


def _read_on_import() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(READ_ON_IMPORT)}


def call(arguments: list[str]) -> int:
    """In the small process: have a command run, and end as it ends."""
    asked = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(os.environ[SOCKET])
        socket.send_fds(line, [LENGTH.pack(len(asked))], [0, 1, 2])
        line.sendall(asked)
        code = CODE.unpack(line.recv(CODE.size, socket.MSG_WAITALL))[0]
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def listen() -> None:
    """In the warm process: fork for each call, until whoever started it is gone. Returns in the forked ones alone."""
    with large_imports():  # or each forked process would copy all that it looks for garbage in
        for name in IMPORTS:
            __import__(f"kto_workbench.{name}")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.environ.pop(SOCKET))
    listener.listen(64)
    os.write(1, b"!")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait for a command are nobody's business
    while True:
        readable, _, _ = select.select([listener, 0], [], [])
        if 0 in readable:
            os._exit(0)
        line, _ = listener.accept()
        if not os.fork():
            break
        line.close()
    listener.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, streams, _, _ = socket.recv_fds(line, LENGTH.size, 3)
    asked = line.recv(LENGTH.unpack(head)[0], socket.MSG_WAITALL)
    if command := os.fork():
        watched = os.pidfd_open(command)
        readable, _, _ = select.select([line, watched], [], [])
        if watched not in readable:  # who called was killed
            os.kill(command, signal.SIGKILL)
            os._exit(1)
        line.sendall(CODE.pack(os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])))
        os._exit(0)
    line.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    arguments, folder, environment = json.loads(asked)
    os.environ.clear()
    os.environ.update(environment)
    del os.environ[SOCKET]
    os.chdir(folder)
    become(arguments)


def become(arguments: list[str]) -> None:
    """What `python -m MODULE …` or `python -c CODE …` does."""
    kind, what, *rest = arguments
    sys.argv, sys.path[0] = [what if kind == "-m" else "-c", *rest], os.getcwd()
    if kind == "-m":
        sys.modules.pop(f"{what}.__main__", None)  # imported already, to be run anew
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    if sys.argv[1:]:
        raise SystemExit(call(sys.argv[1:]))
    from kto_workbench.runs.children import large_imports

    listen()
