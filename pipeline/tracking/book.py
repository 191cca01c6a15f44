"""The journals of this repository: those at work, those of ended runs, those that DVC brought."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.tracking import home
from pipeline.tracking.archive import EXITED, hand_over, prune
from pipeline.tracking.journal import JOURNAL, Story, read_header, read_story


@dataclass(frozen=True)
class Entry:
    """A journal's folder and what it tells."""

    folder: Path
    story: Story


def entries() -> list[Entry]:
    """All journals of this repository, oldest run first; parents come before their children."""
    told = [Entry(folder, story) for folder in folders() if (story := read_story(folder))]
    return sorted(told, key=lambda entry: (entry.story.started, entry.story.parent is not None))


def folders() -> Iterator[Path]:
    """Every folder of this repository that holds a journal."""
    for place in (home.journals(), home.states()):
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
            folder = home.journals() / f"{header['stage']}-{header['run']}"
            hand_over(path.parent, folder)
            (folder / EXITED).touch()
            adopted.append(folder)
    return adopted


def tidy() -> None:
    """Finish what a kill interrupted between a run's end and its archive."""
    for path in home.journals().glob(f"*/{JOURNAL}"):
        prune(path.parent)
