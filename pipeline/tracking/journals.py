"""The journals of this repository: those at work, those of ended runs, those that DVC brought.

`lossbook runs` lists them as a tree: no store is needed, and none is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from pipeline.errors import UserError
from pipeline.reports import TrainRun
from pipeline.tracking import paths
from pipeline.tracking.cursor import run_ids
from pipeline.tracking.journal import JOURNAL, RunState, read_header, read_run
from pipeline.tracking.lifecycle import EXITED, hand_over, prune
from pipeline.tracking.tags import WORKSPACE, git, hidden_tag

HEADLINES = ("best/val_loss", "last/val_loss", "last/train_loss")  # unless others are asked for
FRESH = 120.0  # seconds within which a run that has ended writes its files
RECORD = "reports/train_run.json"


@dataclass(frozen=True)
class Entry:
    """A journal's folder and its run."""

    folder: Path
    run: RunState


def entries() -> list[Entry]:
    """All journals of this repository, oldest run first; parents come before their children."""
    found = [Entry(folder, run) for folder in folders() if (run := read_run(folder))]
    return sorted(found, key=lambda entry: (entry.run.started, entry.run.parent is not None))


def folders() -> Iterator[Path]:
    """Every folder of this repository that holds a journal."""
    for place in (paths.journals(), paths.states()):
        yield from sorted(path.parent for path in place.glob(f"*/{JOURNAL}"))


def find(key: str) -> Path | None:
    """The folder of the run with this key."""
    for folder in folders():
        if (read_header(folder) or {}).get("run") == key:
            return folder
    return None


def adopt(brought: Path) -> list[Path]:
    """Take in journals that Git or DVC brought, of runs that this repository does not know."""
    adopted = []
    for path in sorted(brought.glob(f"**/{JOURNAL}")):
        header = read_header(path.parent)
        if header is not None and find(header["run"]) is None:
            folder = paths.journals() / f"{header['stage']}-{header['run']}"
            hand_over(path.parent, folder)
            (folder / EXITED).touch()
            adopted.append(folder)
    return adopted


def tidy() -> None:
    """Finish what a kill interrupted between a run's end and its archive."""
    for path in paths.journals().glob(f"*/{JOURNAL}"):
        prune(path.parent)


def runs_of_experiments(baseline: str) -> dict[str, str]:
    """For each DVC experiment that began at this commit, by name: the key of its training run.

    MLflow cannot know of an experiment that DVC restored from its run cache: no process ran. But
    DVC keeps every experiment as a commit (`refs/exps/XX/BASELINE/NAME`), and with it the record
    that names the run.

    Empty where there is no Git, or the experiments are on another machine.
    """
    if len(baseline) < 3:
        return {}
    root, begun_there = paths.root(), f"refs/exps/{baseline[:2]}/{baseline[2:]}"
    refs = git("for-each-ref", "--format=%(refname)", begun_there, cwd=root)
    found = {}
    for ref in refs.splitlines():
        with suppress(ValidationError):
            record = TrainRun.model_validate_json(git("show", f"{ref}:{RECORD}", cwd=root))
            if record.run:
                found[ref.rpartition("/")[2]] = record.run
    return found


@dataclass(frozen=True)
class ListedRun:
    """A run as `lossbook runs` shows it.

    Attributes:
        depth: 0 for a run without a parent here.
        reports: "ran" where the stage's current outputs are this run's and it wrote them here,
            "restored" where Git or DVC brought them back; empty where they are another's.
        run_ids: MLflow's id in each store that has the run.
    """

    key: str
    name: str
    stage: str
    experiment: str
    status: str
    depth: int
    started: str
    seconds: float | None
    reports: str
    metrics: dict[str, float] = field(default_factory=dict)
    run_ids: dict[str, str] = field(default_factory=dict)


def rows(workspace: Path) -> list[ListedRun]:
    """All runs, newest first, children under their parent, oldest first."""
    listed = entries()
    runs = {entry.run.key: entry.run for entry in listed}
    current = _current(workspace, runs)
    found: list[ListedRun] = []

    def descend(entry: Entry, depth: int, parent: str = "") -> None:
        name = entry.run.name.removesuffix(f" of {parent}")  # under which it stands
        found.append(_row(entry, name, depth, current.get(entry.run.key, "")))
        for child in listed:
            if child.run.parent == entry.run.key:
                descend(child, depth + 1, entry.run.name)

    for entry in reversed(listed):
        if entry.run.parent not in runs:
            descend(entry, 0)
    return found


def _row(entry: Entry, name: str, depth: int, reports: str) -> ListedRun:
    run = entry.run
    return ListedRun(
        key=run.key,
        name=name,
        stage=_stage(run),
        experiment=run.experiment,
        status=run.status,
        depth=depth,
        started=datetime.fromtimestamp(run.started / 1000).isoformat(" ", "seconds"),
        seconds=None if run.ended is None else (run.ended - run.started) / 1000,
        reports=reports,
        metrics={
            name: point.value
            for name, point in sorted(run.metrics.items())
            if not name.startswith("system/")
        },
        run_ids=run_ids(entry.folder),
    )


def _current(workspace: Path, runs: dict[str, RunState]) -> dict[str, str]:
    """For each run whose record or journal is among the outputs: did it run here, or not?"""
    current = {}
    for key, path in _named_by_outputs(workspace):
        if (run := runs.get(key)) is not None:
            current[key] = "ran" if _is_latest(run, path, runs) else "restored"
    return current


def _named_by_outputs(workspace: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(workspace.glob("reports/**/*_run.json")):
        with suppress(UserError):
            yield TrainRun.read(path).run, path
    for path in sorted(workspace.glob(f"journals/**/{JOURNAL}")):
        yield (read_header(path.parent) or {}).get("run", ""), path


def _is_latest(run: RunState, path: Path, runs: dict[str, RunState]) -> bool:
    """An output whose stage has run here since, or that was written long after its own run had
    ended, is one that Git or DVC put back."""
    place = _place(run)
    newer = any(one.started > run.started and _place(one) == place for one in runs.values())
    late = run.ended is None or path.stat().st_mtime - run.ended / 1000 > FRESH
    return not newer and not late


def _place(run: RunState) -> tuple[str, str | None]:
    return _stage(run), hidden_tag(run.tags, WORKSPACE)


def _stage(run: RunState) -> str:
    """DVC's name of the stage, which is more exact where there is a matrix."""
    return run.tags.get("dvc.stage", run.stage)
