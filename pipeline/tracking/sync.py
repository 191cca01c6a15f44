"""All journals to the store: what was never sent, and what the store has lost.

As often as one likes: a run is found by its key, and what the store has already it keeps once.
Runs that were deleted in the store stay deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.errors import UserError
from pipeline.tracking import book, home
from pipeline.tracking.book import Entry
from pipeline.tracking.holding import holds
from pipeline.tracking.locks import SHIP, WORK, acquire
from pipeline.tracking.reap import reap, reap_store
from pipeline.tracking.ship import RunDeletedError, Shipper, send
from pipeline.tracking.store import Store, connect, name_of, one_line, tracking_uri

Outcome = Literal["there", "sent", "rebuilt", "deleted", "at work"]


@dataclass(frozen=True)
class Synced:
    """What became of one journal.

    Attributes:
        outcome: "there" where the store had it all.
        remarks: files that are missing, values that the store refuses.
    """

    entry: Entry
    outcome: Outcome
    run_id: str | None = None
    remarks: list[str] = field(default_factory=list)


def gather(brought: Path) -> list[Entry]:
    """Every journal that can be had, in order, ended where its process is gone."""
    book.tidy()
    book.adopt(brought)
    reap()
    return book.entries()


def synced(entries: list[Entry]) -> Iterator[Synced]:
    """Bring the store up to these journals, one by one.

    Raises:
        UserError: the store failed; what was sent until then stays sent.
    """
    with failures_explained():
        yield from _sync(entries, connect())


def reap_everywhere() -> list[str]:
    """End what dead processes left RUNNING, in the journals and in the store; names of the runs.

    Raises:
        UserError: the store failed.
    """
    reaped = reap()
    ended = [folder.name for folder in reaped]
    with failures_explained():
        store = connect()
        for folder in reaped:
            send(folder, store)
        experiments = [e.experiment_id for e in store.client.search_experiments()]
        return ended + reap_store(store, experiments)


@contextmanager
def failures_explained() -> Iterator[None]:
    """Whatever a store, a driver or a network raises, as a `UserError` that names the store."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name_of(tracking_uri())}: {one_line(error)}; try again later") from error


def _sync(entries: list[Entry], store: Store) -> Iterator[Synced]:
    # Models are numbered as they come, so they come in the order in which they were made.
    for entry in sorted(entries, key=lambda entry: entry.story.published or entry.story.started):
        lock = None if _at_work(entry.folder) else acquire(entry.folder / SHIP)
        if lock is None:
            yield Synced(entry, "at work")
            continue
        try:
            yield _sync_one(entry, Shipper(entry.folder, store))
        finally:
            lock.release()


def _at_work(folder: Path) -> bool:
    """A run at work sends its own journal."""
    if folder.parent == home.journals():
        return False
    lock = acquire(folder / WORK)
    if lock is None:
        return True
    lock.release()
    return False


def _sync_one(entry: Entry, shipper: Shipper) -> Synced:
    before = copy(shipper.cursor)
    lacking = len(before.missing)
    rebuilt = False
    try:
        shipper.drain()
        shipper.send_missing()
        if not holds(shipper, entry.story):
            shipper.start_over()
            shipper.drain()
            shipper.send_missing()
            rebuilt = True
        shipper.link()
    except RunDeletedError:
        return Synced(entry, "deleted")
    cursor = shipper.cursor
    outcome: Outcome = "there"
    if before.run_id is not None and (rebuilt or cursor.run_id != before.run_id):
        outcome = "rebuilt"
    elif cursor.offset != before.offset or len(cursor.missing) < lacking:
        outcome = "sent"
    return Synced(entry, outcome, cursor.run_id, cursor.remarks())
