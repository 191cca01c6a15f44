"""Runs that nobody ended: their process was killed, or the machine it ran on.

Whether a process lives, a journal's lock knows: the kernel lets go of it with the process. Runs
that only the store knows are judged by the process that their tags name, on this host alone.
"""

from __future__ import annotations

import socket
from pathlib import Path

from pipeline.tracking import book, home
from pipeline.tracking.archive import archive
from pipeline.tracking.facts import HOST, process_of
from pipeline.tracking.journal import JOURNAL, Journal, now, read_header, read_last
from pipeline.tracking.locks import MOMENT, WORK, acquire
from pipeline.tracking.store import RUN_KEY, Store


def reap() -> list[Path]:
    """End, as KILLED, the journals whose process is gone; where they lie now.

    The end is dated by the journal's last line, the last that was heard of the process. A run
    that can go on stays in its state folder: its next start makes it RUNNING again.
    """
    reaped = []
    for state in sorted(path.parent for path in home.states().glob(f"*/{JOURNAL}")):
        lock = acquire(state / WORK)
        if lock is None:
            continue  # at work
        try:
            folder = _close(state)
        finally:
            lock.release()
        if folder is not None:
            reaped.append(folder)
    return reaped


def discard() -> list[Path]:
    """Give up the runs that could go on: archive their journals, delete their checkpoints.

    Returns:
        Where the journals lie now.
    """
    reap()
    discarded = []
    for state in sorted(path.parent for path in home.states().glob(f"*/{JOURNAL}")):
        lock = acquire(state / WORK, MOMENT)  # another process's reaper may be looking in
        if lock is None:
            continue  # at work
        try:
            if (header := read_header(state)) is not None:
                discarded.append(archive(state, header["stage"], header["run"]))
        finally:
            lock.release()
    return discarded


def _close(state: Path) -> Path | None:
    header = read_header(state)
    if header is None:
        return None  # killed before its first line was whole: there is no run
    last = read_last(state) or {"t": now()}
    if "end" not in last:
        journal = Journal(state)
        journal.append({"t": last["t"], "end": "KILLED"})
        journal.close()
    elif header.get("state"):
        return None  # ended, and seen to, before
    return state if header.get("state") else archive(state, header["stage"], header["run"])


def reap_store(store: Store, experiments: list[str]) -> list[str]:
    """End, as KILLED, what the store calls RUNNING and no process and no journal stands for.

    Returns:
        The ids of the runs.
    """
    running = store.client.search_runs(
        experiments, f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{socket.gethostname()}'"
    )
    reaped = []
    for run in running:
        process = process_of(run.data.tags)
        dead = process is not None and process.is_alive() is False
        if dead and book.find(run.data.tags.get(RUN_KEY, "")) is None:
            store.client.set_terminated(run.info.run_id, status="KILLED")
            reaped.append(run.info.run_id)
    return reaped
