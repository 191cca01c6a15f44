"""How a run ends: its last line, the wait for the store, the archive.

The archive is one rename, and until it has happened the run counts as unfinished: whatever kills
the process before it, the next start goes on with the same run.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.files import write_json
from pipeline.process import Terminated
from pipeline.tracking import home
from pipeline.tracking.courier import LIMIT, Courier
from pipeline.tracking.journal import ARTIFACTS, JOURNAL
from pipeline.tracking.locks import SHIP, WORK
from pipeline.tracking.ship import CURSOR
from pipeline.tracking.system import SystemMonitor

if TYPE_CHECKING:
    from pipeline.tracking.run import Run

KILLED_LIMIT = 5.0  # seconds that a run which was told to stop may still spend on its record
KEPT = {JOURNAL, ARTIFACTS, CURSOR, WORK, SHIP}  # of a state folder, in the archive


class Helpers:
    """The two threads of an open run: one sends its journal, one watches the machine."""

    def __init__(self, run: Run) -> None:
        self.courier = Courier(run.journal)
        self.monitor = SystemMonitor(run.journal, run.next_system_step)
        self.courier.start()
        self.monitor.start()

    def end(self, run: Run, status: str, limit: float) -> bool:
        """Write the journal's last line and see it to the store; False where it is not there."""
        self.monitor.stop()
        run.journal.append({"end": status})
        run.journal.sync()
        return self.courier.finish(limit)


def break_off(run: Run, helpers: Helpers, error: BaseException) -> None:
    """End a run that an exception ended, FAILED or KILLED; one that can go on stays in place."""
    killed = isinstance(error, KeyboardInterrupt | Terminated)
    if not killed:
        run.set_tags({"error": " ".join(f"{type(error).__name__}: {error}".split())})
    delivered = helpers.end(
        run, "KILLED" if killed else "FAILED", KILLED_LIMIT if killed else LIMIT
    )
    helpers.courier.abandon()
    run.journal.close()
    kept = run.folder if run.resumable else archive(run.folder, run.stage, run.key)
    if not delivered:
        warn(helpers.courier, kept)


def finish(run: Run, helpers: Helpers, record: Path | None, journal: Path | None) -> None:
    """End a run well: FINISHED, its journal and record handed to DVC, its state folder removed."""
    delivered = helpers.end(run, "FINISHED", LIMIT)
    helpers.courier.abandon()
    run.journal.close()
    if journal is not None:
        hand_over(run.folder, journal)
    if record is not None:
        run_id = helpers.courier.run_id
        known = {"run": run.key, "run_id": run_id, "experiment": run.experiment, "name": run.name}
        write_json(record, known)
    kept = archive(run.folder, run.stage, run.key)
    if not delivered:
        warn(helpers.courier, kept)


def hand_over(folder: Path, journal: Path) -> None:
    """Copy the journal and its files to `journal`, all or nothing."""
    aside = journal.with_name(f".{journal.name}.{os.getpid()}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    shutil.copyfile(folder / JOURNAL, aside / JOURNAL)
    if (folder / ARTIFACTS).exists():
        shutil.copytree(folder / ARTIFACTS, aside / ARTIFACTS)
    shutil.rmtree(journal, ignore_errors=True)
    aside.rename(journal)


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


def warn(courier: Courier, folder: Path) -> None:
    place = os.path.relpath(folder)
    print(
        f"warning: {courier.describe_error()}; this run's journal is safe in {place}, "
        "`lossbook sync` sends the rest",
        file=sys.stderr,
    )
