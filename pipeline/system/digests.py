"""Digests of large files: several at a time, each on a thread of its own, from one reading."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.system.direct_io import read_blocks


class Digests:
    """`with Digests("sha256", "md5") as digests:`, and in it blocks one after the other."""

    def __init__(self, *names: str) -> None:
        self._digests = {name: hashlib.new(name, usedforsecurity=False) for name in names}
        self._threads = ThreadPoolExecutor(len(names))

    @contextmanager
    def taking(self, block: memoryview) -> Iterator[None]:
        """Add a block to every digest while the caller does something else with it."""
        taken = [self._threads.submit(digest.update, block) for digest in self._digests.values()]
        try:
            yield
        finally:
            for done in taken:
                done.result()

    def __getitem__(self, name: str) -> str:
        """The digest of all blocks so far, in hexadecimal digits."""
        return self._digests[name].hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown()


def digests_of(path: Path, *names: str) -> Digests:
    """A large file's digests.

    Raises:
        OSError: the file is missing, or the disk fails.
    """
    with Digests(*names) as digests:
        for block in read_blocks(path):
            with digests.taking(block):
                pass
    return digests
