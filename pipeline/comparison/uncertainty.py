"""How sure a loss is: 95 % intervals over units of text, documents or blocks.

The functions take `sums`, each unit's summed nats, float64 (U,), and `counts`, its target tokens,
int64 (U,), as `tokens.units.Units` makes them. A loss is sum(sums) / sum(counts), in nats per
token. Both are random, so the standard error is a ratio's: the jackknife that leaves out one unit
at a time (Tukey 1958; CV3 of MacKinnon, Nielsen and Webb 2023), and the interval Student's t with
as many degrees of freedom as units weigh, less one (the effective number of clusters of Carter,
Schnepel and Steigerwald 2017). It needs no random numbers, and covers better than the bootstrap
where units are few or unequal: `docs/uncertainty.md` has what was measured.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.system.records import Record
from pipeline.tokens.units import FEWEST, Units, effective

LEVEL = 0.95
TOO_LITTLE = "too little text"
NOT_FINITE = "a loss is not finite"

Sums = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Interval = tuple[float, float]


class Uncertainty(Record):
    """An interval and what it rests on.

    Attributes:
        interval: 95 %, in nats per token; None where there is none, and `note` says why.
        unit: what was resampled.
        units: how many there are.
        tokens_per_unit: of blocks the length, of documents the mean.
        method: in words.
        note: None where there is an interval.
    """

    interval: Interval | None
    unit: Literal["document", "block"]
    units: int
    tokens_per_unit: int
    method: str
    note: str | None = None


def loss_uncertainty(units: Units, sums: Sums) -> Uncertainty:
    """Of a loss; `sums` are the `units.sums` of a model's losses."""
    found = interval(sums, units.counts)
    return Uncertainty(
        interval=found,
        unit=units.kind,
        units=len(units),
        tokens_per_unit=units.tokens_per_unit,
        method=f"95 %, Student's t, jackknife by {units.kind}",
        note=None if found else TOO_LITTLE if np.isfinite(sums).all() else NOT_FINITE,
    )


def difference_uncertainty(units: Units, a_sums: Sums, b_sums: Sums) -> Uncertainty:
    """Of loss a minus loss b of the same target tokens."""
    return loss_uncertainty(units, _less(a_sums, b_sums))


def interval(sums: Sums, counts: Counts) -> Interval | None:
    """The 95 % interval of a loss; None if it is not finite or units are in effect fewer than 10.

    Units in effect: `tokens.units.effective`.
    """
    from scipy.special import stdtrit  # a third of a second

    error = standard_error(sums, counts)
    if error is None or effective(counts) < FEWEST:
        return None
    loss = float(sums.sum() / counts.sum())
    reach = float(stdtrit(effective(counts) - 1, (1 + LEVEL) / 2)) * error
    return loss - reach, loss + reach


def difference_interval(a_sums: Sums, b_sums: Sums, counts: Counts) -> Interval | None:
    """The 95 % interval of loss a minus loss b, paired by unit; (0, 0) of a model and itself."""
    return interval(_less(a_sums, b_sums), counts)


def standard_error(sums: Sums, counts: Counts) -> float | None:
    """A loss's standard error, clustered by unit; None with one unit, or if it is not finite.

    The jackknife: sqrt((U - 1) / U * sum of (loss without the unit - loss)²). Where units are of
    one size it is the sandwich estimator with its correction U / (U - 1).
    """
    sums, counts = sums[counts > 0], counts[counts > 0]
    units = len(counts)
    if units < 2 or not np.isfinite(sums).all():
        return None
    without = (sums.sum() - sums) / (counts.sum() - counts)
    deviations = without - sums.sum() / counts.sum()
    return float(np.sqrt((units - 1) / units * (deviations**2).sum()))


def _less(a_sums: Sums, b_sums: Sums) -> Sums:
    with np.errstate(invalid="ignore"):  # inf - inf
        return a_sums - b_sums
