"""Units of resampling: which target tokens stand or fall together.

Neighbouring tokens' losses are alike, those of one document more so, so an interval that takes
tokens for independent is too narrow. Resampled are therefore documents where there are many
(clusters), else blocks of consecutive tokens (batch means).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.tokens.tokenizer import END_OF_TEXT
from pipeline.tokens.windows import Windows

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Starts = npt.NDArray[np.int64]

DOCUMENTS = 30  # below so many, in effect, blocks are the units
BLOCKS = 30  # of a text without so many documents
BLOCK = 64  # tokens of a block, at least
CHUNK = 1 << 20  # tokens read at once


@dataclass(frozen=True)
class Units:
    """Target tokens of the chosen windows, end to end, as consecutive units.

    The same for every model, so that differences are paired.

    Attributes:
        kind: what a unit is.
        starts: int64 (U,): the place of each unit's first target among the W * T.
        counts: int64 (U,): target tokens of each unit, without those left out.
        shape: (W, T), the windows and their targets.
        left_out: bool (W, T): targets that do not count; None: all count.
    """

    kind: Literal["document", "block"]
    starts: Starts
    counts: npt.NDArray[np.int64]
    shape: tuple[int, int]
    left_out: Mask | None = None

    def __len__(self) -> int:
        """Units that have a target."""
        return int(np.count_nonzero(self.counts))

    @property
    def tokens_per_unit(self) -> int:
        """Of a block its length; of documents the mean."""
        return round(int(self.counts.sum()) / max(len(self), 1))

    def sums(self, losses: Floats) -> npt.NDArray[np.float64]:
        """Each unit's summed losses, float64 (U,), in the order of `counts`.

        Args:
            losses: nats, float32 (W, T); may be memory-mapped at any size: read in chunks.
        """
        if losses.shape != self.shape:
            raise ValueError(f"losses of shape {losses.shape} for targets of {self.shape}")
        return _sums(losses, self.left_out, self.starts)


def units_of(windows: Windows, chosen: range, left_out: Mask | None = None) -> Units:
    """Units of the targets of the windows `chosen`.

    Documents, which END_OF_TEXT ends, within windows too, if there are in effect 30, that is
    (sum of lengths)² / sum of squared lengths (Kish 1965), so that no few long ones decide; else
    blocks of consecutive tokens.

    Args:
        chosen: indices of windows, ascending.
        left_out: bool (len(chosen), T): targets that do not count.
    """
    shape = (len(chosen), windows.context_length)
    starts = _document_starts(windows, chosen)
    counts = _counts(shape, left_out, starts).astype(np.float64)
    if counts.sum() ** 2 >= DOCUMENTS * (counts**2).sum() > 0:
        return Units("document", starts, counts.astype(np.int64), shape, left_out)
    starts = _block_starts(*shape)
    return Units("block", starts, _counts(shape, left_out, starts), shape, left_out)


def _block_starts(windows: int, length: int) -> Starts:
    """30 blocks of whole windows, or fewer of 64 tokens and more."""
    tokens = windows * length
    blocks = max(min(BLOCKS, tokens // BLOCK), 1)
    numbers = np.arange(blocks)
    if windows >= blocks:
        return numbers * windows // blocks * length
    return numbers * tokens // blocks


def _document_starts(windows: Windows, chosen: range) -> Starts:
    """Where a document's first target stands among those of the windows chosen."""
    length = windows.context_length
    targets = len(chosen) * length
    # A document starts at position q of the split; the target at q is target (q - 1) % T of
    # window (q - 1) // T, or, where that one is not chosen, the next chosen's first.
    before = np.concatenate([[-1], *_ends(windows, (chosen[-1] + 1) * length)])
    window, place = np.divmod(np.maximum(before, 0), length)
    row = -((chosen.start - window) // chosen.step)  # rounded up
    place[(chosen.start + row * chosen.step != window) | (row < 0)] = 0
    starts = np.unique(np.maximum(row, 0) * length + place)
    return starts[starts < targets]


def _ends(windows: Windows, last: int) -> Iterator[Starts]:
    """Positions of END_OF_TEXT among the tokens [0, last], in chunks."""
    for start in range(0, last + 1, CHUNK):
        tokens = windows.tokens.read(start, min(start + CHUNK, last + 1))
        yield np.flatnonzero(tokens == END_OF_TEXT) + start
        del tokens
        windows.tokens.let_go()


def _counts(shape: tuple[int, int], left_out: Mask | None, starts: Starts) -> Starts:
    if left_out is None:
        return np.diff(starts, append=shape[0] * shape[1])
    if left_out.shape != shape:
        raise ValueError(f"left_out of shape {left_out.shape} for targets of {shape}")
    return np.diff(starts, append=shape[0] * shape[1]) - _sums(left_out, None, starts).astype(int)


def _sums(
    values: npt.NDArray[np.float32] | Mask, left_out: Mask | None, starts: Starts
) -> npt.NDArray[np.float64]:
    """Sums of the values (W, T) from each start to the next, float64."""
    length = values.shape[1]
    sums = np.zeros(len(starts))
    rows = max(CHUNK // length, 1)
    for row in range(0, len(values), rows):
        chunk = values[row : row + rows].astype(np.float64)
        if left_out is not None:
            chunk[left_out[row : row + rows]] = 0.0
        start, stop = row * length, row * length + chunk.size
        first = int(np.searchsorted(starts, start, side="right")) - 1
        end = int(np.searchsorted(starts, stop))
        within = np.maximum(starts[first:end] - start, 0)
        with np.errstate(invalid="ignore"):  # infinite losses are a result too
            sums[first:end] += np.add.reduceat(chunk.reshape(-1), within)
        _let_go(values)
        _let_go(left_out)
    return sums


def _let_go(values: npt.NDArray[np.generic] | None) -> None:
    """Unmap the pages that were read of a mapped file, which count as the process's memory."""
    mapped = getattr(values, "base", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
