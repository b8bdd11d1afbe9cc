"""Opening a feedback file safely: what it is, unpacked, as UTF-8, in bounded memory.

Anything that can't be read at all is a DataError of one sentence. A single row that can't be read is the business of
containers.py, which lists it.
"""

import codecs
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from kto_workbench.errors import DataError

BLOCK_BYTES = 16 * 2**20
MAX_ROW_BYTES = 8 * 2**20  # a longer row is listed, not read: it would be a prompt of two million tokens
BOMB_BYTES = 256 * 2**20  # text rarely packs better than 20:1, so beyond this size …
BOMB_RATIO = 200  # … and this ratio, it is a zip bomb rather than feedback

GZIP, ZSTD, ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
PARQUET, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"


def check_path(path: Path) -> None:
    """Raise DataError unless this is a regular file that may be read and holds something."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise DataError(f"There is no file {path}.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"Can't read {path}: {reason_of(error)}.") from None
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path} is a folder; give a file in it, or a folder written by datasets' save_to_disk.")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is not a regular file but a pipe, socket or device; save its content to a file first.")
    if not status.st_size:
        raise DataError(f"{path} is empty.")
    if not os.access(path, os.R_OK):
        raise DataError(f"Can't read {path}: permission denied.")


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, without the closing full stop."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def refuse_bomb(name: Any, unpacked: int, size: int) -> None:
    """Raise DataError if so many bytes out of a file of `size` bytes can't be feedback."""
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * size:
        raise DataError(f"{name} unpacks to more than {BOMB_RATIO} times its size: it looks like a zip bomb.")


class UnpackedStream:
    """The bytes of a file after gzip or zstd, read in order; refuses a zip bomb and a truncated archive."""

    def __init__(self, path: Path):
        self.path = path
        self._size = path.stat().st_size
        self._given = 0
        try:
            self._file: pa.NativeFile = pa.OSFile(str(path))
        except OSError as error:
            raise DataError(f"Can't read {path}: {reason_of(error)}.") from None
        head = self._file.read(4)
        self._file.seek(0)
        if head.startswith(ZIP):
            raise DataError(f"{path} is a zip archive inside of another one; unpack it first.")
        self.packed = "gzip" if head.startswith(GZIP) else "zstd" if head == ZSTD else None
        if self.packed:
            self._file = pa.CompressedInputStream(self._file, self.packed)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end."""
        try:
            data = self._file.read(size)
        except (OSError, pa.ArrowException) as error:
            if self.packed:
                raise DataError(f"{self.path} is not a complete {self.packed} file: {reason_of(error)}.") from None
            raise DataError(f"Can't read {self.path}: {reason_of(error)}.") from None
        self._given += len(data)
        refuse_bomb(self.path, self._given, self._size)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Utf8Stream:
    """A stream whose UTF-16 or UTF-32 text is recoded to UTF-8, and whose byte order mark is gone."""

    _MARKS = (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    )

    def __init__(self, stream: UnpackedStream):
        self._stream = stream
        self._head = stream.read(4096)
        self.encoding = "utf-8"
        for mark, encoding in self._MARKS:
            if self._head.startswith(mark):
                self.encoding, self._head = encoding, self._head[len(mark) :]
                break
        else:
            # Without a mark, UTF-16 of mostly Latin text shows as a NUL in every other byte.
            even, odd = self._head[0::2].count(0), self._head[1::2].count(0)
            if odd > len(self._head) * 0.3 and even < odd / 10:
                self.encoding = "utf-16-le"
            elif even > len(self._head) * 0.3 and odd < even / 10:
                self.encoding = "utf-16-be"
        self._decoder = None if self.encoding == "utf-8" else codecs.getincrementaldecoder(self.encoding)("replace")

    def read(self, size: int) -> bytes:
        """About `size` bytes of UTF-8; b"" at the end."""
        while True:
            data = self._head or self._stream.read(size)
            self._head = b""
            if self._decoder is None:
                return data
            text = self._decoder.decode(data, final=not data).encode("utf-8", "replace")
            if text or not data:
                return text


def open_text(path: Path) -> Utf8Stream:
    """The file's text, unpacked and in UTF-8."""
    return Utf8Stream(UnpackedStream(path))


def read_magic(path: Path) -> bytes:
    """The first bytes of the unpacked file, by which binary formats are known."""
    stream = UnpackedStream(path)
    try:
        return stream.read(8)
    finally:
        stream.close()


def open_binary(path: Path) -> pa.NativeFile | BinaryIO:
    """A binary file that can be sought in; a packed one is unpacked into a temporary file first."""
    stream = UnpackedStream(path)
    if not stream.packed:
        stream.close()
        return pa.OSFile(str(path))
    unpacked = tempfile.TemporaryFile()
    while data := stream.read(BLOCK_BYTES):
        unpacked.write(data)
    unpacked.seek(0)
    return unpacked


def iterate_blocks(stream: Utf8Stream, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[bytes | None, int]]:
    """Blocks of whole lines with the number of their first line; None stands for one line above MAX_ROW_BYTES."""
    line, rest = 1, b""
    while True:
        data = stream.read(block_bytes)
        cut = data.rfind(b"\n") + 1 if data else 0
        if data and not cut:
            rest += data
            if len(rest) <= MAX_ROW_BYTES:
                continue
            rest = b""
            yield None, line
            while data and not (cut := data.find(b"\n") + 1):
                data = stream.read(block_bytes)
            rest = data[cut:] if data else b""
            line += 1
            # What follows the long line may itself hold whole lines.
            cut = rest.rfind(b"\n") + 1
            if cut:
                yield rest[:cut], line
                line += rest.count(b"\n")
                rest = rest[cut:]
            if not data:
                return
            continue
        if not data:
            if rest:
                yield rest, line
            return
        block, rest = rest + data[:cut], data[cut:]
        yield block, line
        line += block.count(b"\n")
