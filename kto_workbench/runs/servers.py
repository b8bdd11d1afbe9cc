"""Who serves a workspace: each server of a page leaves a note there, by which the others know of it.

    with noted(workspace, "http://127.0.0.1:7860"):     # while it serves
        others(workspace)                               # [Server(address="http://127.0.0.1:7861", pid=4711, …)]

A server on this machine is known by its process, one on another machine that shares the folder by the beat of its note.
"""

import contextlib
import functools
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from kto_workbench import files
from kto_workbench.runs import schemas
from kto_workbench.runs.children import boot, identity, is_alive
from kto_workbench.runs.jsonlines import write_atomically

BEAT_SECONDS = 10.0
STALE_AFTER_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """A process that serves a page; `machine` tells where its number counts."""

    address: str
    pid: schemas.Pid
    process_started: schemas.Time = 0.0
    process_mark: str = ""
    machine: str = ""


_SERVER = TypeAdapter(Server)


@contextlib.contextmanager
def noted(workspace: str | Path, address: str) -> Iterator[None]:
    """Leave a note that this process serves the workspace, and take it away in the end.

    A note is a courtesy: a disk that takes none, such as a full one, keeps nobody from serving.
    """
    me = Server(address, machine=_machine(), **identity(os.getpid()))
    note = _folder(workspace) / f"{secrets.token_hex(4)}.json"
    ended = threading.Event()

    def beat() -> None:
        while True:
            with contextlib.suppress(OSError):
                if files.is_there(note):
                    os.utime(note)
                else:
                    note.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(note, json.dumps(asdict(me)) + "\n")
            written.set()
            if ended.wait(BEAT_SECONDS):
                return

    written = threading.Event()
    thread = threading.Thread(target=beat, name="note of the server", daemon=True)
    thread.start()
    written.wait()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)


def others(workspace: str | Path) -> list[Server]:
    """The other processes that serve this workspace now; notes of those that are gone are taken away."""
    found = []
    for note in sorted(files.listed(_folder(workspace))):
        server, _ = files.read_json(note, _SERVER)
        if server is not None and _serves(server, note):
            found.append(server)
        elif note.suffix == ".json":
            with contextlib.suppress(OSError):
                note.unlink(missing_ok=True)
    return [server for server in found if (server.machine, server.pid) != (_machine(), os.getpid())]


def _serves(server: Server, note: Path) -> bool:
    if server.machine == _machine():
        return is_alive(server.pid, server.process_started, server.process_mark)
    try:
        return abs(time.time() - note.lstat().st_mtime) < STALE_AFTER_SECONDS
    except OSError:
        return False


@functools.cache
def _machine() -> str:
    """Where a process's number counts: in this boot of this machine, and in this container of it."""
    try:
        return f"{boot()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return boot()


def _folder(workspace: str | Path) -> Path:
    return Path(workspace) / "servers"
