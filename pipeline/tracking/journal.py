"""The journal: what happened in a run, a JSON object a line, appended and never changed.

It is the record; MLflow's store is made from it, and rebuilt from it where it was lost. A line
holds `t`, milliseconds since the epoch, and one of

    create   {"run", "stage", "experiment", "name", "parent", "state"}; always the first line.
             `state` names the state folder of a run that can go on after a kill, else null
    resume   {}: another process goes on with the run
    m, s     {metric: value} at a step; NaN and infinities are written as strings
    params   {name: text}
    tags     {name: text, or null for a tag that is taken away}
    input    {"name", "source", "digest", "context", "profile"}
    artifact {"path", "sha256", "bytes"}; "reference" and "md5" where the bytes lie outside the
             journal, "stays" where they are not for the store
    model    what `mlflow.publish` publishes: files as above, params, metrics
    measured {"weights", "losses"}: a model's losses on data sets. The model is the parent run's,
             or, with "external", one whose weights are not for the store
    end      "FINISHED", "FAILED" or "KILLED"

A line reaches the kernel in one write: a process that is killed leaves at most its last line
torn, and `Journal` cuts it. Against a power cut, `sync` forces what is written to the disk; a
stage calls it before it puts a checkpoint in place, so that no checkpoint is ahead of its journal.

Journals come from other people too, by `dvc pull`. So a line counts only where it has the shape
that `Event` says, whose names and paths lead nowhere else; any other is passed over, and counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NotRequired, Required

import orjson
from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter
from typing_extensions import TypedDict

from pipeline.errors import UserError
from pipeline.numbers import to_json
from pipeline.system.files import open_regular
from pipeline.system.names import Name
from pipeline.system.text import quoted
from pipeline.tracking.tags import param_text, tag_text

JOURNAL = "journal.jsonl"
ARTIFACTS = "artifacts"
DAMAGED = "journal.damaged"  # one that does not begin as a journal does, kept to be looked at

LONGEST_PART = 255  # bytes of one name in a path, as file systems take them


def artifact_path(path: str) -> str:
    """The path of an artifact, as MLflow writes it.

    Raises:
        ValueError: it leaves the run's artifacts, or no file can have it.
    """
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or not parts or "\0" in path:
        raise ValueError(f"{quoted(path)}: an artifact's path is relative and stays inside the run")
    if max(len(part.encode("utf-8", "replace")) for part in parts) > LONGEST_PART:
        raise ValueError(f"{quoted(path)}: has a name above {LONGEST_PART} bytes")
    return "/".join(parts)


LATEST = 250_000_000_000_000  # milliseconds: the year 9892, for dates end soon after
Milliseconds = Annotated[int, Field(ge=0, le=LATEST)]
Number = Annotated[int, Field(ge=0, lt=1 << 63)]
Status = Literal["FINISHED", "FAILED", "KILLED"]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
RegisteredName = Annotated[str, StringConstraints(pattern=r"""^[^/:.%"']+$""")]


class Header(TypedDict, total=False):
    """A journal's first event."""

    run: Required[Name]
    stage: Required[Name]
    experiment: Required[str]
    name: Required[str]
    parent: Name | None
    state: Name | None


class Input(TypedDict):
    name: str
    source: str
    digest: str
    context: str
    profile: dict[str, Any]


class Artifact(TypedDict, total=False):
    path: Required[Annotated[str, AfterValidator(artifact_path)]]
    sha256: Required[Sha256]
    bytes: Required[Number]
    reference: str
    md5: Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
    stays: bool


class Model(TypedDict):
    name: RegisteredName
    code: Artifact
    weights: Artifact
    files: list[Artifact]
    defaults: dict[str, int | float]
    metrics: dict[str, float]
    measured_on: str
    requirements: list[str]


class LossesOn(TypedDict):
    """Metrics of a model on a data set, known by the name and digest of an input of the run."""

    name: str
    digest: str
    metrics: dict[str, float]


class ExternalModel(TypedDict):
    name: RegisteredName
    params: dict[str, str]


class Measured(TypedDict, total=False):
    weights: Required[Sha256]
    losses: Required[list[LossesOn]]
    external: ExternalModel


