"""A sign of life from a process that works on a run, so that long steps are not taken for its end."""

import contextlib
import threading

from kto_workbench.errors import WorkbenchError
from kto_workbench.runs.directory import HEARTBEAT_SECONDS, Run


class Heartbeat:
    """Renews the heartbeat in a run's status from a thread, as long as the block lasts."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError, WorkbenchError):  # a full disk may have room again at the next beat
                self.run.set_status()
