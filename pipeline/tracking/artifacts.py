"""A run's files: copied into the journal, or, where they are large, known by their hashes.

A file that DVC keeps anyway (a model of a gigabyte) is referenced: its path in the repository,
its SHA-256, and its MD5, by which DVC's cache can give it back when the path holds another. So the
weights of every training can be found by its run, whatever has become of `models/scratch` since.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pipeline.errors import UserError
from pipeline.system.files import digest_of, folder_aside, sha256_of, written_aside
from pipeline.tracking import paths
from pipeline.tracking.cursor import run_ids
from pipeline.tracking.journal import ARTIFACTS, Artifact
from pipeline.tracking.journals import Entry, entries

SHORTEST = 6  # characters of a run's id that may stand for it


def keep_copy(journal: Path, source: Path, path: str) -> Artifact:
    """Copy a file into the journal.

    Raises:
        UserError: it cannot be read.
    """
    try:
        data = source.read_bytes()
    except OSError as error:
        raise UserError(f"{source}: {error.strerror}") from None
    return keep_bytes(journal, data, path)


def keep_bytes(journal: Path, data: bytes, path: str) -> Artifact:
    with written_aside(journal / ARTIFACTS / path) as aside:
        aside.write_bytes(data)
    return {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def reference(source: Path, path: str) -> Artifact:
    """Name a file that stays where it is.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with ThreadPoolExecutor() as threads:
            sha256, md5 = threads.map(partial(digest_of, source), ("sha256", "md5"))
        size = source.stat().st_size
    except OSError as error:
        raise UserError(f"{source}: {error.strerror}") from None
    return {
        "path": path,
        "sha256": sha256,
        "bytes": size,
        "reference": Path(os.path.relpath(source)).as_posix(),
        "md5": md5,
    }


def locate(journal: Path, artifact: Artifact) -> Path | None:
    """The file with exactly these bytes: in the journal, the workspace, or DVC's cache.

    A reference may lead anywhere: who knows a file's SHA-256 learns nothing from it.
    """
    if "reference" not in artifact:
        path = journal / ARTIFACTS / artifact["path"]
        inside = path.resolve().is_relative_to(journal.resolve())
        return path if inside and path.is_file() else None
    places = [Path(artifact["reference"]), paths.root() / artifact["reference"]]
    if "md5" in artifact:
        places.append(paths.dvc_cached(artifact["md5"]))
    return next((path for path in places if _holds(path, artifact)), None)


def _holds(path: Path, artifact: Artifact) -> bool:
    try:
        return (
            path.is_file()
            and path.stat().st_size == artifact["bytes"]  # spares hashing a gigabyte that differs
            and sha256_of(path) == artifact["sha256"]
        )
    except OSError:
        return False


def runs_named(name: str) -> list[Entry]:
    """The runs whose key or MLflow id is `name`, or begins with its six characters or more."""
    return [
        entry
        for entry in entries()
        if any(
            i == name or (len(name) >= SHORTEST and i.startswith(name))
            for i in (entry.run.key, *run_ids(entry.folder).values())
        )
    ]


def file_of_run(entry: Entry, name: str) -> Path:
    """One of the files that a training logged under `model/`, in the workspace or DVC's cache.

    Raises:
        UserError: it is in neither.
    """
    artifact = entry.run.artifacts.get(f"model/{name}")
    source = locate(entry.folder, artifact) if artifact else None
    if source is None:
        raise UserError(
            f"run {entry.run.key} ({entry.run.name}): its {name} is neither here nor in DVC's "
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
    noted = [file for file in optional if f"model/{file}" in entry.run.artifacts]
    folder = paths.root() / ".lossbook" / "starts" / Path(files[-1]).stem / entry.run.key
    with folder_aside(folder) as aside:
        for file in (*files, *noted):
            (aside / file).symlink_to(file_of_run(entry, file))
    return folder
