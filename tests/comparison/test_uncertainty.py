"""Standard errors and intervals against statsmodels, what must hold of them, and their coverage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.special import stdtrit
from statsmodels.regression.linear_model import OLS

from pipeline.comparison.uncertainty import (
    NOT_FINITE,
    TOO_LITTLE,
    Uncertainty,
    difference_interval,
    difference_uncertainty,
    interval,
    loss_uncertainty,
    standard_error,
)
from pipeline.tokens.units import BLOCK, BLOCKS, FEWEST, Units, effective, units_of
from pipeline.tokens.windows import Tokens, Windows
from tests.helpers.tokens import write_split

pytestmark = pytest.mark.filterwarnings("error")


def drawn(seed: int, sizes: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses of tokens, the unit of each, and the units' counts."""
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(len(sizes)), sizes)
    return (
        rng.exponential(3, len(unit)) + rng.normal(0, 0.5, len(sizes))[unit],
        unit,
        np.array(sizes),
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(FEWEST, 40), st.integers(1, 30))
def test_units_of_one_size_are_clusters(seed: int, units: int, size: int) -> None:
    losses, unit, counts = drawn(seed, [size] * units)
    fit = OLS(losses, np.ones_like(losses)).fit(
        cov_type="cluster", cov_kwds={"groups": unit}, use_t=True
    )
    sums = np.bincount(unit, losses)
    assert standard_error(sums, counts) == pytest.approx(float(fit.bse[0]))
    assert interval(sums, counts) == pytest.approx(tuple(fit.conf_int(0.05)[0]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(1, 60), min_size=2, max_size=25))
def test_units_of_any_size_are_left_out_one_at_a_time(seed: int, sizes: list[int]) -> None:
    losses, unit, counts = drawn(seed, sizes)
    ones = np.ones_like(losses)
    loss = OLS(losses, ones).fit().params[0]
    without = [
        OLS(losses[unit != left], ones[unit != left]).fit().params[0] for left in range(len(sizes))
    ]
    variance = (len(sizes) - 1) / len(sizes) * sum((one - loss) ** 2 for one in without)
    found = standard_error(np.bincount(unit, losses), counts)
    assert found == pytest.approx(math.sqrt(variance), abs=1e-12)


def test_unequal_units_have_wider_intervals_than_the_sandwich() -> None:
    losses, unit, counts = drawn(0, [40] * 24 + [200] * 4)
    fit = OLS(losses, np.ones_like(losses)).fit(
        cov_type="cluster", cov_kwds={"groups": unit}, use_t=True
    )
    low, high = interval(np.bincount(unit, losses), counts) or (0, 0)
    least, most = fit.conf_int(0.05)[0]
    assert low < least < most < high


SUMS = st.integers(FEWEST + 1, 40).flatmap(
    lambda units: st.tuples(
        st.lists(st.floats(0, 1e6), min_size=units, max_size=units).map(np.array),
        st.lists(st.floats(0, 1e6), min_size=units, max_size=units).map(np.array),
        st.lists(st.integers(900, 1000), min_size=units, max_size=units).map(np.array),
    )
)


@settings(max_examples=30, deadline=None)
@given(SUMS)
def test_what_must_hold(units: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    a, b, counts = units
    found = interval(a, counts)
    assert found is not None
    low, high = found
    near = {"rel": 1e-6, "abs": 1e-6}
    loss = a.sum() / counts.sum()
    assert low - 1e-9 <= loss <= high + 1e-9
    assert difference_interval(a, a, counts) == (0.0, 0.0)
    assert interval(a, counts) == found  # nothing is random
    assert interval(a + 3 * counts, counts) == pytest.approx((low + 3, high + 3), **near)
    assert interval(2 * a, counts) == pytest.approx((2 * low, 2 * high), **near)
    order = np.random.default_rng(0).permutation(len(counts))
    assert interval(a[order], counts[order]) == pytest.approx(found, **near)
    assert interval(np.append(a, 0.0), np.append(counts, 0)) == pytest.approx(found, **near)
    one = difference_interval(a, b, counts)
    other = difference_interval(b, a, counts)
    assert one is not None
    assert other is not None
    assert one == pytest.approx((-other[1], -other[0]), **near)


def test_a_pair_is_surer_than_two_losses() -> None:
    losses, unit, counts = drawn(1, [50] * 30)
    sums = np.bincount(unit, losses)
    better = sums - 0.2 * counts
    loss, difference = interval(sums, counts), difference_interval(better, sums, counts)
    assert loss is not None
    assert loss[1] - loss[0] > 0.1
    assert difference == pytest.approx((-0.2, -0.2))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_has_no_interval(bad: float) -> None:
    counts = np.full(20, 5)
    sums = np.arange(20.0)
    sums[3] = bad
    assert standard_error(sums, counts) is None
    assert interval(sums, counts) is None
    assert difference_interval(sums, sums, counts) is None
    units = Units("document", np.arange(20) * 5, np.arange(20), counts, (20, 5))
    assert loss_uncertainty(units, sums).note == NOT_FINITE
    assert difference_uncertainty(units, sums, sums).note == NOT_FINITE


@pytest.mark.parametrize(
    "counts",
    [[], [0], [9], [0] * 40, [7] * (FEWEST - 1), [7] * (FEWEST - 1) + [0] * 9, [1] * 50 + [1000]],
)
def test_too_few_units_have_no_interval(counts: list[int]) -> None:
    sums = np.array(counts, float)
    assert interval(sums, np.array(counts, int)) is None


def test_what_an_interval_rests_on_is_recorded(tmp_path: Path) -> None:
    losses, unit, counts = drawn(2, [25] * 40)
    units = Units("document", np.arange(40) * 25, np.arange(40), counts, (100, 10))
    sums = units.sums(losses.astype(np.float32).reshape(100, 10))
    found = loss_uncertainty(units, sums)
    assert sums == pytest.approx(np.bincount(unit, losses))
    assert found.interval == interval(sums, counts)
    assert (found.unit, found.units, found.tokens_per_unit) == ("document", 40, 25)
    assert (found.method, found.note) == ("95 %, Student's t, jackknife by document", None)
    found.write(tmp_path / "found.json")
    assert Uncertainty.read(tmp_path / "found.json") == found
    less = difference_uncertainty(units, sums, sums)
    assert (less.interval, less.note) == ((0.0, 0.0), None)


def test_two_windows_are_too_little_text(tmp_path: Path) -> None:
    windows = windows_of(tmp_path, 2 * 256)
    units = units_of(windows, range(2))
    found = loss_uncertainty(units, units.sums(np.ones((2, 256), np.float32)))
    assert (found.interval, found.note, found.units) == (None, TOO_LITTLE, 1)


# Coverage


def windows_of(folder: Path, targets: int) -> Windows:
    """Of a single document of so many targets, 256 each."""
    return Windows(Tokens.open(write_split(folder / "val", np.ones(targets + 1, np.uint16))), 256)


Noise = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
NOISES: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "exponential": lambda rng, shape: rng.standard_exponential(shape) - 1,
    "lognormal": lambda rng, shape: rng.lognormal(0, 1, shape) - math.exp(0.5),
}


