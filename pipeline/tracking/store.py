"""MLflow's store: found, created, upgraded, connected to. The one door to the `mlflow` package.

`MLFLOW_TRACKING_URI` names a server or a database; without it the store is `mlflow.db` in the
main repository (SQLite, write-ahead log), artifacts beside it in `mlartifacts/`.

Sharp edges that this module blunts, all of MLflow 3.17:
- Processes that meet on a fresh database migrate it at once and break it: ours is built aside,
  under a lock, and renamed into place.
- An experiment that `mlflow server` creates keeps its artifacts behind that server, where a
  direct client cannot write: experiments are created here, with an explicit artifact location.
- A newer MLflow upgrades a database unasked, an older one then refuses it: a copy is kept.
- A dead server blocks each call for four minutes: one retry, 30 seconds.

Importing `mlflow` takes one to two seconds, so it happens in `connect`, which a run's courier
calls.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock

from pipeline.errors import UserError
from pipeline.system.files import written_aside
from pipeline.tracking import home

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_KEY = "lossbook.run"  # the tag by which a run is found again, whatever id a store gave it
PARENT = "mlflow.parentRunId"  # MLflow's tag

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # above the slowest answer that still counts as one
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # the terminal is the stage's
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class Store:
    """A store that answers.

    Attributes:
        name: the store in words and in cursors, without a password.
        client: MLflow's, bound to the store.
    """

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self.uri = uri
        self.name = name_of(uri)
        registry = os.environ.get("MLFLOW_REGISTRY_URI") or uri
        self.client: MlflowClient = MlflowClient(tracking_uri=uri, registry_uri=registry)
        self._experiments: dict[str, str] = {}

    def experiment_id(self, name: str) -> str:
        """The experiment's id; the experiment is created where there is none."""
        if name not in self._experiments:
            self._experiments[name] = self._open_experiment(name)
        return self._experiments[name]

    def forget(self) -> None:
        """Look experiments up anew: another store may stand in this one's place."""
        self._experiments.clear()

    def _open_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = None  # a server's own
            if not is_server(self.uri):
                artifact_root().mkdir(parents=True, exist_ok=True)
                location = artifact_root().as_uri()
            try:
                return self.client.create_experiment(
                    name,
                    artifact_location=location,
                    # the UI shows an experiment of models, not of language-model applications
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)  # another process was quicker
                assert found is not None, "an experiment that exists is found"
        _check_place(found.artifact_location)
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def find_run(self, key: str, experiment: str | None = None) -> Run | None:
        """The run with this key, deleted ones included; in any experiment unless one is named."""
        from mlflow.entities import ViewType

        ids = self._experiments_to_search(experiment)
        if not ids:
            return None
        runs = self.client.search_runs(
            ids, f"tags.`{RUN_KEY}` = '{key}'", run_view_type=ViewType.ALL, max_results=1
        )
        return runs[0] if runs else None

    def _experiments_to_search(self, name: str | None) -> list[str]:
        """Deleted ones too, and none is made or restored: looking changes nothing."""
        from mlflow.entities import ViewType

        if name is None:
            return [e.experiment_id for e in self.client.search_experiments(ViewType.ALL)]
        if name in self._experiments:
            return [self._experiments[name]]
        found = self.client.get_experiment_by_name(name)
        return [found.experiment_id] if found is not None else []


def _check_place(location: str) -> None:
    """MLflow would make a folder that has moved anew, in the old place."""
    place = local_folder(location)
    if place is None or is_server(tracking_uri()):
        return
    if place != artifact_root() and not place.exists():
        raise UserError(f"artifacts used to lie in {place}, which is gone: `lossbook relocate`")


def connect() -> Store:
    """Open the store, created or upgraded first where it is a database of this machine.

    Raises:
        UserError: the database was written by a newer MLflow.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for chatty in ("alembic", "mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)  # what fails is tried again, and told
    uri = tracking_uri()
    if (path := sqlite_path(uri)) is not None:
        _prepare_sqlite(path)
    return Store(uri)


def error_code(error: Exception) -> str:
    """MLflow's name for what went wrong; empty for errors that are not MLflow's."""
    return str(getattr(error, "error_code", ""))


def one_line(error: Exception) -> str:
    """What went wrong, short enough for a line of a terminal."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, else the main repository's database; SQLite paths made absolute."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    path = sqlite_path(given or "sqlite:///mlflow.db")
    return given if path is None else f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """The database file of an SQLite URI; a relative one is the main repository's."""
    if not uri.startswith("sqlite:///"):
        return None
    return home.root() / uri.removeprefix("sqlite:///").partition("?")[0]


def is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def local_folder(location: str) -> Path | None:
    """The folder that a `file://` location names; None for a server's or a bucket's."""
    parts = urlsplit(location)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def artifact_root() -> Path:
    """Where runs of a database of this machine keep their artifacts."""
    return home.root() / "mlartifacts"


def name_of(uri: str) -> str:
    """The store's name: its address without user and password, short for the default store."""
    path = sqlite_path(uri)
    if path == home.root() / "mlflow.db":
        return "mlflow.db"  # stays true when the repository moves
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _prepare_sqlite(path: Path) -> None:
    lock = home.root() / ".lossbook" / f"{path.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if not path.exists():
            _create_sqlite(path)
        elif (revision := _revision_of(path)) != (known := _revisions())[0]:
            _upgrade_sqlite(path, revision, known)


def _create_sqlite(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for suffix in ("-wal", "-shm"):  # of a database that was removed: it would spoil this one
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with written_aside(path) as aside:
        uri = f"sqlite:///{aside}"
        SqlAlchemyStore(uri, artifact_root().as_uri()).engine.dispose()  # type: ignore[no-untyped-call]
        with closing(sqlite3.connect(aside)) as database:
            database.execute("pragma journal_mode=wal")  # stays with the file


def _revision_of(path: Path) -> str:
    """The schema's revision that the database says it has; empty where it says none."""
    with closing(sqlite3.connect(path)) as database:
        try:
            row = database.execute("select version_num from alembic_version").fetchone()
        except sqlite3.OperationalError:
            return ""
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{path}: not an SQLite database ({error}); move it away and run `lossbook sync`"
            ) from None
    return str(row[0]) if row else ""


def _revisions() -> list[str]:
    """The schema revisions that the installed MLflow knows, newest first."""
    import mlflow.store
    from alembic.script import ScriptDirectory

    folder = Path(next(iter(mlflow.store.__path__))) / "db_migrations"
    return [script.revision for script in ScriptDirectory(str(folder)).walk_revisions()]


def _upgrade_sqlite(path: Path, revision: str, known: list[str]) -> None:
    if revision and revision not in known:
        raise UserError(
            f"{path} was written by a newer MLflow: install that one, or go back to a copy "
            f"({path.name}.*.bak), or move it away and run `lossbook sync`"
        )
    back_up(path, revision or "unversioned")
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise UserError(f"{path}: MLflow could not upgrade it ({reason}); a copy is beside it")


def back_up(path: Path, label: str) -> Path:
    """Copy a database that may be in use to `NAME.LABEL.bak` beside it."""
    copy = path.with_name(f"{path.name}.{label}.bak")
    with (
        written_aside(copy) as aside,
        closing(sqlite3.connect(path)) as source,
        closing(sqlite3.connect(aside)) as target,
    ):
        source.backup(target)
    return copy
