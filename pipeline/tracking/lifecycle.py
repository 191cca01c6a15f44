"""A run's folder from lock to archive: who works in it, and what becomes of it.

One process at a time works in a run's folder. `lock` is the worker's, held as long as it runs: the
kernel lets go of it when the process is gone, however it went, so a lock that can be had means
that nobody is at work. `ship.lock` is for whoever sends the journal to a store. Where two
workspaces do the same at once (`dvc exp run --temp`, a queue's workers), the second works in a
folder beside the first's.

A run that has ended is archived, by one rename. Until that has happened it counts as unfinished:
whatever kills the process before it, the next start goes on with the same run. A stage that is
killed after it has still failed in DVC's eyes, which then runs it again: such a run is taken back
from the archive (`revive`). It is known by what is missing: a mark that a process leaves as it
exits, or its journal in the cache of a DVC that was to take it.

A run that nobody ended, because its process or machine was killed, is ended by the next process
that looks (`reap`).
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import UserError
from pipeline.system.files import folder_aside
from pipeline.system.progress import say
from pipeline.tracking import paths
from pipeline.tracking.cursor import CURSOR
from pipeline.tracking.journal import (
    ARTIFACTS,
    DAMAGED,
    JOURNAL,
    Header,
    Journal,
    now,
    read_header,
    read_last,
    read_run,
    run_folders,
)
from pipeline.tracking.tags import PID, WORKSPACE, hidden_tag, is_dead, workspace

WORK, SHIP = "lock", "ship.lock"
MOMENT = 2.0  # seconds: a process that reaps looks into a folder for far less
UNTIL_TAGGED = 10.0  # seconds: a run has its tags long before
EXITED = "exited"  # the mark
# Of a state folder, in the archive.
KEPT = {JOURNAL, DAMAGED, ARTIFACTS, CURSOR, WORK, SHIP, EXITED}

_finished: list[Path] = []  # archived by this process


@contextmanager
def take(folder: Path) -> Iterator[Path]:
    """Work in the folder, created if need be; yields it.

    Where a process of another workspace is at work there, it is a folder beside it, the first
    that holds a run to go on with, or is free.

    Raises:
        UserError: another process of this workspace is at work.
    """
    chosen, lock = _idle(folder)
    try:
        yield chosen
    finally:
        lock.release()


def _idle(folder: Path) -> tuple[Path, FileLock]:
    """The folder, or one beside it, and its lock: one with a run to go on with comes first."""
    beside = (folder.with_name(f"{folder.name}~{number}") for number in count(2))
    begun = run_folders(folder.parent, f"{folder.name}~*")
    if (folder / JOURNAL).exists():
        begun.insert(0, folder)
    at_work = set()
    for candidate in chain(begun, [folder], beside):
        if candidate in at_work:
            continue
        if (lock := _locked(candidate)) is not None:
            return candidate, lock
        _refuse_same_workspace(candidate)
        at_work.add(candidate)
    raise AssertionError("there is always another number")


def _locked(folder: Path) -> FileLock | None:
    """The worker's lock of the folder, created if need be; None where another process has it."""
    if folder.is_symlink():  # where it leads is not ours to write, move or empty
        raise UserError(f"{folder}: is a link; remove it, and a run can work here")
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        lock = acquire(folder / WORK, MOMENT)
        if lock is None or (folder / WORK).exists():
            return lock
        lock.release()  # the folder was archived while we waited


def _refuse_same_workspace(folder: Path) -> None:
    """
    Raises:
        UserError: the process at work in the folder writes the same outputs as this one.
    """
    deadline = time.monotonic() + UNTIL_TAGGED
    tags: Mapping[str, str] = {}
    while hidden_tag(tags, WORKSPACE) is None and time.monotonic() < deadline:
        with suppress(UserError):  # a journal that cannot be read names nobody
            run = read_run(folder)
            tags = run.tags if run else {}
        time.sleep(0.05)
    who, where = hidden_tag(tags, PID) or "unknown", hidden_tag(tags, WORKSPACE)
    if where in (None, workspace()):
        raise UserError(f"{folder}: process {who} is at work here; wait for it or end it")
    say(f"process {who} does the same in {where}; this one works apart from it")


