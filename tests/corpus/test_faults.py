"""Files that cannot be read, and texts with what no file can hold: left out, counted, in one line.

Whatever lies in a corpus folder, both stages end, and what can be read is read.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus import parquet, readers
from pipeline.corpus.corpora import identify, prepare
from pipeline.corpus.parquet import Corpus
from pipeline.errors import UserError
from pipeline.params import Prepare
from pipeline.system import files


def broken_link(path: Path) -> None:
    path.symlink_to("nowhere.txt")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


UNREADABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a broken link": (broken_link, "No such file or directory"),
    "a link to itself": (link_to_itself, "Too many levels of symbolic links"),
    "a pipe": (os.mkfifo, "not a regular file"),
    "a socket": (unix_socket, "not a regular file"),
    "a device": (device, "not a regular file"),
}


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("fine")
    monkeypatch.chdir(tmp_path)
    return folder


def left_out(corpus: Path) -> list[tuple[str, str, str]]:
    return [(d["source"], d["reason"], d["detail"]) for d in Corpus.open(corpus).left_out()]


@pytest.mark.parametrize("name", ["b.txt", "b.jsonl", "b.parquet", "b.txt.gz"])
@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_left_out(tmp_path: Path, texts: Path, case: str, name: str) -> None:
    make, said = UNREADABLE[case]
    make(texts / name)
    settings = Prepare(corpus=str(texts))
    before = identify(settings)
    report = prepare(settings, tmp_path / "corpus")
    assert (report.documents, report.skipped) == (1, {"unreadable": 1})
    assert left_out(tmp_path / "corpus") == [(name, "unreadable", f"{name}: {said}")]
    with pytest.raises(UserError, match=f"{name}: {said}"):
        prepare(Prepare(corpus=str(texts), on_error="fail"), tmp_path / "corpus")
    (texts / name).unlink()
    assert identify(settings) != before


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_corpus_that_is_such_a_file_is_one_line(tmp_path: Path, texts: Path, case: str) -> None:
    make, _ = UNREADABLE[case]
    make(texts / "b.txt")
    for work in (identify, lambda settings: prepare(settings, tmp_path / "corpus")):
        with pytest.raises(UserError, match=r"^prepare\.corpus: .*b\.txt") as caught:
            work(Prepare(corpus="texts/b.txt"))
        assert "\n" not in str(caught.value)


def test_a_link_to_a_file_is_read(tmp_path: Path, texts: Path) -> None:
    (texts / "b.txt").symlink_to("a.txt")
    assert prepare(Prepare(corpus=str(texts)), tmp_path / "corpus").documents == 2


def test_linked_folders_are_read_once(tmp_path: Path, texts: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "b.txt").write_text("b")
    (elsewhere / "deep" / "c.txt").write_text("c")
    (texts / "z").mkdir()
    (texts / "z" / "d.txt").write_text("d")
    (texts / "a").symlink_to("z")  # not under this name
    (texts / "z" / "back").symlink_to(texts)
    (texts / "link").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(elsewhere)
    (texts / "nowhere").symlink_to("gone")
    identify(Prepare(corpus=str(texts)))
    report = prepare(Prepare(corpus=str(texts)), tmp_path / "corpus")
    sources = [row.source for row in Corpus.open(tmp_path / "corpus").rows()]
    assert sources == ["a.txt", "link/b.txt", "link/deep/c.txt", "z/d.txt"]
    assert report.skipped == {}


@pytest.mark.parametrize("name", [b"caf\xe9.txt", b"a\nb.txt", "\u202egnp.txt".encode()])
def test_a_name_that_no_report_can_hold_is_an_escape(
    tmp_path: Path, texts: Path, name: bytes
) -> None:
    (texts / os.fsdecode(name)).write_text("text")
    identify(Prepare(corpus=str(texts)))
    prepare(Prepare(corpus=str(texts)), tmp_path / "corpus")
    rows = list(Corpus.open(tmp_path / "corpus").rows())
    assert sorted(row.text for row in rows) == ["fine", "text"]
    assert all(row.source.isprintable() for row in rows)
    renamed = texts.rename(tmp_path / os.fsdecode(b"\xff"))
    texts.symlink_to(renamed.name)
    assert identify(Prepare(corpus=str(texts))).corpus == r"\udcff"
    assert prepare(Prepare(corpus=str(texts)), tmp_path / "corpus").corpus == r"\udcff"


AS_NOBODY = """
import os, sys
from pathlib import Path
folder = Path(sys.argv[1])
os.chmod(folder / "texts/closed", 0o000)
os.chmod(folder / "texts/b.txt", 0o000)
os.chmod(folder / "texts/unsearchable", 0o444)
from pipeline.corpus.corpora import identify, prepare
from pipeline.params import Prepare
settings = Prepare(corpus=str(folder / "texts"))
if os.geteuid() == 0:
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 65534, 65534, follow_symlinks=False)
    os.setuid(65534)
