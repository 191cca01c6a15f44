"""Hashes of numbers, and of all runs of n numbers in a row, at the speed of arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

NGRAM = 8  # tokens: a run of so many that stands in the training text too counts as copied
BASE = 0x9E3779B97F4A7C15  # odd, and without a pattern of its own

Hashes = npt.NDArray[np.uint64]


def hash_ngrams(numbers: npt.NDArray[np.integer], n: int) -> Hashes:
    """The hash of the n numbers from each place on, (len - n + 1,): a polynomial modulo 2**64.

    Hashes of long n-grams are combined from those of their parts, so the work grows with log n.
    """
    count = max(len(numbers) - n + 1, 0)
    result = np.zeros(count, dtype=np.uint64)
    done = 0  # numbers that `result` stands for
    power = numbers.astype(np.uint64)  # hashes of `width` numbers
    width, factor = 1, BASE  # factor = BASE ** width
    while count and width <= n:
        if n & width:
            result = result * np.uint64(factor) + power[done : done + count]
            done += width
        if 2 * width <= n:
            power = power[:-width] * np.uint64(factor) + power[width:]
        width, factor = 2 * width, factor * factor % 2**64
    return result


def mixed(numbers: Hashes) -> Hashes:
    """SplitMix64's step: every bit of a number decides every bit of the result."""
    numbers = numbers + np.uint64(BASE)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
