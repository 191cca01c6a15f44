"""A real `mlflow server`, slow, broken or away: the stage does not notice, nothing is lost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.tracking import paths
from pipeline.tracking.mlflow.store import Store, connect
from pipeline.tracking.mlflow.sync import gather, synced
from pipeline.tracking.open_run import Run
from pipeline.tracking.run import start_run
from tests.helpers.servers import MlflowServer, Mode, Postgres, Proxy

Snapshot = Callable[[Store], dict[str, dict[str, Any]]]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short breaks between attempts."""
    monkeypatch.setattr("pipeline.tracking.mlflow.sender.INTERVAL", 0.05)
    monkeypatch.setattr("pipeline.tracking.mlflow.sender.LONGEST_BREAK", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def log_until_felt(run: Run, proxy: Proxy, first: int, times: int = 2) -> int:
    """Log on until the proxy has answered badly a few times more; the next step."""
    before, step = proxy.failed, first
    while proxy.failed < before + times:
        run.log_metrics({"loss": 1 / (step + 1)}, step=step)
        step += 1
        time.sleep(0.001)
    return step


def losses(found: dict[str, Any]) -> list[tuple[int, str]]:
    return [(step, value) for step, _, value in found["metrics"]["loss"]]


def expected(steps: int) -> list[tuple[int, str]]:
    return [(step, repr(1 / (step + 1))) for step in range(steps)]


@pytest.mark.usefixtures("impatient")
def test_every_point_survives_every_misbehaviour(
    proxy: Proxy, tmp_path: Path, snapshot_of: Snapshot
) -> None:
    steps = 0
    modes: tuple[Mode, ...] = ("drop", "500", "400", "404", "slow")
    record = tmp_path / "train_run.json"
    with start_run("train", experiment="modes", params={"a": 1}, record=record) as run:
        run.log_text("hello", "a/b.md")
        for mode in modes:
            proxy.mode = mode
            steps = log_until_felt(run, proxy, steps)
            proxy.mode = "pass"
            while run_lags(run):
                steps += 1
                run.log_metrics({"loss": 1 / steps}, step=steps - 1)
                run.sync()
    found = snapshot_of(connect())[run.key]
    assert losses(found) == expected(steps)
    assert found["status"] == "FINISHED"
    assert found["params"] == {"a": "1"}
    assert found["artifacts"] == {"a/b.md": b"hello"}
    assert json.loads(record.read_text())["run_id"] is not None


def run_lags(run: Run) -> bool:
    """Whether the store has yet to take anything since it last failed."""
    cursor = run.folder / "shipped.json"
    return not cursor.exists() or '"offset": 0' in cursor.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_server_that_loses_its_database_gets_the_run_again(
    bare_repo: Path, tmp_path: Path, snapshot_of: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MlflowServer(tmp_path, f"sqlite:///{tmp_path / 'server.db'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    try:
        with start_run("train", experiment="e") as run:
            run.log_metrics({"loss": 1.0}, step=0)
            while run_lags(run):
                time.sleep(0.01)
            server.kill()
            for path in tmp_path.glob("server.db*"):
                path.unlink()
            server.start()
            run.log_metrics({"loss": 0.5}, step=1)
        assert losses(snapshot_of(connect())[run.key]) == expected(2)
    finally:
        server.kill()


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_away_from_the_start_costs_a_warning(
    proxy: Proxy, snapshot_of: Snapshot, capfd: pytest.CaptureFixture[str]
) -> None:
    proxy.mode = "drop"
    record = Path("reports/train_run.json")
    with start_run("train", experiment="away", record=record, journal=Path("journals/t")) as run:
        for step in range(50):
            run.log_metrics({"loss": 1 / (step + 1)}, step=step)
    (warning,) = capfd.readouterr().err.strip().splitlines()
    (kept,) = paths.journals().iterdir()
    assert str(kept.relative_to(Path.cwd())) in warning
    assert "`lossbook sync`" in warning
    assert json.loads(record.read_text())["run_id"] is None
    proxy.mode = "pass"
    (done,) = synced(gather(Path("journals")))
    assert done.outcome == "sent"
    assert losses(snapshot_of(connect())[run.key]) == expected(50)


@pytest.mark.usefixtures("impatient")
def test_sync_says_that_the_store_is_away(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("LOSSBOOK_OFFLINE", "1")
        with start_run("train", experiment="away"):
            pass
    proxy.mode = "500"
    done = CliRunner().invoke(main, ["sync"])
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert proxy.url in done.stderr
    assert "try again later" in done.stderr


def test_a_password_is_never_shown() -> None:
    assert paths.store_name("postgresql://me:secret@db.example.org/mlflow") == (
        "postgresql://db.example.org/mlflow"
    )
    assert paths.store_name("https://me:secret@example.org:5000") == "https://example.org:5000"


@pytest.mark.slow
def test_twenty_thousand_points_through_three_kills_and_a_minute_of_errors(
    bare_repo: Path, tmp_path: Path, snapshot_of: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    server = MlflowServer(folder, f"sqlite:///{folder / 'server.db'}")
    proxy = Proxy(server.port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)

    def disturb() -> None:
        for _ in range(3):
            time.sleep(5)
            server.kill()
            time.sleep(3)
            server.start()
        proxy.mode = "500"
        time.sleep(60)
        proxy.mode = "pass"

    disturber = threading.Thread(target=disturb)
    inside = 0.0
    with start_run("train", experiment="long") as run:
        disturber.start()
        begin = time.perf_counter()
        for step in range(20_000):
            time.sleep(0.006)  # a step of two minutes' training
            start = time.perf_counter()
            run.log_metrics({"loss": 1 / (step + 1)}, step=step)
            inside += time.perf_counter() - start
        whole = time.perf_counter() - begin
        disturber.join()
    print(f"{inside / whole:.4%} of the time in tracking")
    try:
        assert losses(snapshot_of(connect())[run.key]) == expected(20_000)
    finally:
        proxy.close()
        server.kill()


@pytest.mark.slow
def test_ten_seconds_an_answer(proxy: Proxy, snapshot_of: Snapshot) -> None:
    with start_run("train", experiment="slow") as run:
        proxy.mode, proxy.delay = "slow", 10.0
        steps = log_until_felt(run, proxy, 0, times=4)
    proxy.mode = "pass"
    # In this same process, the thread whose last request was given up may still wait for it.
    while [one.outcome for one in synced(gather(Path("journals")))] == ["at work"]:
        time.sleep(0.1)
    assert losses(snapshot_of(connect())[run.key]) == expected(steps)


@pytest.mark.slow
def test_mlflow_server_with_postgresql_behind_it(
    bare_repo: Path,
    tmp_path: Path,
    postgres: Postgres,
    snapshot_of: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = MlflowServer(tmp_path, postgres.database("behind_a_server"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    try:
        with start_run("train", experiment="e", params={"a": 1}) as run:
            run.log_text("hello", "a.md")
            for step in range(1000):
                run.log_metrics({"loss": 1 / (step + 1)}, step=step)
        before = snapshot_of(connect())
        assert losses(before[run.key]) == expected(1000)
        (kept,) = paths.journals().iterdir()
        (kept / "shipped.json").unlink()
        assert [one.outcome for one in synced(gather(Path("journals")))] == ["sent"]
        assert snapshot_of(connect()) == before
    finally:
        server.kill()


def test_a_postgresql_database_without_a_server_before_it(
    bare_repo: Path, postgres: Postgres, snapshot_of: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.database("direct"))
    with start_run("train", experiment="direct") as run:
        run.log_text("hello", "a.md")
        run.log_metrics({"loss": float("nan")}, step=0)
        run.log_metrics({"loss": 0.5}, step=1)
    before = snapshot_of(connect())
    assert losses(before[run.key]) == [(0, "nan"), (1, "0.5")]
    (kept,) = paths.journals().iterdir()
    (kept / "shipped.json").unlink()
    assert [one.outcome for one in synced(gather(Path("journals")))] == ["sent"]
    assert snapshot_of(connect()) == before
    assert (paths.root() / "mlartifacts").is_dir(), "artifacts lie in the repository"
