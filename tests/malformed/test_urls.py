"""Servers that nobody wants to meet, behind a corpus and behind GPT-2's weights."""

from __future__ import annotations

import gzip
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.helpers import zygote
from tests.helpers.arena import Arena, Case

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TEXT = b"It was a dark and stormy night; the rain fell in torrents.\n" * 100
PREPARE = ("tests.malformed.programs:prepare_soon",)
FETCH = ("tests.malformed.programs:fetch_soon",)

Answer = Callable[[bytes], Iterator[bytes]]  # from the right body to what is sent, headers and all


def head(status: str = "200 OK", **headers: object) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def right(body: bytes) -> Iterator[bytes]:
    yield head(Content_Length=len(body), Connection="close") + body


def whole(data: Callable[[bytes], bytes]) -> Answer:
    def answer(body: bytes) -> Iterator[bytes]:
        yield data(body)

    return answer


def endless(first: bytes, block: bytes, pause: float = 0.0) -> Answer:
    def answer(body: bytes) -> Iterator[bytes]:
        yield first
        while True:
            yield block
            if pause:
                time.sleep(pause)

    return answer


def silent(first: Callable[[bytes], bytes]) -> Answer:
    def answer(body: bytes) -> Iterator[bytes]:
        yield first(body)
        time.sleep(30)

    return answer


def lengths() -> Iterator[tuple[str, Answer]]:
    for length in (
        "abc",
        "-1",
        "",
        "1e3",
        "9" * 5000,
        "0x10",
        "5, 6",
        "5, 5",
        " 17 ",
        "+5",
        "٣",
        "1_0",
        "17.0",
        "NaN",
        str(2**64),
        str(10**15),
        "0",
    ):
        with suppress(UnicodeEncodeError):
            length.encode("latin-1")
            yield (
                f"Content-Length {length[:20]!r}",
                whole(
                    lambda body, length=length: (
                        head(Content_Length=length, Connection="close") + body
                    )
                ),
            )
    yield (
        "Content-Length twice",
        whole(
            lambda body: b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 9\r\n\r\n" + body
        ),
    )
    yield (
        "too short",
        whole(lambda body: head(Content_Length=len(body) + 1000, Connection="close") + body),
    )
    yield "too long", whole(lambda body: head(Content_Length=10, Connection="close") + body)
    yield "no length", whole(lambda body: head(Connection="close") + body)


def statuses() -> Iterator[tuple[str, Answer]]:
    for status in (
        "404 Not Found",
        "500 " + "x" * 5000,
        "503 Busy",
        "200",
        "999 Surprise",
        "204 No Content",
        "206 Partial Content",
        "304 Not Modified",
        "416 Range",
        "429 Slow Down",
        "451 \x1b[31mred",
        "000 Zero",
        "-5 Minus",
        "abc def",
        "100 Continue",
        "403 one\rtwo",
    ):
        yield (
            f"status {status[:20]!r}",
            whole(
                lambda body, status=status: (
                    head(status, Content_Length=len(body), Connection="close") + body
                )
            ),
        )
    for after in (
        "abc",
        "-1",
        "1e999",
        "9" * 400,
        "Wed, 99 Foo 2099 00:00:00 GMT",
        "nan",
        "",
        "1" * 20,
        "Wed, 21 Oct 2099 07:28:00 GMT",
    ):
        yield (
            f"Retry-After {after[:20]!r}",
            whole(
                lambda body, after=after: head(
                    "503 Busy", Retry_After=after, Content_Length=0, Connection="close"
                )
            ),
        )


def redirects() -> Iterator[tuple[str, Answer]]:
    for place in (
        "/loop",
        "",
        "http://",
        "http://[::1",
        "file:///etc/passwd",
        "ftp://127.0.0.1:9/x",
        "//",
        "http://127.0.0.1:9/",
        "\x1b[31m",
        "x" * 50_000,
        "http://127.0.0.1:99999/",
        "http://nul%00/",
        "javascript:alert(1)",
        "http://user:secret@127.0.0.1:9/x",
    ):
        yield (
            f"redirect to {place[:20]!r}",
            whole(
                lambda body, place=place: head(
                    "302 Found", Location=place, Content_Length=0, Connection="close"
                )
            ),
        )
    yield (
        "redirect to nowhere",
        whole(lambda body: head("301 Moved", Content_Length=0, Connection="close")),
    )


