"""A web server that keeps to the protocol, except where a test asks for a fault."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


@dataclass
class Fault:
    """How one answer differs from the right one.

    Attributes:
        status: answered instead, with `body` or nothing.
        body: sent instead of the file; its length is what the headers say.
        headers: set, or taken away where None.
        cut: the connection closes after so many bytes of the body.
        stall: nothing more comes after so many bytes, until the server closes.
        trickle: bytes then come one by one, each after a pause shorter than any timeout.
        deaf: ranges are ignored.
        chunked: the length is not said.
        shift: the range sent begins so many bytes late.
    """

    status: int | None = None
    body: bytes | None = None
    headers: dict[str, str | None] = field(default_factory=dict)
    cut: int | None = None
    stall: int | None = None
    trickle: bool = False
    deaf: bool = False
    chunked: bool = False
    shift: int = 0


RIGHT = Fault()


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    sent: int = 0

    @property
    def range(self) -> str | None:
        return self.headers.get("Range")


class Hostile(ThreadingHTTPServer):
    """Serves `files` by path. Each answer takes the next of `faults`; then `always` holds, and for
    some paths a fault `always_at`."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.always = RIGHT
        self.always_at: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.closing = threading.Event()

    @classmethod
    @contextmanager
    def running(cls, port: int = 0) -> Iterator[Self]:
        with cls(port) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield server
            finally:
                server.closing.set()
                server.shutdown()
                thread.join()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def sent(self, path: str | None = None) -> int:
        """Bytes of bodies that went out."""
        return sum(r.sent for r in self.requests if path in (None, r.path))

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients hang up; that is what some tests are about


class _Handler(BaseHTTPRequestHandler):
    server: Hostile
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        usual = server.always_at.get(self.path, server.always)
        fault = server.faults.pop(0) if server.faults else usual
        self.request_log = Request(self.path, dict(self.headers))
        server.requests.append(self.request_log)
        content = server.files.get(self.path)
        if content is None and fault.status is None:
            fault = Fault(status=404)
        if fault.status is not None:
            return self._answer(fault.status, fault.body or b"", {}, fault)
        assert content is not None
        return self._send_file(content, fault)

    def _send_file(self, content: bytes, fault: Fault) -> None:
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        headers = {"ETag": etag, "Content-MD5": md5, "Content-Type": "application/octet-stream"}
        start = self._start(etag, fault)
        if start is None:
            return self._answer(200, content if fault.body is None else fault.body, headers, fault)
        if start >= len(content):
            return self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"}, fault)
        del headers["Content-MD5"]  # as most servers: it is the whole file's
        start += fault.shift
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._answer(206, content[start:], headers, fault)

    def _start(self, etag: str, fault: Fault) -> int | None:
        """Where the range begins; None for the whole file."""
        wanted = self.headers.get("Range")
        condition = fault.headers.get("ETag", etag)
        if wanted is None or fault.deaf or self.headers.get("If-Range", condition) != condition:
            return None
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def _answer(self, status: int, body: bytes, headers: dict[str, str], fault: Fault) -> None:
        self.send_response(status)
        length = {"Transfer-Encoding": "chunked"} if fault.chunked else {
            "Content-Length": str(len(body))
        }  # fmt: skip
        for name, value in {**headers, **length, **fault.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        ends = [end for end in (fault.cut, fault.stall) if end is not None]
        part = body[: min(ends, default=len(body))]
        with suppress(OSError):
            self._write(part, fault)
            if fault.trickle:
                self._trickle(body[len(part) :])
            elif fault.stall is not None:
                self.server.closing.wait()
        self.close_connection = self.close_connection or bool(ends)

    def _write(self, data: bytes, fault: Fault) -> None:
        block = 16384
        for start in range(0, len(data), block):
            piece = data[start : start + block]
            self.request_log.sent += len(piece)  # first: a test may look as soon as it has come
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if fault.chunked else piece)
        if fault.chunked and fault.cut is None:
            self.wfile.write(b"0\r\n\r\n")

    def _trickle(self, data: bytes) -> None:
        for byte in data:
            if self.server.closing.wait(0.05):
                return
            self.request_log.sent += 1
            self.wfile.write(bytes([byte]))

    def log_message(self, format: str, *args: object) -> None:
        pass
