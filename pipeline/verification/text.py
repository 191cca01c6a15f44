"""The tokens beside the corpus: what they decode to must be its text, every byte of it.

The splits of one document are its text from the beginning to the end. Of many documents each
stands in one of the splits, an end of text after it; they are compared by their digests, of which
8 bytes are held.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.corpus.parquet import Corpus
from pipeline.numbers import counted
from pipeline.system.text import quoted, readable
from pipeline.tokens.tokenizer import END_OF_TEXT, token_bytes
from pipeline.verification.files import SplitFile, decoded

SHOWN = 40  # bytes of a text in a message


def text_problems(
    folder: Path,
    sha256: str,
    splits: Mapping[str, SplitFile],
    *,
    progress: Callable[[int], object],
) -> list[str]:
    """Where the tokens' text is not that of the corpus in `folder`, a line each.

    Args:
        sha256: the corpus's, by the reports.
        splits: in the order of a single document's text.
        progress: called with the number of tokens that were read.

    Raises:
        UserError: the corpus is missing or damaged.
    """
    corpus = Corpus.open(folder)
    if corpus.meta.sha256 != sha256:
        return [f"{folder}: is another corpus than that of the reports; `dvc repro` measures on it"]
    if corpus.meta.documents == 1:
        text = (row.text.encode("utf-8") for row in corpus.rows())
        return list(_of_one(folder, text, splits, progress))
    documents = groupby(corpus.rows(), lambda row: row.source)
    wanted = _digests([row.text.encode("utf-8") for row in rows] for _, rows in documents)
    return list(_of_many(folder, wanted, splits, progress))


def _of_one(
    folder: Path,
    text: Iterator[bytes],
    splits: Mapping[str, SplitFile],
    progress: Callable[[int], object],
) -> Iterator[str]:
    waiting = b""
    for split in splits.values():
        for start, tokens in split.pieces():
            found = decoded(tokens)
            while len(waiting) < len(found) and (more := next(text, b"")):
                waiting += more
            wanted, waiting = waiting[: len(found)], waiting[len(found) :]
            if found != wanted:
                same = next(
                    (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b),
                    min(len(found), len(wanted)),
                )
                ends = np.cumsum([len(token_bytes(token)) for token in tokens.tolist()])
                yield (
                    f"{split.folder}: token {start + int(np.searchsorted(ends, same, 'right'))} "
                    f"is no token of the text in {folder}: {_shown(found[same:])} where that has "
                    f"{_shown(wanted[same:])}"
                )
                return
            progress(len(tokens))
    if waiting or next(text, b""):
        yield f"{folder}: its text goes on where the tokens of all splits end"


def _of_many(
    folder: Path,
    wanted: npt.NDArray[np.uint64],
    splits: Mapping[str, SplitFile],
    progress: Callable[[int], object],
) -> Iterator[str]:
    found = {split: _digests(_documents(split, progress)) for split in splits.values()}
    every = np.concatenate([wanted, *found.values()])
    values, which = np.unique(every, return_inverse=True)
    signs = np.where(np.arange(len(every)) < len(wanted), 1, -1)
    left = np.bincount(which, signs)  # times more in the corpus than in the splits
    for split, digests in found.items():
        if len(strange := np.flatnonzero(np.isin(digests, values[left < 0]))):
            yield (
                f"{split.folder}: {counted(len(strange), 'document')} not, or not so often, in "
                f"{folder}, the first is number {strange[0] + 1}"
            )
    if lost := int(left[left > 0].sum()):
        yield f"{folder}: {counted(lost, 'document')} in no split"


def _digests(documents: Iterable[Iterable[bytes]]) -> npt.NDArray[np.uint64]:
    """The beginning of each document's SHA-256."""
    found = array("Q")
    for parts in documents:
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        found.append(int.from_bytes(digest.digest()[:8], "big"))
    return np.array(found, np.uint64)


def _documents(split: SplitFile, progress: Callable[[int], object]) -> Iterator[list[bytes]]:
    """The documents' texts, in the parts that were read."""
    parts: list[bytes] = []
    for _, tokens in split.pieces():
        *whole, rest = np.split(tokens, np.flatnonzero(tokens == END_OF_TEXT) + 1)
        for document in whole:
            yield [*parts, decoded(document)]
            parts = []
        parts.append(decoded(rest))
        progress(len(tokens))
    if any(parts):  # no end of text after it, which is wrong, and no document of the corpus
        yield [*parts, b"\xff"]


def _shown(text: bytes) -> str:
    return quoted(readable(text[:SHOWN])) if text else "its end"
