"""Which texts are nearly the same: Rensa's MinHash over shingles of `SHINGLE` words.

Two texts are near-copies when their shingles' Jaccard similarity, estimated, is `SIMILAR` or more.
Words are letters, digits and underscores in lower case: punctuation, blanks and line ends do not
matter. Words and shingles go to Rensa as hashes, which arrays make ten times as fast as strings.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from rensa import RMinHash, RMinHashLSH

from pipeline.tokens.ngrams import BASE, Hashes, hash_ngrams, mixed
from pipeline.tokens.tokenizer import pieces

SHINGLE = 5  # words
SIMILAR = 0.8
PERMUTATIONS = 128
BANDS = PERMUTATIONS // 4  # four rows each: a similarity of 0.8 is missed once in 20 million
BATCH = 1 << 15  # characters whose arrays fit a processor's cache
WORD = re.compile(r"\w+")

Digests = npt.NDArray[np.uint32]
NOTHING = np.iinfo(np.uint32).max  # what the digest of a text without shingles holds


def signature(text: str) -> RMinHash | None:
    """The MinHash of the text's shingles; None for a text of fewer than `SHINGLE` words."""
    (shingles,) = shingle_hashes([text])
    return _minhash(shingles) if len(shingles) else None


def digests(texts: Sequence[str]) -> Digests:
    """The MinHash of each text as numbers, (texts, PERMUTATIONS).

    That of two parts of a text, but for shingles across the cut, is the smaller of both.
    """
    found = np.empty((len(texts), PERMUTATIONS), np.uint32)
    for row, shingles in zip(found, shingle_hashes(texts), strict=True):
        row[:] = _minhash(shingles).digest()
    return found


def bands(digests: Digests) -> Hashes:
    """Keys of which near-copies share at least one, (texts, BANDS).

    A key is a band's rows side by side, each by its lower 16 bits, so that keys are digests too.
    """
    return np.ascontiguousarray(digests.astype(np.uint16)).view(np.uint64)


class NearDuplicates:
    """An LSH index of the texts that were added, in their order."""

    def __init__(self) -> None:
        self._index = RMinHashLSH(threshold=SIMILAR, num_perm=PERMUTATIONS, num_bands=BANDS)
        self._added: list[tuple[str, RMinHash]] = []

    def find(self, minhash: RMinHash) -> str | None:
        """The first text added that is nearly the same; None where there is none."""
        for key in sorted(self._index.query(minhash)):
            name, other = self._added[key]
            if minhash.jaccard(other) >= SIMILAR:
                return str(name)
        return None

    def add(self, name: str, minhash: RMinHash) -> None:
        self._index.insert(len(self._added), minhash)
        self._added.append((name, minhash))


def shingle_hashes(texts: Sequence[str]) -> list[Hashes]:
    """A hash of each run of `SHINGLE` words of each text."""
    counts = np.zeros(len(texts) + 1, np.int64)  # words of the texts before, once summed
    words = [np.zeros(0, np.uint64)]
    for numbers, batch in _batches(texts):
        hashes, ends = _word_hashes(batch)
        words.append(hashes)
        np.add.at(counts, np.array(numbers) + 1, np.diff(ends, prepend=0))
    shingles = mixed(hash_ngrams(np.concatenate(words), SHINGLE))
    # Those that begin in a text and end in it.
    return [
        shingles[start : max(stop - SHINGLE + 1, start)]
        for start, stop in pairwise(np.cumsum(counts).tolist())
    ]


def _batches(texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
    """Texts, long ones in pieces that cut no word, some at a time: each with its number."""
    numbers: list[int] = []
    batch: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        for piece in pieces(text, BATCH):
            numbers.append(number)
            batch.append(unicodedata.normalize("NFC", piece).lower())
            size += len(piece)
            if size >= BATCH:
                yield numbers, batch
                numbers, batch, size = [], [], 0
    if batch:
        yield numbers, batch


def _word_hashes(texts: list[str]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """The hashes of all words, and how many words end before each text does.

    A word's is a polynomial modulo 2**64 in its characters, out of the sums of all before.
    """
    whole = "\n".join(["", *texts, ""])
    characters: npt.NDArray[np.integer] = (
        np.frombuffer(whole.encode("ascii"), np.uint8)
        if whole.isascii()
        else np.frombuffer(whole.encode("utf-32-le"), np.uint32)
    )
    in_word = _in_words().take(characters)
    edges = np.flatnonzero(in_word[1:] != in_word[:-1])  # before a word, and at its last character
    starts, stops = edges[::2], edges[1::2]
    powers, inverses = _powers((len(whole) - 1).bit_length())
    sums = np.cumsum(characters * powers[: len(whole)])
    ends = np.cumsum([len(text) + 1 for text in texts])
    return mixed((sums[stops] - sums[starts]) * inverses[starts]), np.searchsorted(starts, ends)


@lru_cache(maxsize=4)
def _powers(bits: int) -> tuple[Hashes, Hashes]:
    """The first 2**bits powers of BASE and of its inverse."""
    inverse = pow(BASE, -1, 2**64)
    powers, inverses = (np.full(1 << bits, one, np.uint64).cumprod() for one in (BASE, inverse))
    return powers, inverses


def _minhash(shingles: Hashes) -> RMinHash:
    minhash = RMinHash(num_perm=PERMUTATIONS, seed=1)
    minhash.update(shingles.view("V8").tolist())
    return minhash


@lru_cache(maxsize=1)
def _in_words() -> npt.NDArray[np.bool_]:
    """Of each character, whether `WORD` takes it."""
    table = np.zeros(sys.maxunicode + 1, bool)
    for run in WORD.finditer("".join(map(chr, range(sys.maxunicode + 1)))):
        table[run.start() : run.end()] = True
    return table
