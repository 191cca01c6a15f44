"""Which split each of many documents goes to, so that sizes keep to the shares that are asked for.

A hash of its text gives a document a position in [0, 1], and the splits take their shares of that
line: so a document keeps its split when others come and go, and copies go together, under whatever
names. Blanks, line ends, a byte-order mark and case do not matter. Documents differ in size, and
in a small corpus, or one with a giant in it, the shares of the line are not those of the text. Then
the cuts move along the line, as little as brings the text's shares within `TOLERANCE`; a document
of more text than validation and test shall have together is for training wherever it falls, and the
largest go first where there are nothing but such. What a cut passes changes its split, no other
document does. In a large corpus the cuts stay where they are.

Everything is added up in bins of the line: nothing grows with the corpus, and its order, its row
groups and the number of workers do not matter.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.corpus.parquet import Group

SplitName = Literal["train", "val", "test"]

BLANKS = b" \t\n\r\v\f"
PRIME = 2**128 - 159
BINS = 1 << 20  # in which the line is cut
TOLERANCE = 0.1  # of the smaller of the two shares that a cut parts

Sizes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shares:
    """Which shares of [0, 1] the splits take: training first, the test last."""

    train: float
    test: float = 0.0

    @property
    def splits(self) -> tuple[SplitName, ...]:
        return ("train", "val", "test") if self.test else ("train", "val")

    @property
    def of_split(self) -> dict[SplitName, float]:
        shares = {"train": self.train, "val": 1 - self.train - self.test, "test": self.test}
        return {name: shares[name] for name in self.splits}

    def cuts(self, characters: int) -> tuple[int, ...]:
        """Where a single document is cut: the splits lie between neighbouring numbers."""
        first = int(characters * self.train)
        if not self.test:
            return (0, first, characters)
        return (0, first, int(characters * (1 - self.test)), characters)


@dataclass(frozen=True)
class Sides:
    """Where many documents go, by their positions.

    Attributes:
        train, val: the positions where these splits end; the test is what is left.
        giants: the positions of those that go elsewhere.
    """

    splits: tuple[SplitName, ...]
    train: float
    val: float
    giants: Mapping[float, SplitName] = field(default_factory=dict)

    def split_of(self, place: float) -> SplitName:
        by_place: SplitName = "test" if place >= self.val else "val"
        return self.giants.get(place) or ("train" if place < self.train else by_place)


class Content(NamedTuple):
    """A text without blanks and case, as a number: its UTF-8 bytes to the base 256, modulo PRIME.

    The numbers of a text's parts, wherever it is cut, make up the number of the whole.
    """

    number: int = 0
    length: int = 0  # in bytes

    @classmethod
    def of(cls, text: str) -> Content:
        folded = text.replace("\ufeff", "").casefold().encode("utf-8")
        letters = folded.translate(None, BLANKS)
        return cls(int.from_bytes(letters, "big") % PRIME, len(letters))

    def with_next(self, part: Content) -> Content:
        number = self.number * pow(256, part.length, PRIME) + part.number
        return Content(number % PRIME, self.length + part.length)

    @property
    def position(self) -> float:
        """Where in [0, 1] a document of this text falls."""
        digest = hashlib.sha256(f"{self.length} {self.number}".encode()).digest()
        return float(int.from_bytes(digest[:8], "big") / 2**64)


class Sized(NamedTuple):
    """A document, or the part of one that a row group holds: its UTF-8 bytes and its text."""

    id: str
    source: str
    bytes: int
    content: Content

    def with_next(self, part: Sized) -> Sized:
        size, content = self.bytes + part.bytes, self.content.with_next(part.content)
        return self._replace(bytes=size, content=content)


class Placed(NamedTuple):
    """A document by its position on the line."""

    position: float
    source: str
    bytes: int


class LargestDocument(NamedTuple):
    source: str
    bytes: int


def sizes_in(group: Group) -> list[Sized]:
    """The documents of a row group, and what it holds of them; done by a worker."""
    found: list[Sized] = []
    for row in group.rows():
        part = Sized(row.id, row.source, utf8_length(row.text), Content.of(row.text))
        if found and part[:2] == found[-1][:2]:
            part = found.pop().with_next(part)
        found.append(part)
    return found


def utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def sides_of(
    documents: Iterable[Placed], total: int, shares: Shares
) -> tuple[Sides | None, LargestDocument]:
    """Decide where documents of `total` bytes go.

    Returns:
        None where there are fewer documents, or positions, than splits; and the largest document.
    """
    line: Sizes = np.zeros(BINS, np.int64)  # bytes at each place
    giants: Counter[float] = Counter()  # bytes by position
    largest = LargestDocument("", 0)
    for place, source, size in documents:
        largest = max(largest, LargestDocument(source, size), key=lambda one: one.bytes)
        if size > (1 - shares.train) * total:
            giants[place] += size
        else:
            line[min(int(place * BINS), BINS - 1)] += size
    ordered = sorted(giants, key=lambda place: (-giants[place], place))
    units = np.concatenate([[giants[place] for place in ordered], line]).astype(np.int64)
    held = np.flatnonzero(units)
    if len(held) < len(shares.splits):
        return None, largest
    before: Sizes = np.concatenate([[0], np.cumsum(units)])  # bytes before each cut
    first, last = int(held[0]) + 1, int(held[-1])
    most = int(held[1 - len(shares.splits)])  # what is after it suffices for the other splits
    cut = _cut(before, shares.train, 1 - shares.train, len(ordered), range(first, most + 1))
    end = len(units)
    if shares.test:
        first = int(held[np.searchsorted(held, cut)]) + 1
        test_cut = range(first, last + 1)
        end = _cut(before, 1 - shares.test, shares.of_split["val"], len(ordered), test_cut)
    of_giants: dict[float, SplitName] = {
        place: "train" if number < cut else "val" if number < end else "test"
        for number, place in enumerate(ordered)
    }
    train, val = (max(place - len(ordered), 0) / BINS for place in (cut, end))
    return Sides(shares.splits, train, val if shares.test else 2.0, of_giants), largest


def _cut(before: Sizes, share: float, rest: float, giants: int, places: range) -> int:
    """The place that has nearly `share` of all bytes before it, and is nearest to its own."""
    total = int(before[-1])
    slack = TOLERANCE * min(share, rest) * total
    wrong = np.abs(before[places.start : places.stop] - share * total)
    wrong = np.maximum(wrong - slack, 0)
    best = np.flatnonzero(wrong == wrong.min()) + places.start
    moved = np.abs(best - (giants + round(share * BINS)))
    return int(best[moved.argmin()])
