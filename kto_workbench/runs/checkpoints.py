"""Checkpoints that are whole: each is sealed with the checksums of its files once all of them are on disk.

    seal(folder)            after everything has been written
    flaw(folder)            "" if it is as it was sealed, else what is wrong with it
    newest_whole(run)       the one to resume from; those that are not whole are passed over with a line in the log

A checkpoint without a seal is of an older version, or a kill came while it was written: it counts if it has all that
a resume needs.
"""

import json
import logging
import os
from pathlib import Path
from typing import Annotated, Any

import xxhash
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from kto_workbench import files
from kto_workbench.runs import schemas
from kto_workbench.runs.directory import CHECKPOINT, Run
from kto_workbench.runs.jsonlines import write_atomically

log = logging.getLogger(__name__)

SEAL = "checksums.json"
# What a resume reads: one file of each line, by the beginning and the end of its name.
NEEDED = (
    ("trainer_state", ".json"),
    ("optimizer", ""),
    ("scheduler", ".pt"),
    ("rng_state", ".pth"),
)
WEIGHTS = (("adapter_model", ".safetensors"), ("model", ".safetensors"), ("pytorch_model", ""))


class _File(TypedDict):
    size: schemas.Count
    xxh3: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


_SEAL = TypeAdapter(dict[str, _File])


def seal(folder: Path) -> None:
    """Write down the checksums of all files in a checkpoint, when they are safely on disk. Raises OSError."""
    found = {}
    for path in _files_in(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        found[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "xxh3": _checksum(path)}
    write_atomically(folder / SEAL, json.dumps(found, indent=1) + "\n")


def unseal(folder: Path) -> None:
    """Take the seal off a checkpoint that is about to be written again."""
    (folder / SEAL).unlink(missing_ok=True)


def flaw(folder: Path) -> str:
    """What is wrong with a checkpoint, as a phrase that follows its name; empty if it is whole."""
    state, problem = files.read_json(folder / "trainer_state.json", schemas.ANYTHING)
    if not state:
        return f"has a trainer_state.json that {problem or 'is empty'}"
    sealed, problem = files.read_json(folder / SEAL, _SEAL)
    if sealed is None:
        return _lacking(folder) if problem == files.MISSING else f"has a {SEAL} that {problem}"
    for name, known in sealed.items():
        path = folder / name
        if not files.is_plain(path):
            return f"lacks its {name}"
        if path.stat().st_size != known["size"]:
            return f"has a torn {name}"
        if _checksum(path) != known["xxh3"]:
            return f"has a damaged {name}"
    return ""


def newest_whole(run: Run) -> Path | None:
    """The newest checkpoint that is whole, None if there is none; says in the log which ones were passed over."""
    found = [path for path in files.listed(run.path / "checkpoints") if CHECKPOINT.fullmatch(path.name)]
    for folder in sorted(found, key=lambda path: int(path.name[11:]), reverse=True):
        try:
            problem = flaw(folder)
        except OSError as error:
            problem = files.reason(error)
        if not problem:
            return folder
        log.warning("%s %s, so it is passed over.", folder.name, problem)
    if found:
        log.warning("No checkpoint is whole, so the training begins anew.")
    return None


def _lacking(folder: Path) -> str:
    """What a checkpoint without a seal lacks."""
    names = [
        path.name for path in files.listed(folder) if path.is_dir() or (files.is_plain(path) and path.stat().st_size)
    ]

    def has(beginning: str, ending: str) -> bool:
        return any(name.startswith(beginning) and name.endswith(ending) for name in names)

    missing = next((part for part, ending in NEEDED if not has(part, ending)), None)
    if missing:
        return f"lacks its {missing}, or has an empty one"
    return "" if any(has(*part) for part in WEIGHTS) else "lacks its weights"


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.name != SEAL and files.is_plain(path))


def _checksum(path: Path) -> str:
    digest: Any = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
