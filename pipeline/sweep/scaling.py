"""The scaling law L = E + A / N^alpha + B / D^beta, fitted, with the band of a new run.

The parametric form of Hoffmann et al. (2022, "Training Compute-Optimal Large Language Models",
section 3.3) and their estimate: the least sum of Huber losses of log L, from a grid of starts. They
use L-BFGS, which stops early where the sum is a mean (Besiroglu et al. 2024, "Chinchilla Scaling: A
replication attempt"); here it is Levenberg and Marquardt's method with Huber's weights, which
solves for hundreds of laws at once.

A law has one term or two: where only N was varied, B / D^beta is part of E, and the reverse.
Arrays: R runs, K terms, S laws. A law is a row of 1 + 2 K numbers: log E, then of each term its
log size at the middle of the runs and its exponent.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.special import fdtrc

HUBER = 1e-3  # of log L, as Hoffmann et al.
DRAWS = 200
LEVEL = 0.9  # of bands
MISFIT = 0.05  # how often rungs without a misfit are taken to have one
STEPS, SETTLED = 200, 1e-7  # of the search: at most, and by how much the last one improves
LOWEST = -3.0  # of log E
FLATTEST, STEEPEST = 0.01, 3.0  # exponents stay between: beyond, hardly anything changes
SHARES, EXPONENTS = (0.2, 0.5, 0.8, 0.95), (0.1, 0.3, 0.6, 1.0)  # where the search starts

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scaling:
    """A fitted law.

    Attributes:
        middle: (K,), the mean of the runs' logarithms.
        laws: (1 + S, 1 + 2 K), the fit, then fits to runs as it and its noise would make them.
        noise: (S,), the standard deviation of a run's log loss in each of these draws.
    """

    middle: Floats
    laws: Floats
    noise: Floats

    @property
    def terms(self) -> int:
        return len(self.middle)

    @property
    def floors(self) -> Floats:
        """E, (1 + S,)."""
        return np.exp(self.laws[:, 0])

    def exponents(self, term: int) -> Floats:
        """Of one term, (1 + S,)."""
        return self.laws[:, 2 + 2 * term]

    def losses(self, logs: Floats) -> Floats:
        """The fit's losses, (P,), at points whose logarithms are (P, K)."""
        found: Floats = np.exp(_log_losses(self.laws[:1], logs - self.middle)[0])
        return found

    def band(self, logs: Floats) -> Floats:
        """Where a new run with a seed of its own falls in 90 % of cases, (2, P)."""
        means = _log_losses(self.laws[1:], logs - self.middle)
        chance = np.random.default_rng(1).standard_normal((len(means), 1))
        ends = (1 - LEVEL) / 2, (1 + LEVEL) / 2
        return np.exp(np.quantile(means + self.noise[:, None] * chance, ends, axis=0))

    def needed(self, loss: float) -> Floats:
        """The logarithms of what it takes to reach a loss, (1 + S, K); infinite where E is above.

        With two terms they are N and D of the lowest N D, where alpha A / N^alpha equals
        beta B / D^beta.
        """
        sizes, exponents = self.laws[:, 1::2], self.laws[:, 2::2]
        with np.errstate(divide="ignore"):
            above = np.log(np.maximum(loss - self.floors, 0.0))[:, None]
        share = exponents[:, ::-1] / exponents.sum(1, keepdims=True) if self.terms > 1 else 1.0
        found: Floats = self.middle + (sizes - above - np.log(share)) / exponents
        return found

    def frontier(self, product: Floats) -> Floats:
        """The logarithms of N and D, (P, 2), where the fit is lowest for log (N D), (P,)."""
        _, a, alpha, b, beta = self.laws[0]
        total = product - self.middle.sum()
        n = (beta * total + a - b + np.log(alpha / beta)) / (alpha + beta)
        found: Floats = self.middle + np.stack([n, total - n], axis=1)
        return found


