"""`prepare.corpus: gutenberg`: the chosen books as documents, and why the others are left out.

Books are fetched first, then decoded, stripped and filtered by the workers, and taken in the order
of their numbers: of two that are nearly the same, the lower number stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rensa import RMinHash

from pipeline.corpus.documents import Document, LeftOut, in_parts
from pipeline.corpus.gutenberg.catalogue import Book, choose, read_catalogue
from pipeline.corpus.gutenberg.language import can_identify, language_of
from pipeline.corpus.gutenberg.mirror import Mirror, fetch_catalogue
from pipeline.corpus.gutenberg.text import decode, strip
from pipeline.corpus.near_copies import NearDuplicates, signature
from pipeline.corpus.workers import Workers
from pipeline.params import Prepare
from pipeline.system.files import sha256_of
from pipeline.system.http import public
from pipeline.system.progress import Advance, Progress
from pipeline.system.user_cache import cache_folder


class Cleaned(NamedTuple):
    """A book as a worker hands it back: its text and signature, or why it is left out."""

    text: str = ""
    minhash: RMinHash | None = None
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Library:
    """The books that were chosen, and where they come from."""

    books: list[Book]
    mirror: Mirror
    language: str
    catalogue_sha256: str

    @classmethod
    def open(cls, settings: Prepare) -> Library:
        """Read the catalogue and choose.

        Raises:
            UserError: the catalogue cannot be had, or holds no such book.
        """
        folder = cache_folder() / "gutenberg"
        catalogue = fetch_catalogue(settings.gutenberg, settings.sha256)
        books = choose(read_catalogue(catalogue), settings.gutenberg)
        mirror = Mirror(settings.gutenberg, folder)
        return cls(books, mirror, settings.gutenberg.language, sha256_of(catalogue))

    @property
    def origin(self) -> str:
        return public(self.mirror.url)

    def documents(self, workers: Workers, progress: Advance) -> Iterator[Document | LeftOut]:
        """Fetch what is not there, then give every chosen book, in or out.

        Raises:
            UserError: the mirror cannot be reached or refuses.
        """
        self.mirror.fetch(book.number for book in self.books)
        paths = [self.mirror.find(book.number) for book in self.books]
        work = partial(clean, language=self.language if can_identify(self.language) else None)
        added = NearDuplicates()
        with Progress(len(paths), "clean", unit="book", speed=True) as bar:
            for book, path, cleaned in zip(
                self.books, paths, workers.in_order(work, map(_as_text, paths)), strict=True
            ):
                progress(path.stat().st_size if path else 0)
                bar.advance(1)
                yield _filtered(book, path, cleaned, added)


def clean(path: str | None, language: str | None) -> Cleaned:
    """What a file of the cache holds.

    Args:
        language: the one it must be in; None where the model does not know it.
    """
    if path is None:
        return Cleaned(reason="dead link")
    decoded = decode(Path(path).read_bytes())
    if decoded is None:
        return Cleaned(reason="not text")
    text = strip(decoded)
    if text is None:
        return Cleaned(reason="no markers")
    if not text:
        return Cleaned(reason="empty")
    if language is not None and (found := language_of(text)) != language:
        return Cleaned(reason="language", detail=found)
    return Cleaned(text, signature(text))


def _filtered(
    book: Book, path: Path | None, cleaned: Cleaned, added: NearDuplicates
) -> Document | LeftOut:
    name = f"pg{book.number}"
    source = path.name if path else name
    if cleaned.reason:
        return LeftOut(source, book.title, cleaned.reason, cleaned.detail)
    if cleaned.minhash is not None:
        if other := added.find(cleaned.minhash):
            return LeftOut(source, book.title, "near-duplicate", other)
        added.add(name, cleaned.minhash)
    return Document(name, book.title, source, in_parts([cleaned.text]))


def _as_text(path: Path | None) -> str | None:
    return None if path is None else str(path)
