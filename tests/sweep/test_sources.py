"""Where a gap's uncertainty comes from, on losses whose sources are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sweep.sources import Sources, sources

Floats = npt.NDArray[np.float64]


def made(
    seeds: int,
    units: int,
    of_seeds: float,
    of_text: float,
    of_both: float,
    random: int = 0,
    *,
    paired: bool = True,
) -> Sources:
    """Of a gap of 0.1 whose effects have these standard deviations, on units of unlike lengths."""
    rng = np.random.default_rng(random)
    tokens = rng.integers(50, 150, units)
    shared = rng.normal(6, 1, units)  # what makes text hard for both
    lower = np.broadcast_to(shared * tokens, (seeds, units))
    gap = (
        0.1
        + of_seeds * rng.standard_normal((seeds, 1))
        + of_text * rng.standard_normal(units)
        + of_both * rng.standard_normal((seeds, units))
    )
    found = sources(lower, lower + gap * tokens, tokens, "document", paired=paired)
    assert found is not None
    return found


@pytest.mark.parametrize("paired", [True, False])
def test_the_larger_source_is_found(paired: bool) -> None:
    seeds = made(4, 100, 0.1, 0.05, 0.05, paired=paired)
    assert seeds.seeds > 3 * seeds.text
    text = made(4, 100, 0.001, 0.5, 0.05, paired=paired)
    assert text.text > 3 * text.seeds
    assert (text.unit, text.units) == ("document", 100)


def test_the_parts_are_right_on_average() -> None:
    parts = np.array(
        [
            (one.seeds**2, one.text**2, one.both**2)
            for i in range(400)
            for one in [made(5, 40, 0.1, 0.4, 0.3, i)]
        ]
    )
    expected = [0.1**2 / 5, 0.4**2 / 40, 0.3**2 / 200]
    assert parts.mean(0) == pytest.approx(expected, rel=0.15)


def test_estimates_below_zero_are_none() -> None:
    only_both = [made(3, 50, 0.0, 0.0, 1.0, i) for i in range(20)]
    assert {0.0} < {one.seeds for one in only_both}
    assert {0.0} < {one.text for one in only_both}
    still = made(3, 50, 0.0, 0.0, 0.0)
    assert (still.seeds, still.text, still.both) == pytest.approx((0, 0, 0), abs=1e-12)


@given(
    seeds=st.integers(1, 3),
    units=st.integers(1, 20),
    loss=st.sampled_from([6.0, np.inf, np.nan, 1e300]),
    paired=st.booleans(),
)
def test_too_little_says_nothing(seeds: int, units: int, loss: float, paired: bool) -> None:
    table = np.full((seeds, units), 6.0)
    other = table.copy()
    other[0, 0] = loss
    found = sources(table, other, np.ones(units, int), "block", paired=paired)
    assert (found is None) == (seeds < 2 or units < 10 or not np.isfinite(loss) or loss > 1e150)