def fit(logs: Floats, losses: Floats, rungs: Integers) -> Scaling:
    """Fit the law to runs.

    The draws are a parametric bootstrap: losses of the law with normal noise of log L, whose
    variance is drawn too (the residuals' over chi squared), so that few runs make a wide band. The
    noise is that of all runs' residuals; where rungs are off the law by more than their seeds
    differ (an F test), that of the rungs alone.

    Args:
        logs: (R, K), of N and D or one of them.
        losses: (R,), nats per token.
        rungs: (R,), each run's rung from 0: the runs of equal logs.
    """
    middle = logs.mean(0)
    x, y = logs - middle, np.log(losses)
    terms = x.shape[1]
    starts = [
        [np.log(share * losses.min()), *(v for e in exponents for v in (size, e))]
        for share in SHARES
        for size in [np.log((losses.mean() - share * losses.min()) / terms)]
        for exponents in product(EXPONENTS, repeat=terms)
    ]
    found = _solved(x, y[None], np.array(starts))
    law = found[_objectives(x, y[None], found).argmin()]
    fitted = _log_losses(law[None], x)[0]
    variance, freedom = _noise(y, fitted, rungs, len(law))
    random = np.random.default_rng(0)
    noise = np.sqrt(variance * freedom / random.chisquare(freedom, DRAWS))
    drawn = fitted + noise[:, None] * random.standard_normal((DRAWS, len(y)))
    draws = _solved(x, drawn, np.tile(law, (DRAWS, 1)))
    return Scaling(middle, np.concatenate([law[None], draws]), noise)


def _log_terms(laws: Floats, x: Floats) -> Floats:
    """log of E and of each term, (S, R, 1 + K)."""
    terms = laws[:, None, 1::2] - laws[:, None, 2::2] * x
    floors = np.broadcast_to(laws[:, None, :1], (*terms.shape[:2], 1))
    return np.concatenate([floors, terms], axis=-1)


def _log_losses(laws: Floats, x: Floats) -> Floats:
    found: Floats = np.logaddexp.reduce(_log_terms(laws, x), axis=-1)
    return found


def _objectives(x: Floats, y: Floats, laws: Floats) -> Floats:
    """The sum of Huber losses of each law, (S,), in squares of their threshold."""
    off = np.abs(_log_losses(laws, x) - y) / HUBER
    found: Floats = np.where(off < 1, off**2 / 2, off - 0.5).sum(1)
    return found


def _solved(x: Floats, y: Floats, laws: Floats) -> Floats:
    """The laws of the least Huber loss that are reached from `laws`; y is (S, R) or (1, R)."""
    low = np.array([LOWEST, *[-np.inf, FLATTEST] * x.shape[1]])
    high = np.array([0.0, *[np.inf, STEEPEST] * x.shape[1]]) + y.min(1, keepdims=True) * (
        np.arange(laws.shape[1]) == 0
    )
    damping = np.full(len(laws), 1e-3)
    value = _objectives(x, y, laws)
    for _ in range(STEPS):
        terms = _log_terms(laws, x)
        total = np.logaddexp.reduce(terms, axis=-1, keepdims=True)
        parts = np.exp(terms - total)
        slopes = np.empty((*parts.shape[:2], laws.shape[1]))
        slopes[..., 0], slopes[..., 1::2] = parts[..., 0], parts[..., 1:]
        slopes[..., 2::2] = -parts[..., 1:] * x
        off = total[..., 0] - y
        weighted = slopes / np.maximum(np.abs(off) / HUBER, 1.0)[..., None]
        curvature = np.swapaxes(weighted, 1, 2) @ slopes
        diagonal = np.einsum("sii->si", curvature)
        diagonal += damping[:, None] * diagonal + 1e-12
        gradient = np.einsum("srp,sr->sp", weighted, off)
        tried = np.clip(laws - np.linalg.solve(curvature, gradient[..., None])[..., 0], low, high)
        now = _objectives(x, y, tried)
        better = now < value
        moved = np.where(better, value - now, 0.0)
        laws = np.where(better[:, None], tried, laws)
        value = np.where(better, now, value)
        if (better & (moved < SETTLED * (1 + value)) | (damping > 1e6)).all():
            break
        damping = np.where(better, damping / 5, damping * 4)
    return laws


def _noise(y: Floats, fitted: Floats, rungs: Integers, parameters: int) -> tuple[float, int]:
    """The variance of a run's log loss, and its degrees of freedom."""
    counts = np.bincount(rungs)
    means = (np.bincount(rungs, y) / counts)[rungs]
    within, off = float(((y - means) ** 2).sum()), float(((means - fitted) ** 2).sum())
    seeds, free = len(y) - len(counts), len(counts) - parameters
    if seeds and off * seeds > within * free * 1e-9:
        ratio = off / free * seeds / max(within, 1e-300)
        if fdtrc(free, seeds, ratio) < MISFIT:
            return off / free, free
    return (within + off) / (seeds + free), seeds + free
