"""Whether a sweep's lowest setting leads, or seeds alone make as much.

Each setting is compared with the one of the lowest mean: a t test of their difference, paired by
seed where all settings have the same seeds, else of two samples. Few seeds make a poor variance,
so the settings share one: of the residuals of seeds and settings where they are paired (a block
design), of the deviations within settings where not, with the degrees of freedom of all. A
setting whose variance does not fit (an F test against those with smaller ones), as where a
learning rate makes some seeds diverge, stays out of it and is compared by its own (Welch 1947);
and where a pair's own variance is larger than the shared one, it counts.

The lowest mean was found by looking, so that every pair might have been the one to be compared:
Holm's (1979) step with r settings left counts r (r - 1) / 2 comparisons, not r - 1. That the lowest
leads all others is one claim, which holds where each comparison alone does (Berger 1982), the
winner's choice included (Gutmann and Maymin 1987).

The arrays may have leading axes, of many sweeps at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import fdtri, nctdtr, stdtr, stdtrit

LEVEL = 0.05  # how often a lead is claimed where there is none
POWER = 0.8
MISFIT = 0.01  # how often equal settings lose one from their shared variance
ROUNDING = 1e-9  # of a loss: a standard error below is none, by which everything were a lead
MOST_SEEDS = 1000  # that are worth a number

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Comparisons:
    """Of each setting with the lowest, arrays (..., S).

    Attributes:
        gap: its mean minus the lowest.
        error, freedom: the gap's standard error and degrees of freedom.
        steps: how many comparisons its interval allows for.
        p: of the gap, two-sided, adjusted for all comparisons; 1 of the lowest with itself.
        low, high: the gap's interval, 95 % for all of `steps`; above 0 where it is a lead. NaN, as
            `error`, where the seeds show no spread: nothing is claimed then.
        lead: whether the lowest leads it: p is at most 0.05.
    """

    gap: Floats
    error: Floats
    freedom: Floats
    steps: Floats
    p: Floats
    low: Floats
    high: Floats
    lead: Flags


@dataclass(frozen=True)
class _Pool:
    """The variance that settings share; arrays (..., 1) but `fits`, (..., S)."""

    variance: Floats
    freedom: Floats
    fits: Flags


def compare(scores: Floats, lowest: Counts | int, *, paired: bool) -> Comparisons:
    """Compare each setting with the lowest.

    Args:
        scores: (..., S, N), of S settings with two seeds or more; NaN where one has fewer than N.
        lowest: (...), the index of the lowest mean.
        paired: column k is the same seed in all settings; there are no NaN then.
    """
    counts = np.isfinite(scores).sum(-1)  # (..., S)
    means = np.nanmean(scores, axis=-1)
    best = np.broadcast_to(np.asarray(lowest), means.shape[:-1])[..., None]
    gap = np.maximum(means - np.take_along_axis(means, best, -1), 0.0)
    with np.errstate(all="ignore"):  # what squares to infinity leads nobody
        error, freedom = _errors(scores - means[..., None], counts, best, paired)
        error[error <= ROUNDING * np.abs(means)] = np.nan
        p = 2 * stdtr(freedom, -gap / error)
    np.put_along_axis(p, best, 1.0, -1)
    p[np.isnan(p)] = 1.0
    adjusted, steps = _adjusted(p)
    with np.errstate(all="ignore"):
        reach = stdtrit(freedom, 1 - LEVEL / 2 / steps) * error
    return Comparisons(
        gap, error, freedom, steps, adjusted, gap - reach, gap + reach, adjusted <= LEVEL
    )


def _errors(
    deviations: Floats, counts: Counts, best: Counts, paired: bool
) -> tuple[Floats, Floats]:
    """The standard error of each gap and its degrees of freedom, (..., S) both.

    Args:
        deviations: (..., S, N), of the scores from their settings' means.
        best: (..., 1), an index.
    """
    pool = _pool(deviations, counts, paired)
    of_best = np.take_along_axis(counts, best, -1)
    both = pool.fits & np.take_along_axis(pool.fits, best, -1)
    shared = pool.variance * (1 / counts + 1 / of_best)
    own = np.nansum(deviations**2, -1) / (counts - 1)
    if paired:
        differences = deviations - np.take_along_axis(deviations, best[..., None], -2)
        alone = (differences**2).sum(-1) / (counts - 1) / counts
        by_itself, freedom = alone, counts - 1.0
    else:
        alone = own / counts + np.take_along_axis(own / counts, best, -1)
        part = np.where(pool.fits, pool.variance, own) / counts
        degrees = np.where(pool.fits, pool.freedom, counts - 1)
        of = np.take_along_axis(part, best, -1)
        by_itself = part + of
        # Welch and Satterthwaite's
        freedom = by_itself**2 / (part**2 / degrees + of**2 / np.take_along_axis(degrees, best, -1))
    error = np.sqrt(np.where(both, np.maximum(shared, alone), by_itself))
    return error, np.where(both, pool.freedom, freedom)


def _pool(deviations: Floats, counts: Counts, paired: bool) -> _Pool:
    """The variance of the settings whose variances fit together, smallest first."""
    squares = np.nansum(deviations**2, -1)
    order = np.argsort(squares / (counts - 1), axis=-1)
    sums = np.cumsum(np.take_along_axis(squares, order, -1), -1)
    freedom = np.cumsum(np.take_along_axis(counts, order, -1) - 1.0, -1)
    if paired:  # without what a seed adds to all settings
        size = np.arange(1, deviations.shape[-2] + 1)
        by_seed = np.cumsum(np.take_along_axis(deviations, order[..., None], -2), -2)
        sums = np.maximum(sums - (by_seed**2).sum(-1) / size, 0.0)
        freedom = freedom * (size - 1) / size
    more, degrees = np.diff(sums), np.diff(freedom)
    limit = fdtri(degrees, np.maximum(freedom[..., :-1], 1), 1 - MISFIT / order.shape[-1])
    misfit = ~(more / degrees <= limit * sums[..., :-1] / freedom[..., :-1])
    if paired:
        misfit[..., :1] = False  # of one setting there are no residuals
    end = np.ones((*misfit.shape[:-1], 1), bool)
    size = np.concatenate([misfit, end], -1).argmax(-1)[..., None] + 1
    total, degrees = (np.take_along_axis(a, size - 1, -1) for a in (sums, freedom))
    return _Pool(total / degrees, degrees, np.argsort(order, axis=-1) < size)


def _adjusted(p: Floats) -> tuple[Floats, Floats]:
    """P values adjusted for all comparisons, and the comparisons counted in each one's interval.

    The lowest itself comes last, with a p of 1. Where Holm's procedure has stopped, the rest have
    the comparisons of that step.
    """
    order = np.argsort(p, axis=-1)
    ascending = np.take_along_axis(p, order, -1)
    left = p.shape[-1] - np.arange(p.shape[-1])
    counted = np.maximum(left * (left - 1) / 2, 1.0)
    adjusted = np.minimum(np.maximum.accumulate(ascending * counted, -1), 1.0)
    stop = np.minimum((adjusted <= LEVEL).sum(-1), p.shape[-1] - 1)[..., None]
    adjusted[..., :-1] = np.minimum(adjusted[..., :-1], ascending[..., -2:-1])
    leads_all = np.all(adjusted[..., :-1] <= LEVEL, axis=-1, keepdims=True)
    rest = np.where(leads_all, 1.0, counted[stop])
    steps = np.where(np.arange(p.shape[-1]) < stop, counted, rest)
    back = np.argsort(order, axis=-1)
    return np.take_along_axis(adjusted, back, -1), np.take_along_axis(steps, back, -1)


def seeds_needed(found: Comparisons, setting: int, seeds: float) -> int | None:
    """Seeds of each setting, more than now, that would show a true gap of the measured size in
    80 % of sweeps.

    Args:
        found: of one sweep.
        seeds: that the two settings have now, their harmonic mean where they differ.

    Returns:
        None where no number does: there is no gap, or it would take more than 1,000.
    """
    many = np.arange(int(seeds) + 1, MOST_SEEDS + 1)
    freedom = found.freedom[setting] * (many - 1) / (seeds - 1)
    with np.errstate(all="ignore"):
        noncentrality = found.gap[setting] / found.error[setting] * np.sqrt(many / seeds)
        limit = stdtrit(freedom, 1 - LEVEL / 2 / found.steps[setting])
        power = 1 - nctdtr(freedom, noncentrality, limit)
    enough = many[power >= POWER]
    return int(enough[0]) if found.gap[setting] > 0 and len(enough) else None


def mean_intervals(scores: Floats) -> Floats:
    """The 95 % interval of each setting's mean, (..., S, 2); as `compare`'s two samples."""
    counts = np.isfinite(scores).sum(-1)
    means = np.nanmean(scores, axis=-1)
    with np.errstate(all="ignore"):
        deviations = scores - means[..., None]
        pool = _pool(deviations, counts, paired=False)
        own = np.nansum(deviations**2, -1) / (counts - 1)
        variance = np.where(pool.fits, np.maximum(own, pool.variance), own)
        freedom = np.where(pool.fits, pool.freedom, counts - 1)
        reach = stdtrit(freedom, 1 - LEVEL / 2) * np.sqrt(variance / counts)
    return np.stack([means - reach, means + reach], -1)
