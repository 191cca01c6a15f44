"""MLflow's store: found, created, upgraded, connected to.

`MLFLOW_TRACKING_URI` names a server or a database; without it the store is `mlflow.db` in the
main repository (SQLite, write-ahead log), artifacts beside it in `mlartifacts/`.

Sharp edges that this module blunts, all of MLflow 3.17:
- Processes that meet on a fresh database migrate it at once and break it: ours is built aside,
  under a lock, and renamed into place.
- An experiment that `mlflow server` creates keeps its artifacts behind that server, where a
  direct client cannot write: experiments are created here, with an explicit artifact location.
- Artifact locations are absolute, so a repository that was moved or copied has a store that writes
  where it was: such a store is refused, and rebuilt from the journals.
- A newer MLflow upgrades a database unasked, an older one then refuses it: a copy is kept.
- A dead server blocks each call for four minutes: one retry, 30 seconds (`ENVIRONMENT`). One that
  is a database is asked ten times, with growing breaks: it is asked once here, before MLflow does.
"""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow.store
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError
from pipeline.system.files import written_aside
from pipeline.system.text import printable, quoted, shortened
from pipeline.tracking import journals, paths
from pipeline.tracking.tags import HOST, RUN_KEY, former_name, hidden_tag, is_dead

PATIENCE = 15.0  # seconds in which a store must answer a command
DEFAULT_EXPERIMENT = "0"  # MLflow's id for the one that each database is made with
AWAY = "TEMPORARILY_UNAVAILABLE"  # MLflow's word, for a database that is locked too


class Store:
    """A store that answers.

    Attributes:
        name: its address in words and in cursors, without a password.
        client: MLflow's, bound to the store.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.name = paths.store_name(uri)
        registry = os.environ.get("MLFLOW_REGISTRY_URI") or uri
        self.client = MlflowClient(tracking_uri=uri, registry_uri=registry)
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
        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = None  # a server's own
            if not paths.is_server(self.uri):
                paths.artifact_root().mkdir(parents=True, exist_ok=True)
                location = paths.artifact_root().as_uri()
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
        place = paths.local_folder(found.artifact_location)
        if place is not None and not paths.is_server(self.uri) and _is_gone(place):
            raise UserError(
                f"experiment {quoted(name)}: its artifacts lie in {place}, which is not here; "
                "`tracking.experiment` can name another"
            )
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def find_run(self, key: str, experiment: str | None = None) -> Run | None:
        """The run with this key, deleted ones included; in any experiment unless one is named."""
        ids = self._experiments_to_search(experiment)
        if not ids:
            return None
        for tag in (RUN_KEY, former_name(RUN_KEY)):
            runs = self.client.search_runs(
                ids, f"tags.`{tag}` = {literal(key)}", run_view_type=ViewType.ALL, max_results=1
            )
            if runs:
                return runs[0]
        return None

    def _experiments_to_search(self, name: str | None) -> list[str]:
        """Deleted ones too, and none is made or restored: looking changes nothing."""
        if name is None:
            return [e.experiment_id for e in self.client.search_experiments(ViewType.ALL)]
        if name in self._experiments:
            return [self._experiments[name]]
        found = self.client.get_experiment_by_name(name)
        return [found.experiment_id] if found is not None else []

    def reap(self, experiments: list[str]) -> list[str]:
        """End, as KILLED, the runs of this host that no process and no journal stands for.

        Returns:
            Their ids.
        """
        here = socket.gethostname()
        reaped = []
        for tag in (HOST, former_name(HOST)):
            running = f"attributes.status = 'RUNNING' and tags.`{tag}` = {literal(here)}"
            for run in self.client.search_runs(experiments, running):
                key = hidden_tag(run.data.tags, RUN_KEY) or ""
                if is_dead(run.data.tags) and journals.find(key) is None:
                    self.client.set_terminated(run.info.run_id, status="KILLED")
                    reaped.append(run.info.run_id)
        return reaped

    def refusal(self, error: Exception) -> str:
        """Why the store does not take one run, though it answers.

        Raises:
            Exception: the error itself, where the store would take no other run either.
        """
        if error_code(error) == AWAY:
            raise error
        try:
            self.client.search_experiments(max_results=1)
        except Exception:
            raise error from None
        return one_line(error)


def literal(text: str) -> str:
    """The text as MLflow's filters take it, which know two quotes and no escapes.

    Raises:
        ValueError: it holds both quotes.
    """
    quote = next((quote for quote in "'\"" if quote not in text), None)
    if quote is None:
        raise ValueError(f"{quoted(text)}: MLflow cannot search for a text with both quotes")
    return f"{quote}{text}{quote}"


def connect_soon() -> Store:
    """Open the store as `connect` does, for a command: somebody waits for it.

    Raises:
        UserError: it does not answer soon; and as `connect` does.
    """
    uri = paths.tracking_uri()
    if paths.sqlite_path(uri) is not None:
        return connect()
    stores: list[Store] = []
    errors: list[Exception] = []

    def ask() -> None:
        try:
            store = connect()
            store.client.search_experiments(max_results=1)
            stores.append(store)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)  # which the process's end leaves behind
    thread.start()
    thread.join(PATIENCE)
    if stores:
        return stores[0]
    if errors:
        raise errors[0]
    raise UserError(
        f"{paths.store_name(uri)}: no answer within {PATIENCE:.0f} seconds; try again later"
    )


def connect() -> Store:
    """Open the store, created or upgraded first where it is a database of this machine.

    Raises:
        UserError: the database is locked, was written by a newer MLflow, or its artifacts lay
            elsewhere.
        Exception: what MLflow or a driver raises where nobody answers.
    """
    for chatty in ("alembic", "mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)  # failures are tried again, reported
    uri = paths.tracking_uri()
    database = paths.sqlite_path(uri)
    if database is not None:
        _prepare_sqlite(database)
    elif "://" in uri and not paths.is_server(uri):
        _ask_once(uri)
    store = Store(uri)
    if database is not None:
        _refuse_moved(store, database)
    return store


@contextmanager
def failures_explained() -> Iterator[None]:
    """Turn what a store, a driver or a network raises into a `UserError` that names the store."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a file of ours
        name = paths.store_name(paths.tracking_uri())
        raise UserError(f"{name}: {one_line(error)}; try again later") from error


