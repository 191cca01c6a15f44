"""`prepare.separator`: several documents in a text file, and the separator in none of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.corpus import documents, readers
from pipeline.corpus.corpora import prepare
from pipeline.corpus.documents import Document, Faulty
from pipeline.corpus.parquet import Corpus
from pipeline.corpus.readers import Span, read_documents, separated
from pipeline.corpus.storage import File
from pipeline.params import Prepare
from pipeline.split.split import split
from tests.corpus.test_readers import PACKERS

END = "<|endoftext|>"


def read(path: Path, separator: str | None = END) -> list[tuple[str, str]]:
    """(source, text) of every document; (source, reason) of what cannot be read."""
    found = read_documents(Span(File.at(path)), "text", separator=separator)
    return [
        (d.source, d.reason) if isinstance(d, Faulty) else (d.source, "".join(d.parts))
        for d in found
    ]


@settings(max_examples=300)
@given(
    text=st.text("ab<", max_size=30),
    separator=st.text("ab<", min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 30), max_size=5),
)
@example(text="aab", separator="ab", cuts=[1])
def test_as_str_split_wherever_the_blocks_end(text: str, separator: str, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(text)]
    blocks = [text[a:b] for a, b in zip(places, [*places[1:], None], strict=True)]
    assert ["".join(one) for one in separated(blocks, separator)] == text.split(separator)
    unread = [next(one, "")[:0] for one in separated(blocks, separator)]
    assert len(unread) == len(text.split(separator))


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("name", ["a.txt", "a.MD", "a.txt.gz", "a.md.zst"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_file_of_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, block: int, end: str
) -> None:
    monkeypatch.setattr(readers, "BLOCK", block)
    text = f"\ufeffone\nnaïve\n{END}\n\n{END}two <|endof\n{END}{END}three{END}\n"
    packer = next(p for p in (".gz", ".zst", "") if name.endswith(p))
    (tmp_path / name).write_bytes(PACKERS[packer](text.replace("\n", end).encode()))
    assert read(tmp_path / name) == [
        (f"{name}:1", "one\nnaïve\n"),
        (f"{name}:2", "two <|endof\n"),
        (f"{name}:3", "three"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("given_end", ["\n", "\r\n", "\r"])
def test_a_separator_may_hold_line_ends(tmp_path: Path, end: str, given_end: str) -> None:
    (tmp_path / "a.txt").write_bytes(f"one{end}---{end}two{end}".encode())
    separator = f"{given_end}---{given_end}"
    assert read(tmp_path / "a.txt", separator) == [("a.txt:1", "one"), ("a.txt:2", "two\n")]


def test_without_a_separator_it_is_ordinary_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"one{END}two")
    assert read(tmp_path / "a.txt", None) == [("a.txt", f"one{END}two")]


def test_rows_know_no_separator(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "one{END}two"}}')
    assert read(tmp_path / "a.jsonl") == [("a.jsonl:1", f"one{END}two")]


def test_long_documents_between_separators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK", 64)
    monkeypatch.setattr(documents, "PART", 100)
    texts = ["It was late. " * 50, "x", "The clock struck. " * 30]
    (tmp_path / "a.txt").write_text(END.join(texts))
    found = []
    for document in read_documents(Span(File.at(tmp_path / "a.txt")), "text", separator=END):
        assert isinstance(document, Document)
        parts = list(document.parts)
        assert max(map(len, parts)) <= 100
        found.append("".join(parts))
    assert found == texts


def test_no_half_of_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(f"one{END}two{END}".encode() + b"\xff")
    assert read(tmp_path / "a.txt") == [("a.txt", "not UTF-8")]


def test_equal_documents_share_an_id_as_rows_do(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(f"one{END}two{END}one")
    (tmp_path / "texts" / "b.jsonl").write_text('{"text": "two"}')
    corpus = str(tmp_path / "texts")
    report = prepare(Prepare(corpus=corpus, separator=END), tmp_path / "corpus")
    ids = [row.id for row in Corpus.open(tmp_path / "corpus").rows()]
    assert report.documents == 4
    assert report.skipped == {}
    assert (ids[0], ids[1]) == (ids[2], ids[3])
    assert len({*ids}) == 2


def test_end_of_text_follows_each_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(END.join(f"Tale {n}." for n in range(20)))
    for separator, ends in ((None, 1), (END, 20)):
        settings = Prepare(corpus=str(tmp_path / "a.txt"), separator=separator)
        assert prepare(settings, tmp_path / "corpus").documents == ends
        report = split(tmp_path / "corpus", tmp_path / "tokens", 0.5)
        if separator:
            assert report.train.documents + report.val.documents == 20