class Event(TypedDict, total=False):
    """A line of a journal; `why` is added where it could not be sent."""

    t: Required[Milliseconds]
    create: Header
    resume: dict[str, Any]
    s: Number
    m: dict[str, float]
    params: dict[str, Annotated[str, AfterValidator(param_text)]]
    tags: dict[str, Annotated[str, AfterValidator(tag_text)] | None]
    input: Input
    artifact: Artifact
    model: Model
    measured: Measured
    end: Status
    why: NotRequired[str]


_validated = TypeAdapter(Event).validator.validate_json


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
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            self._file = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}") from None
        os.ftruncate(self._file, _whole_lines(self._file))

    def append(self, event: Mapping[str, Any]) -> None:
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


def parse(line: bytes) -> Event | None:
    """One event; None for a line that is none: garbled by a failing disk, or of another shape."""
    try:
        event: Event = _validated(line)
    except ValueError:
        return None
    return event if "m" not in event or "s" in event else None


def read_events(path: Path, passed_over: list[int] | None = None) -> Iterator[Event]:
    """The whole lines of a journal, in order.

    Args:
        passed_over: gets the number of each line that is no event.
    """
    with open_regular(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return  # being written, or torn
            if (event := parse(line)) is not None:
                yield event
            elif passed_over is not None:
                passed_over.append(number)


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
        passed_over: the numbers of lines that are no events.
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
    inputs: list[Input] = field(default_factory=list)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    models: list[Model] = field(default_factory=list)
    metrics: dict[str, Point] = field(default_factory=dict)
    passed_over: list[int] = field(default_factory=list)

    def update(self, event: Event) -> None:
        """Take one more event into account."""
        for key, value in event.get("m", {}).items():
            self._add_point(key, Point(event["s"], event["t"], value))
        self.params.update(event.get("params", {}))
        for name, text in event.get("tags", {}).items():
            if text is None:
                self.tags.pop(name, None)
            else:
                self.tags[name] = text
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
        for name, value in model_metrics(event).items():
            self._add_point(name, Point(0, event["t"], value))


def model_metrics(event: Event) -> dict[str, float]:
    """The metrics, at step 0, of an event that is about a model."""
    found: dict[str, Any] = {}
    if "model" in event:
        found = {f"model/{name}": value for name, value in event["model"]["metrics"].items()}
    for losses in event.get("measured", {}).get("losses", ()):
        found |= losses["metrics"]
    return {name: float(value) for name, value in found.items()}


def run_folders(place: Path, pattern: str = "*") -> list[Path]:
    """The folders in `place` that hold a journal; links, which lead elsewhere, are left alone."""
    found = [path for path in place.glob(f"{pattern}/{JOURNAL}") if path.is_file()]
    links = (path for path in found if path.is_symlink() or path.parent.is_symlink())
    return sorted(path.parent for path in set(found).difference(links))


def read_header(folder: Path) -> Header | None:
    """How the journal in this folder begins; None where `read_run` gives no run, or raises."""
    try:
        first = next(read_events(folder / JOURNAL), None)
    except OSError:
        return None
    return first.get("create") if first is not None else None


def read_last(folder: Path) -> Event | None:
    """The last whole line of the journal in this folder."""
    with open_regular(folder / JOURNAL) as file:
        end = _whole_lines(file.fileno())
        start = _whole_lines(file.fileno(), end - 1) if end else 0
        file.seek(start)
        return parse(file.read(end - start))


def read_run(folder: Path) -> RunState | None:
    """The run of the journal in this folder; None where there is none, or not one whole line.

    Raises:
        UserError: it cannot be read, or does not begin as a journal does.
    """
    path, passed_over = folder / JOURNAL, list[int]()
    try:
        events = read_events(path, passed_over)
        first = next(events, None)
        if first is None and not passed_over:
            return None
        if first is None or "create" not in first:
            raise UserError(f"{path}: does not begin with a line that names its run and stage")
        header = first["create"]
        run = RunState(
            key=header["run"],
            stage=header["stage"],
            experiment=header["experiment"],
            name=header["name"],
            parent=header.get("parent"),
            state_folder=header.get("state"),
            started=first["t"],
            passed_over=passed_over,
        )
        for event in events:
            run.update(event)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return run


def points_of(path: Path) -> dict[str, set[int]]:
    """The steps at which each metric has been journalled."""
    points: dict[str, set[int]] = {}
    for event in read_events(path):
        for key in event.get("m", ()):
            points.setdefault(key, set()).add(event["s"])
    return points
