"""Training, validation and, if asked for, test tokens out of a corpus.

One document is cut as the book cuts "The Verdict": the first `train_fraction` of its characters
is for training, the last `test_fraction` for the test, what is between for validation, and the
splits are tokenised apart. Many documents are assigned whole, as `sides` decides. End-of-text then
follows every document; a single one has none, so that its tokens are exactly those of its text.

The corpus's row groups are tokenised by `workers` and written in order: the bytes are the same
for any number of them, and nothing grows with the corpus. Of many documents sizes and positions
are needed first: the text is read twice, which costs a few hundredths of tokenising it.

In the end `shared` and `copies` look for text of validation and test that stands in training too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.corpus.near_copies import digests
from pipeline.corpus.parquet import Corpus, Group
from pipeline.corpus.workers import Workers, start_workers
from pipeline.errors import UserError
from pipeline.numbers import counted
from pipeline.reports import HeldOut, SharedText, SplitCounts, SplitReport
from pipeline.split.copies import Documents, Rows, near_copies
from pipeline.split.shared import mark_shared
from pipeline.split.sides import (
    LargestDocument,
    Placed,
    Shares,
    Sides,
    Sized,
    SplitName,
    sides_of,
    sizes_in,
    utf8_length,
)
from pipeline.split.statistics import TokenStatistics
from pipeline.split.writer import TokenWriter, seal
from pipeline.system.files import folder_aside
from pipeline.system.progress import Advance, Progress
from pipeline.system.text import quoted, shortened
from pipeline.tokens.ngrams import NGRAM
from pipeline.tokens.tokenizer import END_OF_TEXT, encode_piece, pieces
from pipeline.tokens.windows import MUCH_SHARED, Tokens

MASK = "shared.bin"
MUCH_COPIED = 0.01
FAR = 1.5  # times the share that was asked for, or that part of it


class SplitText(NamedTuple):
    """A text of one split, and whether a document ends with it."""

    split: SplitName
    text: str
    ends: bool = False


class Part(NamedTuple):
    """A row group, and the splits of its documents in order; none of a single document."""

    group: Group
    splits: tuple[SplitName, ...] = ()


class SplitTokens(NamedTuple):
    """What a row group holds for one split; its documents, or parts of them, in `rows`."""

    split: SplitName
    tokens: npt.NDArray[np.uint16]
    characters: int
    bytes: int
    rows: Rows


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
    with ExitStack() as held:
        aside = held.enter_context(folder_aside(tokens_folder))
        workers = held.enter_context(start_workers(scheduler, corpus.meta.bytes, threads))
        places, *files = (held.enter_context(TemporaryFile(dir=aside)) for _ in range(4))
        parts, texts, largest = _plan(corpus, shares, workers, places)
        writers = {name: TokenWriter(aside / name) for name in shares.splits}
        documents: dict[SplitName, Documents] = {}
        if largest is not None:  # of a single document none
            documents = {name: Documents(file) for name, file in zip(writers, files, strict=False)}
        for found in workers.in_order(partial(tokenise, texts=texts), parts):
            for name, tokens, characters, size, rows in found:
                writers[name].write(tokens, characters, size, int(rows.ends.sum()))
                if documents:
                    documents[name].add(rows)
                statistics.add(name, tokens)
                progress(characters)
        counts = {name: writer.counts() for name, writer in writers.items()}
        splits = {name: writer.close(name, **about) for name, writer in writers.items()}
        seal(splits["train"].folder, splits["train"].meta)
        threads_here = held.enter_context(start_workers("threads", threads=threads))
        shared = _shared(splits, documents, threads_here)
    for line in (*_far_shares(counts, shares, largest, corpus), *_leaks(shared, counts)):
        notify(line)
    return SplitReport(
        **about,
        train=counts["train"],
        val=counts["val"],
        test=counts.get("test"),
        shared=shared,
        statistics=statistics.report(list(counts.values())),
    )


def tokenise(part: Part, texts: Callable[[Part], Iterator[SplitText]]) -> list[SplitTokens]:
    """The tokens of one row group, by split; `texts` gives its texts with their splits."""
    by_split: defaultdict[SplitName, list[SplitText]] = defaultdict(list)
    for text in texts(part):
        by_split[text.split].append(text)
    return [_tokenised(name, found, bool(part.splits)) for name, found in by_split.items()]


def _tokenised(name: SplitName, texts: list[SplitText], compared: bool) -> SplitTokens:
    end = np.array([END_OF_TEXT], np.uint16)
    arrays: list[npt.NDArray[np.uint16]] = []
    sizes: list[int] = []  # tokens of each text
    for _, text, ends in texts:
        found = [encode_piece(piece) for piece in pieces(text)] + ([end] if ends else [])
        arrays += found
        sizes.append(sum(map(len, found)))
    return SplitTokens(
        name,
        np.concatenate(arrays),
        sum(len(one.text) for one in texts),
        sum(utf8_length(one.text) for one in texts),
        Rows(
            np.array(sizes),
            digests([one.text for one in texts] if compared else []),
            np.array([one.ends for one in texts]),
        ),
    )


def _by_characters(part: Part, shares: Shares, whole: int) -> Iterator[SplitText]:
    cuts = shares.cuts(whole)
    start = part.group.start
    for row in part.group.rows():
        for name, (low, high) in zip(shares.splits, pairwise(cuts), strict=True):
            text = row.text[max(low - start, 0) : max(high - start, 0)]
            if text:
                yield SplitText(name, text)
        start += len(row.text)


def _by_document(part: Part) -> Iterator[SplitText]:
    rows = list(part.group.rows())
    splits = iter(part.splits)
    split = next(splits)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        if following is None:
            yield SplitText(split, row.text, part.group.ends)
        elif (row.id, row.source) == (following.id, following.source):
            yield SplitText(split, row.text)
        else:
            yield SplitText(split, row.text, ends=True)
            split = next(splits)


def _plan(
    corpus: Corpus, shares: Shares, workers: Workers, places: IO[bytes]
) -> tuple[Iterable[Part], Callable[[Part], Iterator[SplitText]], LargestDocument | None]:
    """The parts, how a part's texts are assigned, and the largest of many documents.

    Args:
        places: a file that holds the documents' positions.

    Raises:
        UserError: a split would be empty.
    """
    meta = corpus.meta
    given = f"split.train_fraction {shares.train}"
    if shares.test:
        given += f" with split.test_fraction {shares.test}"
    what = f"{given} leaves one split of {shortened(meta.corpus)} empty"
    groups = corpus.groups
    if meta.documents == 1:
        cuts = shares.cuts(meta.characters)
        if any(low >= high for low, high in pairwise(cuts)):
            raise UserError(
                f"{what}: it has {counted(meta.characters, 'character')}; give a longer text"
            )
        by_characters = partial(_by_characters, shares=shares, whole=meta.characters)
        return map(Part, groups), by_characters, None
    begun: list[int] = []  # documents that begin in each group

    def placed() -> Iterator[Placed]:
        sized = zip(groups, workers.in_order(sizes_in, groups), strict=True)
        for document in _joined(sized, begun):
            place = document.content.position
            places.write(np.float64(place).tobytes())
            yield Placed(place, document.source, document.bytes)

    sides, largest = sides_of(placed(), meta.bytes, shares)
    if sides is None:
        raise UserError(
            f"{what}: its {meta.documents:,} documents go whole to one split or another, and those "
            "of equal text to the same; give more of them"
        )
    return _assigned(groups, begun, places, sides), _by_document, largest


def _joined(parts: Iterable[tuple[Group, list[Sized]]], begun: list[int]) -> Iterator[Sized]:
    """Each document as a whole, where row groups hold parts of it; counts those `begun` in each."""
    before: Sized | None = None
    for group, (first, *documents) in parts:
        begun.append(len(documents) + (before is None))
        last = first if before is None else before.with_next(first)
        for document in documents:
            yield last
            last = document
        before = last
        if group.ends:
            yield last
            before = None


def _assigned(
    groups: list[Group], begun: list[int], places: IO[bytes], sides: Sides
) -> Iterator[Part]:
    places.seek(0)
    splits: list[SplitName] = []
    continued = False
    for group, count in zip(groups, begun, strict=True):
        found = np.frombuffer(places.read(8 * count))
        splits = splits[-1:] * continued + [sides.split_of(place) for place in found.tolist()]
        yield Part(group, tuple(splits))
        continued = not group.ends


def _shared(
    splits: Mapping[SplitName, Tokens],
    documents: Mapping[SplitName, Documents],
    workers: Workers,
) -> dict[HeldOut, SharedText]:
    """Mark what validation and test share with training, and write their `meta.json`."""
    train = splits["train"]
    report: dict[HeldOut, SharedText] = {}
    for name, tokens in splits.items():
        if name == "train":
            continue
        with Progress(len(train), f"compare {name} with train", unit="token", speed=True) as bar:
            shared = mark_shared(train, tokens, tokens.folder / MASK, workers, bar.advance)
        seal(tokens.folder, tokens.meta.model_copy(update={"shared": MASK}))
        copies, size = (
            near_copies(documents["train"], documents[name], workers) if documents else (0, 0)
        )
        report[name] = SharedText(
            run_length=NGRAM,
            tokens=shared,
            share=shared / len(tokens),
            near_copies=copies,
            near_copies_share=size / len(tokens),
        )
    return report


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


def _leaks(
    shared: Mapping[HeldOut, SharedText], counts: Mapping[SplitName, SplitCounts]
) -> Iterator[str]:
    """A line for each split of which much stands in the training text."""
    for name, found in shared.items():
        if found.share <= MUCH_SHARED and found.near_copies_share <= MUCH_COPIED:
            continue
        line = (
            f"{found.share:.1%} of the tokens of {name} stand in the training text too, in runs of "
            f"{found.run_length} or more"
        )
        if found.near_copies:
            line += (
                f", near-copies of training documents are {found.near_copies:,} of "
                f"{counts[name].documents:,}"
            )
        yield f"{line}: losses on {name} flatter what learns texts by heart (docs/corpora.md)"