def bodies() -> Iterator[tuple[str, Answer]]:
    for name, data in {
        "nothing": b"",
        "a web page": b"<!DOCTYPE html><html><body>Sign in</body></html>",
        "a late web page": b" " * 100_000 + b"<html>",
        "comments": b"<!--" * 200_000,
        "comments and spaces": b"<!-- -->   " * 100_000,
        "spaces": b" " * 3_000_000,
        "not UTF-8": b"\xff\xfe" * 10_000,
        "zeroes": bytes(100_000),
        "packed": gzip.compress(TEXT),
        "JSON": b'{"error": "no"}',
        "deep": b"[" * 1_000_000,
    }.items():
        yield (
            f"body: {name}",
            whole(
                lambda body, data=data: head(Content_Length=len(data), Connection="close") + data
            ),
        )
    for kind in ("text/html", "application/xhtml+xml", "\x1b[31m", "x" * 10_000, ""):
        yield (
            f"Content-Type {kind[:20]!r}",
            whole(
                lambda body, kind=kind: (
                    head(Content_Type=kind, Content_Length=len(body), Connection="close") + body
                )
            ),
        )
    bomb = gzip.compress(bytes(200_000_000))
    for coding in ("gzip", "deflate", "br", "zstd", "surprise"):
        yield (
            f"Content-Encoding {coding}",
            whole(
                lambda body, coding=coding: (
                    head(Content_Encoding=coding, Content_Length=len(bomb), Connection="close")
                    + bomb
                )
            ),
        )


