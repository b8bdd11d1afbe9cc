"""What people do with runs that are over: name them, note something down, delete them and think better of it.

A deleted run lies in the workspace's trash, from which `restore_run` takes it back; after a week it goes for good,
when the next one is deleted, or at once when the trash is emptied: only that frees its space.
"""

import json
import re
import shutil
import time
from pathlib import Path

from kto_workbench import files
from kto_workbench.errors import RunError
from kto_workbench.runs import jsonlines
from kto_workbench.runs.directory import Run, runs_folder

KEPT_SECONDS = 7 * 24 * 3600
LONGEST_NAME, LONGEST_NOTE = 80, 4000


def about_run(run: Run) -> dict[str, str]:
    """The run's name and the note that people gave it; empty texts if none."""
    return run.about()


def title_of(run: Run) -> str:
    """What to call the run: its name, or its id where it has none."""
    return run.about()["name"] or run.id


def describe_run(run: Run, name: str, note: str) -> None:
    """Give the run a name and a note; its id stays."""
    name = " ".join("".join(one if one.isprintable() else " " for one in name).split())
    about = {"name": name[:LONGEST_NAME], "note": note.strip()[:LONGEST_NOTE]}
    jsonlines.write_atomically(run.path / "about.json", json.dumps(about, ensure_ascii=False, indent=1) + "\n")


def delete_run(run: Run) -> None:
    """Move a run that nobody works on into the trash. Raises RunError if it is at work."""
    if run.status().active:
        raise RunError(f"Run {run.id} is {run.status().state}; stop it before you delete it.")
    trash = _trash(run.path.parent.parent)
    if trash.is_symlink():
        raise RunError(f"Can't write to {trash}: it is a link.")
    trash.mkdir(exist_ok=True)
    for old in _deleted(trash.parent):
        if time.time() - old.lstat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    target = trash / run.id
    shutil.rmtree(target, ignore_errors=True)
    run.path.rename(target)
    target.touch()  # its time in the trash begins now


def restore_run(run_id: str, workspace: str | Path) -> Run:
    """Take a deleted run back. Raises RunError if it is not in the trash."""
    source = _trash(Path(workspace)) / run_id
    target = runs_folder(workspace) / run_id
    if source not in _deleted(workspace) or not source.is_dir() or target.exists():
        raise RunError(f"There is no deleted run {run_id!r} to take back.")
    source.rename(target)
    return Run(target)


def deleted_runs(workspace: str | Path) -> list[str]:
    """The ids in the trash, the one deleted last first."""
    found = [path for path in _deleted(workspace) if (path / "config.yaml").is_file()]
    return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def trash_bytes(workspace: str | Path) -> int:
    """What emptying the trash would free."""
    found = (path.lstat() for run in _deleted(workspace) for path in (run, *run.rglob("*")))
    return sum(stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size for stat in found)


def empty_trash(workspace: str | Path) -> tuple[int, int]:
    """Let the deleted runs go for good; returns how many there were, and the bytes that this has freed."""
    there, before = _deleted(workspace), trash_bytes(workspace)
    for path in there:
        shutil.rmtree(path, ignore_errors=True)
        if files.is_there(path):
            path.unlink(missing_ok=True)
    return len(there), before - trash_bytes(workspace)


def _trash(workspace: Path) -> Path:
    return workspace / "trash"


def _deleted(workspace: str | Path) -> list[Path]:
    """What lies in the trash; nothing if that is a link: whatever is there was not put there by us."""
    trash = _trash(Path(workspace))
    return [] if trash.is_symlink() else [path for path in files.listed(trash) if re.fullmatch(r"[\w\-]+", path.name)]
