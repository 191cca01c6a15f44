"""Documents out of files of every kind, and files that are not what they should be."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.corpus import documents, readers, storage
from pipeline.corpus.documents import Document, Faulty
from pipeline.corpus.readers import SUFFIXES, Span, read_documents
from pipeline.corpus.storage import File, suffix_of
from pipeline.errors import UserError
from pipeline.tokens.tokenizer import encode

TEXTS = ["First, with “quotes”.\n", "Second\r\n", "Third <|endoftext|> 🙂"]


def documents_of(path: Path, text_field: str = "text") -> list[Document]:
    """Every document; the first fault is raised."""
    size = path.stat().st_size if path.exists() else 0
    found = []
    for document in read_documents(Span(File(str(path), path.name, size)), text_field):
        if isinstance(document, Faulty):
            raise UserError(document.detail)
        found.append(replace(document, parts=list(document.parts)))
    return found


def read(path: Path, text_field: str = "text") -> list[tuple[str, str, str]]:
    """(title, source, text) of every document."""
    found = documents_of(path, text_field)
    return [(d.title, d.source, "".join(d.parts)) for d in found]


def texts(path: Path, text_field: str = "text") -> list[str]:
    return [text for _, _, text in read(path, text_field)]


def jsonl(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, object]], **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, **options)
    return sink.getvalue()


ROWS: list[dict[str, object]] = [
    {"text": text, "title": f"No. {i}"} for i, text in enumerate(TEXTS)
]


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", jsonl(ROWS)), ("a.parquet", parquet(ROWS, row_group_size=2))]
)
def test_rows_are_documents(tmp_path: Path, name: str, content: bytes, packer: str) -> None:
    path = tmp_path / f"{name}{packer}"
    path.write_bytes(PACKERS[packer](content))
    titles = [f"No. {i}" for i in range(3)]
    sources = [f"{path.name}:{i}" for i in (1, 2, 3)]
    assert read(path) == list(zip(titles, sources, TEXTS, strict=True))  # line ends as they are


NAMES = ["a.story.txt", "A.MD", "a.story.txt.gz", "A.Md.GZ", "A.md.ZST"]


@pytest.mark.parametrize("name", NAMES)
def test_a_text_file_is_a_document(tmp_path: Path, name: str) -> None:
    content = b"\xef\xbb\xbfone\r\ntwo\rthree\n\xef\xbb\xbf"
    path = tmp_path / name
    packer = next(p for p in (".gz", ".zst", "") if name.lower().endswith(p))
    path.write_bytes(PACKERS[packer](content))
    title = "a.story" if "story" in name else "A"
    assert read(path) == [(title, name, "one\ntwo\nthree\n\ufeff")]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=30) | st.text(max_size=20).map(str.encode), block=st.integers(1, 9)
)
@example(content="\ufeffé\r\n\r🙂".encode(), block=1)
@example(content="é🙂".encode()[:-1], block=2)
@example(content=b"\xff\xfeh\0i\0", block=4)
def test_reads_as_pythons_text_mode_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, block: int
) -> None:
    monkeypatch.setattr(readers, "BLOCK", block)
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        with pytest.raises(UserError, match=rf"a\.txt: byte {error.start} \(0x"):
            texts(path)
    else:
        assert texts(path) == [path.read_text(encoding="utf-8-sig")]


def test_utf16_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello", encoding="utf-16")
    with pytest.raises(UserError, match="UTF-16"):
        texts(tmp_path / "a.txt")


def test_long_documents_come_in_parts_that_cut_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BLOCK", 64)
    monkeypatch.setattr(documents, "PART", 100)
    text = "It was late,  and the clock -- it's an old one -- struck.\n\n" * 40
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": text}]))
    for name in ("a.txt", "a.jsonl"):
        (document,) = documents_of(tmp_path / name)
        parts = list(document.parts)
        assert len(parts) > 20
        assert max(map(len, parts)) <= 100
        assert "".join(parts) == text
        assert [token for part in parts for token in encode(part)] == encode(text)


def test_a_rows_id_is_its_texts(tmp_path: Path) -> None:
    def ids(rows: list[dict[str, object]]) -> list[str]:
        (tmp_path / "a.jsonl").write_bytes(jsonl(rows))
        return [d.id for d in documents_of(tmp_path / "a.jsonl")]

    before = ids(ROWS)
    assert len(set(before)) == 3
    assert ids([{"text": "new"}, *reversed(ROWS)])[1:] == before[::-1]


def test_blank_lines_and_a_mark_in_jsonl(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n  \r\n{"text": "b"}')
    assert [s for _, s, _ in read(tmp_path / "a.jsonl")] == ["a.jsonl:1", "a.jsonl:4"]


def test_another_field_is_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"body": "x", "text": "y", "title": 3}]))
    (tmp_path / "a.parquet").write_bytes(parquet([{"body": "x", "text": "y"}]))
    assert read(tmp_path / "a.jsonl", "body") == [("a.jsonl:1", "a.jsonl:1", "x")]
    assert texts(tmp_path / "a.parquet", "body") == ["x"]
    assert texts(tmp_path / "a.jsonl") == ["y"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_string_columns_of_every_kind(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"text": pa.array(["a", "b"], kind)}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == ["a", "b"]


def binary_as_string() -> bytes:
    """A Parquet file whose string column holds bytes that are not UTF-8."""
    invalid = pa.StringArray.from_buffers(2, *pa.array([b"fine", b"\xc3("]).buffers()[1:])
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": invalid}), sink)
    return sink.getvalue()


WRONG: dict[str, tuple[str, bytes, str]] = {
    "no JSON": ("a.jsonl", b'{"text": "a"}\n{"text": ', r"a\.jsonl:2: not a line of JSON"),
    "no object": ("a.jsonl", b'["text"]', r"a\.jsonl:1: must be a JSON object, not list"),
    "no such field": ("a.jsonl", b'{"body": "a"}', r"a\.jsonl:1: has no field 'text'.* are body"),
    "null": ("a.jsonl", b'{"text": null}', r"a\.jsonl:1: 'text' must be a string, not NoneType"),
    "a number": ("a.jsonl", b'\n{"text": 1}', r"a\.jsonl:2: 'text' must be a string, not int"),
    "half a pair": (
        "a.jsonl",
        rb'{"text": "a\ud83d"}',
        r"a\.jsonl:1: .* half a character, U\+D83D",
    ),
    "bytes in JSON": ("a.jsonl", b'{"text": "\xff"}', r"a\.jsonl:1: byte 10 \(0xff\)"),
    "too deep": ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: not a line of JSON"),
    "no Parquet": ("a.parquet", b"PAR1 or not", r"a\.parquet: not a readable Parquet file"),
    "cut Parquet": ("a.parquet", parquet(ROWS)[:-9], r"a\.parquet: not a readable Parquet file"),
    "an empty Parquet": ("a.parquet", b"", r"a\.parquet: not a readable Parquet file"),
    "no column": ("a.parquet", parquet([{"body": "a"}]), "no column 'text'.* columns are body"),
    "no strings": ("a.parquet", parquet([{"text": 1}]), "must hold strings, not int64"),
    "a null row": ("a.parquet", parquet([{"text": "a"}, {"text": None}]), r"a\.parquet:2: 'text'"),
    "bytes in Parquet": ("a.parquet", binary_as_string(), r"a\.parquet:2: byte 0 \(0xc3\)"),
    "no gzip": ("a.txt.gz", b"plain", r"a\.txt\.gz: not a whole gzip file"),
    "cut gzip": ("a.txt.gz", gzip.compress(b"hello" * 99)[:-9], "not a whole gzip file"),
    "spoilt gzip": (
        "a.txt.gz",
        gzip.compress(b"ab" * 9)[:10] + b"\xff" * 20,
        "not a whole gzip file",
    ),
    "no zstd": ("a.jsonl.zst", b"plain", r"a\.jsonl\.zst: not a whole zstd file"),
    "cut zstd": ("a.txt.zst", zstd(b"hello" * 99)[:-5], "a.txt.zst: not a whole zstd file"),
    "cut gzip of Parquet": (
        "a.parquet.gz",
        gzip.compress(parquet(ROWS))[:-9],
        r"a\.parquet\.gz: not",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_named(tmp_path: Path, case: str) -> None:
    name, content, said = WRONG[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        texts(tmp_path / name)
    assert "\n" not in str(caught.value)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_flipped_byte_is_an_error_for_people_or_none(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(parquet(ROWS, compression="zstd"))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (tmp_path / "a.parquet").write_bytes(content)
    with suppress(UserError):  # and nothing else
        texts(tmp_path / "a.parquet")


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.txt: No such file"):
        texts(tmp_path / "gone.txt")


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.txt", ".txt"), ("b/A.MD.GZ", ".md"), ("a.txt.utf-8", ".utf-8"), ("a.gz", ""), ("txt", "")],
)
def test_suffixes(name: str, suffix: str) -> None:
    assert suffix_of(name) == suffix
    assert set(SUFFIXES) == {".txt", ".md", ".jsonl", ".parquet"}


def faults(path: Path) -> list[tuple[str, str]]:
    """What becomes of each document: its text, or the reason why it is left out."""
    span = Span(File.at(path))
    return [
        (d.source, d.reason) if isinstance(d, Faulty) else (d.source, "".join(d.parts))
        for d in read_documents(span, "text")
    ]


def test_rows_after_a_bad_one_are_read(tmp_path: Path) -> None:
    lines = [b'{"text": "a"}', b"{", b'{"text": 1}', b'{"text": "\xff"}', b'{"text": "b"}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    expected = ["a", "not JSON", "no text", "not UTF-8", "b"]
    assert faults(tmp_path / "a.jsonl") == [
        (f"a.jsonl:{n}", what) for n, what in enumerate(expected, start=1)
    ]
    (tmp_path / "a.parquet").write_bytes(binary_as_string())
    assert faults(tmp_path / "a.parquet") == [("a.parquet:1", "fine"), ("a.parquet:2", "not UTF-8")]


@pytest.mark.parametrize("packer", PACKERS)
def test_a_line_too_long_for_memory_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packer: str
) -> None:
    monkeypatch.setattr(readers, "LINE", 50)
    monkeypatch.setattr(readers, "BLOCK", 16)
    fits = jsonl([{"text": "x" * 37}])  # 50 bytes with its end
    assert len(fits) == 50
    too_long = jsonl([{"text": "x" * 38}])
    content = fits + too_long + jsonl([{"text": "y" * 500}]) + fits + too_long.rstrip() + b" " * 9
    path = tmp_path / f"a.jsonl{packer}"
    path.write_bytes(PACKERS[packer](content))
    found = list(read_documents(Span(File.at(path)), "text"))
    assert [d.source for d in found] == [f"{path.name}:{number}" for number in range(1, 6)]
    assert [(d.reason, d.detail) for d in found if isinstance(d, Faulty)] == [
        ("too long", f"{path.name}:2: a line of 51 bytes; up to 50 are read"),
        ("too long", f"{path.name}:3: a line of 513 bytes; up to 50 are read"),
        ("too long", f"{path.name}:5: a line of 59 bytes; up to 50 are read"),
    ]


def test_a_file_that_is_damaged_ends_there(tmp_path: Path) -> None:
    content = gzip.compress(jsonl([{"text": f"{n} " + "x" * 999} for n in range(5000)]))
    (tmp_path / "a.jsonl.gz").write_bytes(content[: len(content) // 2])
    *read_before, last = faults(tmp_path / "a.jsonl.gz")
    assert last == ("a.jsonl.gz", "unreadable")
    assert 100 < len(read_before) < 5000


def test_no_half_of_a_long_text_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PART", 100)
    monkeypatch.setattr(readers, "BLOCK", 50)
    (tmp_path / "a.txt").write_bytes(b"It was late. " * 1000 + b"\xff")
    assert faults(tmp_path / "a.txt") == [("a.txt", "not UTF-8")]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.txt.zst"])
def test_the_bytes_that_are_read_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(documents, "PART", 1000)
    monkeypatch.setattr(readers, "BLOCK", 512)
    monkeypatch.setattr(storage, "BLOCK", 512)
    content = jsonl(ROWS * 50) if "jsonl" in name else b"It was late.\n" * 500
    packer = next(p for p in (".gz", ".zst", "") if name.endswith(p))
    (tmp_path / name).write_bytes(PACKERS[packer](content))
    counted: list[int] = []
    for document in read_documents(Span(File.at(tmp_path / name)), "text", counted.append):
        assert isinstance(document, Document)
        assert "".join(document.parts)
    assert sum(counted) == (tmp_path / name).stat().st_size
