"""Artifact links after the repository has moved.

MLflow writes absolute places into its database, for experiments, runs and models alike, so a
moved repository's runs point at where it was. `relocate` rewrites them, in one transaction, with
a copy of the database made before.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from pipeline.errors import UserError
from pipeline.tracking.store import artifact_root, back_up

PLACES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


def former_roots(database: Path) -> list[str]:
    """Where the database's own artifacts used to lie, as `file://` URIs; not where they do."""
    today = artifact_root().as_uri()
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("select distinct artifact_location from experiments").fetchall()
    name = f"/{artifact_root().name}"
    return sorted(
        uri for (uri,) in rows if uri.startswith("file://") and uri.endswith(name) and uri != today
    )


def relocate(database: Path) -> tuple[int, Path | None]:
    """Point everything that lay in a former place at today's.

    Returns:
        How many places were rewritten, and the copy of the database from before.

    Raises:
        UserError: there is no database.
    """
    if not database.is_file():
        raise UserError(f"{database}: no such store; `lossbook sync` makes one from the journals")
    former = former_roots(database)
    if not former:
        return 0, None
    copy = back_up(database, "before-relocate")
    today = artifact_root().as_uri()
    with closing(sqlite3.connect(database)) as connection, connection:
        changed = sum(_rewrite(connection, root, today) for root in former)
    return changed, copy


def _rewrite(connection: sqlite3.Connection, root: str, today: str) -> int:
    changed = 0
    for table, columns in PLACES.items():
        for column in columns:
            done = connection.execute(
                f"update {table} set {column} = ? || substr({column}, ?)"
                f" where {column} = ? or substr({column}, 1, ?) = ?",
                (today, len(root) + 1, root, len(root) + 1, f"{root}/"),
            )
            changed += done.rowcount
    return changed
