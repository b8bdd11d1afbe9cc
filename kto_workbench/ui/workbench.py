"""What all tabs share: the workspace with its feedback and its runs."""

import contextlib
import functools
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kto_workbench import files
from kto_workbench.config import write_mapping
from kto_workbench.errors import DataError, RunError, WorkbenchError
from kto_workbench.feedback import Feedback, load_feedback
from kto_workbench.feedback.joins import BETWEEN, split_names
from kto_workbench.feedback.named import DEMO_FILES
from kto_workbench.feedback.store import FILE_NAME, ThumbStore
from kto_workbench.runs import Run, find_run, list_runs
from kto_workbench.runs.endpoints import Endpoint, find_endpoint, read_endpoints

DEMO_NAMES = tuple(DEMO_FILES)
THUMBS = "thumbs"
REFUSALS = 100  # that are remembered
RECEIVED_SECONDS = 24 * 3600.0
IDLE_SECONDS = 5.0
RUNS_OFFERED = 50  # in a list to choose from; the Runs tab shows them all


class Workbench:
    """A workspace folder as the page sees it.

    `idle_seconds` is how often an open page looks whether anything has begun while nothing runs.
    """

    def __init__(self, workspace: str | Path, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self.workspace, self.idle_seconds = Path(workspace), idle_seconds
        self._answerer: Any = None
        self._refused: dict[Path, str] = {}

    # feedback

    @property
    def uploads(self) -> Path:
        """Where files that were dropped on the page are kept."""
        return self.workspace / "uploads"

    def uploaded(self) -> list[Path]:
        """The files that were dropped on the page, the newest first."""
        kept = [path for path in files.listed(self.uploads) if files.is_plain(path)]
        return sorted(kept, key=lambda path: path.lstat().st_mtime, reverse=True)

    @property
    def received(self) -> Path:
        """Where gradio puts what the browser sends, before it is looked at."""
        return self.workspace / "cache" / "page"

    def sweep(self) -> None:
        """Take away what the browser sent long ago and nobody has kept: broken-off and refused files."""
        for path in files.listed(self.received):
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime > RECEIVED_SECONDS:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def drop_partial(self) -> None:
        """Take away what has come in of files when the disk is full: it would be kept full by them."""
        for path in files.listed(self.received):
            if path.name.startswith("tmp") and files.is_plain(path):
                with contextlib.suppress(OSError):
                    os.truncate(path, 0)  # whoever has it open would keep its room
                    path.unlink()

    def keep_upload(self, path: str | Path) -> str:
        """Move a file from the browser into the workspace under a tame name; returns it as a source.

        Raises DataError for any other file, as `received_file` does.
        """
        path = self.received_file(path)
        name = re.sub(r"[^\w.\-]+", "_", Path(path).name).lstrip("._")[-100:] or "feedback"
        self.uploads.mkdir(parents=True, exist_ok=True)
        target = self.uploads / name
        stem, dot, suffix = name.partition(".")
        count = 2
        while target.exists() and not _same_bytes(target, path):
            target = self.uploads / f"{stem}-{count}{dot}{suffix}"
            count += 1
        shutil.move(path, target)
        return str(target)

    def refuse(self, path: str | Path, error: Exception) -> None:
        """Take a file away that holds no feedback, and remember why, for the page that still names it."""
        Path(path).unlink(missing_ok=True)
        self._refused[Path(path)] = str(error).replace(f"{self.uploads}{os.sep}", "")
        while len(self._refused) > REFUSALS:
            del self._refused[next(iter(self._refused))]

    def owns(self, path: str | Path) -> bool:
        """Whether a file lies where this page keeps what it is sent."""
        folders = (self.received.resolve(), self.uploads.resolve())
        return any(Path(path).resolve().is_relative_to(folder) for folder in folders)

    def received_file(self, path: str | Path | None) -> Path:
        """A file that the browser sent. Raises DataError for any other: a forged request may name what it likes."""
        if not path or not Path(path).resolve().is_relative_to(self.received.resolve()) or not Path(path).is_file():
            raise DataError("That is not a file that this page received; drop it again.")
        return Path(path)

    def feedback(self, source: str) -> Feedback:
        """Load one of the feedback sources that the page offers, and no other file. Raises DataError."""
        if source in (*DEMO_NAMES, THUMBS):
            stamps = [_stamp(path) for path in self.workspace.glob(f"{FILE_NAME}*")]  # its log holds the newest votes
            return _load(source, str(self.workspace), max(stamps, default=0.0), ())
        stamp = sum(_stamp(path) for path in self.files_of(source))
        try:
            return _load(source, str(self.workspace), stamp, self.mapping(source))
        except DataError as error:  # the visitor named a file, not a folder of this machine
            raise type(error)(str(error).replace(f"{self.uploads}{os.sep}", "")) from None

    def files_of(self, source: str) -> list[Path]:
        """The file, or the two files, of a source that was dropped here. Raises DataError for any other."""
        paths = [Path(str(name)) for name in split_names(source)]
        for path in paths:
            if path not in self.uploaded():
                if path in self._refused:
                    raise DataError(self._refused[path])
                raise DataError(f"There is no feedback {path.name!r} here; drop the file again.")
        return paths

    def mapping(self, source: str) -> tuple[str, ...]:
        """What the visitor said of a file's columns, kept beside it."""
        return tuple(files.read_text(self._kept_mapping(source))[0].splitlines())

    def keep_mapping(self, source: str, mapping: Mapping[str, Any]) -> None:
        """Keep what the visitor says of a file's columns; nothing, if that is to be recognised again."""
        self.files_of(source)
        kept = self._kept_mapping(source)
        if mapping:
            kept.write_text("\n".join(write_mapping(mapping)) + "\n", encoding="utf-8")
        else:
            kept.unlink(missing_ok=True)

    def _kept_mapping(self, source: str) -> Path:
        names = BETWEEN.join(Path(str(name)).name for name in split_names(source))
        return self.uploads / f".{names}.mapping"

    def thumbs_collected(self) -> int:
        """How many votes the Feedback tab has collected."""
        store = ThumbStore(self.workspace)
        for _ in range(2):  # a damaged file is put aside by the first call that meets it
            with contextlib.suppress(DataError):
                return len(store)
        return 0

    # runs

    def runs(self) -> list[Run]:
        """Every run, the newest first."""
        return list_runs(self.workspace)

    def run(self, run_id: str | None) -> Run:
        """One run by its exact id. Raises RunError."""
        if not run_id or not re.fullmatch(r"[\w.\-]+", run_id) or run_id.startswith("."):
            raise RunError("There is no run yet.")
        return find_run(self.workspace / "runs" / run_id, self.workspace)

    def run_or_none(self, run_id: str | None) -> Run | None:
        """The run, or None if it is gone or there is none yet."""
        try:
            return self.run(run_id)
        except WorkbenchError:
            return None

    def run_to_watch(self) -> str | None:
        """The run that a page should show when it opens: the one at work, else the newest."""
        runs = self.runs()
        states = [(run, run.status().state) for run in runs[:RUNS_OFFERED]]
        for wanted in (("running", "starting", "stopping"), ("queued",)):
            for run, state in states:
                if state in wanted:
                    return run.id
        return runs[0].id if runs else None

    # endpoints

    def endpoints(self) -> list[Endpoint]:
        """The endpoints that the owner has named; none while their file can't be read."""
        try:
            return list(read_endpoints(self.workspace).values())
        except WorkbenchError:
            return []

    def endpoint(self, name: str | None) -> Endpoint:
        """One endpoint by its name: an address comes from the owner alone. Raises ConfigError."""
        return find_endpoint(str(name or ""), self.workspace)

    # answers

    @property
    def answerer(self) -> Any:
        """The child process that answers prompts, started at its first answer."""
        if self._answerer is None:
            from kto_workbench.runs.answering import Answerer

            self._answerer = Answerer(self.workspace)
        return self._answerer

    def close(self) -> None:
        """Let the answering process go for good; training goes on."""
        self.answerer.close(for_good=True)

    def unload(self) -> None:
        """Let the answering process go until it is asked again."""
        self.answerer.close()


@functools.lru_cache(maxsize=4)
def _load(source: str, workspace: str, stamp: float, mapping: tuple[str, ...]) -> Feedback:
    return load_feedback(source, workspace=workspace, mapping=mapping)


def _stamp(path: Path) -> float:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0.0


def _same_bytes(one: Path, other: Path) -> bool:
    if os.path.getsize(one) != os.path.getsize(other):
        return False
    with one.open("rb") as a, other.open("rb") as b:
        while chunk := a.read(1 << 20):
            if chunk != b.read(1 << 20):
                return False
    return True
