"""A store that does not answer, whatever kind it is: a line that names it, soon."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.tracking.mlflow.store import connect
from tests.helpers.servers import HOST, free_port

SOON = 60.0  # seconds: 15 for the store, the rest for a busy machine that imports MLflow
PROJECT = Path(__file__).parents[2]


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where connections are taken, and nothing is ever said."""
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        listening.listen(16)
        yield listening.getsockname()[1]


def refused(uri: str, *commands: str) -> list[str]:
    """What the commands print as errors, run at once; each must end soon, with status 1."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(PROJECT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", command],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    start = time.monotonic()
    errors = [process.communicate(timeout=2 * SOON)[1] for process in started]
    assert time.monotonic() - start < SOON
    assert [process.returncode for process in started] == [1] * len(started), errors
    assert [error.count("\n") for error in errors] == [1] * len(started), errors
    return errors


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql+psycopg", "http"])
def test_who_never_answers_is_named_soon(bare_repo: Path, silent: int, kind: str) -> None:
    address = f"{kind}://{HOST}:{silent}"
    asked = f"{kind}://me:secret@{HOST}:{silent}"
    for error in refused(asked, "sync", "sweep", "reap"):
        assert error.startswith(f"Error: {address}: ")
        assert "secret" not in error


def test_where_nobody_listens_the_reason_is_said(bare_repo: Path) -> None:
    (error,) = refused(f"postgresql+psycopg://me:secret@{HOST}:{free_port()}/db", "sync")
    assert "refused" in error
    assert "secret" not in error


@pytest.mark.slow
def test_what_is_no_address_is_refused(bare_repo: Path) -> None:
    for uri in ("http://[bad", "gopher://x", "postgresql://h:port/db"):
        (error,) = refused(uri, "sync")
        assert error.startswith("Error: ")


def test_a_database_that_another_process_holds_is_named(repo: Path) -> None:
    with closing(sqlite3.connect(repo / "mlflow.db", isolation_level=None)) as database:
        database.execute("pragma locking_mode=exclusive")
        database.execute("begin exclusive")
        before = sorted(path.name for path in repo.iterdir())
        (error,) = refused("", "reap")
        assert "mlflow.db: database is locked" in error
        assert sorted(path.name for path in repo.iterdir() if path.name != ".lossbook") == [
            name for name in before if name != ".lossbook"
        ]


def test_a_copied_repository_does_not_write_into_the_first(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect()
    with closing(sqlite3.connect(repo / "mlflow.db")) as database, database:
        location = (repo / "mlartifacts").as_uri()
        database.execute("update experiments set artifact_location = ?", (location,))
    (repo / "mlartifacts").mkdir(exist_ok=True)
    copy = tmp_path / "copy"
    shutil.copytree(repo, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(copy))
    with pytest.raises(UserError, match=r"mlflow.db comes from another place: remove"):
        connect()
    monkeypatch.chdir(repo)
    monkeypatch.setenv("DVC_ROOT", str(repo))
    connect()