def error_code(error: Exception) -> str:
    """MLflow's name for what went wrong; empty for errors that are not MLflow's."""
    return str(getattr(error, "error_code", ""))


def one_line(error: Exception) -> str:
    """What went wrong, short enough for a line of a terminal."""
    text = printable(" ".join(str(error).split()), keep="")
    return shortened(text, 200) or type(error).__name__


def _ask_once(uri: str) -> None:
    """
    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database does not answer; says why.
    """
    from mlflow.store.db.utils import create_sqlalchemy_engine  # not for a server's client

    engine = create_sqlalchemy_engine(uri)  # type: ignore[no-untyped-call]
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _refuse_moved(store: Store, database: Path) -> None:
    """
    Raises:
        UserError: the database was made where this repository was before, or is a copy of
            another repository's; says what to do.
    """
    root = paths.artifact_root()
    for experiment in store.client.search_experiments(ViewType.ALL):
        place = paths.local_folder(experiment.artifact_location)
        if place is None or place.name != root.name:
            continue
        # A database that is shared lies beside the artifacts of the repository that made it.
        copied = (
            experiment.experiment_id == DEFAULT_EXPERIMENT
            and database.parent == root.parent != place.parent
            and (place.parent / database.name).exists()
        )
        if copied or _is_gone(place):
            raise UserError(
                f"{store.name} comes from another place: remove {database.name} and {root.name}, "
                "then run `lossbook sync`, which rebuilds them from the journals "
                f"(artifacts lay in {place})"
            )


def _is_gone(place: Path) -> bool:
    """MLflow would make the folder anew, where the repository no longer is."""
    return place != paths.artifact_root() and not place.exists()


def _prepare_sqlite(path: Path) -> None:
    lock = paths.root() / ".lossbook" / f"{path.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if not path.exists():
            _create_sqlite(path)
        elif (revision := _revision_of(path)) != (known := _revisions())[0]:
            _upgrade_sqlite(path, revision, known)


def _create_sqlite(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # not for a server's client

    for suffix in ("-wal", "-shm"):  # of a database that was removed: it would spoil this one
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with written_aside(path) as aside:
        uri = f"sqlite:///{aside}"
        SqlAlchemyStore(uri, paths.artifact_root().as_uri()).engine.dispose()  # type: ignore[no-untyped-call]
        with closing(sqlite3.connect(aside)) as database:
            database.execute("pragma journal_mode=wal")  # stays with the file


def _revision_of(path: Path) -> str:
    """The schema's revision that the database says it has; empty where it says none."""
    try:
        with closing(sqlite3.connect(path)) as database:
            row = database.execute("select version_num from alembic_version").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return ""
        raise UserError(f"{path}: {error}; another process may be using it") from None
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"{path}: not an SQLite database ({error}); move it away and run `lossbook sync`"
        ) from None
    return str(row[0]) if row else ""


def _revisions() -> list[str]:
    """The schema revisions that the installed MLflow knows, newest first."""
    from alembic.script import ScriptDirectory  # not for a server's client

    folder = Path(next(iter(mlflow.store.__path__))) / "db_migrations"
    return [script.revision for script in ScriptDirectory(str(folder)).walk_revisions()]


def _upgrade_sqlite(path: Path, revision: str, known: list[str]) -> None:
    if revision and revision not in known:
        raise UserError(
            f"{path} was written by a newer MLflow: install that one, or go back to a copy "
            f"({path.name}.*.bak), or move it away and run `lossbook sync`"
        )
    _back_up(path, revision or "unversioned")
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise UserError(f"{path}: MLflow could not upgrade it ({reason}); a copy is beside it")


def _back_up(path: Path, label: str) -> Path:
    """Copy a database that may be in use to `NAME.LABEL.bak` beside it."""
    copy = path.with_name(f"{path.name}.{label}.bak")
    with (
        written_aside(copy) as aside,
        closing(sqlite3.connect(path)) as source,
        closing(sqlite3.connect(aside)) as target,
    ):
        source.backup(target)
    return copy
