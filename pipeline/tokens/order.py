"""The order in which an epoch visits the windows: every one once, shuffled by a seed.

Up to `LISTED` windows it is `torch.randperm`'s, a list in memory. Above, a list would grow with
the corpus (8 GB for a billion windows), so the window at a place of the order is computed: a keyed
permutation, a Feistel network over pairs of residues with SplitMix64's finaliser as its round
function (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). It takes no memory
and no time to set up, and any rank of a distributed training can ask for any slice.

Sharp edge: the two kinds differ, so a corpus that grows past `LISTED` windows is shuffled by the
other one. The order is no cipher: it hides nothing from anyone.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.tokens.ngrams import mixed

LISTED = 1 << 22  # windows: a list of 32 MB, made in a tenth of a second
ROUNDS = 8

Indices = npt.NDArray[np.int64]


class Order(Protocol):
    """A permutation of range(len(order)), read by slices."""

    def __len__(self) -> int: ...

    def take(self, start: int, stop: int, step: int = 1) -> Indices:
        """The windows at places start, start + step, … below `stop`, int64; as a slice does."""
        ...


def epoch_order(windows: int, seed: int) -> Order:
    """The order of an epoch with this seed; each epoch takes a seed of its own.

    A rank of a distributed training takes `order.take(start + rank, stop, world_size)`.
    """
    return ListedOrder(windows, seed) if windows <= LISTED else KeyedOrder(windows, seed)


class ListedOrder:
    """`torch.randperm`, whole in memory."""

    def __init__(self, windows: int, seed: int) -> None:
        import torch  # seconds; what counts windows alone needs none

        generator = torch.Generator().manual_seed(seed)
        self._order: Indices = torch.randperm(windows, generator=generator).numpy()

    def __len__(self) -> int:
        return len(self._order)

    def take(self, start: int, stop: int, step: int = 1) -> Indices:
        return self._order[start:stop:step]


class KeyedOrder:
    """A permutation of up to 2^62 windows that is computed where it is asked for."""

    def __init__(self, windows: int, seed: int) -> None:
        if not 0 < windows <= 1 << 62:
            raise ValueError(f"windows must be from 1 to 2^62, not {windows}")
        self._windows = windows
        # Pairs (left, right) of residues stand for left * width + right, a little over `windows`.
        self._height = math.isqrt(windows - 1) + 1
        self._width = -(-windows // self._height)
        key = int(mixed(np.array([seed % (1 << 64)], dtype=np.uint64))[0])
        keys = [(key + number) % (1 << 64) for number in range(ROUNDS)]
        self._keys = mixed(np.array(keys, dtype=np.uint64))

    def __len__(self) -> int:
        return self._windows

    def take(self, start: int, stop: int, step: int = 1) -> Indices:
        places = range(*slice(start, stop, step).indices(self._windows))
        windows = self._shuffled(np.array(places, dtype=np.uint64))
        # Walk on from pairs that stand for no window: a permutation restricted to fewer numbers.
        while (beyond := windows >= self._windows).any():
            windows[beyond] = self._shuffled(windows[beyond])
        return windows.astype(np.int64)

    def _shuffled(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        height, width = np.uint64(self._height), np.uint64(self._width)
        left, right = numbers // width, numbers % width
        for first, second in zip(self._keys[0::2], self._keys[1::2], strict=True):
            left = (left + mixed(right ^ first) % height) % height
            right = (right + mixed(left ^ second) % width) % width
        return left * width + right
