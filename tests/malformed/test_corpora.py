"""Corpora as they lie about: links, pipes, encodings, damaged archives."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.arena import COMMANDS, Arena, Case
from tests.helpers.malformed import VALUES, dump, mutated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TEXT = "It was a dark and stormy night; the rain fell in torrents.\n" * 200
ROWS = [{"text": f"{i} {TEXT[:500]}", "title": f"t{i}", "n": i} for i in range(20)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def _parquet(table: pa.Table, **how: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **how)
    return buffer.getvalue()


def _zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


PARQUET = _parquet(pa.Table.from_pylist(ROWS))
VALID = {
    "x.txt": TEXT.encode(),
    "x.md": b"# Title\n\n" + TEXT.encode(),
    "x.jsonl": JSONL,
    "x.parquet": PARQUET,
    "x.txt.gz": gzip.compress(TEXT.encode()),
    "x.jsonl.gz": gzip.compress(JSONL),
    "x.parquet.gz": gzip.compress(PARQUET),
    "x.jsonl.zst": _zstd(JSONL),
    "x.txt.zst": _zstd(TEXT.encode()),
}
LINES = {
    "empty": b"",
    "blank lines": b"\n\n\n",
    "not JSON": b"surprise\n",
    "no object": b'[1]\n1\nnull\n"text"\n',
    "no text": b'{"title": "x"}\n',
    "text is null": b'{"text": null}\n',
    "text is a number": b'{"text": 1}\n',
    "text is a list": b'{"text": ["a"]}\n',
    "text is empty": b'{"text": ""}\n',
    "text twice": b'{"text": "a", "text": "b"}\n',
    "nan": b'{"text": NaN}\n',
    "5000 digits": b'{"text": "a", "n": ' + b"9" * 5000 + b"}\n",
    "deep": b'{"text": "a", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "lone surrogate": b'{"text": "a \\ud800 b and more of it"}\n',
    "nul": b'{"text": "a \\u0000 b and more of it"}\n',
    "title with escapes": b'{"text": "some words here", "title": "\\u001b[31m"}\n',
    "title is a list": b'{"text": "some words here", "title": [1]}\n',
    "id is a map": b'{"text": "some words here", "id": {"a": 1}}\n',
    "not UTF-8": b'{"text": "caf\xe9"}\n',
    "torn": JSONL[:-20],
    "one line of 30 MB": b'{"text": "' + b"word " * 6_000_000 + b'"}\n',
    "no newline for 30 MB": b"x" * 30_000_000,
    "carriage returns": JSONL.replace(b"\n", b"\r"),
    "byte order mark": b"\xef\xbb\xbf" + JSONL,
    "utf-16": JSONL.decode().encode("utf-16"),
}
TEXTS = {
    "empty": b"",
    "blank": b" \n" * 1000,
    "one letter": b"a",
    "nul": b"\0" * 10_000,
    "latin-1": "Zürich größer ".encode("latin-1") * 100,
    "utf-16": TEXT.encode("utf-16"),
    "utf-32": TEXT.encode("utf-32"),
    "byte order mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "surrogates": b"\xed\xa0\x80" * 100,
    "torn character": TEXT.encode() + "é".encode()[:1],
    "escapes": b"\x1b[31mred\x07" * 500,
    "end of text": b"<|endoftext|>" * 500,
    "one letter for 5 MB": b"a" * 5_000_000,
    "spaces for 3 MB": b" " * 3_000_000,
    "no newline": TEXT.replace("\n", " ").encode() * 20,
    "emoji": "👩‍👩‍👧‍👦".encode() * 2000,
    "combining": ("a" + "\u0301" * 100_000).encode(),
    "bidi": "\u202e".encode() * 5000,
    "markup": b"<script>alert(1)</script>" * 300,
    "a web page": b"<!DOCTYPE html><html><body>" + TEXT.encode(),
    "a PDF": b"%PDF-1.4\n" + random.Random(1).randbytes(5000),
    "random": random.Random(2).randbytes(50_000),
    "carriage returns": TEXT.replace("\n", "\r").encode(),
}
TABLES: dict[str, bytes] = {
    "empty": b"",
    "marks alone": b"PAR1PAR1",
    "no rows": _parquet(pa.table({"text": pa.array([], pa.string())})),
    "no columns": _parquet(pa.table({})),
    "no text": _parquet(pa.table({"title": ["a"]})),
    "text of numbers": _parquet(pa.table({"text": [1, 2]})),
    "text of nulls": _parquet(pa.table({"text": pa.array([None, None], pa.string())})),
    "text of untyped nulls": _parquet(pa.table({"text": pa.array([None, None])})),
    "text of bytes": _parquet(pa.table({"text": [b"\xff\xfe", b"abc"]})),
    "text of lists": _parquet(pa.table({"text": [["a"], ["b"]]})),
    "text of structs": _parquet(pa.table({"text": [{"a": "b"}]})),
    "large strings": _parquet(pa.table({"text": pa.array([TEXT], pa.large_string())})),
    "dictionary": _parquet(pa.table({"text": pa.array([TEXT] * 3).dictionary_encode()})),
    "columns with escapes": _parquet(pa.table({"text": [TEXT], "\x1b[31m": [1]})),
    "a column twice": _parquet(
        pa.Table.from_arrays([pa.array([TEXT]), pa.array([TEXT])], names=["text", "text"])
    ),
    "a bomb": _parquet(pa.table({"text": pa.array(["a" * 1000] * 300_000)}), compression="zstd"),
    "many row groups": _parquet(pa.Table.from_pylist(ROWS * 20), row_group_size=1),
    "length lies": PARQUET[:-8] + b"\xff\xff\xff\x7f" + b"PAR1",
    "encrypted mark": PARQUET[:-4] + b"PARE",
}
PACKED = {
    "empty": b"",
    "head alone": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
    "not packed": TEXT.encode(),
    "twice": gzip.compress(gzip.compress(TEXT.encode())),
    "members": gzip.compress(TEXT.encode()) * 3,
    "rubbish after": gzip.compress(TEXT.encode()) + b"rubbish" * 100,
    "zeroes after": gzip.compress(TEXT.encode()) + bytes(1000),
    "a bomb": gzip.compress(bytes(100_000_000)),
    "a bomb of text": gzip.compress(b"word " * 8_000_000),
    "checksum": gzip.compress(TEXT.encode())[:-8] + bytes(8),
    "name with escapes": b"\x1f\x8b\x08\x08\0\0\0\0\0\x03\x1b[31m\0"
    + gzip.compress(TEXT.encode())[10:],
}
NAMES = (
    b"caf\xe9.txt", b"\x1b[31m.txt", b"line\nError: two.txt", "\u202etxt.exe.txt".encode(),
    b"-rf.txt",
    b"$(touch X).txt", b"; touch X #.txt", b"<script>.txt", b"{{7*7}}.txt", b" .txt",
    b"n" * 240 + b".txt",
    b"..txt", b"a:b.jsonl", b"%s.txt", b"tab\there.txt", "ё.txt".encode(), b"\xed\xa0\x80.txt",
    b"a\\b.txt",
    b"~.txt", b"*.txt", b"?.txt", b"'.txt", b'".txt', b"\x7f.txt", b"\xc2\x9b.txt",
)  # fmt: skip


def _params(repo: Path, **settings: object) -> None:
    path = repo / "params.yaml"
    values = json.loads(path.read_text())
    values["prepare"] |= settings
    path.write_text(dump(values))


def _file(name: str, data: bytes, **settings: object) -> Callable[[Path], None]:
    def change(repo: Path) -> None:
        (repo / name).write_bytes(data)
        _params(repo, corpus=name, **settings)

    return change


def _in_folder(name: bytes, data: bytes, beside: bool = True) -> Callable[[Path], None]:
    def change(repo: Path) -> None:
        folder = repo / "corpus"
        folder.mkdir()
        if beside:
            (folder / "good.txt").write_text(TEXT)
        (folder / os.fsdecode(name)).write_bytes(data)
        _params(repo, corpus="corpus")

    return change


def _files() -> Iterator[tuple[str, Callable[[Path], None], tuple[str, ...]]]:
    for what, data in TEXTS.items():
        yield f"x.txt: {what}", _file("x.txt", data), ("x.txt",)
    for what, data in LINES.items():
        yield f"x.jsonl: {what}", _file("x.jsonl", data), ("x.jsonl",)
        if what in ("not JSON", "deep", "5000 digits", "lone surrogate", "title with escapes"):
            yield f"x.jsonl, fail: {what}", _file("x.jsonl", data, on_error="fail"), ("x.jsonl",)
    for what, data in TABLES.items():
        yield f"x.parquet: {what}", _file("x.parquet", data), ("x.parquet",)
    for what, data in PACKED.items():
        for suffix in ("txt", "jsonl"):
            yield f"x.{suffix}.gz: {what}", _file(f"x.{suffix}.gz", data), (f"x.{suffix}.gz",)
        yield f"x.txt.zst: {what}", _file("x.txt.zst", data), ("x.txt.zst",)
    for name, valid in VALID.items():
        for index in range(8):
            what, data = mutated(valid, f"{name} {index}")
            yield f"{name}: {index}: {what}", _file(name, data), (name,)
    for name in NAMES:
        yield f"named {name!a}", _in_folder(name, TEXT.encode()), ("corpus",)
        yield (
            f"named {name!a}, not UTF-8 inside",
            _in_folder(name, b"\xff\xfe\xfd", beside=False),
            ("corpus", "UTF-8"),
        )


def _set(corpus: object, **settings: object) -> Callable[[Path], None]:
    return lambda repo: _params(repo, corpus=corpus, **settings)


def _link(name: str, target: str) -> Callable[[Path], None]:
    def change(repo: Path) -> None:
        (repo / "corpus").mkdir()
        (repo / "corpus/good.txt").write_text(TEXT)
        (repo / "corpus" / name).symlink_to(target)
        _params(repo, corpus="corpus")

    return change


def _fifo(repo: Path) -> None:
    (repo / "corpus").mkdir()
    (repo / "corpus/good.txt").write_text(TEXT)
    os.mkfifo(repo / "corpus/pipe.txt")
    _params(repo, corpus="corpus")


def _fifo_alone(repo: Path) -> None:
    os.mkfifo(repo / "pipe.txt")
    _params(repo, corpus="pipe.txt")


def _socket(repo: Path) -> None:
    (repo / "corpus").mkdir()
    (repo / "corpus/good.txt").write_text(TEXT)
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as listening:
        descriptor = os.open(repo / "corpus", os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{descriptor}/s.txt")
        os.close(descriptor)
    assert here == Path.cwd()
    _params(repo, corpus="corpus")


def _folders(repo: Path) -> None:
    (repo / "corpus/folder.txt").mkdir(parents=True)
    (repo / "corpus/folder.txt/inner.txt").write_text(TEXT)
    (repo / "corpus/empty.jsonl").mkdir()
    _params(repo, corpus="corpus")


def _deep(repo: Path) -> None:
    descriptor = os.open(repo, os.O_RDONLY)
    for _ in range(300):  # a path beyond the system's limit
        os.mkdir("deep" * 10, dir_fd=descriptor)
        inner = os.open("deep" * 10, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    file = os.open("x.txt", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor)
    os.write(file, TEXT.encode())
    os.close(file)
    os.close(descriptor)
    _params(repo, corpus="deep" * 10)


def _many(repo: Path) -> None:
    (repo / "corpus").mkdir()
    for index in range(3000):
        (repo / f"corpus/{index}.txt").write_text(f"{index} words\n")
    _params(repo, corpus="corpus")


def _itself(repo: Path) -> None:
    (repo / "data/corpus").mkdir(parents=True, exist_ok=True)
    (repo / "data/corpus/x.txt").write_text(TEXT)
    _params(repo, corpus="data/corpus")


def _places() -> Iterator[tuple[str, Callable[[Path], None], tuple[str, ...]]]:
    yield "a fifo in a folder", _fifo, ("pipe.txt",)
    yield "a fifo", _fifo_alone, ("pipe.txt",)
    yield "a socket in a folder", _socket, ("s.txt",)
    yield "folders with files' names", _folders, ("corpus",)
    yield "a path that is too long", _deep, ("deep",)
    yield "3,000 files", _many, ("corpus",)
    yield "the folder that is written", _itself, ("corpus",)
    for target in (
        "nowhere",
        "corpus",
        "link.txt",
        ".",
        "..",
        "../corpus",
        "/dev/zero",
        "/dev/random",
        "/proc/self/mem",
        "/dev/tty",
        "/proc",
        "/",
        "good.txt",
        "../story.txt",
    ):
        if target != "/":
            yield (
                f"a link to {target} in a folder",
                _link("link.txt", target),
                ("corpus", "link.txt"),
            )
    for name, value in VALUES.items():
        yield f"prepare.corpus={name}", _set(value), ("corpus", "params.yaml")
        if isinstance(value, str) and value:
            yield (
                f"prepare.text_field={name}",
                _file("x.jsonl", JSONL, text_field=value),
                ("x.jsonl", "text_field", "params.yaml"),
            )
    for corpus in (
        "s3://x", "hf://x", "ftp://127.0.0.1:9/x.txt", "memory://x.txt", "file://story.txt",
        "file:///nowhere.txt",
        "zip://x::story.txt", "nonsense://x", "://", "http://", "https://", "http:///x.txt",
        "http://[::1/x.txt",
        "http://127.0.0.1:99999/x.txt", "http://127.0.0.1:9/x.txt",
        "http://user:secret@127.0.0.1:9/x.txt",
        "local://story.txt", "github://a:b@c/x.txt", "data:text/plain,hello",
        "data://text/plain,hello",
        "simplecache::file://story.txt", "filecache::nowhere", "tar://x", "git://x",
        "reference://x", "~", "/", ".",
        "", " ", "story.txt ", "STORY.TXT", "story", "what-seemed-likel", "./story.txt",
        "story.txt/", "story.txt/x",
        "/dev/null", "/dev/zero", "/dev/stdin", "/proc/self/mem", "\x1b[31m", "params.yaml",
    ):  # fmt: skip
        if corpus not in ("/", "~", "."):
            yield (
                f"corpus {corpus!r}",
                _set(corpus),
                ("corpus", "params.yaml", corpus.strip() or "corpus"),
            )
    for sha256 in ("", "0" * 64, "A" * 64, "0" * 63, None, 1):
        yield f"sha256 {sha256!r}", _set("story.txt", sha256=sha256), ("sha256",)
    for scheduler in (
        "",
        "tcp://",
        "tcp://127.0.0.1:9",
        "tcp://nowhere.invalid:1",
        "tls://x",
        "surprise",
        "tcp://127.0.0.1",
        "tcp://[",
        "ws://127.0.0.1:9",
    ):
        yield f"scheduler {scheduler!r}", _set("story.txt", scheduler=scheduler), ("scheduler",)


def cases() -> Iterator[Case]:
    for name, data in VALID.items():
        yield Case(f"{name}: unharmed", COMMANDS["prepare"], _file(name, data), fails=False)
    for name, change, names in [*_files(), *_places()]:
        yield Case(name, COMMANDS["prepare"], change, names, limits={"RLIMIT_FSIZE": 300_000_000})
    for name, change, names in _files():
        if ("x.txt: " in name or "named" in name) and "inside" not in name:
            yield Case(f"identify {name}", COMMANDS["identify"], change, names)


def test_corpora(arena: Arena, plain: Path) -> None:
    arena.check("corpora", cases(), plain)
