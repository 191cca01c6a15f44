"""The journals of this repository: those at work, those of ended runs, those that DVC brought.

`lossbook runs` lists them as a tree: no store is needed, and none is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pipeline.errors import UserError
from pipeline.reports import TrainRun
from pipeline.tracking import paths
from pipeline.tracking.cursor import run_ids
from pipeline.tracking.journal import JOURNAL, RunState, read_header, read_run, run_folders
from pipeline.tracking.lifecycle import hand_over, mark_exited, prune
from pipeline.tracking.tags import WORKSPACE, git, hidden_tag

Notify = Callable[[str], object]  # gets a line on each journal, or part of one, that is left out

HEADLINES = ("best/val_loss", "last/val_loss", "last/train_loss")  # unless others are asked for
FRESH = 120.0  # seconds within which a run that has ended writes its files
RECORD = "reports/train_run.json"


@dataclass(frozen=True)
class Entry:
    """A journal's folder and its run."""

    folder: Path
    run: RunState


def entries(notify: Notify = lambda line: None) -> list[Entry]:
    """All journals of this repository, oldest run first; parents come before their children."""
    found = [Entry(folder, run) for folder in folders() if (run := readable(folder, notify))]
    return sorted(found, key=lambda entry: (entry.run.started, entry.run.parent is not None))


def readable(folder: Path, notify: Notify) -> RunState | None:
    """The run of the journal in this folder, without what is no event there; None where that is
    all of it."""
    try:
        run = read_run(folder)
    except UserError as error:
        notify(f"{error}; it is left out")
        return None
    if run is not None and run.passed_over:
        first, *more = run.passed_over
        lines = f"line {first}" + (f" and {len(more)} more" if more else "")
        notify(f"{folder / JOURNAL}: {lines} left out, for no run writes such")
    return run


def folders() -> Iterator[Path]:
    """Every folder of this repository that holds a journal."""
    for place in (paths.journals(), paths.states()):
        yield from run_folders(place)


def find(key: str) -> Path | None:
    """The folder of the run with this key."""
    for folder in folders():
        header = read_header(folder)
        if header is not None and header["run"] == key:
            return folder
    return None


def adopt(brought: Path, notify: Notify = lambda line: None) -> list[Path]:
    """Take in journals that Git or DVC brought, of runs that this repository does not know."""
    adopted = []
    for path in sorted(brought.glob(f"**/{JOURNAL}")):
        try:
            run = read_run(path.parent)
            if run is not None and find(run.key) is None:
                folder = paths.journals() / f"{run.stage}-{run.key}"
                hand_over(path.parent, folder)
                mark_exited(folder)
                adopted.append(folder)
        except UserError as error:
            notify(f"{error}; it is left out")
    return adopted


def tidy() -> None:
    """Finish what a kill interrupted between a run's end and its archive."""
    for folder in run_folders(paths.journals()):
        prune(folder)


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
        with suppress(UserError):
            record = TrainRun.parse(git("show", f"{ref}:{RECORD}", cwd=root), ref)
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


def rows(workspace: Path, notify: Notify = lambda line: None) -> list[ListedRun]:
    """All runs, newest first, children under their parent, oldest first."""
    listed = entries(notify)
    runs = {entry.run.key: entry.run for entry in listed}
    current = _current(workspace, runs)
    children: dict[str | None, list[Entry]] = {}
    for entry in listed:
        children.setdefault(entry.run.parent, []).append(entry)
    found: dict[Path, ListedRun] = {}
    # From the end; runs that call each other parents stand below no first one, and come last.
    roots = [entry for entry in listed if entry.run.parent not in runs]
    waiting = [(entry, 0, "") for entry in (*listed, *roots)]
    while waiting:
        entry, depth, parent = waiting.pop()
        if entry.folder not in found:
            name = entry.run.name.removesuffix(f" of {parent}")  # under which it stands
            found[entry.folder] = _row(entry, name, depth, current.get(entry.run.key, ""))
            below = children.get(entry.run.key, [])
            waiting += [(child, depth + 1, entry.run.name) for child in reversed(below)]
    return list(found.values())


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
        if (header := read_header(path.parent)) is not None:
            yield header["run"], path


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
