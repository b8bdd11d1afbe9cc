"""Images in prompts: where their bytes are, read when a row is visited and not before.

A prompt with images is chat messages whose contents are lists of blocks, and names an image by a key:

    {"role": "user", "content": [{"type": "image", "image": "image:0c4f…"}, {"type": "text", "text": "What is it?"}]}

So rows stay small, equal images are equal prompts, and no path of this machine stands in a row, a record or a page. The
workspace's `Images` know what a key stands for: a file beside the feedback, a member of the archive that it came in,
or, where the feedback itself held the bytes, a copy of them in the workspace's cache.

Whoever made a feedback file may have written anything into it. So a path must stay inside the file's folder; addresses
are never fetched; only formats that photographs and drawings have are opened; and how large a picture claims to be is
read in its head, before anything is decoded.
"""

import base64
import binascii
import contextlib
import functools
import io
import os
import re
import sqlite3
import stat
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import xxhash

from kto_workbench.errors import DataError
from kto_workbench.feedback.messages import PLACE, RowProblem, parse_json_text
from kto_workbench.feedback.rows import Message
from kto_workbench.feedback.templates import is_image, prompt_messages

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_BYTES = 32 * 2**20  # of a file
MAX_PIXELS = 50_000_000  # what a phone's camera makes; 150 MB as numbers
MAX_IMAGES = 64  # in a prompt
THUMBNAIL = 160  # pixels, of the longer side
PREFIX = "image:"
PATIENCE = 30.0  # seconds to wait for another process's write
_KEY = re.compile(rf"{PREFIX}[0-9a-f]{{32}}")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class ImageProblem(DataError):
    """An image that can't be had; as a sentence without its full stop."""


@dataclass(frozen=True)
class Beside:
    """Where the files lie that a feedback file may name: a folder, or a zip archive and its feedback's folder in it."""

    folder: Path
    archive: Path | None = None


class Images:
    """What the keys of a workspace stand for, in an SQLite file that several processes may read and write."""

    def __init__(self, workspace: str | Path) -> None:
        self.path = Path(workspace) / "cache" / "images.sqlite"
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Images) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    # what a row names

    def add(self, source: Any, beside: Beside | None, field: str) -> str:
        """The key of an image as a row has it: a path, bytes, {"bytes", "path"}, a data URL, or a key.

        Its head is looked at, no more. Raises RowProblem, with what is wrong with it.
        """
        try:
            return self._add(source, beside)
        except ImageProblem as problem:
            raise RowProblem(field, f"{field}: {problem}") from None

    def _add(self, source: Any, beside: Beside | None) -> str:
        if isinstance(source, Mapping):
            data, path = source.get("bytes"), source.get("path")
            source = data if data else path
        if isinstance(source, (bytes, bytearray, memoryview)):
            return self._add_bytes(bytes(source))
        if not isinstance(source, str) or not source:
            raise ImageProblem("an image is a path, bytes or a data URL, and this is none of them")
        if _KEY.fullmatch(source):
            self._find(source)
            return source
        if source[:5].lower() == "data:":
            return self._add_bytes(_decoded(source))
        if _ADDRESS.match(source):
            raise ImageProblem("an image is named by its address, and addresses are not fetched")
        if beside is None:
            raise ImageProblem("an image is named by its path, and there is no file beside which it could lie")
        if beside.archive is not None:
            return self._add_member(source, beside)
        return self._add_file(source, beside.folder)

    def _add_bytes(self, data: bytes) -> str:
        if len(data) > MAX_BYTES:
            raise _too_large(len(data))
        check_head(io.BytesIO(data))
        key = PREFIX + xxhash.xxh3_128_hexdigest(data)
        self._keep(key, "", "", data)
        return key

    def _add_file(self, name: str, folder: Path) -> str:
        shown = name[:80]
        try:
            root = folder.resolve()
            path = (root / name).resolve()
            if not path.is_relative_to(root):
                raise ImageProblem(f"the image {shown!r} lies outside of the feedback's folder")
            with _open_plain(path, shown) as file:
                check_head(file)
        except (OSError, ValueError, RuntimeError):  # a name that no file can have, a link to itself
            raise ImageProblem(f"there is no image {shown!r} beside the feedback") from None
        key = PREFIX + xxhash.xxh3_128_hexdigest(f"{path}\0".encode("utf-8", "surrogateescape"))
        self._keep(key, str(path), "", None)
        return key

    def _add_member(self, name: str, beside: Beside) -> str:
        shown = name[:80]
        archive = _archive(str(beside.archive), os.stat(beside.archive).st_mtime_ns)
        for folder in (beside.folder.as_posix(), "."):
            member = os.path.normpath(str(PurePosixPath(folder) / name)).replace(os.sep, "/")
            if member.startswith(("../", "/")):
                raise ImageProblem(f"the image {shown!r} lies outside of the archive")
            with contextlib.suppress(KeyError):
                info = archive.getinfo(member)
                check_head(io.BytesIO(_member(archive, info)))
                key = PREFIX + xxhash.xxh3_128_hexdigest(f"{beside.archive}\0{member}".encode())
                self._keep(key, str(beside.archive), member, None)
                return key
        raise ImageProblem(f"there is no image {shown!r} in the archive")

    # what a key stands for

    def read(self, key: str) -> bytes:
        """The bytes of an image. Raises ImageProblem."""
        path, member, data = self._find(key)
        if data is not None:
            return data
        gone = ImageProblem("an image that was there when the feedback was read is gone")
        try:
            if member:
                archive = _archive(path, os.stat(path).st_mtime_ns)
                return _member(archive, archive.getinfo(member))
            if str(Path(path).resolve()) != path:  # a link now, which may lead anywhere
                raise gone
            with _open_plain(Path(path), "it") as file:
                return file.read()
        except (OSError, KeyError, ValueError):
            raise gone from None

    def knows(self, key: str) -> bool:
        """Whether an image can be read."""
        try:
            return bool(self.read(key))
        except ImageProblem:
            return False

    def open(self, key: str) -> "Image":
        """An image, decoded, upright, in RGB. Raises ImageProblem."""
        return decode(self.read(key))

    def thumbnail(self, key: str) -> bytes:
        """A small JPEG of an image, made anew: nothing but its pixels is in it. Raises ImageProblem."""
        small = decode(self.read(key), draft=2 * THUMBNAIL)
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=80)
        return out.getvalue()

    # the file

    def _find(self, key: str) -> tuple[str, str, bytes | None]:
        found = None
        with self._lock, contextlib.suppress(sqlite3.Error, OSError):
            if self.path.is_file():
                rows = self._open().execute("SELECT path, member, bytes FROM images WHERE key = ?", (key,))
                found = rows.fetchone()
        if found is None:
            raise ImageProblem("an image is not known in this workspace; load the feedback that it came with again")
        return found

    def _keep(self, key: str, path: str, member: str, data: bytes | None) -> None:
        try:
            with self._lock, self._open() as database:
                database.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", (key, path, member, data))
        except (sqlite3.Error, OSError) as error:
            raise DataError(f"Can't keep where images are in {self.path}: {error}.") from None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self.path, timeout=PATIENCE, check_same_thread=False)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = OFF")
            database.execute(
                "CREATE TABLE IF NOT EXISTS images "
                "(key TEXT PRIMARY KEY, path TEXT NOT NULL, member TEXT NOT NULL, bytes BLOB) WITHOUT ROWID"
            )
            self._database = database
        return self._database


