"""Where journals go when their run has ended: to DVC, and among the journals of ended runs.

Archiving is one rename, and until it has happened the run counts as unfinished: whatever kills
the process before it, the next start goes on with the same run.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.files import folder_aside
from pipeline.tracking import home
from pipeline.tracking.cursor import CURSOR
from pipeline.tracking.journal import ARTIFACTS, JOURNAL
from pipeline.tracking.locks import SHIP, WORK

KEPT = {JOURNAL, ARTIFACTS, CURSOR, WORK, SHIP}  # of a state folder, in the archive


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
    prune(target)
    return target


def prune(folder: Path) -> None:
    """Remove the checkpoints that an archived state folder still holds."""
    for path in folder.iterdir():
        if path.name in KEPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
