"""Units of resampling: which target tokens stand or fall together.

Neighbouring tokens' losses are alike, those of one document more so, so an interval that takes
tokens for independent is too narrow. Resampled are therefore documents where there are enough of
them (clusters), else a few long blocks of consecutive tokens (batch means). `docs/uncertainty.md`
has what the numbers below were chosen by.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.tokens.token_losses import Losses
from pipeline.tokens.tokenizer import END_OF_TEXT
from pipeline.tokens.windows import Windows

Mask = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Sums = npt.NDArray[np.float64]

FEWEST = 10  # units, in effect: below, documents are no units, and nothing has an interval
BLOCKS = 12  # few: the longer a block, the less its loss is that of its neighbours
BLOCK = 512  # tokens, at least: topics and styles last for hundreds
CHUNK = 1 << 20  # tokens read at once


@dataclass(frozen=True)
class Units:
    """Target tokens of the chosen windows, end to end, as consecutive units.

    They are the same for every model, so that differences are paired.

    Attributes:
        kind: what a unit is.
        starts: int64 (U,): the place of each unit's first target among the W * T.
        counts: int64 (U,): target tokens of each unit, without those left out.
        shape: (W, T), the windows and their targets.
        left_out: bool (W, T): targets that do not count; None: all count.
    """

    kind: Literal["document", "block"]
    starts: Integers
    counts: Integers
    shape: tuple[int, int]
    left_out: Mask | None = None

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
        return _sums(losses, self.left_out, self.starts)


def effective(counts: Integers) -> float:
    """How many units of equal size would weigh as these do: (sum of sizes)² / sum of squares.

    Kish, Survey Sampling (1965); one unit that dominates makes it 1.
    """
    sizes = counts.astype(np.float64)
    squares = float((sizes**2).sum())
    return float(sizes.sum()) ** 2 / squares if squares else 0.0


def units_of(windows: Windows, chosen: range, left_out: Mask | None = None) -> Units:
    """Units of the targets of the windows `chosen`: documents if there are in effect 10.

    Else 12 blocks of at least 512 tokens, of whole windows where there are 12; of a text too short
    for that, a single block, which has no interval. END_OF_TEXT ends a document, within a window
    too.

    Args:
        chosen: indices of windows, ascending.
        left_out: bool (len(chosen), T): targets that do not count.

    Raises:
        IndexError: there is no such window.
    """
    shape = (len(chosen), windows.context_length)
    starts = _document_starts(windows, chosen)
    counts = _counts(shape, left_out, starts)
    if effective(counts) >= FEWEST:
        return Units("document", starts, counts, shape, left_out)
    starts = _block_starts(*shape)
    return Units("block", starts, _counts(shape, left_out, starts), shape, left_out)


def _block_starts(windows: int, length: int) -> Integers:
    """Where each block starts among the windows' targets."""
    tokens = windows * length
    blocks = BLOCKS if tokens >= BLOCKS * BLOCK else 1
    # Whole windows, as losses are higher at the start of a window.
    step = length if windows >= blocks else 1
    return np.arange(blocks) * (tokens // step) // blocks * step


def _document_starts(windows: Windows, chosen: range) -> Integers:
    """Where each document's first target stands among those of the windows chosen."""
    length = windows.context_length
    # A document starts behind the end at position e of the split: position e + 1 is target e % T of
    # window e // T. Where that window is not chosen, the first target of the next one that is.
    ends = np.concatenate([[0], *_ends(windows, chosen[-1] * length + length)])
    window, place = np.divmod(ends, length)
    row = -((chosen.start - window) // chosen.step)  # rounded up
    place[chosen.start + row * chosen.step != window] = 0
    starts = np.where(row < 0, 0, row * length + place)
    return np.unique(starts[starts < len(chosen) * length])


def _ends(windows: Windows, stop: int) -> Iterator[Integers]:
    """Positions of END_OF_TEXT below `stop`, in chunks."""
    for start in range(0, stop, CHUNK):
        tokens = windows.tokens.read(start, min(start + CHUNK, stop))
        yield np.flatnonzero(tokens == END_OF_TEXT) + start
        windows.tokens.let_go()


def _counts(shape: tuple[int, int], left_out: Mask | None, starts: Integers) -> Integers:
    counts = np.diff(starts, append=shape[0] * shape[1])
    if left_out is None:
        return counts
    assert left_out.shape == shape, (left_out.shape, shape)
    return counts - _sums(left_out, None, starts).astype(np.int64)


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