def acquire(path: Path, timeout: float = 0.0) -> FileLock | None:
    """The lock, taken; None where another process has it."""
    lock = FileLock(path, timeout=timeout, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def hand_over(folder: Path, journal: Path) -> None:
    """Copy the journal and its files to `journal`, all or nothing.

    Raises:
        UserError: a full disk, or a link that leads out of the folder and of DVC's cache.
    """
    try:
        with folder_aside(journal) as aside:
            for path in (folder / JOURNAL, *(folder / ARTIFACTS).rglob("*")):
                if path.is_file() and path.suffix != ".part":
                    _refuse_foreign(path, folder)
                    target = aside / path.relative_to(folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)
    except OSError as error:
        raise UserError(
            f"{journal}: {error.strerror}; the run's journal is safe in {folder}"
        ) from error


def _refuse_foreign(path: Path, folder: Path) -> None:
    real = path.resolve()
    places = (folder, paths.dvc_cache())  # DVC can link to its cache
    if not any(real.is_relative_to(place.resolve()) for place in places):
        raise UserError(f"{path}: leads out of its journal's folder, to {real}")


def archive(folder: Path, stage: str, key: str) -> Path:
    """Move a state folder among the journals of ended runs, and drop what is no journal.

    `stage` and `key` are names (`system.names`), as a `Header` has them.
    """
    target = paths.journals() / f"{stage}-{key}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        shutil.rmtree(target)
    folder.rename(target)
    _finished.append(target)
    prune(target)
    return target


@atexit.register
def _mark_exit() -> None:
    for folder in _finished:
        with suppress(OSError):
            mark_exited(folder)


def mark_exited(folder: Path) -> None:
    """Leave the mark that the process of this run has seen its end through."""
    os.close(os.open(folder / EXITED, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666))


def prune(folder: Path) -> None:
    """Remove the checkpoints that an archived state folder still holds."""
    for path in folder.iterdir():
        if path.name in KEPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def revive(state: Path, name: str, handed_over: bool) -> None:
    """Take back a run whose process or DVC was killed right after its archive.

    Nothing happens where the state folder has a journal of its own.

    Args:
        name: the state's, as headers have it.
        handed_over: the stage's journal is one of its outputs.
    """
    stage = name.partition("-")[0]
    if (state / JOURNAL).exists():
        return
    under_dvc = handed_over and "DVC_STAGE" in os.environ
    for folder in run_folders(paths.journals(), f"{stage}-*"):
        if _has_finished(folder, name) and _was_cut_short(folder, under_dvc):
            for file in (ARTIFACTS, CURSOR, JOURNAL):  # the journal last: it makes the run
                with suppress(FileNotFoundError):
                    (folder / file).rename(state / file)
            shutil.rmtree(folder)
            return


def _has_finished(folder: Path, state: str) -> bool:
    """A run of this state, at its good end, by a process that is gone."""
    header = read_header(folder)
    if header is None or header.get("state") != state:
        return False
    run = read_run(folder)  # begins well, or it had no header
    return run is not None and run.status == "FINISHED" and is_dead(run.tags)


def _was_cut_short(folder: Path, under_dvc: bool) -> bool:
    if not (folder / EXITED).exists():
        return True
    with open(folder / JOURNAL, "rb") as file:  # DVC knows it by its MD5
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return under_dvc and not paths.dvc_cached(md5).exists()


def reap() -> list[Path]:
    """End, as KILLED, the journals whose process is gone; where they lie now.

    The end is dated by the journal's last line, the last sign of life of the process. A run that
    can go on stays in its state folder: its next start makes it RUNNING again.
    """
    return _of_idle_states(_end_killed)


def discard() -> list[Path]:
    """Give up the runs that could go on: archive their journals, delete their checkpoints.

    Returns:
        Where the journals lie now.
    """
    reap()
    return _of_idle_states(_archive_as_is, MOMENT)  # another process may be looking in


def _of_idle_states(end: Callable[[Path, Header], Path | None], timeout: float = 0.0) -> list[Path]:
    """Call `end` with each state folder where nobody is at work, and its journal's header."""
    ended = []
    for state in run_folders(paths.states()):
        lock = acquire(state / WORK, timeout)
        if lock is None:
            continue  # at work
        folder = None
        try:
            header = read_header(state)  # None: killed before its first line was whole, or damaged
            folder = end(state, header) if header is not None else None
        except (UserError, OSError) as error:  # the others are not to wait for it
            say(f"warning: {state} is left as it is: {error}")
        finally:
            lock.release()
        if folder is not None:
            ended.append(folder)
    return ended


def _end_killed(state: Path, header: Header) -> Path | None:
    last = read_last(state)
    if last is None or "end" not in last:
        journal = Journal(state)
        journal.append({"t": last["t"] if last else now(), "end": "KILLED"})
        journal.close()
    elif header.get("state"):
        return None  # ended, and seen to, before
    return state if header.get("state") else _archive_as_is(state, header)


def _archive_as_is(state: Path, header: Header) -> Path:
    return archive(state, header["stage"], header["run"])
