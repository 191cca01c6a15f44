"""The order of an epoch: a permutation, shuffled well, the same by slices and by ranks."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
import torch

from pipeline.tokens import order as module
from pipeline.tokens.order import KeyedOrder, ListedOrder, Order, epoch_order

KINDS = [ListedOrder, KeyedOrder]


def whole(order: Order) -> list[int]:
    return order.take(0, len(order)).tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("windows", [*range(1, 70), 997, 1000, 1024, 1025, 99_856, 99_857])
def test_every_window_once(kind: type[Order], windows: int) -> None:
    assert sorted(whole(kind(windows, 5))) == list(range(windows))  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", KINDS)
def test_slices_and_ranks_see_the_one_order(kind: type[Order]) -> None:
    order = kind(1003, 1)  # type: ignore[call-arg]
    everything = whole(order)
    assert order.take(40, 90).tolist() == everything[40:90]
    assert order.take(990, 2000).tolist() == everything[990:]
    assert order.take(2000, 3000).tolist() == []
    ranks = [order.take(12 + rank, 36, 3).tolist() for rank in range(3)]
    assert [window for trio in zip(*ranks, strict=True) for window in trio] == everything[12:36]
    assert order.take(0, 5).dtype == np.int64


def test_small_corpora_keep_torchs_order() -> None:
    generator = torch.Generator().manual_seed(77)
    expected = torch.randperm(1000, generator=generator).tolist()
    assert whole(epoch_order(1000, 77)) == expected


def test_large_corpora_are_not_listed() -> None:
    assert isinstance(epoch_order(module.LISTED, 0), ListedOrder)
    assert isinstance(epoch_order(module.LISTED + 1, 0), KeyedOrder)


def test_a_billion_windows_cost_no_memory() -> None:
    before = psutil.Process().memory_info().rss
    order = epoch_order(1_000_000_000, 3)
    seen = np.concatenate([order.take(s, s + 1000) for s in range(0, 10**9, 10**7)])
    assert psutil.Process().memory_info().rss - before < 32 << 20
    assert len(set(seen.tolist())) == len(seen)
    assert 0 <= seen.min() < 10**6
    assert 10**9 - 10**6 < seen.max() < 10**9


def test_seeds_give_orders_of_their_own() -> None:
    first, second = (np.array(whole(KeyedOrder(10_000, seed))) for seed in (1, 2))
    assert whole(KeyedOrder(10_000, 1)) == first.tolist()
    assert (first == second).mean() < 0.001  # a random pair agrees in one place of 10,000
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_any_seed_will_do() -> None:
    orders = {tuple(whole(KeyedOrder(50, seed))) for seed in (-1, 0, 2**63, 2**64 - 2)}
    assert len(orders) == 4


def test_it_is_shuffled_as_well_as_torch_does() -> None:
    """Where windows land, how far neighbours fly apart, and how often two keep their order."""
    windows, cells = 40_000, 20
    for seed in range(5):
        order = np.array(whole(KeyedOrder(windows, seed)))
        table = np.histogram2d(np.arange(windows), order, bins=cells)[0]
        expected = windows / cells**2
        chi2 = ((table - expected) ** 2 / expected).sum()
        freedom = (cells - 1) ** 2
        assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)
        assert abs(np.abs(np.diff(order)).mean() / windows - 1 / 3) < 0.01
        assert abs((np.diff(order) > 0).mean() - 0.5) < 0.02


@pytest.mark.parametrize("windows", [0, -3, 2**62 + 1])
def test_a_number_that_cannot_be_ordered(windows: int) -> None:
    with pytest.raises(ValueError, match="from 1 to"):
        KeyedOrder(windows, 0)
