"""Digests of local files, read once: `identify` asks for them at every `dvc repro`.

A digest is kept in the user's cache under the file's path, with the size, the time of the last
change and the inode of the file that was read. Small files are read each time, as are those changed
in the last moments: a change that follows within the clock's step would go unseen.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from pipeline.errors import UserError
from pipeline.system.files import open_regular, sha256_of
from pipeline.system.progress import Progress
from pipeline.system.records import Record
from pipeline.system.user_cache import cache_folder

SMALL = 1 << 22  # bytes: read faster than it is looked up on many disks
RECENT = 2.0  # seconds
LARGE = 1 << 27  # bytes: reading takes long enough for a progress bar
BLOCK = 1 << 22


class Note(Record):
    """A digest, and the size, time of change (ns) and inode of the file that was read."""

    state: tuple[int, int, int]
    sha256: str


def digest_of(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    before = path.stat()
    if before.st_size < SMALL or time.time() - before.st_mtime < RECENT:
        return sha256_of(path)
    state = (before.st_size, before.st_mtime_ns, before.st_ino)
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    note = cache_folder() / "digests" / f"{name}.json"
    with suppress(OSError, UserError):  # none yet, or damaged
        kept = Note.read(note)
        if kept.state == state:
            return kept.sha256
    digest = _read(path) if before.st_size >= LARGE else sha256_of(path)
    with suppress(OSError):  # a cache that cannot be written costs reading again
        Note(state=state, sha256=digest).write(note)
    return digest


def _read(path: Path) -> str:
    """The SHA-256 of a large file, with a progress bar."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    with (
        open_regular(path) as file,
        Progress(size, f"read {path.name}", unit="byte", speed=True) as bar,
    ):
        while block := file.read(BLOCK):
            digest.update(block)
            bar.advance(len(block))
    return digest.hexdigest()
