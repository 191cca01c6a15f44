"""Which books are chosen."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus.gutenberg import catalogue as catalogue_module
from pipeline.corpus.gutenberg.catalogue import choose, read_catalogue
from pipeline.corpus.gutenberg.mirror import names
from pipeline.errors import UserError
from pipeline.params import Gutenberg
from tests.helpers.bookshop import Shop


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    shop = Shop()
    shop.list(84, Authors="Shelley, Mary Wollstonecraft, 1797-1851", Bookshelves="Gothic Fiction")
    shop.list(1342, Subjects="Courtship -- Fiction; Sisters -- Fiction")
    shop.list(1343, language="en; fr")
    shop.list(10, language="fr")
    shop.list(11, Type="Sound")
    path = tmp_path / "pg_catalog.csv.gz"
    path.write_bytes(shop.catalogue())
    return path


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ({}, [84, 1342, 1343]),
        ({"language": "fr"}, [10, 1343]),
        ({"authors": ("shelley", "Verne")}, [84]),
        ({"subjects": ("COURTSHIP",)}, [1342]),
        ({"bookshelves": ("Gothic",)}, [84]),
        ({"ids": (1343, 1342, 10)}, [1342, 1343]),
        ({"ids": (1343,), "subjects": ("Sisters",)}, [1343]),
    ],
)
def test_every_criterion_counts(catalogue: Path, given: dict[str, Any], numbers: list[int]) -> None:
    chosen = choose(read_catalogue(catalogue), Gutenberg(**given))
    assert [book.number for book in chosen] == numbers


def test_a_limit_draws_and_a_larger_one_adds(tmp_path: Path) -> None:
    shop = Shop()
    for number in range(1, 200):
        shop.list(number)
    (tmp_path / "c.csv").write_bytes(gzip.decompress(shop.catalogue()))  # unpacked will do

    def drawn(limit: int, seed: int) -> set[int]:
        books = choose(read_catalogue(tmp_path / "c.csv"), Gutenberg(limit=limit, seed=seed))
        assert [book.number for book in books] == sorted(book.number for book in books)
        return {book.number for book in books}

    assert len(drawn(20, 1)) == 20
    assert drawn(20, 1) < drawn(50, 1)
    assert drawn(20, 1) != drawn(20, 2)


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1,2\n", b"\x1f\x8bnot really", b"Text#\xff\n", b"<html></html>"]
)
def test_what_is_no_catalogue_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "books.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"prepare\.gutenberg\.catalogue: books\.csv") as caught:
        list(read_catalogue(path))
    assert "\n" not in str(caught.value)


def test_where_mirrors_keep_a_book() -> None:
    assert names(1342) == (
        "cache/epub/1342/pg1342.txt",
        "1/3/4/1342/1342-0.txt",
        "1/3/4/1342/1342-8.txt",
        "1/3/4/1342/1342.txt",
    )
    assert names(7)[-1] == "0/7/7.txt"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8b" + b"no gzip", "no readable CSV"),
        (gzip.compress(b"x" * 5000)[:-9], "no readable CSV"),
        (gzip.compress(bytes(20_000)), "holds more than 10,000 bytes"),
        (b"a,b\n", "has no column Text#"),
    ],
    ids=range(4),  # gzip writes the time
)
def test_what_is_no_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str
) -> None:
    monkeypatch.setattr(catalogue_module, "LARGEST", 10_000)
    (tmp_path / "c.csv").write_bytes(content)
    with pytest.raises(UserError, match=said):
        list(read_catalogue(tmp_path / "c.csv"))


def test_rows_that_are_no_books_are_passed_over(tmp_path: Path) -> None:
    rows = ["Text#,Type,Title,Language,Authors,Subjects,Bookshelves"]
    rows += [f"{number},Text,T\\ud800,en,,," for number in ("²", "9" * 5000, "", "-1", "7")]
    (tmp_path / "c.csv").write_text("\n".join([*rows, "8,Text"]))
    assert [book.number for book in read_catalogue(tmp_path / "c.csv")] == [7, 8]
