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
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import pyarrow as pa
from fsspec.core import url_to_fs

from pipeline.errors import UserError
from pipeline.system.progress import Advance

BLOCK = 1 << 20  # bytes a read
PACKED = (".gz", ".zst")


class BadDocument(UserError):
    """A file or row that cannot be read; `reason` is one of few, to be counted by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadDocument], tuple[str, str]]:
        return type(self), (self.reason, str(self))


@dataclass(frozen=True)
class File:
    """A file of a corpus.

    Attributes:
        path: where it lies: a path of this machine, or a URL.
        name: in reports and errors; without folders of this machine.
        size: bytes, as they are stored.
    """

    path: str
    name: str
    size: int

    @classmethod
    def at(cls, path: Path, name: str | None = None) -> File:
        return cls(str(path), name or path.name, path.stat().st_size)

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
    """The files with these suffixes, in the order of their paths within the folder; no hidden."""
    files = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if suffix_of(name) in suffixes and not name.startswith("."):
                path = Path(place) / name
                files.append(File.at(path, path.relative_to(folder).as_posix()))
    return sorted(files, key=lambda file: file.name)


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
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _unreadable(f"{file.name}: not a whole gzip file ({error})") from None
    except OSError as error:
        if file.path.lower().endswith(".zst") and not error.errno:
            raise _unreadable(f"{file.name}: not a whole zstd file ({error})") from None
        reason = " ".join((error.strerror or str(error)).split())
        raise _unreadable(f"{file.name}: {reason}") from None


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


def _raw(file: File) -> IO[bytes]:
    if "://" not in file.path:
        return open(file.path, "rb")
    system, path = url_to_fs(file.path)
    file_there = system.open(path, "rb", block_size=BLOCK)  # whose readline takes no limit
    return cast(IO[bytes], io.BufferedReader(file_there))


def _unpacked(file: File, stream: IO[bytes]) -> IO[bytes]:
    if not file.is_packed:
        is_counting = isinstance(stream, Counting)
        return cast(IO[bytes], io.BufferedReader(stream)) if is_counting else stream
    if file.path.lower().endswith(".gz"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    return cast(IO[bytes], io.BufferedReader(pa.CompressedInputStream(stream, "zstd"), BLOCK))


def _unreadable(message: str) -> BadDocument:
    return BadDocument("unreadable", message)
