"""Writing and reading large files past the page cache.

A checkpoint is gigabytes that are hardly ever read. Through the page cache the CPU would copy them
into memory that has to be found first, a second per gigabyte on a virtual machine, and would evict
what is read often. Linux's O_DIRECT hands blocks to the disk as they are; where the system or the
file system has no such flag, this is a plain file.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from io import FileIO
from itertools import cycle
from pathlib import Path
from types import TracebackType

ALIGNMENT = 4096  # of memory, lengths and offsets, for any disk
BLOCK = 2**23


class UncachedFile:
    """`with UncachedFile(path) as file: file.write(data)`, from the beginning to the end.

    A block that raises leaves a file without its end.
    """

    def __init__(
        self,
        path: Path,
        beside: Callable[[memoryview], AbstractContextManager[None]] = lambda block: nullcontext(),
    ) -> None:
        """
        Args:
            beside: around the writing of each block, which holds for as long.
        """
        self._beside = beside
        self._descriptor = _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
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
        """Do nothing: blocks are written when they are full, and the last one on closing."""

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
        with memoryview(self._block) as view, view[:size] as block, self._beside(block):
            done = 0
            while done < size:
                if (size - done) % ALIGNMENT:
                    _leave_direct(self._descriptor)
                try:
                    done += os.write(self._descriptor, block[done:])
                except OSError as error:
                    if error.errno != errno.EINVAL or not _leave_direct(self._descriptor):
                        raise
        self._filled = 0


def read_blocks(path: Path) -> Iterator[memoryview]:
    """A file's content, in blocks that hold until the next is asked for; one is read ahead.

    Raises:
        OSError: the file is missing, or the disk fails.
    """
    file = FileIO(_opened(path, os.O_RDONLY))
    blocks = [mmap.mmap(-1, BLOCK) for _ in range(2)]
    try:
        with file, ThreadPoolExecutor(1) as ahead:
            sizes = (ahead.submit(_read, file, block) for block in cycle(blocks))
            coming = next(sizes)
            for block in cycle(blocks):
                size = coming.result()
                coming = next(sizes)
                if not size:
                    return
                with memoryview(block) as view, view[:size] as filled:
                    yield filled
    finally:
        for block in blocks:
            block.close()


def _read(file: FileIO, block: mmap.mmap) -> int:
    """Fill the block from where the file is; fewer bytes than that at its end alone."""
    done = 0
    with memoryview(block) as view:
        while done < BLOCK:
            if done % ALIGNMENT:
                _leave_direct(file.fileno())
            try:
                count = file.readinto(view[done:])
            except OSError as error:
                if error.errno != errno.EINVAL or not _leave_direct(file.fileno()):
                    raise
                continue
            if not count:
                break
            done += count
    return done


def _opened(path: Path, flags: int) -> int:
    """A descriptor that is direct where the file system has that."""
    flags |= getattr(os, "O_CLOEXEC", 0)
    if hasattr(os, "O_DIRECT"):
        try:
            return os.open(path, flags | os.O_DIRECT, 0o666)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    return os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)


def _leave_direct(descriptor: int) -> bool:
    """Go on through the page cache; whether that is a change.

    For what is no multiple of the alignment, and for file systems that take the flag alone.
    """
    if not hasattr(os, "O_DIRECT"):
        return False
    import fcntl  # not on Windows

    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return bool(flags & os.O_DIRECT)
