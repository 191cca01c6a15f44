"""How far each store has taken a journal: `shipped.json`, beside the journal.

A cursor may lag behind its store, for everything may be sent again without harm; it never runs
ahead, for it is written after the store has answered.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.tracking.journal import Event

CURSOR = "shipped.json"


@dataclass
class Cursor:
    """How far one store has taken one journal."""

    run_id: str | None = None
    offset: int = 0
    linked: bool = False  # the store's run knows its parent's
    introduced: bool = False  # the descriptions of both link to each other
    missing: list[Event] = field(default_factory=list)  # files not sent, and `why`
    refused: dict[str, str] = field(default_factory=dict)  # what the store never takes, and why

    def remarks(self) -> list[str]:
        """What the store lacks, and why, in lines."""
        files = [f"{_path_of(event)}: {event['why']}" for event in self.missing]
        return files + [f"{name}: {reason}" for name, reason in self.refused.items()]


def _path_of(event: Event) -> str:
    artifact = event["artifact"] if "artifact" in event else event["model"]["weights"]
    return str(artifact["path"])


def read_cursors(folder: Path) -> dict[str, Cursor]:
    """An unreadable file is no cursor: everything is sent again."""
    try:
        entries = json.loads((folder / CURSOR).read_text(encoding="utf-8"))
        return {name: Cursor(**entry) for name, entry in entries.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def write_cursor(folder: Path, store: str, cursor: Cursor) -> None:
    """Replace one store's cursor; not forced to the disk, for a lost one costs nothing but time."""
    cursors = {**read_cursors(folder), store: cursor}
    entries = {name: asdict(entry) for name, entry in cursors.items()}
    aside = folder / f".{CURSOR}.part"
    aside.write_text(json.dumps(entries, indent=2), encoding="utf-8")
    os.replace(aside, folder / CURSOR)
