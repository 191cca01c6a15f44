"""Where a gap's uncertainty comes from: the seeds, or the text on which it was measured.

The gap by seed and unit of text is a two-way table with both ways at random (Cornfield and Tukey
1956): the variance of its mean is a part that more seeds make smaller, one that more text does,
and one that both do. A unit counts by its tokens: it enters as its influence on the ratio of nats
to tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.tokens.units import FEWEST, effective

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sources:
    """The standard errors of a gap by their source, in nats per token.

    Attributes:
        both: what more seeds and more text would make smaller alike.
        unit, units: what the text was cut into, and how many there are.
    """

    seeds: float
    text: float
    both: float
    unit: str
    units: int

    @property
    def total(self) -> float:
        return math.hypot(self.seeds, self.text, self.both)


def sources(
    lower: Floats, other: Floats, tokens: Integers, unit: str, *, paired: bool
) -> Sources | None:
    """Of the mean loss of `other` minus that of `lower`.

    Args:
        lower, other: (N, U), summed nats of each seed's model on each unit of text.
        tokens: (U,), each unit's.
        paired: row k is the same seed in both.

    Returns:
        None with a single seed, fewer than 10 units in effect, or a loss that is not finite.
    """
    if effective(tokens) < FEWEST or min(len(lower), len(other)) < 2:
        return None
    with np.errstate(all="ignore"):
        seeds, text, both = _variances([other - lower] if paired else [other, -lower], tokens)
    if not math.isfinite(seeds + text + both):
        return None
    return Sources(math.sqrt(seeds), math.sqrt(text), math.sqrt(both), unit, len(tokens))


def _variances(samples: Sequence[Floats], tokens: Integers) -> tuple[float, float, float]:
    """Of the sum of the samples' means per token, by source; an estimate below 0 is 0."""
    seeds = both = 0.0
    by_unit = np.zeros(len(tokens))
    for sample in samples:
        per_token = sample.sum() / len(sample) / tokens.sum()
        influence = (sample - per_token * tokens) * len(tokens) / tokens.sum()  # (N, U), mean 0
        by_seed = influence.mean(1)
        rest = influence - by_seed[:, None] - influence.mean(0)
        residual = (rest**2).sum() / math.prod(n - 1 for n in rest.shape) / rest.size
        seeds += max(by_seed.var(ddof=1) / len(sample) - residual, 0.0)
        both += residual
        by_unit += influence.mean(0)
    return float(seeds), max(float(by_unit.var(ddof=1) / len(tokens) - both), 0.0), float(both)
