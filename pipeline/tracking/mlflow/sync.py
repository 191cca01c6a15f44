"""All journals to the store: what was never sent, and what the store has lost.

As often as one likes: a run is found by its key, and what the store has already it keeps once.
Runs that were deleted in the store stay deleted.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlflow.entities import Run

from pipeline.tracking import journals, paths
from pipeline.tracking.journal import Model, RunState, model_metrics
from pipeline.tracking.journals import Entry
from pipeline.tracking.lifecycle import SHIP, WORK, acquire, reap
from pipeline.tracking.mlflow.send import JournalSender, RunDeletedError, send
from pipeline.tracking.mlflow.store import Store, connect_soon, failures_explained
from pipeline.tracking.tags import PARENT

Outcome = Literal["there", "sent", "rebuilt", "deleted", "at work", "refused"]


@dataclass(frozen=True)
class Synced:
    """What became of one journal.

    Attributes:
        outcome: "there" where the store had it all, "refused" where it will not have the run.
        remarks: files that are missing, values that the store refuses; why it refuses the run.
    """

    entry: Entry
    outcome: Outcome
    run_id: str | None = None
    remarks: list[str] = field(default_factory=list)


def gather(brought: Path, notify: journals.Notify = lambda line: None) -> list[Entry]:
    """Every journal that can be had, in order, ended where its process is gone."""
    journals.tidy()
    journals.adopt(brought, notify)
    reap()
    return journals.entries(notify)


def synced(entries: list[Entry]) -> Iterator[Synced]:
    """Bring the store up to these journals, one by one.

    Raises:
        UserError: the store failed; what was sent until then stays sent.
    """
    with failures_explained():
        yield from _sync(entries, connect_soon())


def reap_everywhere(notify: journals.Notify = lambda line: None) -> list[str]:
    """End what dead processes left RUNNING, in the journals and in the store; names of the runs.

    Raises:
        UserError: the store failed.
    """
    journals.entries(notify)
    reaped = reap()
    ended = [folder.name for folder in reaped]
    with failures_explained():
        store = connect_soon()
        for folder in reaped:
            try:
                send(folder, store)
            except Exception as error:
                notify(f"{folder.name}: {store.refusal(error)}")
        experiments = [e.experiment_id for e in store.client.search_experiments()]
        return ended + store.reap(experiments)


def _sync(entries: list[Entry], store: Store) -> Iterator[Synced]:
    # Models are numbered as they come, so they come in the order in which they were made; a child
    # comes after its parent, whose model it may have measured.
    times = {entry.run.key: entry.run.published or entry.run.started for entry in entries}

    def turn(entry: Entry) -> tuple[int, bool]:
        own, parent = entry.run.key, entry.run.parent
        return max(times[own], times.get(parent or own, 0)), parent is not None

    for entry in sorted(entries, key=turn):
        lock = None if _at_work(entry.folder) else acquire(entry.folder / SHIP)
        if lock is None:
            yield Synced(entry, "at work")
            continue
        try:
            yield _sync_one(entry, JournalSender(entry.folder, store))
        except Exception as error:
            yield Synced(entry, "refused", remarks=[store.refusal(error)])
        finally:
            lock.release()


def _at_work(folder: Path) -> bool:
    """A run at work sends its own journal."""
    if folder.parent == paths.journals():
        return False
    lock = acquire(folder / WORK)
    if lock is None:
        return True
    lock.release()
    return False


def _sync_one(entry: Entry, journal: JournalSender) -> Synced:
    before = copy(journal.cursor)
    lacking = len(before.missing)
    rebuilt = False
    try:
        journal.bring_up()
        if not holds(journal, entry.run):
            journal.start_over()
            journal.bring_up()
            rebuilt = True
    except RunDeletedError:
        return Synced(entry, "deleted")
    cursor = journal.cursor
    outcome: Outcome = "there"
    if before.run_id is not None and (rebuilt or cursor.run_id != before.run_id):
        outcome = "rebuilt"
    elif cursor.offset != before.offset or len(cursor.missing) < lacking:
        outcome = "sent"
    return Synced(entry, outcome, cursor.run_id, cursor.remarks())


def holds(journal: JournalSender, state: RunState) -> bool:
    """Whether the store's run is the journal's, but for what it is known to lack.

    Of each metric the last value is compared, of tags the names: their texts may be edited.

    Raises:
        RunDeletedError: the run was deleted in the store.
    """
    run = journal.find_run()
    if run is None or run.info.status != state.status:
        return False
    refused = journal.cursor.refused.keys()
    return (
        _numbers(run.data.metrics) == _numbers(_expected_metrics(journal, state))
        and run.data.params == {k: v for k, v in state.params.items() if k not in refused}
        and state.tags.keys() - refused <= run.data.tags.keys()
        and _is_linked(journal, run)
        and _holds_artifacts(journal, state)
        and _holds_models(journal, state)
    )


def _expected_metrics(journal: JournalSender, state: RunState) -> dict[str, float]:
    """A model's metrics come with the model."""
    with_models = {name for event in journal.cursor.missing for name in model_metrics(event)}
    lacking = with_models | journal.cursor.refused.keys()
    return {name: point.value for name, point in state.metrics.items() if name not in lacking}


def _numbers(metrics: dict[str, float]) -> dict[str, float | str]:
    """Metrics as MLflow's databases hold them, and equal to themselves."""
    largest = sys.float_info.max
    return {
        name: "NaN" if math.isnan(value) else max(-largest, min(value, largest))
        for name, value in metrics.items()
    }


def _is_linked(journal: JournalSender, run: Run) -> bool:
    key = journal.header.get("parent")
    if key is None:
        return True
    parent = journal.store.find_run(key)
    return parent is None or run.data.tags.get(PARENT) == parent.info.run_id


def _holds_artifacts(journal: JournalSender, state: RunState) -> bool:
    missing = {e["artifact"]["path"] for e in journal.cursor.missing if "artifact" in e}
    stay = {path for path, artifact in state.artifacts.items() if artifact.get("stays")}
    wanted = state.artifacts.keys() - missing - stay
    there: set[str] = set()
    for folder in {path.rpartition("/")[0] for path in wanted}:
        listed = journal.store.client.list_artifacts(journal.run_id, folder or None)
        there.update(item.path for item in listed)
    return wanted <= there


def _holds_models(journal: JournalSender, state: RunState) -> bool:
    unsent = _unsent(journal)
    return not any(
        journal.publisher(model).lacks_files() for model in state.models if model not in unsent
    )


def _unsent(journal: JournalSender) -> list[Model]:
    return [event["model"] for event in journal.cursor.missing if "model" in event]
