"""The tree of runs, told from their journals: no store is needed, and none is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.system.files import read_json
from pipeline.tracking import book
from pipeline.tracking.cursor import read_cursors
from pipeline.tracking.facts import WORKSPACE
from pipeline.tracking.journal import JOURNAL, Story, read_header

HEADLINES = ("best/val_loss", "last/val_loss", "last/train_loss")  # unless others are asked for
FRESH = 120.0  # seconds within which a run that has ended writes its files


@dataclass(frozen=True)
class Row:
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

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def rows(workspace: Path) -> list[Row]:
    """All runs, newest first, children under their parent, oldest first."""
    entries = {entry.story.run: entry for entry in book.entries()}
    stories = [entry.story for entry in entries.values()]
    current = _current(workspace, stories)
    listed: list[Row] = []

    def descend(story: Story, depth: int, parent: str = "") -> None:
        cursors = read_cursors(entries[story.run].folder)
        run_ids = {name: c.run_id for name, c in cursors.items() if c.run_id is not None}
        name = story.name.removesuffix(f" of {parent}")  # under which it stands
        listed.append(_row(story, name, depth, current.get(story.run, ""), run_ids))
        for child in stories:
            if child.parent == story.run:
                descend(child, depth + 1, story.name)

    for story in reversed(stories):
        if story.parent not in entries:
            descend(story, 0)
    return listed


def _row(story: Story, name: str, depth: int, reports: str, run_ids: dict[str, str]) -> Row:
    seconds = None if story.ended is None else (story.ended - story.started) / 1000
    return Row(
        key=story.run,
        name=name,
        stage=story.tags.get("dvc.stage", story.stage),
        experiment=story.experiment,
        status=story.status,
        depth=depth,
        started=datetime.fromtimestamp(story.started / 1000).isoformat(" ", "seconds"),
        seconds=seconds,
        reports=reports,
        metrics={
            name: point.value
            for name, point in sorted(story.metrics.items())
            if not name.startswith("system/")
        },
        run_ids=run_ids,
    )


def _current(workspace: Path, stories: list[Story]) -> dict[str, str]:
    """For each run whose record or journal is among the outputs: did it run here, or not?"""
    known = {story.run: story for story in stories}
    current = {}
    for key, path in _named_by_outputs(workspace):
        if (story := known.get(key)) is not None:
            current[key] = "ran" if _is_latest(story, path, stories) else "restored"
    return current


def _named_by_outputs(workspace: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(workspace.glob("reports/**/*_run.json")):
        with suppress(UserError):
            content = read_json(path)
            if isinstance(content, dict):
                yield str(content.get("run")), path
    for path in sorted(workspace.glob(f"journals/**/{JOURNAL}")):
        yield (read_header(path.parent) or {}).get("run", ""), path


def _is_latest(story: Story, path: Path, stories: list[Story]) -> bool:
    """An output whose stage has run here since, or that was written long after its own run had
    ended, is one that Git or DVC put back."""
    place = _place(story)
    newer = any(s.started > story.started and _place(s) == place for s in stories)
    late = story.ended is None or path.stat().st_mtime - story.ended / 1000 > FRESH
    return not newer and not late


def _place(story: Story) -> tuple[str, str | None]:
    return story.tags.get("dvc.stage", story.stage), story.tags.get(WORKSPACE)
