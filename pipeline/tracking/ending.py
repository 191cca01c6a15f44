"""How a run ends: its last line, the wait for the store, what is handed to DVC, the archive."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.system.files import write_json
from pipeline.system.process import Terminated
from pipeline.tracking.archive import archive, hand_over
from pipeline.tracking.courier import LIMIT, Courier, offline
from pipeline.tracking.courier_process import CourierProcess
from pipeline.tracking.system import SystemMonitor

if TYPE_CHECKING:
    from pipeline.tracking.open_run import Run

KILLED_LIMIT = 5.0  # seconds that a run which was told to stop may still spend on its record


class Helpers:
    """The two helpers of an open run: one sends its journal, one watches the machine."""

    def __init__(self, run: Run) -> None:
        self.courier = courier_of(run.folder)
        self.monitor = SystemMonitor(run.journal, run.next_system_step)
        self.courier.start()
        self.monitor.start()

    def end(self, run: Run, status: str, limit: float) -> None:
        """Write the journal's last line and see it to the store, within the limit."""
        self.monitor.stop()
        run.journal.append({"end": status})
        run.journal.sync()
        self.courier.finish(limit)


def break_off(run: Run, helpers: Helpers, error: BaseException) -> None:
    """End a run that an exception ended, FAILED or KILLED; one that can go on stays in place."""
    killed = isinstance(error, KeyboardInterrupt | Terminated)
    if not killed:
        run.set_tags({"error": " ".join(f"{type(error).__name__}: {error}".split())})
    helpers.end(run, "KILLED" if killed else "FAILED", KILLED_LIMIT if killed else LIMIT)
    run.journal.close()
    kept = run.folder if run.resumable else archive(run.folder, run.stage, run.key)
    warn(helpers.courier, kept)


def finish(run: Run, helpers: Helpers, record: Path | None, journal: Path | None) -> None:
    """End a run well: FINISHED, its journal and record handed to DVC, its state folder removed."""
    helpers.end(run, "FINISHED", LIMIT)
    run.journal.close()
    if journal is not None:
        hand_over(run.folder, journal)
    if record is not None:
        run_id = helpers.courier.run_id
        known = {"run": run.key, "run_id": run_id, "experiment": run.experiment, "name": run.name}
        write_json(record, known)
    kept = archive(run.folder, run.stage, run.key)
    warn(helpers.courier, kept)


def courier_of(folder: Path) -> Courier | CourierProcess:
    """A process, where there is a store to talk to."""
    return Courier(folder) if offline() else CourierProcess(folder)


def warn(courier: Courier | CourierProcess, folder: Path) -> None:
    """Say what the store lacks, and that nothing is lost."""
    place = os.path.relpath(folder)
    for line in courier.lacking():
        print(
            f"warning: {line}; this run's journal is safe in {place}, "
            "`lossbook sync` sends the rest",
            file=sys.stderr,
        )
