"""MLflow's web interface on this machine, without the helpers that models do not need.

Left alone, `mlflow server` starts ten processes of 240 MB; with one worker and no job runners it
is two, and up in seconds.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests

from pipeline.errors import UserError
from pipeline.tracking import home
from pipeline.tracking.store import artifact_root, connect, is_server, name_of, tracking_uri

START_LIMIT = 120.0  # seconds
HOST = "127.0.0.1"


@contextmanager
def serve(port: int) -> Iterator[tuple[str, subprocess.Popen[bytes] | None]]:
    """Yield the interface's URL and its process, once it answers; end it with the block.

    Where `MLFLOW_TRACKING_URI` names a server, that server is the interface: no process.

    Raises:
        UserError: the server ended before it answered.
    """
    uri = tracking_uri()
    if is_server(uri):
        yield name_of(uri), None
        return
    connect()  # so that the database is ours before the server sees it
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", uri]
    command += ["--artifacts-destination", str(artifact_root())]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    url = f"http://{HOST}:{port}"
    with open(log_file(), "wb") as log:
        # a session of its own: Ctrl-C is ours to pass on, and its children end with it
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_until_up(url, process)
        yield url, process
    finally:
        _end(process)


def log_file() -> Path:
    """What the last server had to say."""
    return home.root() / ".lossbook" / "server.log"


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
