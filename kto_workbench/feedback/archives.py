"""Feedback in a zip archive, with the images that it names beside it.

The one file of feedback in it is unpacked for as long as it is read; images stay where they are until a row is visited.
Nothing is ever written to a place that the archive names.
"""

import contextlib
import shutil
import tempfile
import weakref
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kto_workbench.errors import DataError
from kto_workbench.feedback.files import BLOCK_BYTES, ZIP, reason_of, refuse_bomb

FEEDBACK = frozenset(".jsonl .ndjson .json .csv .tsv .parquet .arrow".split())
PACKED = frozenset((".gz", ".zst"))
MOST_MEMBERS = 1_000_000


@dataclass
class Unpacked:
    """The feedback of an archive: `path`, a file that is there as long as this is; `member`, its name in there."""

    path: Path
    member: str

    def __post_init__(self) -> None:
        weakref.finalize(self, shutil.rmtree, self.path.parent, ignore_errors=True)


def is_archive(path: Path) -> bool:
    """Whether a file is a zip archive."""
    with contextlib.suppress(OSError, ValueError):
        if path.is_file():  # to open a pipe would wait for whoever writes into it
            with path.open("rb") as file:
                return file.read(4) == ZIP
    return False


def unpack_feedback(path: Path, cache: Path) -> Unpacked:
    """Unpack the one file of feedback of an archive into a folder of its own in `cache`. Raises DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = [info for info in archive.infolist()[:MOST_MEMBERS] if _is_feedback(info)]
            if len(found) != 1:
                raise _which(path, [info.filename for info in found])
            cache.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="unpacked-", dir=cache))
            # Of its own name only the endings, by which files are known.
            suffixes = "".join(PurePosixPath(found[0].filename).suffixes[-2:])
            unpacked = Unpacked(folder / f"feedback{suffixes}", found[0].filename)
            _unpack(archive, found[0], unpacked.path, path)
            return unpacked
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        raise DataError(f"{path} can't be read as a zip archive: {reason_of(error)}.") from None


def _is_feedback(info: zipfile.ZipInfo) -> bool:
    """Whether a member is a file of feedback by its name; not what systems put in besides."""
    name = PurePosixPath(info.filename)
    suffixes = [suffix.lower() for suffix in name.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return not info.is_dir() and not hidden and bool(suffixes) and suffixes[-1] in FEEDBACK


def _which(path: Path, found: list[str]) -> DataError:
    if not found:
        return DataError(f"{path} is a zip archive without a file of feedback in it, such as .jsonl, .csv or .parquet.")
    shown = ", ".join(found[:5])
    count = len(found)
    return DataError(f"{path} is a zip archive with {count} files of feedback ({shown}); give one with a single one.")


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, path: Path) -> None:
    given, size = 0, path.stat().st_size
    with archive.open(info) as packed, target.open("wb") as file:
        while block := packed.read(BLOCK_BYTES):
            given += len(block)
            refuse_bomb(path, given, size)
            file.write(block)