# prompts -------------------------------------------------------------------------------------------------------------


def keys_in(prompt: "str | Sequence[Message]") -> tuple[str, ...]:
    """The keys of a prompt's images, in order; () for most."""
    return tuple(block.get("image") for block in _blocks(prompt) if is_image(block))


def attach(prompt: "str | list[Message]", sources: Sequence[Any], field: str) -> "str | list[Message]":
    """A prompt with the images that stand beside it in a column, in the places that it has for them.

    These are blocks of type image without one, as in TRL; else `<image>` in texts, as in LLaMA-Factory; else before the
    first user's text. Raises RowProblem where there are more or fewer places than images.
    """
    if not sources:
        return prompt
    messages = [dict(message) for message in prompt_messages(prompt)]
    blocks = [block for block in _blocks(messages) if is_image(block)]
    if any(block.get("image") is not None for block in blocks):
        raise RowProblem(field, f"{field} holds images, and so do the messages")
    if not blocks:
        said = sum(text.count(PLACE) for message in messages if isinstance(text := message.get("content"), str))
        if said:
            messages = [{**message, "content": _cut_at_places(message.get("content"))} for message in messages]
        else:
            first = next((message for message in messages if message["role"] == "user"), None)
            if first is None:
                raise RowProblem(field, f"{field} holds images, and the prompt has no user's message to show them with")
            content = first["content"]
            texts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            first["content"] = [*({"type": "image", "image": None} for _ in sources), *texts]
    places = sum(map(is_image, _blocks(messages)))
    if places != len(sources):
        raise RowProblem(field, f"{field} does not hold one image for each of {places} places in the prompt")
    return _filled(messages, list(sources))


def _cut_at_places(content: Any) -> Any:
    """A text as blocks, with images where `<image>` stands."""
    if not isinstance(content, str) or PLACE not in content:
        return content
    first, *rest = content.split(PLACE)
    blocks: list[Any] = [{"type": "text", "text": first}] if first else []
    for text in rest:
        blocks += [{"type": "image", "image": None}, *([{"type": "text", "text": text}] if text else [])]
    return blocks


