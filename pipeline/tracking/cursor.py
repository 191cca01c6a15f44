"""What a store still lacks of a journal: its cursor, and the rest of the lines as requests.

A cursor is kept in `shipped.json`, beside the journal. It may lag behind its store, for everything
may be sent again without harm; it never runs ahead, for it is written after the store has answered.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, TypeAdapter

from pipeline.errors import UserError
from pipeline.system.files import read_bounded
from pipeline.tracking.journal import JOURNAL, Event, Number, parse

CURSOR = "shipped.json"
CHUNK = 1 << 18  # bytes of journal a request is made from; a server takes a megabyte
MAX_METRICS = 1000  # a request's, as MLflow counts
MAX_TEXTS = 100


def _waits(event: Event) -> Event:
    if "why" in event and event.keys() & {"artifact", "model", "measured"}:
        return event
    raise ValueError("an event that waits for nothing is not missing")


@dataclass
class Cursor:
    """How far one store has taken one journal.

    Attributes:
        run_id: the store's id for the run.
        linked: the store's run has the tag with its parent's id.
        missing: events whose files, or whose model, could not be had, and `why`.
        refused: what the store never takes, and why.
    """

    run_id: str | None = None
    offset: Number = 0
    linked: bool = False
    missing: list[Annotated[Event, AfterValidator(_waits)]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def remarks(self) -> list[str]:
        """What the store lacks, and why, in lines."""
        files = [f"{_name_of(event)}: {event['why']}" for event in self.missing]
        return files + [f"{name}: {reason}" for name, reason in self.refused.items()]


def _name_of(event: Event) -> str:
    if "measured" in event:
        return "losses linked to a model"
    artifact = event["artifact"] if "artifact" in event else event["model"]["weights"]
    return artifact["path"]


_cursors = TypeAdapter(dict[str, Cursor])


def read_cursors(folder: Path) -> dict[str, Cursor]:
    """The cursors of the journal in this folder, by their store's name.

    An unreadable file is no cursor, nor is one that runs ahead of the journal: everything is sent
    again. What earlier versions noted besides is passed over.
    """
    try:
        cursors = _cursors.validate_json(read_bounded(folder / CURSOR))
        size = (folder / JOURNAL).stat().st_size
    except (OSError, UserError, ValueError):
        return {}
    return {
        store: cursor
        for store, cursor in cursors.items()
        if cursor.offset <= size and (cursor.offset == 0 or cursor.run_id is not None)
    }


def run_ids(folder: Path) -> dict[str, str]:
    """MLflow's id of this journal's run in each store that has it."""
    return {store: c.run_id for store, c in read_cursors(folder).items() if c.run_id is not None}


def write_cursor(folder: Path, store: str, cursor: Cursor) -> None:
    """Replace one store's cursor; not forced to the disk, for a lost one costs nothing but time."""
    cursors = {**read_cursors(folder), store: cursor}
    entries = {name: asdict(entry) for name, entry in cursors.items()}
    aside = folder / f".{CURSOR}.part"
    aside.write_text(json.dumps(entries, indent=2), encoding="utf-8")
    os.replace(aside, folder / CURSOR)


@dataclass
class Batch:
    """What neighbouring lines hold, as one request, and the event that follows them.

    Attributes:
        metrics: key, value, timestamp in milliseconds, step.
        tags: None takes a tag away.
        event: one that needs a request of its own, to be sent after the rest.
        end: the offset in the journal behind all of it.
    """

    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str | None] = field(default_factory=dict)
    event: Event | None = None
    end: int = 0

    def __len__(self) -> int:
        return len(self.metrics) + len(self.params) + len(self.tags)

    def has_room_for(self, event: Event) -> bool:
        metrics = len(self.metrics) + len(event.get("m", ()))
        texts = max(
            len(self.params) + len(event.get("params", ())),
            len(self.tags) + len(event.get("tags", ())),
        )
        return not self or (metrics <= MAX_METRICS and texts <= MAX_TEXTS)

    def add(self, event: Event) -> None:
        for key, value in event.get("m", {}).items():
            self.metrics.append((key, value, event["t"], event["s"]))
        self.params.update(event.get("params", {}))
        self.tags.update(event.get("tags", {}))
        if not event.keys() & {"m", "params", "tags"}:
            self.event = event

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches with the same contents, to find out which of them is refused."""
        halves = Batch(), Batch()
        turns = cycle(halves)
        for metric in self.metrics:
            next(turns).metrics.append(metric)
        for name, text in self.params.items():
            next(turns).params[name] = text
        for name, tag in self.tags.items():
            next(turns).tags[name] = tag
        return halves


def batches(path: Path, offset: int) -> Iterator[Batch]:
    """The journal's whole lines from `offset` on, in order, in requests that MLflow takes."""
    batch = Batch(end=offset)
    with open(path, "rb") as file:
        file.seek(offset)
        start = offset
        for line in file:
            if not line.endswith(b"\n"):
                break  # being written, or torn
            event = parse(line)
            if event is None:  # no event
                offset += len(line)
                continue
            if not batch.has_room_for(event) or offset - start > CHUNK:
                yield batch
                batch, start = Batch(), offset
            offset += len(line)
            batch.add(event)
            batch.end = offset
            if batch.event is not None:
                yield batch
                batch, start = Batch(end=offset), offset
    if batch:
        yield batch
