"""Documents on their way into a corpus, and those that are left out of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.corpus.storage import BadDocument
from pipeline.tokens.tokenizer import pieces

PART = 1 << 22  # characters of a document that are held at once


@dataclass(frozen=True)
class Document:
    """A text and where it comes from.

    Attributes:
        id: stays the same when other documents come and go; rows with equal texts share it.
        title: for people.
        source: the file's name in the corpus, and for a row its number; no two documents share it.
        parts: the text in order, each part at most `PART` characters; to be read once.
    """

    id: str
    title: str
    source: str
    parts: Iterable[str]


@dataclass(frozen=True)
class LeftOut:
    """A document that is not in the corpus.

    Attributes:
        source: as a document's.
        title: for people.
        reason: one of few, to be counted by.
        detail: what was found.
    """

    source: str
    title: str
    reason: str
    detail: str = ""


class Faulty(LeftOut):
    """One that cannot be read: `detail` is the error, which `prepare.on_error: fail` raises."""

    @classmethod
    def of(cls, source: str, error: BadDocument) -> Faulty:
        return cls(source, "", error.reason, str(error))


def in_parts(blocks: Iterable[str]) -> Iterator[str]:
    """The blocks' text again, in parts of at most `PART` characters that cut no token."""
    held = ""
    for block in blocks:
        held += block
        if len(held) > PART:
            *whole, held = pieces(held, PART)
            yield from whole
    if held:
        yield held


def digest(text: str) -> str:
    """The id of what `text` names or holds: 16 hex digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
