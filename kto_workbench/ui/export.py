"""Export from the page: `kto export` in a process of its own, which neither a closed page nor a stopped server ends.

runs/<id>/export/<format>/        what was exported
runs/<id>/export/<format>.log     what the process printed; its last line is the folder, once that is complete
runs/<id>/export/<format>.json    which process it is
"""

import contextlib
import json
import shutil
from pathlib import Path

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from kto_workbench import files
from kto_workbench.errors import RunError, WorkbenchError
from kto_workbench.runs import Run
from kto_workbench.runs.children import identity, is_alive, reap, start_apart
from kto_workbench.runs.directory import EXPORT_FORMATS
from kto_workbench.runs.jsonlines import write_atomically
from kto_workbench.runs.schemas import Pid, Time
from kto_workbench.ui import html
from kto_workbench.ui.words import retell, say


class _Identity(TypedDict):
    pid: Pid
    process_started: Time
    process_mark: str


_IDENTITY = TypeAdapter(_Identity)
KINDS = {"working": "plain", "done": "fine", "failed": "error"}


def begin_export(run: Run, form: str) -> None:
    """Start to export a run, unless that is under way or done. Raises RunError."""
    if form not in EXPORT_FORMATS:
        raise RunError(f"A run can be exported as {', '.join(EXPORT_FORMATS)}, not as {form!r}.")
    if run.status().active:
        raise RunError(f"Run {run.id} is {run.status().state}; export it when it has ended.")
    if export_state(run, form)[0] in ("working", "done"):
        return
    folder, log = _folder(run, form), _log(run, form)
    if folder.parent.is_symlink():  # what is there is not ours to remove
        raise RunError(f"Can't write to {folder.parent}: it is a link.")
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of an export that broke off, or of an older adapter
        folder.parent.mkdir(exist_ok=True)
        log.unlink(missing_ok=True)  # whatever it has become
        with log.open("xb") as output:
            wanted = ["export", run.path.resolve(), "--format", form, "--out", folder]
            child = start_apart("kto_workbench", wanted, output)
        write_atomically(log.with_suffix(".json"), json.dumps(identity(child.pid)))
    except OSError as error:
        raise RunError(f"Can't write to {folder.parent}: {error.strerror}.") from None


def export_state(run: Run, form: str) -> tuple[str, str]:
    """What became of an export: `none`, `working`, `done` with its folder, or `failed` with the end of its log."""
    log = _log(run, form)
    with contextlib.suppress(OSError):
        if not files.is_plain(log):
            return "none", ""
        lines = files.read_end(log, html.LONGEST_TEXT).strip().splitlines()
        weights = [path for folder in (run.adapter, run.model) for path in folder.glob("*.safetensors")]
        if any(path.stat().st_mtime > log.stat().st_mtime for path in weights):
            return "none", ""  # it was trained on since
        if lines and lines[-1] == str(_folder(run, form)) and _folder(run, form).is_dir():
            return "done", lines[-1]
        if _is_alive(log.with_suffix(".json")):
            return "working", ""
        return "failed", lines[-1] if lines else ""
    return "none", ""


def show_exports(language: str, run: Run | None) -> str:
    """A sentence for each export of the run."""
    found = [(form, *export_state(run, form)) for form in EXPORT_FORMATS] if run else []
    return "".join(
        html.message(
            say(language, f"export.{state}", what=say(language, f"export.{form}"), told=retell(language, told)),
            KINDS[state],
        )
        for form, state, told in found
        if state in KINDS
    )


def is_exporting(run: Run | None) -> bool:
    """Whether a process is still at it."""
    return run is not None and any(export_state(run, form)[0] == "working" for form in EXPORT_FORMATS)


def can_export(run: Run | None) -> bool:
    """Whether there is an adapter, and nobody is changing it."""
    try:
        return run is not None and run.trained() and not run.status().active
    except WorkbenchError:
        return False


def _folder(run: Run, form: str) -> Path:
    return run.path.resolve() / "export" / form


def _log(run: Run, form: str) -> Path:
    return run.path.resolve() / "export" / f"{form}.log"


def _is_alive(path: Path) -> bool:
    reap()
    known, _ = files.read_json(path, _IDENTITY)
    return known is not None and is_alive(known["pid"], known["process_started"], known["process_mark"])
