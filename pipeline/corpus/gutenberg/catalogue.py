"""Project Gutenberg's catalogue, and the choice of books that `prepare.gutenberg` makes in it.

The catalogue is `pg_catalog.csv.gz`: one row an item, with the columns `Text#`, `Type`, `Issued`,
`Title`, `Language`, `Authors`, `Subjects`, `LoCC` and `Bookshelves`; fields with several values
join them by `; `. It is fetched once and kept, since it changes every week and the choice of books
with it: `prepare.sha256` pins it, and deleting the file asks for a new one.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.params import Gutenberg
from pipeline.system.files import open_regular
from pipeline.system.text import printable, shortened

LARGEST = 1 << 28  # bytes of the catalogue, unpacked; it has some 20 million
TITLE = 1000  # characters of a title
NUMBER = re.compile(r"[0-9]{1,9}").fullmatch
COLUMNS = ("Text#", "Type", "Title", "Language", "Authors", "Subjects", "Bookshelves")


@dataclass(frozen=True)
class Book:
    """A text of the catalogue: its number, and what is known of it."""

    number: int
    title: str
    languages: tuple[str, ...]
    authors: str
    subjects: str
    bookshelves: str


def read_catalogue(path: Path) -> Iterator[Book]:
    """The catalogue's texts, in its order; audio books, pictures and data sets are passed over.

    Raises:
        UserError: the file is no catalogue: not CSV, packed or not, with these columns.
    """
    try:
        with open_regular(path) as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            content = (gzip.GzipFile(fileobj=file) if packed else file).read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UserError(
                f"prepare.gutenberg.catalogue: {path.name} holds more than {LARGEST:,} bytes"
            )
        rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), restval="")
        missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
        if missing:
            raise UserError(
                f"prepare.gutenberg.catalogue: {path.name} has no column {', '.join(missing)}; "
                "it must be Project Gutenberg's pg_catalog.csv"
            )
        yield from (_book(row) for row in rows if row["Type"] == "Text" and NUMBER(row["Text#"]))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise UserError(
            f"prepare.gutenberg.catalogue: {path.name} is no readable CSV ({error})"
        ) from None


def choose(books: Iterable[Book], settings: Gutenberg) -> list[Book]:
    """The books that meet every criterion of `settings`, by number; `limit` of them at random.

    Which ones a limit takes is decided book by book from the seed and the number, so that a
    larger limit keeps what a smaller one chose.

    Raises:
        UserError: no book does.
    """
    chosen = [book for book in books if _matches(book, settings)]
    if not chosen:
        raise UserError(
            "prepare.gutenberg: no text of the catalogue has this language, author, subject, "
            "bookshelf and number"
        )
    if settings.limit is not None:
        chosen = sorted(chosen, key=lambda book: _draw(book, settings.seed))[: settings.limit]
    return sorted(chosen, key=lambda book: book.number)


def _book(row: dict[str, str]) -> Book:
    return Book(
        number=int(row["Text#"]),
        title=shortened(printable(" ".join(row["Title"].split())), TITLE),
        languages=tuple(code.strip() for code in row["Language"].replace(",", ";").split(";")),
        authors=row["Authors"],
        subjects=row["Subjects"],
        bookshelves=row["Bookshelves"],
    )


def _matches(book: Book, settings: Gutenberg) -> bool:
    return (
        settings.language in book.languages
        and (not settings.ids or book.number in settings.ids)
        and _holds(book.authors, settings.authors)
        and _holds(book.subjects, settings.subjects)
        and _holds(book.bookshelves, settings.bookshelves)
    )


def _holds(field: str, wanted: tuple[str, ...]) -> bool:
    """Whether one of the wanted words stands in the field; no wish is always met."""
    return not wanted or any(word.lower() in field.lower() for word in wanted)


def _draw(book: Book, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{book.number}".encode()).digest()
