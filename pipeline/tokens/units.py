"""Units of resampling: which target tokens stand or fall together.

Neighbouring tokens' losses are alike, those of one document more so, so an interval that takes
tokens for independent is too narrow. Resampled are therefore documents (clusters), copies of one
together, or of a single document a few long blocks of consecutive tokens (batch means).
`docs/uncertainty.md` has what the numbers below were chosen by.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.tokens.ngrams import Hashes, mixed
from pipeline.tokens.token_losses import Losses
from pipeline.tokens.tokenizer import END_OF_TEXT
from pipeline.tokens.windows import Windows

Mask = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Sums = npt.NDArray[np.float64]

FEWEST = 10  # units, in effect: below, nothing has an interval
BLOCKS = 12  # few: the longer a block, the less its loss is that of its neighbours
BLOCK = 512  # tokens, at least: topics and styles last for hundreds
CHUNK = 1 << 20  # tokens read at once


@dataclass(frozen=True)
class Units:
    """Target tokens of the chosen windows, end to end, as pieces that make units.

    They are the same for every model, so that differences are paired.

    Attributes:
        kind: what a unit is.
        starts: int64 (P,): the place of each piece's first target among the W * T.
        members: int64 (P,): the unit of each piece; equal documents are one.
        counts: int64 (U,): target tokens of each unit, without those left out.
        shape: (W, T), the windows and their targets.
        left_out: bool (W, T): targets that do not count; None: all count.
    """

    kind: Literal["document", "block"]
    starts: Integers
    members: Integers
    counts: Integers
    shape: tuple[int, int]
    left_out: Mask | None = None

    @classmethod
    def of(
        cls,
        kind: Literal["document", "block"],
        starts: Integers,
        members: Integers,
        shape: tuple[int, int],
        left_out: Mask | None,
    ) -> Units:
        """The units that the pieces make, with their counts."""
        pieces = np.diff(starts, append=shape[0] * shape[1])
        if left_out is not None:
            assert left_out.shape == shape, (left_out.shape, shape)
            pieces = pieces - _sums(left_out, None, starts).astype(np.int64)
        counts = np.bincount(members, pieces).astype(np.int64)
        return cls(kind, starts, members, counts, shape, left_out)

    def __len__(self) -> int:
        """How many units have a target that counts."""
        return int(np.count_nonzero(self.counts))

    @property
    def tokens_per_unit(self) -> int:
        """Of blocks the length, of documents the mean."""
        return round(int(self.counts.sum()) / max(len(self), 1))

    def sums(self, losses: Losses) -> Sums:
        """Each unit's summed losses, float64 (U,), in the order of `counts`.

        Args:
            losses: nats, float32 (W, T); may be memory-mapped at any size: read in chunks.
        """
        assert losses.shape == self.shape, (losses.shape, self.shape)
        pieces = _sums(losses, self.left_out, self.starts)
        return np.bincount(self.members, pieces).astype(np.float64)


def effective(counts: Integers) -> float:
    """How many units of equal size would weigh as these do: (sum of sizes)² / sum of squares.

    Kish, Survey Sampling (1965); one unit that dominates makes it 1.
    """
    sizes = counts.astype(np.float64)
    squares = float((sizes**2).sum())
    return float(sizes.sum()) ** 2 / squares if squares else 0.0


def units_of(windows: Windows, chosen: range, left_out: Mask | None = None) -> Units:
    """Units of the targets of the windows `chosen`: documents, where there are several.

    Of a single one 12 blocks of at least 512 tokens, of whole windows where there are 12; of a text
    too short for that, a single block, which has no interval. END_OF_TEXT ends a document, within a
    window too. Documents of equal tokens are one unit: what is measured twice is known once.

    Args:
        chosen: indices of windows, ascending.
        left_out: bool (len(chosen), T): targets that do not count.

    Raises:
        IndexError: there is no such window.
    """
    shape = (len(chosen), windows.context_length)
    starts, documents = _document_starts(windows, chosen)
    if len(starts) > 1:
        _, members = np.unique(_hashes(windows)[documents], return_inverse=True)
        return Units.of("document", starts, members, shape, left_out)
    starts = _block_starts(*shape)
    return Units.of("block", starts, np.arange(len(starts)), shape, left_out)


def _block_starts(windows: int, length: int) -> Integers:
    """Where each block starts among the windows' targets."""
    tokens = windows * length
    blocks = BLOCKS if tokens >= BLOCKS * BLOCK else 1
    # Whole windows, as losses are higher at the start of a window.
    step = length if windows >= blocks else 1
    return np.arange(blocks) * (tokens // step) // blocks * step


def _document_starts(windows: Windows, chosen: range) -> tuple[Integers, Integers]:
    """Where each document's first target stands among the windows chosen, and its number."""
    length = windows.context_length
    # A document starts behind the end at position e of the split: position e + 1 is target e % T of
    # window e // T. Where that window is not chosen, the first target of the next one that is.
    ends = np.concatenate([[0], *_ends(windows, chosen[-1] * length + length)])
    window, place = np.divmod(ends, length)
    row = -((chosen.start - window) // chosen.step)  # rounded up
    place[chosen.start + row * chosen.step != window] = 0
    starts = np.where(row < 0, 0, row * length + place)
    found = starts < len(chosen) * length
    # Of documents that start at one place the last has targets there.
    last = np.append(np.diff(starts[found]) > 0, True)
    return starts[found][last], np.flatnonzero(found)[last]


def _ends(windows: Windows, stop: int) -> Iterator[Integers]:
    """Positions of END_OF_TEXT below `stop`, in chunks."""
    for start in range(0, stop, CHUNK):
        tokens = windows.tokens.read(start, min(start + CHUNK, stop))
        yield np.flatnonzero(tokens == END_OF_TEXT) + start


def _hashes(windows: Windows) -> Hashes:
    """A hash of the tokens of each document of the split, in order."""
    parts: list[Hashes] = []
    before, place = np.zeros(1, np.uint64), 0  # of the document that is not at its end
    size = max(CHUNK // 4, 1)  # some arrays of 8 bytes a token
    for start in range(0, len(windows.tokens), size):
        tokens = windows.tokens.read(start, min(start + size, len(windows.tokens)))
        starts = np.append(0, np.flatnonzero(tokens[:-1] == END_OF_TEXT) + 1)
        places = np.arange(len(tokens)) - np.repeat(starts, np.diff(starts, append=len(tokens)))
        places[: starts[1] if len(starts) > 1 else None] += place
        # Of each token with its place; the sum does not care how it was cut into chunks.
        mixture = mixed(mixed(places.astype(np.uint64)) + tokens)
        sums = np.add.reduceat(mixture, starts)
        sums[:1] += before
        ends = tokens[-1] == END_OF_TEXT
        parts.append(sums if ends else sums[:-1])
        before, place = (before * 0, 0) if ends else (sums[-1:], int(places[-1]) + 1)
    return np.concatenate([*parts, before])


def _sums(values: Losses | Mask, left_out: Mask | None, starts: Integers) -> Sums:
    """Sums of the values (W, T), end to end, from each start to the next."""
    length = values.shape[1]
    sums = np.zeros(len(starts))
    rows = max(CHUNK // length, 1)
    for row in range(0, len(values), rows):
        chunk = values[row : row + rows].astype(np.float64)
        if left_out is not None:
            chunk[left_out[row : row + rows]] = 0.0
        start = row * length
        first = int(np.searchsorted(starts, start, side="right")) - 1
        end = int(np.searchsorted(starts, start + chunk.size))
        within = np.maximum(starts[first:end] - start, 0)
        sums[first:end] += np.add.reduceat(chunk.reshape(-1), within)
        for array in (values, left_out):
            _let_go(array)
    return sums


def _let_go(array: npt.NDArray[np.generic] | None) -> None:
    """Unmap a file's pages that were read: they count as the process's memory."""
    mapped: object = None if array is None or array.flags.writeable else array.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapped.madvise(mmap.MADV_DONTNEED)
