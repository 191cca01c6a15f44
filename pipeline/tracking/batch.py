"""Journal lines put together into requests of the size that MLflow's servers take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from pipeline.tracking.journal import Event, metrics_of, parse

CHUNK = 1 << 18  # bytes of journal a request is made from; a server takes a megabyte
MAX_METRICS = 1000  # a request's, as MLflow counts
MAX_TEXTS = 100


@dataclass
class Batch:
    """What neighbouring lines say, as one request, and the event that follows them.

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

    def take(self, event: Event) -> None:
        for key, value in metrics_of(event).items():
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
    """The journal's whole lines from `offset` on, in order."""
    batch = Batch(end=offset)
    with open(path, "rb") as file:
        file.seek(offset)
        start = offset
        for line in file:
            if not line.endswith(b"\n"):
                break  # being written, or torn
            event = parse(line) or {}
            if not batch.has_room_for(event) or offset - start > CHUNK:
                yield batch
                batch, start = Batch(), offset
            offset += len(line)
            batch.take(event)
            batch.end = offset
            if batch.event is not None:
                yield batch
                batch, start = Batch(end=offset), offset
    if batch:
        yield batch
