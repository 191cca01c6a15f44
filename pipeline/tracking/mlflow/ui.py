"""MLflow's web interface on this machine, and the list of trainings that it opens with.

Left alone, `mlflow server` starts ten processes of 240 MB; with one worker and no job runners it
is two, and up in seconds.

The list is what one wants after a sweep: trainings only, the best first, what differs; and once
more with those that differ in the seed alone as one group, whose losses MLflow averages. MLflow
keeps a shared view as an experiment's tag, which an address names: filter, order and columns, as
JSON in the words of its own pages. Whoever opens that address sees the view; nobody's own settings
are touched.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import requests

from pipeline.errors import UserError
from pipeline.system import while_held
from pipeline.system.text import quoted
from pipeline.tracking import paths
from pipeline.tracking.mlflow.store import connect_soon, failures_explained

START_LIMIT = 120.0  # seconds
HOST = "127.0.0.1"

BY_SETTING = {
    "aggregateFunction": "average",
    "groupByKeys": [{"mode": "tag", "groupByData": "setting"}],
}
VIEWS: dict[str, dict[str, Any]] = {"trainings": {}, "settings": {"groupBy": BY_SETTING}}
TRAININGS = 'tags.stage = "train"'  # in MLflow's filter language
METRICS = ("best/val_loss", "best/epoch", "last/val_loss", "last/train_loss")
ALWAYS = ("train.learning_rate", "seed")
MOST_PARAMS = 8
LOOKED_AT = 500  # of the newest trainings, for what differs between them


@contextmanager
def serve(port: int) -> Iterator[tuple[str, subprocess.Popen[bytes] | None]]:
    """Yield the interface's URL and its process, once it answers; end it with the block.

    Where `MLFLOW_TRACKING_URI` names a server, that server is the interface: no process.

    Raises:
        UserError: the server ended before it answered.
    """
    uri = paths.tracking_uri()
    if paths.is_server(uri):
        if (name := paths.store_name(uri)) == paths.NO_ADDRESS:
            raise UserError(f"{name}: {quoted(uri)} is no address")
        yield name, None
        return
    with failures_explained():
        connect_soon()  # so that the database is ours before the server sees it
    command = [sys.executable, "-m", while_held.__name__]
    command += [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", uri]
    command += ["--artifacts-destination", str(paths.artifact_root())]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    url = f"http://{HOST}:{port}"
    with open(log_file(), "wb") as log:
        # A session of its own: Ctrl-C is ours to pass on, and its children end with it. It ends
        # with us, too, however we end: its input is then at its end.
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_up(url, process)
        yield url, process
    finally:
        _end(process)


def log_file() -> Path:
    """The output of the last server."""
    return paths.root() / ".lossbook" / "server.log"


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)


def free_port(preferred: int) -> int:
    """The preferred port, or another where that one is taken."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UserError(f"no free port on {HOST}")


def _wait_until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise UserError(f"mlflow server ended with status {process.returncode}: {log_file()}")
        try:
            if requests.get(f"{url}/health", timeout=1).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise UserError(f"mlflow server did not answer at {url} within {START_LIMIT:.0f} seconds")


def share_views() -> dict[tuple[str, str], str]:
    """Write the views of each experiment that has trainings; experiment and view to the address.

    The newest experiment comes first; addresses begin with `#`.
    """
    client = connect_soon().client
    pages = {}
    for experiment in client.search_experiments():
        ids = [experiment.experiment_id]
        runs = client.search_runs(ids, TRAININGS, max_results=LOOKED_AT)
        if not runs:
            continue
        state = view_state([run.data.params for run in runs])
        for name, more in VIEWS.items():
            view, tag = json.dumps({**state, **more}), f"mlflow.sharedViewState.{name}"
            if experiment.tags.get(tag) != view:
                client.set_experiment_tag(experiment.experiment_id, tag, view)
            query = urlencode({"viewStateShareKey": name, "workflowType": "machine_learning"})
            page = f"#/experiments/{experiment.experiment_id}/runs?{query}"
            pages[experiment.name, name] = page
    return pages


def view_state(params: list[dict[str, str]]) -> dict[str, Any]:
    """What MLflow's page reads: filter, order, columns.

    Args:
        params: of each training.
    """
    names = sorted({name for one in params for name in one})
    differ = [name for name in names if len({one.get(name) for one in params}) > 1]
    shown = list(dict.fromkeys([*ALWAYS, *differ]))[:MOST_PARAMS]
    return {
        "searchFilter": TRAININGS,
        "orderByKey": _column("metrics", METRICS[0]),
        "orderByAsc": True,
        "selectedColumns": [
            *(_column("params", name) for name in shown),
            *(_column("metrics", name) for name in METRICS),
        ],
    }


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"