def resolve(prompt: "str | list[Message]", images: Images, beside: Beside | None, field: str) -> "str | list[Message]":
    """A prompt whose images, as the file has them, are keys. Raises RowProblem."""
    sources = [block.get("image") for block in _blocks(prompt) if is_image(block)]
    if not sources:
        return prompt
    if len(sources) > MAX_IMAGES:
        raise RowProblem(field, f"the prompt holds {len(sources)} images, more than {MAX_IMAGES}")
    if any(source is None for source in sources):
        raise RowProblem(field, "the prompt has a place for an image, and there is none")
    return _filled(prompt, [images.add(source, beside, field) for source in sources])


def _filled(messages: "Sequence[Message]", sources: list[Any]) -> "list[Message]":
    """Messages with these images in their blocks, in order."""
    left = iter(sources)
    return [
        {**message, "content": [{"type": "image", "image": next(left)} if is_image(b) else b for b in content]}
        if isinstance(content := message.get("content"), list)
        else message
        for message in messages
    ]


def _blocks(prompt: Any) -> Iterator[Any]:
    for message in prompt if isinstance(prompt, list) else ():
        if isinstance(content := message.get("content"), list):
            yield from content


def in_column(value: Any) -> list[Any]:
    """The images of a column: one, a list of them, or none."""
    value = parse_json_text(value)
    if value is None or value == "" or value == {} or value == b"":
        return []
    return [one for one in value if one is not None] if isinstance(value, (list, tuple)) else [value]


# pixels --------------------------------------------------------------------------------------------------------------


def check_head(file: Any) -> None:
    """Look at what an image claims to be, without decoding it. Raises ImageProblem."""
    with _opened(file):
        pass


def decode(data: bytes, draft: int = 0) -> "Image":
    """An image of its bytes: upright, in RGB. Raises ImageProblem. With `draft`, a JPEG may come at a smaller size."""
    from PIL import ImageOps

    with _opened(io.BytesIO(data)) as image:
        try:
            if draft:
                image.draft("RGB", (draft, draft))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of palettes and of tags that make no sense
                image.load()
                _check_size(image)
                upright = ImageOps.exif_transpose(image)
                if upright.mode == "P":
                    upright = upright.convert("RGBA")
                plain = upright.convert("RGB")
        except ImageProblem:
            raise
        except Exception as error:  # as many kinds as there are formats
            raise ImageProblem(f"an image is damaged ({_reason(error)})") from None
    # Without what came with the pixels: tags, profiles, comments.
    plain.info.clear()
    return plain


@contextlib.contextmanager
def _opened(file: Any) -> "Iterator[Image]":
    """An image whose head was read. Raises ImageProblem."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageProblem(f"an image has more than {MAX_PIXELS // 10**6} million pixels") from None
    except Exception:  # as many kinds as there are formats
        raise ImageProblem(f"an image is none that can be read; it should be {', '.join(FORMATS)}") from None
    with image:
        _check_size(image)
        yield image


def _check_size(image: "Image") -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageProblem(
            f"an image has {width:,} × {height:,} pixels, more than {MAX_PIXELS // 10**6} million together"
        )


# bytes ---------------------------------------------------------------------------------------------------------------


def _decoded(url: str) -> bytes:
    """The bytes of a data URL. Raises ImageProblem."""
    head, comma, text = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ImageProblem("a data URL is not in base64")
    if len(text) > MAX_BYTES * 3 // 2:
        raise _too_large(len(text) * 3 // 4)
    try:
        return base64.b64decode(re.sub(r"\s+", "", text), validate=True)
    except (binascii.Error, ValueError):
        raise ImageProblem("a data URL is damaged: it is not valid base64") from None


def _open_plain(path: Path, shown: str) -> Any:
    """A regular file of a bearable size, open to read. Raises OSError, ImageProblem."""
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
        return file
    file.close()
    if stat.S_ISREG(status.st_mode):
        raise _too_large(status.st_size)
    raise ImageProblem(f"the image {shown!r} is no file")


@functools.lru_cache(maxsize=4)
def _archive(path: str, changed: int) -> zipfile.ZipFile:
    """An archive, open; `changed` says which state of it."""
    return zipfile.ZipFile(path)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of an archive's member, of no more than are bearable, whatever it claims. Raises ImageProblem."""
    try:
        with archive.open(info) as file:
            data = file.read(MAX_BYTES + 1)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, zlib.error, EOFError) as error:
        raise ImageProblem(f"an image in the archive is damaged ({_reason(error)})") from None
    if len(data) > MAX_BYTES:
        raise _too_large(max(info.file_size, len(data)))
    return data


def _too_large(size: int) -> ImageProblem:
    return ImageProblem(f"an image takes {size / 2**20:,.0f} MB, more than {MAX_BYTES >> 20}")


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:120]
