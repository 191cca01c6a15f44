"""The journal: what happened in a run, a JSON object a line, appended and never changed.

It is the record; MLflow's store is made from it, and rebuilt from it where it was lost. A line
holds `t`, milliseconds since the epoch, and one of

    create   {"run", "stage", "experiment", "name", "parent", "state"}; always the first line.
             `state` names the state folder of a run that can go on after a kill, else null
    resume   {}: another process goes on with the run
    s, m     step, {metric: value}; "NaN", "Infinity" and "-Infinity" are written as strings
    params   {name: text}
    tags     {name: text, or null for a tag that is taken away}
    input    {"name", "source", "digest", "context", "profile"}
    artifact {"path", "sha256", "bytes"}; "reference" and "md5" where the bytes lie outside the
             journal, "stays" where they are not for the store
    model    what `mlflow.publish` publishes: files as above, params, metrics
    end      "FINISHED", "FAILED" or "KILLED"

A line reaches the kernel in one write: a process that is killed leaves at most its last line
torn, and `Journal` cuts it. Against a power cut, `sync` forces what is written to the disk; a
stage calls it before it puts a checkpoint in place, so that no checkpoint is ahead of its journal.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from pipeline.errors import UserError
from pipeline.numbers import to_json

JOURNAL = "journal.jsonl"
ARTIFACTS = "artifacts"

Event = dict[str, Any]


def now() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Journal:
    """An open journal; threads may append at once."""

    def __init__(self, folder: Path) -> None:
        """Open for appending, or create; a torn last line is cut.

        Raises:
            UserError: the file cannot be opened.
        """
        self.path = folder / JOURNAL
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}") from None
        os.ftruncate(self._file, _whole_lines(self._file))

    def append(self, event: Event) -> None:
        """Write one event, stamped with the time unless it says its own.

        For metrics this is what a training thread spends on its record. After a step none of the
        code is in the processor's caches, so what it takes is how much of it there is: hence one
        function, and no lock, for the kernel appends one line at a time.

        Raises:
            UserError: the line could not be written whole (a full disk); the journal is as before.
        """
        line = orjson.dumps(
            {"t": time.time_ns() // 1_000_000, **event}, float, orjson.OPT_APPEND_NEWLINE
        )
        if "m" in event and (b"null" in line or b'":"' in line):
            line = _in_words(line, event["m"])
        try:
            if os.write(self._file, line) == len(line):
                return
            reason = "the disk is full"
        except OSError as error:
            reason = str(error.strerror)
        os.ftruncate(self._file, _whole_lines(self._file))
        raise UserError(f"{self.path}: {reason}")

    def sync(self) -> None:
        """Wait until what has been appended is on the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def force(folder: Path) -> None:
    """Wait until what any process has appended to the journal in this folder is on the disk."""
    with open(folder / JOURNAL, "rb") as file:
        os.fsync(file.fileno())


def _whole_lines(file: int, end: int | None = None) -> int:
    """The offset behind the last newline before `end`, the file's own by default."""
    end = os.lseek(file, 0, os.SEEK_END) if end is None else end
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _in_words(line: bytes, metrics: Mapping[str, Any]) -> bytes:
    """The line again, where a metric is NaN or infinite, for which JSON has no number.

    Raises:
        ValueError: a metric is no number at all.
    """
    numbers = {key: float(value) for key, value in metrics.items()}
    return orjson.dumps(
        {**orjson.loads(line), "m": to_json(numbers)}, option=orjson.OPT_APPEND_NEWLINE
    )


def metrics_of(event: Event) -> dict[str, float]:
    """A line's metrics as numbers again; empty for any other line."""
    metrics = event.get("m", {})
    return {name: float(value) for name, value in metrics.items()}


def parse(line: bytes) -> Event | None:
    """One event; None for a line that a failing disk has garbled."""
    try:
        event = orjson.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "t" in event else None


def read_events(path: Path) -> Iterator[Event]:
    """The whole lines of a journal, in order."""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n") and (event := parse(line)) is not None:
                yield event


@dataclass
class Point:
    """A metric's last value, as MLflow means last: the highest step, then the latest time."""

    step: int
    timestamp: int
    value: float


@dataclass
class RunState:
    """What a journal amounts to: the run as it stands after its last line.

    Attributes:
        key: the run's name for itself, the same in every store.
        parent: the key of the run that it was made from.
        state_folder: the name of the folder where a later process goes on with it; None for a
            run that cannot go on.
        started, ended, published: milliseconds since the epoch; `published` is when its model was
            logged.
    """

    key: str
    stage: str
    experiment: str
    name: str
    parent: str | None
    state_folder: str | None
    started: int
    status: str = "RUNNING"
    ended: int | None = None
    published: int | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Point] = field(default_factory=dict)

    def update(self, event: Event) -> None:
        """Take one more event into account."""
        for key, value in metrics_of(event).items():
            self._add_point(key, Point(event["s"], event["t"], value))
        self.params.update(event.get("params", {}))
        for name, text in event.get("tags", {}).items():
            self.tags[name] = text
            if text is None:
                del self.tags[name]
        self._add_files(event)
        if "resume" in event:
            self.status, self.ended = "RUNNING", None
        elif "end" in event:
            self.status, self.ended = event["end"], event["t"]

    def _add_point(self, key: str, point: Point) -> None:
        last = self.metrics.get(key)
        if last is None or (point.step, point.timestamp) >= (last.step, last.timestamp):
            self.metrics[key] = point

    def _add_files(self, event: Event) -> None:
        if "input" in event and event["input"] not in self.inputs:
            self.inputs.append(event["input"])
        elif "artifact" in event:
            self.artifacts[event["artifact"]["path"]] = event["artifact"]
        elif "model" in event:
            self.models.append(event["model"])
            self.published = event["t"]
            for name, value in event["model"]["metrics"].items():
                self._add_point(f"model/{name}", Point(0, event["t"], float(value)))


def read_header(folder: Path) -> dict[str, Any] | None:
    """The first event of the journal in this folder; None as for `read_run`."""
    try:
        first = next(read_events(folder / JOURNAL), {})
    except FileNotFoundError:
        return None
    return first.get("create")


def read_last(folder: Path) -> Event | None:
    """The last whole line of the journal in this folder."""
    with open(folder / JOURNAL, "rb") as file:
        end = _whole_lines(file.fileno())
        start = _whole_lines(file.fileno(), end - 1) if end else 0
        file.seek(start)
        return parse(file.read(end - start))


def read_run(folder: Path) -> RunState | None:
    """The run of the journal in this folder; None where there is none, or not one whole line."""
    try:
        events = read_events(folder / JOURNAL)
        first = next(events, {})
    except FileNotFoundError:
        return None
    if "create" not in first:
        return None
    header = first["create"]
    run = RunState(
        key=header["run"],
        stage=header["stage"],
        experiment=header["experiment"],
        name=header["name"],
        parent=header.get("parent"),
        state_folder=header.get("state"),
        started=first["t"],
    )
    for event in events:
        run.update(event)
    return run


def points_of(path: Path) -> dict[str, set[int]]:
    """The steps at which each metric has been journalled."""
    points: dict[str, set[int]] = {}
    for event in read_events(path):
        for key in event.get("m", ()):
            points.setdefault(key, set()).add(event["s"])
    return points
