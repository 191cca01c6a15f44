"""Who may write in a run's folder: one process at a time.

`lock` is the worker's, held as long as it runs: the kernel lets go of it when the process is
gone, however it went, so a lock that can be had means that nobody is at work. `ship.lock` is for
whoever sends the journal to a store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import UserError
from pipeline.tracking.facts import PID
from pipeline.tracking.journal import read_story

WORK, SHIP = "lock", "ship.lock"
MOMENT = 2.0  # seconds: a reaper looks into a folder for far less


@contextmanager
def take(folder: Path) -> Iterator[None]:
    """Work in the folder, created if need be.

    Raises:
        UserError: another process does.
    """
    lock = None
    while lock is None:
        folder.mkdir(parents=True, exist_ok=True)
        lock = acquire(folder / WORK, MOMENT)
        if lock is None:
            story = read_story(folder)
            who = story.tags.get(PID, "unknown") if story else "unknown"
            raise UserError(f"{folder}: process {who} is at work here; wait for it or end it")
        if not (folder / WORK).exists():  # the folder was archived while we waited
            lock.release()
            lock = None
    try:
        yield
    finally:
        lock.release()


def acquire(path: Path, timeout: float = 0.0) -> FileLock | None:
    """The lock, taken; None where another process has it."""
    lock = FileLock(path, timeout=timeout, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock
