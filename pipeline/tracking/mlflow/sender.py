"""The thread that sends a run's journal to the store while the stage works.

The stage itself never waits for the store, nor does it share its process with one that is there
(`sender_process`). At the end of a run `finish` waits, within bounds: as long as the store answers
or takes in a model, at most its limit; `PATIENCE` seconds without an answer, or `ATTEMPTS`
failures in a row, end it sooner. `lossbook sync` sends what was left.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock

from pipeline.tracking import journals, paths
from pipeline.tracking.journal import force
from pipeline.tracking.lifecycle import SHIP, acquire, reap
from pipeline.tracking.mlflow.send import JournalSender, RunDeletedError, send
from pipeline.tracking.mlflow.store import connect, one_line

INTERVAL = 1.0  # seconds between two looks at the journal
LONGEST_BREAK = 15.0  # seconds between two attempts when the store is away
PATIENCE = 15.0
ATTEMPTS = 3
GRACE = 0.5  # for a thread that waits for nothing to end by itself


class Sender(threading.Thread):
    """Sends one journal until `finish` is called.

    Attributes:
        error: why the last attempt failed; None after one that went well.
        delivered: everything has arrived.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(name="lossbook-sender", daemon=True)
        self.folder = folder
        self.error: Exception | None = None
        self.delivered = False
        self._journal: JournalSender | None = None
        self._failures = 0
        self._wake = threading.Event()
        self._finishing = False
        self._abandoned = False
        self._looked_around = False
        self._reaped: list[Path] = []
        self._lock: BaseFileLock | None = None

    def run(self) -> None:
        with suppress(OSError):  # what cannot be read now is seen to by the next run
            self._reaped = reap()
        with suppress(Exception):  # whatever it is, it comes again below
            self._journal = self._connected()
        while not (self.delivered or self._abandoned):
            self._wake.wait(self._pause())
            self._wake.clear()
            finishing = self._finishing  # read before the journal, so that nothing slips through
            try:
                self._send()
            except RunDeletedError as error:
                self.error = error
                break
            except Exception as error:  # whatever a store, a driver or a network can raise
                self.error = error
                self._failures += 1
            else:
                self.error, self._failures = None, 0
                self.delivered = finishing
        if self._lock is not None:
            self._lock.release()

    @property
    def run_id(self) -> str | None:
        """The store's id for the run, once it has one."""
        return self._journal.cursor.run_id if self._journal else None

    def finish(self, limit: float) -> None:
        """Send the rest and stop, as far as the store takes it within the bounds.

        Afterwards the thread writes nothing into the folder, whatever it still waits for.
        """
        self._finishing = True
        self._failures = 0
        self._wake.set()
        patience = PATIENCE if paths.is_server(paths.tracking_uri()) else limit
        start = answered = time.monotonic()
        answers = 0
        while self.is_alive() and not self.delivered:
            self.join(0.05)
            moment = time.monotonic()
            if (count := self._answers()) != answers or self._publishes():
                answers, answered = count, moment
            late = moment - start > limit or moment - answered > patience
            if late or self._failures >= ATTEMPTS:
                break
        self._abandon()

    def _abandon(self) -> None:
        """Let go of the folder; a request still on its way changes nothing there."""
        self._abandoned = True
        self._wake.set()
        if self._journal is not None:
            self._journal.abandon()
        self.join(GRACE)

    def _answers(self) -> int:
        return self._journal.answers if self._journal else 0

    def _publishes(self) -> bool:
        return self._journal is not None and self._journal.publishing

    def _pause(self) -> float:
        longest = 1.0 if self._finishing else LONGEST_BREAK
        return min(INTERVAL * 2.0**self._failures, longest)

    def _send(self) -> None:
        if self._journal is None:
            self._journal = self._connected()
        force(self.folder)  # the store must not know more than the disk
        self._journal.drain()
        if self._finishing or not self._looked_around:
            self._link(self._journal)
        if self._finishing or self._journal.has_unsent:
            self._journal.send_missing()
        if not (self._finishing or self._looked_around):
            self._look_around(self._journal)

    def _connected(self) -> JournalSender:
        if self._lock is None:
            self._lock = acquire(self.folder / SHIP)
        if self._lock is None:
            raise TimeoutError("another process is sending this journal")
        return JournalSender(self.folder, connect())

    def _link(self, journal: JournalSender) -> None:
        """Link the run to its parent, which the store may have lost: its journal may be here."""
        key = journal.header.get("parent")
        if journal.link() or key is None:
            return
        if journals.find(key) is None:
            journals.adopt(Path("journals"))
        folder = journals.find(key)
        if folder is not None:
            send(folder, journal.store)
            journal.link()

    def _look_around(self, journal: JournalSender) -> None:
        """Once, while there is time: see to what dead processes left behind."""
        store = journal.store
        for folder in self._reaped:
            send(folder, store)
        store.reap([store.experiment_id(journal.header["experiment"])])
        self._looked_around = True

    def lacking(self) -> list[str]:
        """What the store does not have, and why, in lines; empty where it has everything."""
        store = paths.store_name(paths.tracking_uri())
        if not self.delivered:
            return [f"{store}: {one_line(self.error) if self.error else 'slow to answer'}"]
        remarks = self._journal.cursor.remarks() if self._journal else []
        return [f"{store} lacks {remark}" for remark in remarks]
