"""Losses by unit of text, as small as a run's artifact should be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.numbers import to_json
from pipeline.tokens.unit_losses import GROUPS, UnitLosses, unit_losses
from pipeline.tokens.units import Units


def units(lengths: list[int], width: int) -> Units:
    """Documents of these lengths in windows of `width`, the last one filled up by one more."""
    lengths = [*lengths, -sum(lengths) % width]
    counts = np.array(lengths, dtype=np.int64)
    members = np.arange(len(counts))
    shape = (sum(lengths) // width, width)
    return Units("document", counts.cumsum() - counts, members, counts, shape)


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=700),
    width=st.integers(1, 64),
    seed=st.integers(0, 9),
)
def test_groups_are_whole_units_and_add_up(lengths: list[int], width: int, seed: int) -> None:
    of = units(lengths, width)
    losses = np.random.default_rng(seed).uniform(0, 9, of.shape).astype("f4")
    found = unit_losses(of, losses, losses + 1)
    total = of.counts.sum()
    assert sum(found.tokens) == total
    assert len(found.tokens) <= min(GROUPS, len(of))
    assert max(found.tokens) <= total / GROUPS + of.counts.max()
    assert set(np.cumsum(found.tokens)) <= set(np.cumsum(of.counts))
    assert sum(found.best) == pytest.approx(losses.sum(dtype="f8"))
    ends = np.cumsum(found.tokens)
    first = losses.reshape(-1)[: ends[0]].sum(dtype="f8")
    assert found.best[0] == pytest.approx(first)
    assert UnitLosses.parse(json.dumps(to_json(found.model_dump())), "here") == found


def test_losses_that_are_not_finite_come_back() -> None:
    of = units([3, 5], 4)
    losses = np.full(of.shape, np.nan, "f4")
    found = unit_losses(of, losses, losses)
    read = UnitLosses.parse(json.dumps(to_json(found.model_dump())), "here")
    assert np.isnan(read.last).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"best": [1.0]}, "best has 1 sums for 2 groups"),
        ({"tokens": [0, 4]}, "tokens.0: input should be greater than 0"),
        ({"unit": "page"}, "unit: input should be 'document' or 'block'"),
        (
            {"tokens": [1] * 257, "best": [], "last": []},
            "tokens: tuple should have at most 256 items",
        ),
    ],
)
def test_what_is_no_such_record_is_refused(change: dict[str, object], message: str) -> None:
    good = {"unit": "block", "tokens": [4, 4], "best": [1.0, 2.0], "last": [3.0, 4.0]}
    with pytest.raises(UserError, match="here: ") as caught:
        UnitLosses.parse(json.dumps({**good, **change}), "here")
    assert message in str(caught.value)
