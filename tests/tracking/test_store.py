from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.tracking import home, relocate
from pipeline.tracking.run import start_run
from pipeline.tracking.store import _revision_of, _revisions, connect, tracking_uri

Python = Callable[..., "subprocess.Popen[str]"]
Lossbook = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_store_is_the_main_repositorys_also_in_a_temporary_workspace(
    bare_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = bare_repo / ".dvc" / "tmp" / "exps" / "tmp1"
    workspace.mkdir(parents=True)
    monkeypatch.chdir(workspace)
    assert tracking_uri() == f"sqlite:///{bare_repo}/mlflow.db"
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.chdir(bare_repo)
    (bare_repo / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(bare_repo / "deep" / "er")
    assert home.root() == bare_repo


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("", "sqlite:///{repo}/mlflow.db"),
        ("sqlite:///other.db", "sqlite:///{repo}/other.db"),
        ("sqlite:////abs/other.db", "sqlite:////abs/other.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("postgresql://h/db", "postgresql://h/db"),
    ],
)
def test_which_store(
    bare_repo: Path, monkeypatch: pytest.MonkeyPatch, given: str, used: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert tracking_uri() == used.format(repo=bare_repo)


def test_the_database_is_ready_for_many_writers(repo: Path) -> None:
    with closing(sqlite3.connect(repo / "mlflow.db")) as database:
        assert database.execute("pragma journal_mode").fetchone() == ("wal",)
        assert database.execute("select count(*) from experiments").fetchone() == (1,)


def test_a_log_that_is_left_of_a_removed_database_spoils_no_new_one(repo: Path) -> None:
    """SQLite would write it into whatever database stands beside it."""
    log, kept = repo / "mlflow.db-wal", repo / "kept"
    with closing(sqlite3.connect(repo / "mlflow.db")) as database:
        database.execute("create table stale (a)")
        database.commit()
        shutil.copyfile(log, kept)
    (repo / "mlflow.db").unlink()
    kept.rename(log)
    connect()
    with closing(sqlite3.connect(repo / "mlflow.db")) as database:
        tables = {name for (name,) in database.execute("select name from sqlite_master")}
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    assert "stale" not in tables
    assert "experiments" in tables


def test_an_experiment_deleted_in_mlflow_comes_back_with_its_next_run(repo: Path) -> None:
    store = connect()
    store.client.delete_experiment(store.experiment_id("e"))
    with start_run("train", experiment="e") as run:
        pass
    found = store.find_run(run.key)
    assert found is not None
    assert found.info.status == "FINISHED"


def create_at(path: Path, revision: str) -> None:
    """A store as an older MLflow made it."""
    import sqlalchemy
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    uri = f"sqlite:///{path}"
    engine = sqlalchemy.create_engine(uri)
    Base.metadata.create_all(engine)
    config = _get_alembic_config(uri)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def test_a_store_of_an_older_mlflow_is_copied_and_upgraded(bare_repo: Path) -> None:
    newest, *_, older = _revisions()[:3]
    database = bare_repo / "mlflow.db"
    create_at(database, older)
    assert _revision_of(database) == older
    connect().experiment_id("e")
    assert _revision_of(database) == newest
    assert _revision_of(bare_repo / f"mlflow.db.{older}.bak") == older


def test_a_store_of_a_newer_mlflow_is_left_as_it_is(repo: Path) -> None:
    with closing(sqlite3.connect(repo / "mlflow.db")) as database, database:
        database.execute("update alembic_version set version_num = 'from the future'")
    before = (repo / "mlflow.db").read_bytes()
    with pytest.raises(UserError, match="newer MLflow"):
        connect()
    assert (repo / "mlflow.db").read_bytes() == before


def test_a_file_that_is_no_database_is_named(bare_repo: Path) -> None:
    (bare_repo / "mlflow.db").write_bytes(b"not a database, but long enough to be looked at" * 50)
    with pytest.raises(UserError, match=r"mlflow\.db: not an SQLite database"):
        connect()


RACER = """
from pipeline.tracking.run import start_run
with start_run("train", experiment="race") as run:
    run.log_metrics({"loss": 1.0})
"""


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(3))
def test_eight_processes_meet_at_a_fresh_store(
    bare_repo: Path, python: Python, attempt: int
) -> None:
    racers = [python(RACER) for _ in range(8)]
    for racer in racers:
        output, errors = racer.communicate()
        assert racer.returncode == 0, output + errors
        assert errors == ""
    store = connect()
    runs = store.client.search_runs([store.experiment_id("race")])
    assert [run.info.status for run in runs] == ["FINISHED"] * 8
    assert not list(bare_repo.glob("mlflow.db.*.bak"))


def test_a_moved_repository_is_relocated(
    repo: Path, tmp_path: Path, lossbook: Lossbook, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = connect()
    with start_run("train", experiment="e") as run:
        run.log_text("hello", "a.md")
    found = store.find_run(run.key)
    assert found is not None
    moved = tmp_path / "moved"
    repo.rename(moved)
    monkeypatch.chdir(moved)
    monkeypatch.setenv("DVC_ROOT", str(moved))
    with pytest.raises(UserError, match="lossbook relocate"):
        connect().experiment_id("e")
    assert "links rewritten" in lossbook("relocate").stdout
    assert lossbook("relocate").stdout == "nothing has moved\n"
    client = connect().client
    path = client.download_artifacts(found.info.run_id, "a.md")
    assert Path(path).read_text() == "hello"
    run_now = client.get_run(found.info.run_id)
    assert run_now.info.artifact_uri.startswith((moved / "mlartifacts").as_uri())
    assert relocate.former_roots(moved / "mlflow.db.before-relocate.bak") == [
        (repo / "mlartifacts").as_uri()
    ]


def test_relocating_what_is_not_there(bare_repo: Path) -> None:
    with pytest.raises(UserError, match=r"mlflow\.db: no such store"):
        relocate.relocate(bare_repo / "mlflow.db")
