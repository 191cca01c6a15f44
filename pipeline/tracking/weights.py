"""The weights that a training's run left, found by the run.

The journal knows the files by their hashes, and DVC's cache holds them, whatever has become of
`models/scratch` since.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError
from pipeline.system.files import folder_aside
from pipeline.tracking import book, home
from pipeline.tracking.artifacts import locate
from pipeline.tracking.cursor import read_cursors

SHORTEST = 6  # characters of a run's id that may stand for it


def runs_named(name: str) -> list[book.Entry]:
    """The runs whose key or MLflow id is `name`, or begins with its six characters or more."""
    found = []
    for entry in book.entries():
        ids = [entry.story.run]
        ids += [c.run_id for c in read_cursors(entry.folder).values() if c.run_id is not None]
        if any(i == name or (len(name) >= SHORTEST and i.startswith(name)) for i in ids):
            found.append(entry)
    return found


def file_of_run(entry: book.Entry, name: str) -> Path:
    """One of the files that a training logged under `model/`, in the workspace or DVC's cache.

    Raises:
        UserError: it is in neither.
    """
    artifact = entry.story.artifacts.get(f"model/{name}")
    source = locate(entry.folder, artifact) if artifact else None
    if source is None:
        raise UserError(
            f"run {entry.story.run} ({entry.story.name}): its {name} is neither here nor in DVC's "
            "cache; `dvc pull` may bring it"
        )
    return source.resolve()


def folder_of_run(name: str, files: Sequence[str], optional: Sequence[str], others: str) -> Path:
    """A folder of links to files that a training's run logged under `model/`.

    Args:
        name: as `runs_named` takes it.
        files: their names; `optional` ones are left out where the run did not note them.
        others: what may be named besides a run, for the error.

    Raises:
        UserError: this repository knows no such run, or its files are gone.
    """
    found = runs_named(name)
    if not found:
        raise UserError(f"{name}: no such model; give {others}")
    if len(found) > 1:
        raise UserError(f"{name}: begins the names of {len(found)} runs; give more of it")
    (entry,) = found
    noted = [file for file in optional if f"model/{file}" in entry.story.artifacts]
    folder = home.root() / ".lossbook" / "starts" / entry.story.run
    with folder_aside(folder) as aside:
        for file in (*files, *noted):
            (aside / file).symlink_to(file_of_run(entry, file))
    return folder
