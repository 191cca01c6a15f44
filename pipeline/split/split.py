"""Training, validation and, if asked for, test tokens out of a corpus.

One document is cut as the book cuts "The Verdict": the first `train_fraction` of its characters
is for training, the last `test_fraction` for the test, what is between for validation, and the
splits are tokenised apart. Many documents are assigned whole: a hash of the id decides the split,
so a document keeps its split when others come and go. End-of-text then follows every document; a
single one has none, so that its tokens are exactly those of its text.

The corpus's row groups are tokenised by `workers` and written in order: the bytes are the same
for any number of them, and nothing grows with the corpus.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.corpus.parquet import Corpus, Group
from pipeline.corpus.workers import start_workers
from pipeline.errors import UserError
from pipeline.reports import SplitReport
from pipeline.split.statistics import TokenStatistics
from pipeline.split.writer import TokenWriter
from pipeline.system.files import folder_aside
from pipeline.system.progress import Advance
from pipeline.tokens.tokenizer import END_OF_TEXT, encode_piece, pieces

SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Shares:
    """Which shares of [0, 1] the splits take: training first, the test last."""

    train: float
    test: float = 0.0

    @property
    def splits(self) -> tuple[SplitName, ...]:
        return ("train", "val", "test") if self.test else ("train", "val")

    def split_at(self, place: float) -> SplitName:
        if place < self.train:
            return "train"
        return "val" if place < 1 - self.test else "test"

    def cuts(self, characters: int) -> tuple[int, ...]:
        """Where a single document is cut: the splits lie between neighbouring numbers."""
        first = int(characters * self.train)
        if not self.test:
            return (0, first, characters)
        return (0, first, int(characters * (1 - self.test)), characters)


class SplitText(NamedTuple):
    """A text of one split, and whether a document ends with it."""

    split: SplitName
    text: str
    ends: bool = False


class SplitTokens(NamedTuple):
    """What a row group holds for one split; `ends` counts the ends of documents in it."""

    split: SplitName
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
    progress: Advance = lambda characters: None,
    threads: int | None = None,
) -> SplitReport:
    """Write `tokens_folder`/{train,val[,test]}; return the report.

    Args:
        scheduler: as `start_workers` takes it.
        progress: gets the characters that are done.
        threads: as many as there are cores where None.

    Raises:
        UserError: the corpus is missing or damaged, or a split would be empty; the folder stays.
    """
    corpus = Corpus.open(corpus_folder)
    shares = Shares(train_fraction, test_fraction)
    _check_splits(corpus, shares)
    about = {"corpus": corpus.meta.corpus, "corpus_sha256": corpus.meta.sha256}
    statistics = TokenStatistics()
    with (
        folder_aside(tokens_folder) as aside,
        start_workers(scheduler, corpus.meta.bytes, threads) as workers,
    ):
        writers = {name: TokenWriter(aside / name) for name in shares.splits}
        work = partial(tokenise, shares=shares, whole=_length_of_one(corpus))
        for found in workers.in_order(work, corpus.groups):
            for name, tokens, characters, size, ends in found:
                writers[name].write(tokens, characters, size, ends)
                statistics.add(name, tokens)
                progress(characters)
        for name, writer in writers.items():
            writer.close(name, **about)
    counts = {name: writer.counts() for name, writer in writers.items()}
    return SplitReport(
        **about,
        train=counts["train"],
        val=counts["val"],
        test=counts.get("test"),
        statistics=statistics.report(list(counts.values())),
    )


def tokenise(group: Group, shares: Shares, whole: int | None) -> list[SplitTokens]:
    """The tokens of one row group, by split.

    Args:
        whole: the characters of a corpus of one document, which is cut; None for many.
    """
    texts = _by_document(group, shares) if whole is None else _by_characters(group, shares, whole)
    arrays: dict[SplitName, list[npt.NDArray[np.uint16]]] = {name: [] for name in shares.splits}
    counts = {name: [0, 0, 0] for name in shares.splits}
    end = np.array([END_OF_TEXT], np.uint16)
    for name, text, ends in texts:
        arrays[name] += [encode_piece(piece) for piece in pieces(text)]
        if ends:
            arrays[name].append(end)
        for column, number in enumerate((len(text), _utf8_length(text), int(ends))):
            counts[name][column] += number
    return [
        SplitTokens(name, np.concatenate(found), *counts[name])
        for name, found in arrays.items()
        if found
    ]


def position(document: str) -> float:
    """Where in [0, 1] a document's id falls; below the training fraction it is for training."""
    digest = hashlib.sha256(document.encode("utf-8")).digest()
    return float(int.from_bytes(digest[:8], "big") / 2**64)


def _by_characters(group: Group, shares: Shares, whole: int) -> Iterator[SplitText]:
    cuts = shares.cuts(whole)
    start = group.start
    for row in group.rows():
        for name, (low, high) in zip(shares.splits, pairwise(cuts), strict=True):
            part = row.text[max(low - start, 0) : max(high - start, 0)]
            if part:
                yield SplitText(name, part)
        start += len(row.text)


def _by_document(group: Group, shares: Shares) -> Iterator[SplitText]:
    rows = list(group.rows())
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        if following is None:
            ends = group.ends
        else:
            ends = (row.id, row.source) != (following.id, following.source)
        yield SplitText(shares.split_at(position(row.id)), row.text, ends)


def _length_of_one(corpus: Corpus) -> int | None:
    return corpus.meta.characters if corpus.meta.documents == 1 else None


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _check_splits(corpus: Corpus, shares: Shares) -> None:
    """Refuse fractions that leave a split empty, before any work, and say which would not."""
    meta = corpus.meta
    given = f"split.train_fraction {shares.train}"
    if shares.test:
        given += f" with split.test_fraction {shares.test}"
    what = f"{given} leaves one split of {meta.corpus} empty"
    if meta.documents == 1:
        cuts = shares.cuts(meta.characters)
        if any(low >= high for low, high in pairwise(cuts)):
            raise UserError(f"{what}: it has {meta.characters:,} characters; give a longer text")
        return
    low, high, seen = 1.0, 0.0, set()
    for place in map(position, corpus.ids()):
        low, high = min(low, place), max(high, place)
        seen.add(shares.split_at(place))
        if len(seen) == len(shares.splits):
            return
    hint = "give more of them" if shares.test else _hint(low, high)
    raise UserError(
        f"{what}: its {meta.documents:,} documents go whole to one split or another; {hint}"
    )


def _hint(low: float, high: float) -> str:
    first, last = math.floor(low * 1e4 + 1) / 1e4, math.floor(high * 1e4) / 1e4
    return f"a value from {first} to {last} does not" if first <= last else "give more of them"