def autocorrelated(
    rng: np.random.Generator, noise: Noise, phi: float, trials: int, tokens: int
) -> Iterator[np.ndarray]:
    """Losses of AR(1) around 3, float32 (tokens,), for so many trials."""
    for start in range(0, trials, 100):
        shape = min(100, trials - start), tokens + 200
        yield from (lfilter([1], [1, -phi], noise(rng, shape))[:, 200:] + 3).astype(np.float32)


def holds(found: tuple[float, float] | None, mean: float) -> bool:
    assert found is not None
    return found[0] <= mean <= found[1]


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "trials"), [(BLOCKS * BLOCK, 4000), (20 * 1024, 2000)])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("phi", [0.0, 0.3, 0.6, 0.8])
def test_blocks_cover_the_mean(
    tmp_path: Path, phi: float, noise: str, tokens: int, trials: int
) -> None:
    windows = windows_of(tmp_path, tokens)
    units = units_of(windows, range(len(windows)))
    rng = np.random.default_rng(round(10 * phi) + tokens)
    covered = sum(
        holds(interval(units.sums(losses.reshape(-1, 256)), units.counts), 3)
        for losses in autocorrelated(rng, NOISES[noise], phi, trials, tokens)
    )
    print(f"{noise} phi {phi} {tokens} tokens: {covered / trials:.1%}")
    assert 0.93 <= covered / trials <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokens", "blocks", "least", "most"),
    [(20 * 1024, BLOCKS, 0.93, 0.97), (BLOCKS * BLOCK, BLOCKS, 0.91, 0.97), (512, 8, 0.6, 0.8)],
    ids=["enough", "the fewest tokens", "two windows, if they were 8 blocks of 64"],
)
def test_blocks_of_a_text_that_drifts(tokens: int, blocks: int, least: float, most: float) -> None:
    """A tenth of the losses' variance lasts for hundreds of tokens, as topics and styles do."""
    trials = 2000
    rng = np.random.default_rng(tokens)
    starts = np.arange(blocks) * tokens // blocks
    covered = 0
    for losses in autocorrelated(rng, NOISES["normal"], 0.99, trials, tokens):
        # AR(1) has the variance 1 / (1 - 0.99²); the mean of exp(N(0, s²)) is exp(s² / 2).
        drift = np.exp(0.33 * (losses - 3) * math.sqrt(1 - 0.99**2) - 0.33**2 / 2)
        sums = np.add.reduceat(drift * rng.standard_exponential(tokens), starts)
        counts = np.diff(starts, append=tokens)
        reach = stdtrit(blocks - 1, 0.975) * (standard_error(sums, counts) or 0)
        covered += abs(sums.sum() / tokens - 1) <= reach
    print(f"drift, {tokens} tokens, {blocks} blocks: {covered / trials:.1%}")
    assert least <= covered / trials <= most


@pytest.mark.slow
@pytest.mark.parametrize("documents", [30, 100, 300])
@pytest.mark.parametrize(
    ("spread", "longer_is_lower"), [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (0.5, 0.1)]
)
def test_documents_cover_the_mean(documents: int, spread: float, longer_is_lower: float) -> None:
    """Lengths are lognormal; each document has a mean of its own, its tokens exponential losses."""
    trials, usual = 4000, 500
    rng = np.random.default_rng(documents)
    covered = total = 0
    for _ in range(trials):
        z = rng.normal(0, spread, documents)
        counts = np.maximum(usual * np.exp(z), 1).astype(int)
        mean = 3 + rng.normal(0, 0.3, documents) - longer_is_lower * z
        sums = counts * (mean - 3) + 3 * rng.gamma(counts)
        if found := interval(sums, counts):
            total += 1
            covered += holds(found, 3 - longer_is_lower * spread**2)
        else:
            assert effective(counts) < FEWEST
    print(f"{documents} documents, {spread=} {longer_is_lower=}: {covered / total:.1%} of {total}")
    assert total > trials / 2
    assert 0.93 <= covered / total <= 0.97
