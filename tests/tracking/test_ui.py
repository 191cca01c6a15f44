"""The run list that `lossbook ui` shares."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.tracking.mlflow.store import connect
from pipeline.tracking.mlflow.ui import serve, share_views, view_state
from pipeline.tracking.run import start_run
from tests.helpers.servers import HOST, free_port

PROJECT = Path(__file__).parents[2]


def test_columns_are_what_differs_and_what_is_always_asked_for() -> None:
    view = view_state([{"seed": "1", "model.n_embd": "16", "a": "0"}, {"seed": "1", "a": "1"}])
    assert view["selectedColumns"][:4] == [
        "params.`train.learning_rate`",
        "params.`seed`",
        "params.`a`",
        "params.`model.n_embd`",
    ]
    assert view["orderByKey"] in view["selectedColumns"]


def test_each_experiment_with_trainings_gets_a_view(repo: Path) -> None:
    for stage, experiment in (("train", "one"), ("split", "two")):
        with start_run(stage, experiment=experiment, params={"seed": 1}):
            pass
    client = connect().client
    pages = share_views()
    page = pages["one", "trainings"]
    assert list(pages) == [("one", "trainings"), ("one", "settings")]
    one = client.get_experiment_by_name("one")
    assert one is not None
    assert page.startswith(f"#/experiments/{one.experiment_id}/runs?viewStateShareKey=trainings")
    shared = json.loads(one.tags["mlflow.sharedViewState.trainings"])
    assert shared["searchFilter"] == 'tags.stage = "train"'
    grouped = json.loads(one.tags["mlflow.sharedViewState.settings"])
    assert grouped.pop("groupBy")["groupByKeys"] == [{"mode": "tag", "groupByData": "setting"}]
    assert grouped == shared
    assert [run.data.tags["stage"] for run in client.search_runs([one.experiment_id])] == ["train"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_nothing_listens_once_its_terminal_is_closed(repo: Path, number: signal.Signals) -> None:
    port = free_port()
    ui = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "ui", "--port", str(port)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert ui.stdout is not None
    assert b"MLflow: http" in ui.stdout.readline()
    os.killpg(ui.pid, number)
    ui.wait()
    deadline = time.monotonic() + 60
    while listens(port):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def test_an_address_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://[bad")
    with (
        pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI: 'http://\[bad' is no address"),
        serve(5000),
    ):
        pass
