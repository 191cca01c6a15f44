"""Writing large files past the page cache.

A checkpoint is gigabytes that hardly anybody reads. Through the page cache the CPU would copy them
into memory that has to be found first, a second a gigabyte on a virtual machine, and what others
read often would have to go. Linux's O_DIRECT hands blocks to the disk as they are; where a file
system or a system knows no such thing, this is a plain file.
"""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path
from types import TracebackType

ALIGNMENT = 4096  # of memory, lengths and offsets, for any disk
BLOCK = 2**23


class UncachedFile:
    """`with UncachedFile(path) as file: file.write(data)`, from the beginning to the end.

    A block that raises leaves a file without its end.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor, self._direct = _opened(path)
        self._block = mmap.mmap(-1, BLOCK)  # whole pages, so aligned
        self._filled = 0

    def write(self, data: bytes | memoryview) -> int:
        """
        Raises:
            OSError: the disk is full, or fails.
        """
        left = memoryview(data).cast("B")
        size = len(left)
        while left:
            part = left[: BLOCK - self._filled]
            self._block[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            left = left[len(part) :]
            if self._filled == BLOCK:
                self._write_out(BLOCK)
        return size

    def flush(self) -> None:
        """What has been written is on its way when the file is closed, not before."""

    def __enter__(self) -> UncachedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._filled:
                self._write_out(self._filled)
        finally:
            os.close(self._descriptor)
            self._block.close()

    def _write_out(self, size: int) -> None:
        with memoryview(self._block) as block:
            done = 0
            while done < size:
                if (size - done) % ALIGNMENT:
                    self._leave_direct()
                try:
                    done += os.write(self._descriptor, block[done:size])
                except OSError as error:
                    if error.errno != errno.EINVAL or not self._direct:
                        raise
                    self._leave_direct()  # the file system took the flag and does not do it
        self._filled = 0

    def _leave_direct(self) -> None:
        if self._direct:
            import fcntl

            flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
            self._direct = False


def _opened(path: Path) -> tuple[int, bool]:
    """A new or emptied file's descriptor, and whether it writes directly."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0)
    if hasattr(os, "O_DIRECT"):
        try:
            return os.open(path, flags | os.O_DIRECT, 0o666), True
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    return os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666), False
