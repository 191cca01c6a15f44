"""How sure a loss is: 95 % intervals over units of text, documents or blocks.

All functions take `sums`, the summed nats of each unit, float64 (U,), and `counts`, its target
tokens (U,), as `tokens.units.Units` makes them; a loss is sum(sums) / sum(counts), nats per token.
Units without a target are passed over. The loss of a unit is random, and so is its length: the
ratio's standard error is that of clustered observations.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from pipeline.system.records import Record
from pipeline.tokens.units import Units

LEVEL = 0.95
FEWEST = 20  # units

TOO_LITTLE = "too little text"
NOT_FINITE = "a loss is not finite"

Array = npt.NDArray[np.float64] | npt.NDArray[np.int64]
Interval = tuple[float, float]


class Uncertainty(Record):
    """An interval and what it rests on.

    Attributes:
        interval: 95 %, in nats per token; None where none can be stated, and `note` says why.
        unit: what was resampled.
        units: how many.
        tokens_per_unit: of a block its length, of documents the mean.
        method: in words.
        note: why there is no interval; None where there is one.
    """

    interval: Interval | None
    unit: Literal["document", "block"]
    units: int
    tokens_per_unit: int
    method: str
    note: str | None = None


def loss_uncertainty(units: Units, sums: Array) -> Uncertainty:
    """Of a model's loss; `sums` are `units.sums` of its losses."""
    found = interval(sums, units.counts)
    finite = bool(np.isfinite(sums).all())
    return Uncertainty(
        interval=found,
        unit=units.kind,
        units=len(units),
        tokens_per_unit=units.tokens_per_unit,
        method=f"Student's t on the standard error clustered by {units.kind}",
        note=None if found else TOO_LITTLE if finite else NOT_FINITE,
    )


def difference_uncertainty(units: Units, a_sums: Array, b_sums: Array) -> Uncertainty:
    """Of loss a minus loss b of the same target tokens."""
    return loss_uncertainty(units, _less(a_sums, b_sums))


def interval(sums: Array, counts: Array) -> Interval | None:
    """The 95 % interval of a loss; None with fewer than 20 units or a loss that is not finite."""
    error = standard_error(sums, counts)
    units = np.count_nonzero(counts)
    if units < FEWEST or error is None:
        return None
    loss = float(np.sum(sums) / np.sum(counts))
    reach = float(stdtrit(units - 1, (1 + LEVEL) / 2)) * error
    return loss - reach, loss + reach


def difference_interval(a_sums: Array, b_sums: Array, counts: Array) -> Interval | None:
    """The 95 % interval of loss a minus loss b, paired by unit; of a model and itself (0, 0)."""
    return interval(_less(a_sums, b_sums), counts)


def standard_error(sums: Array, counts: Array) -> float | None:
    """The loss's standard error, clustered by unit; None with one unit or a loss not finite."""
    there = np.asarray(counts) > 0
    sums, counts = np.asarray(sums)[there], np.asarray(counts)[there]
    units = len(counts)
    if units < 2 or not np.isfinite(sums).all():
        return None
    residuals = sums - sums.sum() / counts.sum() * counts
    return float(np.sqrt(units / (units - 1) * (residuals**2).sum()) / counts.sum())


def _less(a_sums: Array, b_sums: Array) -> Array:
    with np.errstate(invalid="ignore"):  # inf - inf
        return np.subtract(a_sums, b_sums)
