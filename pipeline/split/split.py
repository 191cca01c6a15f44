"""Training, validation and, if asked for, test tokens out of a corpus.

One document is cut as the book cuts "The Verdict": the first `train_fraction` of its characters
is for training, the last `test_fraction` for the test, what is between for validation, and the
splits are tokenised apart. Many documents are assigned whole, as `sides` decides. End-of-text then
follows every document; a single one has none, so that its tokens are exactly those of its text.

The corpus's row groups are tokenised by `workers` and written in order: the bytes are the same
for any number of them, and nothing grows with the corpus. Of many documents the sizes are needed
first: the text is read twice, which costs a few hundredths of tokenising it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.corpus.parquet import Corpus, Group
from pipeline.corpus.workers import Workers, start_workers
from pipeline.errors import UserError
from pipeline.numbers import counted
from pipeline.reports import SplitCounts, SplitReport
from pipeline.split.sides import (
    LargestDocument,
    Shares,
    Sides,
    Sized,
    SplitName,
    sides_of,
    sizes_in,
    utf8_length,
)
from pipeline.split.statistics import TokenStatistics
from pipeline.split.writer import TokenWriter
from pipeline.system.files import folder_aside
from pipeline.system.progress import Advance
from pipeline.system.text import quoted, shortened
from pipeline.tokens.tokenizer import END_OF_TEXT, encode_piece, pieces

FAR = 1.5  # times the share that was asked for, or that part of it


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
    notify: Callable[[str], None] = lambda line: None,
    threads: int | None = None,
) -> SplitReport:
    """Write `tokens_folder`/{train,val[,test]}; return the report.

    Args:
        scheduler: as `start_workers` takes it.
        progress: gets the characters that are done.
        notify: gets a line where a split's share is far from what is asked for.
        threads: as many as there are cores where None.

    Raises:
        UserError: the corpus is missing or damaged, or a split would be empty; the folder stays.
    """
    corpus = Corpus.open(corpus_folder)
    shares = Shares(train_fraction, test_fraction)
    about = {"corpus": corpus.meta.corpus, "corpus_sha256": corpus.meta.sha256}
    statistics = TokenStatistics()
    with (
        folder_aside(tokens_folder) as aside,
        start_workers(scheduler, corpus.meta.bytes, threads) as workers,
    ):
        texts, largest = _plan(corpus, shares, workers)
        writers = {name: TokenWriter(aside / name) for name in shares.splits}
        for found in workers.in_order(partial(tokenise, texts=texts), corpus.groups):
            for name, tokens, characters, size, ends in found:
                writers[name].write(tokens, characters, size, ends)
                statistics.add(name, tokens)
                progress(characters)
        for name, writer in writers.items():
            writer.close(name, **about)
    counts = {name: writer.counts() for name, writer in writers.items()}
    for line in _far_shares(counts, shares, largest, corpus):
        notify(line)
    return SplitReport(
        **about,
        train=counts["train"],
        val=counts["val"],
        test=counts.get("test"),
        statistics=statistics.report(list(counts.values())),
    )


def tokenise(group: Group, texts: Callable[[Group], Iterator[SplitText]]) -> list[SplitTokens]:
    """The tokens of one row group, by split; `texts` gives its texts with their splits."""
    arrays: defaultdict[SplitName, list[npt.NDArray[np.uint16]]] = defaultdict(list)
    counts: defaultdict[SplitName, list[int]] = defaultdict(lambda: [0, 0, 0])
    end = np.array([END_OF_TEXT], np.uint16)
    for name, text, ends in texts(group):
        arrays[name] += [encode_piece(piece) for piece in pieces(text)]
        if ends:
            arrays[name].append(end)
        for column, number in enumerate((len(text), utf8_length(text), int(ends))):
            counts[name][column] += number
    return [
        SplitTokens(name, np.concatenate(found), *counts[name]) for name, found in arrays.items()
    ]


def _by_characters(group: Group, shares: Shares, whole: int) -> Iterator[SplitText]:
    cuts = shares.cuts(whole)
    start = group.start
    for row in group.rows():
        for name, (low, high) in zip(shares.splits, pairwise(cuts), strict=True):
            part = row.text[max(low - start, 0) : max(high - start, 0)]
            if part:
                yield SplitText(name, part)
        start += len(row.text)


def _by_document(group: Group, sides: Sides) -> Iterator[SplitText]:
    rows = list(group.rows())
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        if following is None:
            ends = group.ends
        else:
            ends = (row.id, row.source) != (following.id, following.source)
        yield SplitText(sides.split_of(row.id), row.text, ends)


def _plan(
    corpus: Corpus, shares: Shares, workers: Workers
) -> tuple[Callable[[Group], Iterator[SplitText]], LargestDocument | None]:
    """How a row group's texts are assigned, and the largest of many documents.

    Raises:
        UserError: a split would be empty.
    """
    meta = corpus.meta
    given = f"split.train_fraction {shares.train}"
    if shares.test:
        given += f" with split.test_fraction {shares.test}"
    what = f"{given} leaves one split of {shortened(meta.corpus)} empty"
    if meta.documents == 1:
        cuts = shares.cuts(meta.characters)
        if any(low >= high for low, high in pairwise(cuts)):
            raise UserError(
                f"{what}: it has {counted(meta.characters, 'character')}; give a longer text"
            )
        return partial(_by_characters, shares=shares, whole=meta.characters), None
    groups = corpus.groups
    parts = zip(groups, workers.in_order(sizes_in, groups), strict=True)
    sides, largest = sides_of(_joined(parts), meta.bytes, shares)
    if sides is None:
        raise UserError(
            f"{what}: its {meta.documents:,} documents go whole to one split or another, and those "
            "of equal text to the same; give more of them"
        )
    return partial(_by_document, sides=sides), largest


def _joined(parts: Iterable[tuple[Group, list[Sized]]]) -> Iterator[Sized]:
    """Each document with all of its bytes, where row groups hold parts of it."""
    before = 0
    for group, (*documents, last) in parts:
        for document in documents:
            yield document._replace(bytes=document.bytes + before)
            before = 0
        before += last.bytes
        if group.ends:
            yield last._replace(bytes=before)
            before = 0


def _far_shares(
    counts: Mapping[SplitName, SplitCounts],
    shares: Shares,
    largest: LargestDocument | None,
    corpus: Corpus,
) -> Iterator[str]:
    """A line for the first split whose share of the tokens is far from what is asked for."""
    total = sum(one.tokens for one in counts.values())
    for name, asked in shares.of_split.items():
        share = counts[name].tokens / total
        if not asked / FAR <= share <= asked * FAR:
            line = f"{name} has {share:.2%} of the tokens, where {asked:.2%} were asked for"
            if largest is not None:
                line += (
                    f": documents go whole to a split, and the largest, {quoted(largest.source)}, "
                    f"is {largest.bytes / corpus.meta.bytes:.2%} of the text"
                )
            yield line
            return