print(identify(settings).sha256)
print(prepare(settings, folder / "corpus").skipped)
os.chmod(folder / "texts/closed", 0o755)
print(identify(settings).sha256)
"""


def test_what_the_user_may_not_read_is_counted(tmp_path: Path, texts: Path) -> None:
    for name in ("closed", "unsearchable"):
        (texts / name).mkdir()
        (texts / name / "b.txt").write_text("not to be read")
    (texts / "b.txt").write_text("not to be read")
    (texts / "link").symlink_to("closed/inner")
    place = Path("/tmp") / f"lossbook-{os.getpid()}"
    texts.parent.rename(place)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(place)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        place.rename(texts.parent)
    assert ended.returncode == 0, ended.stderr
    before, skipped, after = ended.stdout.splitlines()
    assert skipped == "{'unreadable': 4}"
    assert before != after
    assert [source for source, _, _ in left_out(tmp_path / "corpus")] == [
        "b.txt",
        "closed/",
        "link/",
        "unsearchable/b.txt",
    ]


@pytest.mark.parametrize(
    ("corpus", "said"),
    [
        ("~nosuchuser/a.txt", "'~nosuchuser/a.txt' is not a path"),
        ("a" * 5000 + ".txt", "File name too long"),
        ("d/" * 2500 + "a.txt", "File name too long"),
        ("a\0b.txt", r"a\\x00b\.txt"),
        ("http://a b.txt", "not a valid URL"),
        ("http://host:99999/a.txt", "not a valid URL"),
        ("http://\u2100.example/a.txt", "not a valid URL"),
        ("http://" + "a" * 300 + ".example/a.txt", "not a valid URL"),
        ("\x1b[31m", r"\\x1b\[31m"),
    ],
)
def test_a_corpus_that_can_be_no_place_is_one_short_line(
    tmp_path: Path, cache: Path, corpus: str, said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        prepare(Prepare(corpus=corpus), tmp_path / "corpus")
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def written(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def rows(**columns: Any) -> pa.Table:
    return pa.table(columns)


ROWS: dict[str, tuple[str, bytes, dict[str, int], list[str]]] = {
    "half a character in a title": (
        "b.jsonl",
        rb'{"text": "b", "title": "\ud83d"}',
        {},
        ["b"],
    ),
    "half a character in a key": ("b.jsonl", rb'{"\ud83d": "b"}', {"no text": 1}, []),
    "a number of 5,000 digits": (
        "b.jsonl",
        b'{"text": "b", "n": ' + b"9" * 5000 + b'}\n{"text": "c"}',
        {"not JSON": 1},
        ["c"],
    ),
    "deep JSON": (
        "b.jsonl",
        b'{"text": ' + b"[" * 200_000 + b'\n{"text": "c"}',
        {"not JSON": 1},
        ["c"],
    ),
    "a long title": (
        "b.jsonl",
        json.dumps({"text": "b", "title": "t" * 10**6}).encode(),
        {},
        ["b"],
    ),
    "two columns of one name": (
        "b.parquet",
        written(pa.table([pa.array(["b"]), pa.array(["c"])], names=["text", "text"])),
        {"no text": 1},
        [],
    ),
    "two titles": (
        "b.parquet",
        written(pa.table([pa.array(["b"])] * 3, names=["text", "title", "title"])),
        {},
        ["b"],
    ),
    "a title of another type": (
        "b.parquet",
        written(rows(text=["b"], title=[{"a": 1, "b": [2]}])),
        {},
        ["b"],
    ),
    "a column of another type": ("b.parquet", written(rows(text=[b"b"])), {"no text": 1}, []),
    "a nested column": ("b.parquet", written(rows(text=[{"text": "b"}])), {"no text": 1}, []),
    "no rows": ("b.parquet", written(rows(text=pa.array([], pa.string()))), {}, []),
    "no columns": ("b.parquet", written(pa.table({})), {"no text": 1}, []),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_with_what_no_corpus_can_hold(tmp_path: Path, texts: Path, case: str) -> None:
    name, content, skipped, found = ROWS[case]
    (texts / name).write_bytes(content)
    report = prepare(Prepare(corpus=str(texts)), tmp_path / "corpus")
    assert report.skipped == skipped
    read = list(Corpus.open(tmp_path / "corpus").rows())
    assert [row.text for row in read] == ["fine", *found]
    assert all(len(row.title) <= readers.TITLE for row in read)
    assert all(len(detail) <= 500 for _, _, detail in left_out(tmp_path / "corpus"))


def test_corrupted_pages_are_left_out(tmp_path: Path, texts: Path) -> None:
    content = bytearray(written(rows(text=["b" * 999, "c" * 999]), compression="none"))
    content[20:60] = b"\xff" * 40
    (texts / "b.parquet").write_bytes(content)
    assert prepare(Prepare(corpus=str(texts)), tmp_path / "corpus").skipped.keys() <= {
        "unreadable",
        "not UTF-8",
    }


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


@pytest.mark.parametrize(("packer", "pack"), [(".gz", gzip.compress), (".zst", zstd)])
@pytest.mark.parametrize("name", ["b.txt", "b.jsonl", "b.parquet"])
def test_what_unpacks_to_far_more_than_its_size_is_left_out(
    tmp_path: Path,
    texts: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    packer: str,
    pack: Callable[[bytes], bytes],
) -> None:
    monkeypatch.setattr(files, "ANY_UNPACKED", 10_000)
    (texts / f"{name}{packer}").write_bytes(pack(b" " * 3_000_000))
    report = prepare(Prepare(corpus=str(texts)), tmp_path / "corpus")
    assert report.skipped == {"too long": 1}
    ((_, _, detail),) = left_out(tmp_path / "corpus")
    assert detail == (
        f"{name}{packer}: unpacks to more than 100 times its size, which no text does; "
        "unpack it to have it read all the same"
    )


def test_parquet_that_unpacks_to_far_more_than_its_size(
    tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "ANY_UNPACKED", 10_000)
    repeated = pa.array(["b" * 1000] * 20_000)
    (texts / "b.parquet").write_bytes(written(rows(text=repeated), compression="zstd"))
    long = pa.array(["c" * 10**6])
    plain = {"compression": "zstd", "use_dictionary": False}
    (texts / "c.parquet").write_bytes(written(rows(text=long), **plain))
    report = prepare(Prepare(corpus=str(texts)), tmp_path / "corpus")
    assert report.skipped == {"too long": 2}
    assert report.characters < 2_000_000


def test_documents_have_an_upper_bound(
    tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "LINE", 100)
    monkeypatch.setattr(readers, "LARGEST", 2000)
    (texts / "b.parquet").write_bytes(written(rows(text=["b" * 101, "c" * 100])))
    (texts / "c.txt").write_bytes(b"d" * 2001)
    report = prepare(Prepare(corpus=str(texts)), tmp_path / "corpus")
    assert (report.documents, report.skipped) == (2, {"too long": 2})
    assert [detail for _, _, detail in left_out(tmp_path / "corpus")] == [
        "b.parquet:1: a text of 101 characters; up to 100 are read",
        "c.txt: 2,001 bytes; up to 2,000 are read",
    ]


def test_what_is_left_out_is_listed_up_to_a_bound_and_counted_in_full(
    tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "LISTED", 5)
    (texts / "b.jsonl").write_bytes(b"{\n" * 9)
    assert prepare(Prepare(corpus=str(texts)), tmp_path / "corpus").skipped == {"not JSON": 9}
    assert len(left_out(tmp_path / "corpus")) == 5
