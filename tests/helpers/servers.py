"""Real servers for the tests: MLflow's, PostgreSQL, and a proxy that misbehaves between them."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import requests

HOST = "127.0.0.1"
Mode = Literal["pass", "500", "400", "404", "drop", "slow"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class MlflowServer:
    """`mlflow server`, that may be killed and started again on its port."""

    def __init__(self, folder: Path, backend: str) -> None:
        self.folder, self.backend = folder, backend
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", HOST]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", self.backend]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while not self._answers():
            log_text = (self.folder / "server.log").read_text()
            assert self.process.poll() is None, log_text
            assert time.monotonic() < deadline, log_text
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=1).ok
        except requests.RequestException:
            return False

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Proxy:
    """Stands between client and server, and can behave as badly as networks do.

    Attributes:
        mode: what happens to each request.
        failed: how many requests have been answered badly, in any mode but "pass".
        delay: seconds by which "slow" puts off each answer.
    """

    def __init__(self, upstream_port: int) -> None:
        self.mode: Mode = "pass"
        self.failed = 0
        self.delay = 0.2
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.handle(self, body, upstream_port)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handle(self, request: BaseHTTPRequestHandler, body: bytes, port: int) -> None:
        mode = self.mode
        if mode != "pass":
            self.failed += 1
        if mode == "drop":
            request.close_connection = True
        elif mode.isdigit():
            request.send_response(int(mode))
            request.end_headers()
            request.wfile.write(b"<html>a gateway's words</html>")
        else:
            if mode == "slow":
                time.sleep(self.delay)
            self._forward(request, body, port)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes, port: int) -> None:
        upstream = http.client.HTTPConnection(HOST, port, timeout=60)
        try:
            # the body came whole: an empty file's is announced in chunks that never come
            headers = {k: v for k, v in request.headers.items() if k != "Transfer-Encoding"}
            upstream.request(request.command, request.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
        except OSError:
            return  # the server is away: so is its answer
        finally:
            upstream.close()
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs; Debian keeps them off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


class Postgres:
    """A PostgreSQL cluster of our own."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.port = free_port()
        # PostgreSQL refuses to run as root; Debian's package makes a user for it.
        self.user = "postgres" if os.geteuid() == 0 else None
        data = folder / "data"
        data.mkdir()
        if self.user is not None:
            shutil.chown(data, self.user)
        self._call(programs / "initdb", "-D", data, "-U", "mlflow", "-A", "trust", "--no-sync")
        command = [programs / "postgres", "-D", data, "-p", str(self.port), "-h", HOST]
        command += ["-c", "unix_socket_directories=", "-c", "fsync=off"]
        self.process = subprocess.Popen(
            command, user=self.user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        ready = [programs / "pg_isready", "-h", HOST, "-p", str(self.port)]
        while subprocess.run(ready, stdout=subprocess.DEVNULL, check=False).returncode != 0:
            assert self.process.poll() is None, "postgres ended"
            time.sleep(0.1)
        self._create = [programs / "createdb", "-h", HOST, "-p", str(self.port), "-U", "mlflow"]

    def database(self, name: str) -> str:
        """Make an empty database; its URI."""
        self._call(*self._create, name)
        return f"postgresql://mlflow@{HOST}:{self.port}/{name}"

    def _call(self, *command: str | Path) -> None:
        subprocess.run(command, user=self.user, check=True, capture_output=True)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()
