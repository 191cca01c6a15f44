from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.tracking import paths
from pipeline.tracking.mlflow.store import Store, _revision_of, _revisions, connect
from pipeline.tracking.run import start_run
from pipeline.tracking.tags import PID, RUN_KEY, former_name, process_tags

Python = Callable[..., "subprocess.Popen[str]"]
Lossbook = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_store_is_the_main_repositorys_also_in_a_temporary_workspace(
    bare_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = bare_repo / ".dvc" / "tmp" / "exps" / "tmp1"
    workspace.mkdir(parents=True)
    monkeypatch.chdir(workspace)
    assert paths.tracking_uri() == f"sqlite:///{bare_repo}/mlflow.db"
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.chdir(bare_repo)
    (bare_repo / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(bare_repo / "deep" / "er")
    assert paths.root() == bare_repo


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
    assert paths.tracking_uri() == used.format(repo=bare_repo)


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


def test_a_moved_store_is_refused_and_rebuilt_from_the_journals(
    repo: Path,
    tmp_path: Path,
    lossbook: Lossbook,
    snapshot_of: Callable[[Store], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = repo / "reports" / "train_run.json"
    with start_run("train", experiment="e", params={"lr": 1}, record=record) as parent:
        parent.log_metrics({"loss": 6.0}, step=3)
        parent.log_text("hello", "a.md")
    with start_run("evaluate", experiment="e", parent=record):
        pass
    before = snapshot_of(connect())
    moved = tmp_path / "moved"
    repo.rename(moved)
    monkeypatch.chdir(moved)
    monkeypatch.setenv("DVC_ROOT", str(moved))
    line = (
        "mlflow.db comes from another place: remove mlflow.db and mlartifacts, then run "
        f"`lossbook sync`, which rebuilds them from the journals (artifacts lay in {repo}"
        "/mlartifacts)"
    )
    with pytest.raises(UserError, match=re.escape(line)):
        connect()
    for command in ("sync", "ui"):
        refused = CliRunner().invoke(main, [command])
        assert (refused.exit_code, refused.stderr) == (1, f"Error: {line}\n")
    with start_run("sample", experiment="e", parent=moved / "reports/train_run.json") as later:
        pass
    assert not (repo / "mlartifacts").exists()
    (moved / "mlflow.db").unlink()
    shutil.rmtree(moved / "mlartifacts")
    assert lossbook("sync").stdout.count("rebuilt: ") == 2
    copy = moved / "copy.db"  # this process still has the former one open
    for path in moved.glob("mlflow.db*"):
        shutil.copyfile(path, moved / path.name.replace("mlflow", "copy"))
    store = Store(f"sqlite:///{copy}")
    after = snapshot_of(store)
    assert after.pop(later.key)["tags"]["mlflow.parentRunId"] == parent.key
    assert after == before
    found = store.find_run(parent.key)
    assert found is not None
    assert found.info.artifact_uri.startswith((moved / "mlartifacts").as_uri())
    assert lossbook("sync").stdout.count("there: ") == 3


def test_a_store_that_two_repositories_share_is_not_moved(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_run("train", experiment="e") as run:
        run.log_text("hello", "a.md")
    other = tmp_path / "other"
    (other / ".dvc").mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(other))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{repo / 'mlflow.db'}")
    monkeypatch.chdir(other)
    assert connect().find_run(run.key) is not None


def test_a_run_of_an_earlier_version_is_found_and_ended(store: Store) -> None:
    """Its hidden tags were called `lossbook.*`."""
    experiment = store.experiment_id("e")
    tags = {former_name(name): text for name, text in process_tags().items()}
    tags |= {former_name(PID): "999999999", former_name(RUN_KEY): "0123456789abcdef"}
    run = store.client.create_run(experiment, tags=tags)
    found = store.find_run("0123456789abcdef", "e")
    assert found is not None
    assert found.info.run_id == run.info.run_id
    assert store.reap([experiment]) == [run.info.run_id]
    assert store.client.get_run(run.info.run_id).info.status == "KILLED"
