"""The thread that takes a run's journal to the store while the stage works.

The stage itself never waits for the store, nor does it share its process with one that is there
(`courier_process`). At the end of a run `finish` waits, within bounds: as long as the store
answers or takes in a model, at most `LIMIT` seconds; `PATIENCE` seconds without an answer, or
`ATTEMPTS` failures in a row, end it sooner. `lossbook sync` sends what was left.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock

from pipeline.tracking import book
from pipeline.tracking.journal import force
from pipeline.tracking.locks import SHIP, acquire
from pipeline.tracking.reap import reap, reap_store
from pipeline.tracking.ship import RunDeletedError, Shipper, send
from pipeline.tracking.store import connect, is_server, name_of, one_line, tracking_uri

INTERVAL = 1.0  # seconds between two looks at the journal
LONGEST_BREAK = 15.0  # seconds between two attempts when the store is away
PATIENCE = 15.0
ATTEMPTS = 3
LIMIT = 60.0
GRACE = 0.5  # for a thread that waits for nothing to end by itself
OFFLINE = "LOSSBOOK_OFFLINE"  # set: journals only, no store; `lossbook sync` sends them later


def offline() -> bool:
    """Whether this process was told to leave stores alone."""
    return bool(os.environ.get(OFFLINE))


class Courier(threading.Thread):
    """Ships one journal until told to finish.

    Attributes:
        error: why the last attempt failed; None after one that went well.
        delivered: everything has arrived.
        awake: set once MLflow is imported and the store was asked for, well or not.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(name="lossbook-courier", daemon=True)
        self.folder = folder
        self.error: Exception | None = None
        self.delivered = False
        self.awake = threading.Event()
        self._shipper: Shipper | None = None
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
        if offline():
            self.delivered = True  # as far as was asked for
        else:
            with suppress(Exception):  # whatever it is, it comes again below
                self._shipper = self._connected()
        self.awake.set()
        while not (self.delivered or self._abandoned):
            self._wake.wait(self._pause())
            self._wake.clear()
            finishing = self._finishing  # read before the journal, so that nothing slips through
            try:
                self._ship()
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
        return self._shipper.cursor.run_id if self._shipper else None

    def finish(self, limit: float = LIMIT) -> None:
        """Send the rest and stop, as far as the store takes it within the bounds.

        Afterwards the thread writes nothing into the folder, whatever it still waits for.
        """
        self._finishing = True
        self._failures = 0
        self._wake.set()
        patience = PATIENCE if is_server(tracking_uri()) else LIMIT
        start = heard = time.monotonic()
        answers = 0
        while self.is_alive() and not self.delivered:
            self.join(0.05)
            moment = time.monotonic()
            if (now_answered := self._answers()) != answers or self._publishes():
                answers, heard = now_answered, moment
            if moment - start > limit or moment - heard > patience or self._failures >= ATTEMPTS:
                break
        self._abandon()

    def _abandon(self) -> None:
        """Let go of the folder; a request still on its way changes nothing there."""
        self._abandoned = True
        self._wake.set()
        if self._shipper is not None:
            self._shipper.abandon()
        self.join(GRACE)

    def _answers(self) -> int:
        return self._shipper.answers if self._shipper else 0

    def _publishes(self) -> bool:
        return self._shipper is not None and self._shipper.publishing

    def _pause(self) -> float:
        longest = 1.0 if self._finishing else LONGEST_BREAK
        return min(INTERVAL * 2.0**self._failures, longest)

    def _ship(self) -> None:
        if self._shipper is None:
            self._shipper = self._connected()
        force(self.folder)  # the store must not know more than the disk
        self._shipper.drain()
        if self._finishing or self._shipper.holds_back:
            self._shipper.send_missing()
        if self._finishing or not self._looked_around:
            self._link(self._shipper)
        if not (self._finishing or self._looked_around):
            self._look_around(self._shipper)

    def _connected(self) -> Shipper:
        if self._lock is None:
            self._lock = acquire(self.folder / SHIP)
        if self._lock is None:
            raise TimeoutError("another process is sending this journal")
        return Shipper(self.folder, connect())

    def _link(self, shipper: Shipper) -> None:
        """Tell the run its parent, which the store may have lost: its journal may be here."""
        if shipper.link():
            return
        key = shipper.header["parent"]
        if book.find(key) is None:
            book.adopt(Path("journals"))
        folder = book.find(key)
        if folder is not None:
            send(folder, shipper.store)
            shipper.link()

    def _look_around(self, shipper: Shipper) -> None:
        """Once, while there is time: see to what dead processes left behind."""
        store = shipper.store
        for folder in self._reaped:
            send(folder, store)
        reap_store(store, [store.experiment_id(shipper.header["experiment"])])
        self._looked_around = True

    def lacking(self) -> list[str]:
        """What the store does not have, and why, in lines; empty where it has everything."""
        store = name_of(tracking_uri())
        if not self.delivered:
            return [f"{store}: {one_line(self.error) if self.error else 'slow to answer'}"]
        remarks = self._shipper.cursor.remarks() if self._shipper else []
        return [f"{store} lacks {remark}" for remark in remarks]
