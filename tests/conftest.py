"""The order of the files, a web server on this machine, and a cache that is nobody's."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# Two workers with two threads each would wait for one another; before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The many processes that tests start compile a module once, whatever the shell says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


pytest_plugins = ["tests.helpers.trainers"]  # fixtures of several folders

# `make test` gives a file to one worker, so that what it shares is made once.
LONGEST = "test_pipeline.py"  # the worker that met it last would work alone


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name != LONGEST)


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    silent: bool = False  # never answers


class Web(ThreadingHTTPServer):
    """Serves `answers` by path, and lists the paths that were asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.closing = threading.Event()

    def url(self, path: str, body: bytes | str = b"", **answer: object) -> str:
        """Serve `body` at `path`; return its URL."""
        content = body.encode() if isinstance(body, str) else body
        self.answers[path] = Answer(content, **answer)  # type: ignore[arg-type]
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        web = self.server
        assert isinstance(web, Web)
        path = self.path.partition("?")[0]
        web.asked.append(path)
        answer = web.answers.get(path, Answer(b"nothing here", 404))
        if answer.silent:
            web.closing.wait()
            return
        self.send_response(answer.status)
        for name, value in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lossbook's cache, empty; the tokenizer keeps the one it has."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LOSSBOOK_CACHE", str(folder))
    return folder
