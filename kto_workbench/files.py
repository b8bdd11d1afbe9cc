"""Reading files that may have become anything: what they hold, or why they can't be read; no exception, no wait.

    text, problem = read_text(path)                      # ("", "is a folder")
    values, problem = read_json(path, schema)            # (None, "holds 'paused' as `state`")
    kept.get(path, key, lambda: parse(path))             # parsed once, until the file changes

A file of a workspace may be torn, be of a newer version, or have been replaced by a folder, a link, a pipe or a device.
Only plain files are opened, no link is followed to another file, and no more is read than any honest one holds. A
problem is a phrase that follows the file's name; it is empty if all is well.
"""

import contextlib
import errno
import os
import reprlib
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import TypeAdapter, ValidationError

MOST_BYTES = 64 * 2**20
SETTLED_NANOSECONDS = 2 * 10**9  # after which no second change falls into the same tick of a file system's clock
# What a disk refuses when it is full, over its quota, mounted to be read only; gone, or failing.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
DISK_ERRORS = {*FULL_DISK, errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE}
MISSING = "is missing"

T = TypeVar("T")
_anything = TypeAdapter(dict[str, Any])


def read_bytes(path: Path, *, at_most: int = MOST_BYTES, offset: int = 0, links: bool = False) -> tuple[bytes, str]:
    """Up to `at_most` bytes of a plain file from an offset on; `links` also of one that a link leads to."""
    try:
        # Opening a pipe without a writer would wait for one.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags | (0 if links else getattr(os, "O_NOFOLLOW", 0)))
        if kind := _kind(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return b"", f"is {kind}"
        with os.fdopen(descriptor, "rb") as file:
            file.seek(offset)
            return file.read(at_most), ""
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        return b"", reason(error)


def read_text(path: Path, *, at_most: int = MOST_BYTES, links: bool = False) -> tuple[str, str]:
    """A whole text in UTF-8."""
    data, problem = read_bytes(path, at_most=at_most + 1, links=links)
    if not problem and len(data) > at_most:
        problem = "is too large to be read"
    if problem:
        return "", problem
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError:
        return "", "is not UTF-8 text"


def read_end(path: Path, at_most: int) -> str:
    """The end of a log in at most so many bytes, whatever they are; "" if it can't be read."""
    try:
        offset = max(0, path.lstat().st_size - at_most)
    except (OSError, ValueError):
        return ""
    return read_bytes(path, at_most=at_most, offset=offset)[0].decode("utf-8", errors="replace")


def read_json(
    path: Path, schema: TypeAdapter[T], *, at_most: int = MOST_BYTES, links: bool = False
) -> tuple[T | None, str]:
    """A JSON object as the schema wants it, None if it can't be read; null counts as a value that was left out."""
    data, problem = read_bytes(path, at_most=at_most + 1, links=links)
    if not problem and len(data) > at_most:
        problem = "is too large to be read"
    if problem:
        return None, problem
    try:
        values = _anything.validate_json(data)
        return schema.validate_python({key: value for key, value in values.items() if value is not None}), ""
    except ValidationError as error:
        return None, misfit(error)


def open_to_append(path: Path) -> BinaryIO:
    """A plain file to write to at its end, made if there is none; unbuffered. Raises OSError, also for a link."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), 0o666)
    if _kind(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a plain file")
    return os.fdopen(descriptor, "ab", buffering=0)


def stamp(path: Path) -> tuple[int, ...] | None:
    """What changes whenever a file or the list of a folder does, without opening it; None if there is none."""
    try:
        found = path.lstat()
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode


class Kept:
    """What was made of files and folders, for as long as their stamps stay; shared by threads.

    A file that changed this moment is not relied on: two changes within a tick of the clock leave the same stamp.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._found: OrderedDict[Hashable, tuple[tuple[int, ...], Any]] = OrderedDict()

    def get(self, path: Path, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, which is not called again before the file at `path` has changed; not to be altered."""
        now = stamp(path)
        if now is None:
            return make()
        known = (str(path), key)
        before = self._found.get(known)
        if before is not None and before[0] == now:
            return before[1]
        made = make()
        if abs(time.time_ns() - max(now[2:4])) > SETTLED_NANOSECONDS:
            self._found[known] = now, made
            while len(self._found) > self.most:
                with contextlib.suppress(KeyError):  # another thread was faster
                    self._found.popitem(last=False)
        return made


kept = Kept(16_384)


def listed(folder: Path) -> list[Path]:
    """What is in a folder, hidden things left out; nothing if it can't be listed."""
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except (OSError, ValueError):
        return []


def is_plain(path: Path) -> bool:
    """Whether there is a plain file, not a link to one, a folder or anything else."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder, be it by a link; False for a name that no folder can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_there(path: Path) -> bool:
    """Whether anything goes by this name, be it a link that leads nowhere."""
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):
        return False


def misfit(error: ValidationError) -> str:
    """The first thing that a schema found wrong, as a phrase."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"lacks `{where}`"
    if not where or first["type"] == "json_invalid":
        return "is not a whole JSON object"
    return f"holds {reprlib.repr(first['input'])} as `{where}`"


def reason(error: Exception) -> str:
    """Why a file could not be used, as a phrase that follows its name."""
    number = getattr(error, "errno", None)
    if number == errno.ENOENT:
        return MISSING
    if number == errno.ELOOP:
        return "is a link"
    if isinstance(error, ValueError):
        return "has a name that no file can have"
    return f"can't be read ({getattr(error, 'strerror', None) or type(error).__name__})"


def disk_refusal(error: BaseException) -> str:
    """A sentence if an error is a disk that is full, read only or gone; else nothing.

    Libraries say it in their own words: torch and safetensors name no errno.
    """
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        where = f" ({error.filename})" if error.filename else ""
        return f"The disk can't be written to: {error.strerror}{where}; make room, and go on."
    said = str(error)
    why = next((os.strerror(code) for code in FULL_DISK if os.strerror(code) in said), "")
    if not why and ("PytorchStreamWriter failed" in said or "unexpected pos" in said):
        why = os.strerror(errno.ENOSPC)
    if not why:
        return ""
    return f"The disk can't be written to: {why}; make room, and go on."


def _kind(mode: int) -> str:
    """What else than a plain file something is, with its article."""
    kinds = ((stat.S_ISREG, ""), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"))
    return next((name for test, name in kinds if test(mode)), "a device")
