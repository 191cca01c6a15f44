"""Files cut into parts and put together again: the same documents, whoever reads them."""

from __future__ import annotations

import gzip
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus import corpora, partition, readers
from pipeline.corpus.corpora import prepare
from pipeline.corpus.documents import Document, Faulty
from pipeline.corpus.parquet import Corpus
from pipeline.corpus.partition import cut, read_files
from pipeline.corpus.storage import File
from pipeline.corpus.workers import start_workers
from pipeline.errors import UserError
from pipeline.params import Prepare


def rows_of(count: int) -> list[dict[str, str]]:
    return [{"text": f"Tale {n}, née of words. " * (n % 7 + 1)} for n in range(count)]


def jsonl(count: int, *, broken: bool = False) -> bytes:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows_of(count)]
    if broken:
        lines[count // 2] = "{"
        lines[count // 3] = ""
    return "\n".join(lines).encode()


def parquet(count: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows_of(count)), sink, row_group_size=10)
    return sink.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus of every kind of file, small and large for `small_parts`."""
    files = {
        "a.jsonl": jsonl(200, broken=True),
        "b.jsonl.gz": gzip.compress(jsonl(100)),
        "c.parquet": parquet(95),
        "d.txt": b"A long story. " * 900,
        **{f"e/{n:02d}.txt": f"Small story {n}.\r\n".encode() for n in range(30)},
        "f.txt": b"\xff",
        "g.parquet": parquet(95)[:-20],
        "h.jsonl": b"",
        "i.jsonl": jsonl(150),
    }
    for name, content in files.items():
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "texts"


def small_parts(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(partition, "WHOLE", 0)
    monkeypatch.setattr(partition, "PART", size)


def files_in(folder: Path) -> list[File]:
    return corpora._files(folder)


def everything(files: list[File]) -> tuple[list[Any], int]:
    counted: list[int] = []
    with start_workers("threads", threads=3) as workers:
        found = [
            d if isinstance(d, Faulty) else replace(d, parts=list(d.parts))
            for d in read_files(files, "text", workers, counted.append)
        ]
    return found, sum(counted)


@pytest.mark.parametrize("size", [7, 60, 1000, 10_000, 1 << 23])
def test_any_parts_give_the_same_documents(
    folder: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    files = files_in(folder)
    expected, counted = everything(files)
    assert counted == sum(file.size for file in files)
    assert [d.source for d in expected if isinstance(d, Faulty)] == [
        "a.jsonl:101",
        "f.txt",
        "g.parquet",
    ]
    assert len(expected) == 199 + 100 + 95 + 1 + 30 + 1 + 1 + 150
    small_parts(monkeypatch, size)
    assert everything(files)[0] == expected


def test_a_long_line_is_read_by_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other parts that it goes through leave it at their ends."""
    monkeypatch.setattr(readers, "LINE", 100)
    monkeypatch.setattr(readers, "BLOCK", 16)
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(3) + b"\n" + b"{" * 5000 + b"\n" + jsonl(3))
    expected, _ = everything([File.at(path)])
    assert [type(d) for d in expected] == [Document] * 3 + [Faulty] + [Document] * 3
    for size in (7, 60, 1000):
        small_parts(monkeypatch, size)
        assert everything([File.at(path)])[0] == expected
    counted: list[int] = []
    inside = readers.Span(File.at(path), 2000, 2100)
    assert list(readers.read_documents(inside, "text", counted.append)) == []
    assert sum(counted) < 5000


def test_large_files_are_cut_and_small_ones_gathered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch, 2000)
    parts = list(cut(files_in(folder)))
    names = [[span.file.name for span in part.spans] for part in parts]
    assert names.count(["a.jsonl"]) > 5
    assert names.count(["c.parquet"]) > 1
    assert [p.spans[0].file.name for p in parts if p.streamed] == [
        "b.jsonl.gz",
        "d.txt",
        "g.parquet",
    ]
    gathered = [spans for spans in names if len(spans) > 1]
    assert len(gathered) <= 2
    assert sum(part.size for part in parts) >= sum(f.size for f in files_in(folder)) - 200


def test_a_row_group_too_large_to_hand_back_is_streamed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch, 100)
    monkeypatch.setattr(partition, "GROUP", 100)
    files = [file for file in files_in(folder) if file.name == "c.parquet"]
    assert [part.streamed for part in cut(files)] == [True]
    assert len(everything(files)[0]) == 95


@pytest.mark.parametrize(
    "scheduler", ["threads", pytest.param("processes", marks=pytest.mark.slow)]
)
def test_the_same_corpus_from_any_workers(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str
) -> None:
    settings = Prepare(corpus=str(folder), scheduler=scheduler)
    expected = prepare(settings.model_copy(update={"scheduler": "threads"}), tmp_path / "one")
    assert expected.skipped == {"not JSON": 1, "not UTF-8": 1, "unreadable": 1}
    small_parts(monkeypatch, 3000)
    assert prepare(settings, tmp_path / "two") == expected
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_on_error_fail_names_the_first_fault(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (1 << 23, 500):
        small_parts(monkeypatch, size)
        settings = Prepare(corpus=str(folder), on_error="fail")
        with pytest.raises(UserError, match=r"^a\.jsonl:101: not a line of JSON"):
            prepare(settings, tmp_path / "corpus")
        assert not (tmp_path / "corpus").exists()


def test_a_remote_folder_is_read_as_a_local_one(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    root = f"memory://{tmp_path.name}"
    for file in files_in(folder):
        with fsspec.open(f"{root}/{file.name}", "wb") as target:
            target.write(Path(file.path).read_bytes())
    with fsspec.open(f"{root}/.hidden/a.txt", "wb") as target:
        target.write(b"not read")
    here = prepare(Prepare(corpus=str(folder)), tmp_path / "here")
    for size in (1 << 23, 1000):
        small_parts(monkeypatch, size)
        there = prepare(Prepare(corpus=root), tmp_path / "there")
        assert there == here.model_copy(update={"corpus": root, "source": root})
    rows = list(Corpus.open(tmp_path / "there").rows())
    assert rows == list(Corpus.open(tmp_path / "here").rows())
    some = prepare(Prepare(corpus=f"{root}/*.jsonl"), tmp_path / "some")
    assert some.documents == 198 + 150
    one = prepare(Prepare(corpus=f"{root}/e/07.txt"), tmp_path / "one")
    assert (one.documents, one.characters) == (1, len("Small story 7.\n"))


def test_a_file_url_is_a_path(tmp_path: Path, folder: Path) -> None:
    report = prepare(Prepare(corpus=f"file://{folder}/e"), tmp_path / "corpus")
    assert (report.corpus, report.source, report.documents) == ("e", "local folder", 30)


def test_a_document_is_handed_back_whole() -> None:
    document = Document("a", "b", "c", iter(["d", "e"]))
    assert partition._whole(document) == Document("a", "b", "c", ["d", "e"])
