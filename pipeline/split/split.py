"""Training, validation and, if asked for, test tokens out of a corpus.

One document is cut as the book cuts "The Verdict": the first `train_fraction` of its characters
is for training, the last `test_fraction` for the test, what is between for validation, and the
sides are tokenised apart. Many documents are dealt out whole: a hash of the id decides the side,
so a document keeps its side when others come and go. End-of-text then follows every document; a
single one has none, so that its tokens are exactly those of its text.

The corpus's row groups are tokenised by `workers` and written in order: the bytes are the same
for any number of them, and nothing grows with the corpus.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.corpus.parquet import Corpus, Group
from pipeline.corpus.workers import start_workers
from pipeline.errors import UserError
from pipeline.split.statistics import TokenStatistics
from pipeline.split.writer import TokenWriter
from pipeline.system.files import folder_aside
from pipeline.tokens.tokenizer import END_OF_TEXT, encode_piece, pieces

Side = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Shares:
    """Which shares of [0, 1] the sides take: training first, the test last."""

    train: float
    test: float = 0.0

    @property
    def sides(self) -> tuple[Side, ...]:
        return ("train", "val", "test") if self.test else ("train", "val")

    def side(self, place: float) -> Side:
        if place < self.train:
            return "train"
        return "val" if place < 1 - self.test else "test"

    def cuts(self, characters: int) -> tuple[int, ...]:
        """Where a single document is cut: the sides lie between neighbouring numbers."""
        first = int(characters * self.train)
        if not self.test:
            return (0, first, characters)
        return (0, first, int(characters * (1 - self.test)), characters)


class Piece(NamedTuple):
    """A text on its way to a side, and whether a document ends with it."""

    side: Side
    text: str
    ends: bool = False


class Tokenised(NamedTuple):
    """What a row group holds for one side; `ends` counts the ends of documents in it."""

    side: Side
    tokens: npt.NDArray[np.uint16]
    characters: int
    bytes: int
    ends: int


def split(
    corpus_folder: Path,
    tokens_folder: Path,
    train_fraction: float,
    test_fraction: float = 0.0,
    *,
    scheduler: str = "threads",
    progress: Callable[[int], object] = lambda characters: None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Write `tokens_folder`/{train,val[,test]}; return what `reports/split.json` holds.

    Args:
        scheduler: of `workers`.
        progress: told of characters.
        threads: as many as there are cores where None.

    Raises:
        UserError: the corpus is missing or damaged, or a side would be empty; the folder stays.
    """
    corpus = Corpus.open(corpus_folder)
    shares = Shares(train_fraction, test_fraction)
    _check_sides(corpus, shares)
    about = {"corpus": corpus.meta["corpus"], "corpus_sha256": corpus.meta["sha256"]}
    statistics = TokenStatistics()
    with (
        folder_aside(tokens_folder) as aside,
        start_workers(scheduler, corpus.meta["bytes"], threads) as workers,
    ):
        writers = {side: TokenWriter(aside / side) for side in shares.sides}
        work = partial(tokenise, shares=shares, whole=_length_of_one(corpus))
        for sides in workers.in_order(work, corpus.groups()):
            for side, tokens, characters, size, ends in sides:
                writers[side].write(tokens, characters, size, ends)
                statistics.add(side, tokens)
                progress(characters)
        for side, writer in writers.items():
            writer.close(side, about)
    sizes: dict[str, dict[str, int]] = {side: writer.counts() for side, writer in writers.items()}
    return about | sizes | {"statistics": statistics.report(sizes)}


def tokenise(group: Group, shares: Shares, whole: int | None) -> list[Tokenised]:
    """The tokens of one row group, by side.

    Args:
        whole: the characters of a corpus of one document, which is cut; None for many.
    """
    rows = _by_document(group, shares) if whole is None else _by_characters(group, shares, whole)
    arrays: dict[Side, list[npt.NDArray[np.uint16]]] = {side: [] for side in shares.sides}
    counts = {side: [0, 0, 0] for side in shares.sides}
    end = np.array([END_OF_TEXT], np.uint16)
    for side, text, ends in rows:
        arrays[side] += [encode_piece(piece) for piece in pieces(text)]
        if ends:
            arrays[side].append(end)
        for column, number in enumerate((len(text), _utf8_length(text), int(ends))):
            counts[side][column] += number
    return [
        Tokenised(side, np.concatenate(found), *counts[side])
        for side, found in arrays.items()
        if found
    ]


def position(document: str) -> float:
    """Where in [0, 1] a document's id falls; below the training fraction it is for training."""
    digest = hashlib.sha256(document.encode("utf-8")).digest()
    return float(int.from_bytes(digest[:8], "big") / 2**64)


def _by_characters(group: Group, shares: Shares, whole: int) -> Iterator[Piece]:
    cuts = shares.cuts(whole)
    start = group.start
    for row in group.rows():
        for side, (low, high) in zip(shares.sides, pairwise(cuts), strict=True):
            part = row.text[max(low - start, 0) : max(high - start, 0)]
            if part:
                yield Piece(side, part)
        start += len(row.text)


def _by_document(group: Group, shares: Shares) -> Iterator[Piece]:
    rows = list(group.rows())
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        if following is None:
            ends = group.ends
        else:
            ends = (row.id, row.source) != (following.id, following.source)
        yield Piece(shares.side(position(row.id)), row.text, ends)


def _length_of_one(corpus: Corpus) -> int | None:
    return corpus.meta["characters"] if corpus.meta["documents"] == 1 else None


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _check_sides(corpus: Corpus, shares: Shares) -> None:
    """Refuse fractions that leave a side empty, before any work, and say which would not."""
    meta = corpus.meta
    given = f"split.train_fraction {shares.train}"
    if shares.test:
        given += f" with split.test_fraction {shares.test}"
    what = f"{given} leaves one side of {meta['corpus']} empty"
    if meta["documents"] == 1:
        cuts = shares.cuts(meta["characters"])
        if any(low >= high for low, high in pairwise(cuts)):
            raise UserError(f"{what}: it has {meta['characters']:,} characters; give a longer text")
        return
    low, high, seen = 1.0, 0.0, set()
    for place in map(position, corpus.ids()):
        low, high = min(low, place), max(high, place)
        seen.add(shares.side(place))
        if len(seen) == len(shares.sides):
            return
    hint = "give more of them" if shares.test else _hint(low, high)
    raise UserError(
        f"{what}: its {meta['documents']:,} documents go whole to one side or another; {hint}"
    )


def _hint(low: float, high: float) -> str:
    first, last = math.floor(low * 1e4 + 1) / 1e4, math.floor(high * 1e4) / 1e4
    return f"a value from {first} to {last} does not" if first <= last else "give more of them"
