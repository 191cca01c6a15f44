"""Where journals go when their run has ended: to DVC, and among the journals of ended runs.

Archiving is one rename, and until it has happened the run counts as unfinished: whatever kills
the process before it, the next start goes on with the same run. A stage that is killed after it
has still failed in DVC's eyes, which then runs it again: such a run is taken back from the
archive (`revive`). It is known by what is missing: a mark that a process leaves as it exits, or
its journal in the cache of a DVC that was to take it.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

from pipeline.system.files import folder_aside
from pipeline.tracking import home
from pipeline.tracking.cursor import CURSOR
from pipeline.tracking.facts import process_of
from pipeline.tracking.journal import ARTIFACTS, JOURNAL, read_header, read_story
from pipeline.tracking.locks import SHIP, WORK

EXITED = "exited"  # the mark
KEPT = {JOURNAL, ARTIFACTS, CURSOR, WORK, SHIP, EXITED}  # of a state folder, in the archive

_finished: list[Path] = []  # archived by this process


def hand_over(folder: Path, journal: Path) -> None:
    """Copy the journal and its files to `journal`, all or nothing."""
    with folder_aside(journal) as aside:
        shutil.copyfile(folder / JOURNAL, aside / JOURNAL)
        if (folder / ARTIFACTS).exists():
            shutil.copytree(
                folder / ARTIFACTS, aside / ARTIFACTS, ignore=shutil.ignore_patterns(".*.part")
            )


def archive(folder: Path, stage: str, key: str) -> Path:
    """Move a state folder among the journals of ended runs, and drop what is no journal."""
    target = home.journals() / f"{stage}-{key}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    folder.rename(target)
    _finished.append(target)
    prune(target)
    return target


@atexit.register
def _mark_exit() -> None:
    for folder in _finished:
        with suppress(OSError):
            (folder / EXITED).touch()


def revive(state: Path, handed_over: bool) -> None:
    """Take back the run of this state whose process or DVC was killed right after its archive.

    Nothing happens where the state folder has a journal of its own.

    Args:
        handed_over: the stage's journal is one of its outputs.
    """
    stage = state.name.partition("-")[0]
    if (state / JOURNAL).exists():
        return
    under_dvc = handed_over and "DVC_STAGE" in os.environ
    for path in home.journals().glob(f"{stage}-*/{JOURNAL}"):
        if _has_finished(path.parent, state.name) and _was_cut_short(path.parent, under_dvc):
            for name in (ARTIFACTS, CURSOR, JOURNAL):  # the journal last: it makes the run
                with suppress(FileNotFoundError):
                    (path.parent / name).rename(state / name)
            shutil.rmtree(path.parent)
            return


def _has_finished(folder: Path, state: str) -> bool:
    """A run of this state, at its good end, by a process that is gone."""
    header = read_header(folder)
    if header is None or header.get("state") != state:
        return False
    story = read_story(folder)
    if story is None or story.status != "FINISHED":
        return False
    process = process_of(story.tags)
    return process is not None and process.is_alive() is False


def _was_cut_short(folder: Path, under_dvc: bool) -> bool:
    if not (folder / EXITED).exists():
        return True
    with open(folder / JOURNAL, "rb") as file:  # DVC knows it by its MD5
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return under_dvc and not home.dvc_cached(md5).exists()


def prune(folder: Path) -> None:
    """Remove the checkpoints that an archived state folder still holds."""
    for path in folder.iterdir():
        if path.name in KEPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
