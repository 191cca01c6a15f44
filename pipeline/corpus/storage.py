"""The files of a corpus, wherever they lie: on this machine, or under a URL that fsspec opens.

A file is opened as a stream of its unpacked bytes: `.gz` and `.zst` are unpacked on the way. For
`s3://`, `gs://`, `hf://datasets/…` and others, fsspec needs the package that speaks the protocol
(`s3fs`, `gcsfs`, `huggingface_hub`), and credentials come from where that package looks for them.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import pyarrow as pa
from fsspec.core import url_to_fs

from pipeline.errors import UserError
from pipeline.system.files import MOST_UNPACKED, most_unpacked, open_regular
from pipeline.system.progress import Advance
from pipeline.system.text import printable, shortened

BLOCK = 1 << 20  # bytes a read
PACKED = (".gz", ".zst")
MESSAGE = 500  # characters of what is said about a file or row


class BadDocument(UserError):
    """A file or row that cannot be read; `reason` is one of few, to be counted by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(shortened(printable(message, keep=""), MESSAGE))
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadDocument], tuple[str, str]]:
        return type(self), (self.reason, str(self))


@dataclass(frozen=True)
class File:
    """A file of a corpus.

    Attributes:
        path: where it lies: a path of this machine, or a URL.
        name: in reports and errors; without folders of this machine, and without what no report
            can hold: bytes of a name that are not UTF-8 stand as escapes.
        size: bytes, as they are stored.
        fault: why it cannot be read, where that is known beforehand.
    """

    path: str
    name: str
    size: int
    fault: str = ""

    @classmethod
    def at(cls, path: Path, name: str | None = None) -> File:
        """A file of this machine; what is not there, or is a pipe or a device, has a fault."""
        shown = printable(name or path.name, keep="")
        try:
            about = path.stat()
        except OSError as error:
            return cls(str(path), shown, 0, str(error.strerror))
        if not stat.S_ISREG(about.st_mode):
            return cls(str(path), shown, 0, "not a regular file")
        return cls(str(path), shown, about.st_size)

    @property
    def suffix(self) -> str:
        return suffix_of(PurePosixPath(self.path).name)

    @property
    def is_packed(self) -> bool:
        return self.path.lower().endswith(PACKED)


def suffix_of(name: str) -> str:
    """The lower-case suffix that decides how a file is read, without that of a packer."""
    plain = name.lower()
    for packer in PACKED:
        plain = plain.removesuffix(packer)
    return PurePosixPath(plain).suffix


def local_files(folder: Path, suffixes: tuple[str, ...]) -> list[File]:
    """The files with these suffixes, in the order of their paths within the folder; no hidden.

    Links are followed. A folder is read once, whatever leads to it, and under its own name where
    it has one here. One that cannot be listed is a file with a fault.

    Raises:
        OSError: `folder` itself cannot be listed.
    """
    files = []
    seen = set()  # folders, by device and inode
    waiting = deque([(folder, "")])  # those that links lead to come last
    while waiting:
        place, name = waiting.popleft()
        try:
            about = place.stat()
            entries = [] if (about.st_dev, about.st_ino) in seen else list(os.scandir(place))
        except OSError as error:
            if not name:
                raise
            files.append(File(str(place), printable(name, keep=""), 0, str(error.strerror)))
            continue
        seen.add((about.st_dev, about.st_ino))
        for entry in entries:
            inner = (Path(entry.path), f"{name}{entry.name}")
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.appendleft((inner[0], f"{inner[1]}/"))
            elif entry.is_symlink() and _may_be_a_folder(inner[0]):
                waiting.append((inner[0], f"{inner[1]}/"))
            elif suffix_of(entry.name) in suffixes:
                files.append(File.at(*inner))
    return sorted(files, key=lambda file: file.name)


def _may_be_a_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return True  # listing it will say what is wrong


@contextmanager
def opened(file: File, progress: Advance | None = None) -> Iterator[IO[bytes]]:
    """Open the file for its bytes, unpacked; errors within the block name the file.

    Args:
        progress: gets the bytes that are read, counted as they are stored.

    Raises:
        BadDocument: within the block: the file is not there, or is damaged.
    """
    try:
        with _raw(file) as raw:
            stream = cast(IO[bytes], Counting(raw, progress)) if progress else raw
            yield _unpacked(file, stream)
    except BadDocument:
        raise
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _unreadable(f"{file.name}: not a whole gzip file ({error})") from None
    except OSError as error:
        if file.path.lower().endswith(".zst") and not error.errno:
            raise _unreadable(f"{file.name}: not a whole zstd file ({error})") from None
        reason = " ".join((error.strerror or str(error)).split())
        raise _unreadable(f"{file.name}: {reason}") from None
    except Exception as error:  # each protocol has exceptions of its own
        if "://" not in file.path:
            raise
        raise _unreadable(f"{file.name}: {error or type(error).__name__}") from None


@contextmanager
def seekable(file: File, stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """Parquet is read from its end: a packed file is unpacked to disk, not into memory."""
    if not file.is_packed:
        yield stream
        return
    with tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(stream, unpacked, BLOCK)
        yield unpacked


class Counting(io.RawIOBase):
    """A stream that reports how many of its bytes are read."""

    def __init__(self, stream: IO[bytes], progress: Advance) -> None:
        self._stream, self._progress = stream, progress

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._progress(len(data))
        return data

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()


class Unpacking(io.RawIOBase):
    """The unpacked bytes of a packed stream, up to what text can come to."""

    def __init__(self, unpacked: Any, packed: IO[bytes], name: str) -> None:
        self._unpacked, self._packed, self._name = unpacked, packed, name
        self._have = 0

    def readinto(self, buffer: Any, /) -> int:
        data = self._unpacked.read(len(buffer))
        buffer[: len(data)] = data
        self._have += len(data)
        if self._have > most_unpacked(self._packed.tell()):
            raise BadDocument(
                "too long",
                f"{self._name}: unpacks to more than {MOST_UNPACKED} times its size, which no text "
                "does; unpack it to have it read all the same",
            )
        return len(data)

    def readable(self) -> bool:
        return True


def _raw(file: File) -> IO[bytes]:
    if "://" not in file.path:
        return open_regular(file.path)
    system, path = url_to_fs(file.path)
    file_there = system.open(path, "rb", block_size=BLOCK)  # whose readline takes no limit
    return cast(IO[bytes], io.BufferedReader(file_there))


def _unpacked(file: File, stream: IO[bytes]) -> IO[bytes]:
    if not file.is_packed:
        is_counting = isinstance(stream, Counting)
        return cast(IO[bytes], io.BufferedReader(stream)) if is_counting else stream
    is_gzip = file.path.lower().endswith(".gz")
    inner = gzip.GzipFile(fileobj=stream) if is_gzip else pa.CompressedInputStream(stream, "zstd")
    return cast(IO[bytes], io.BufferedReader(Unpacking(inner, stream, file.name), BLOCK))


def _unreadable(message: str) -> BadDocument:
    return BadDocument("unreadable", message)