def streams() -> Iterator[tuple[str, Answer]]:
    yield "closes at once", whole(lambda body: b"")
    yield "closes in the head", whole(lambda body: b"HTTP/1.1 200 OK\r\nContent-Le")
    yield "no HTTP", whole(lambda body: b"220 smtp ready\r\n")
    yield "HTTP/0.9", whole(lambda body: body)
    yield "HTTP/9.9", whole(lambda body: b"HTTP/9.9 200 OK\r\n\r\n" + body)
    yield "TLS", whole(lambda body: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300))
    yield (
        "1,000 headers",
        whole(
            lambda body: (
                b"HTTP/1.1 200 OK\r\n"
                + b"".join(b"X-%d: y\r\n" % i for i in range(1000))
                + b"\r\n"
                + body
            )
        ),
    )
    yield (
        "a header of a megabyte",
        whole(lambda body: b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n" + body),
    )
    yield (
        "headers without colons",
        whole(lambda body: b"HTTP/1.1 200 OK\r\nsurprise\r\n\r\n" + body),
    )
    yield "headers with zeroes", whole(lambda body: b"HTTP/1.1 200 OK\r\nX\0: \0\r\n\r\n" + body)
    yield (
        "chunks of rubbish",
        whole(lambda body: head(Transfer_Encoding="chunked") + b"zz\r\n" + body),
    )
    yield (
        "chunks of minus one",
        whole(lambda body: head(Transfer_Encoding="chunked") + b"-1\r\n" + body),
    )
    yield (
        "chunks that are huge",
        whole(lambda body: head(Transfer_Encoding="chunked") + b"f" * 40 + b"\r\n" + body),
    )
    yield (
        "chunks without an end",
        whole(
            lambda body: head(Transfer_Encoding="chunked") + b"%x\r\n" % len(body) + body + b"\r\n"
        ),
    )
    yield "silent", silent(lambda body: b"")
    yield "silent in the head", silent(lambda body: b"HTTP/1.1 200 OK\r\n")
    yield "silent in the body", silent(lambda body: head(Content_Length=len(body)) + body[:100])
    yield "endless head", endless(b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 1000 + b"\r\n")
    yield "endless body", endless(head(Connection="close"), b"word " * 13_000)
    yield (
        "endless body of a length",
        endless(head(Content_Length=100, Connection="close"), b"word " * 13_000),
    )
    yield (
        "endless chunks",
        endless(head(Transfer_Encoding="chunked"), b"1388\r\n" + b"word " * 1000 + b"\r\n"),
    )
    yield "endless spaces", endless(head(Connection="close"), b" " * 65_536)
    yield "a trickle", endless(head(Content_Length=10_000_000), b"w", 0.1)


def answers() -> dict[str, Answer]:
    found: dict[str, Answer] = {"right": right}
    for some in (lengths, statuses, redirects, bodies, streams):
        found.update(some())
    return found


class Server(socketserver.ThreadingTCPServer):
    """Serves `files` by path. The path `/NUMBER/...` is of the case NUMBER, whose answer holds."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 50

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, tuple[Answer, str]] = {}  # by number: what, and for which file

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Server]:
        with cls() as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            yield server
            server.shutdown()

    def url(self, number: object) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{number}"


class _Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        data = b""
        with suppress(OSError):
            while b"\r\n\r\n" not in data and len(data) < 100_000:
                data += self.request.recv(65_536)
                if not data:
                    return
            path = data.split(b" ")[1].decode("latin-1")
            _, number, *rest = path.split("/")
            name = rest[-1] if rest else ""
            answer, wrong = self.server.answers.get(number, (right, ""))
            body = self.server.files.get(name, TEXT)
            began = time.monotonic()
            for block in (answer if wrong in ("", name) else right)(body):
                self.request.sendall(block)
                if time.monotonic() - began > 60:
                    return


def _set(section: str, **settings: object) -> Callable[[Path], None]:
    def change(repo: Path) -> None:
        values = json.loads((repo / "params.yaml").read_text())
        values[section] = {**values[section], **settings}
        (repo / "params.yaml").write_text(json.dumps(values))

    return change


def cases(server: Server) -> Iterator[Case]:
    size = {"RLIMIT_FSIZE": 1_200_000_000}
    for index, (name, answer) in enumerate(answers().items()):
        server.answers[f"c{index}"] = (answer, "")
        url = f"{server.url(f'c{index}')}/story.txt"
        names = ("127.0.0.1", "prepare.corpus", "downloads")
        yield Case(
            f"corpus: {name}", PREPARE, _set("prepare", corpus=url), names, seconds=30, limits=size
        )
        if index % 5 == 0:
            url = url.replace("story.txt", "story.jsonl.gz")
            yield Case(
                f"packed corpus: {name}",
                PREPARE,
                _set("prepare", corpus=url),
                names,
                seconds=30,
                limits=size,
            )
    files = (
        "hparams.json",
        "checkpoint",
        "model.ckpt.index",
        "model.ckpt.data-00000-of-00001",
        "model.ckpt.meta",
    )
    for index, (name, answer) in enumerate(answers().items()):
        file = files[index % 4]
        server.answers[f"g{index}"] = (answer, file)
        mirror = _set("gpt2", source="openai", mirror=server.url(f"g{index}"), sizes=["124M"])
        yield Case(f"{file}: {name}", FETCH, mirror, ("124M", "127.0.0.1"), seconds=40, limits=size)


@pytest.fixture(scope="module")
def openai_arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """With TensorFlow at hand."""
    folder = tmp_path_factory.mktemp("downloads")
    arena = Arena(
        folder, *zygote.COMMON, "tensorflow", "pipeline.gpt2.stage", "pipeline.gpt2.tf_checkpoint"
    )
    yield arena
    arena.close()


def test_urls(openai_arena: Arena, plain: Path, tmp_path: Path) -> None:
    ended = openai_arena._all[0].run(
        ("tests.malformed.programs:write_openai", str(tmp_path / "124M")),
        tmp_path,
        tmp_path / "log",
        seconds=100,
        memory=8 * zygote.GIB,
    )
    assert ended.status == 0, ended
    with Server.running() as server:
        for path in (tmp_path / "124M").iterdir():
            server.files[path.name] = path.read_bytes()
        openai_arena.check("urls", cases(server), plain)
