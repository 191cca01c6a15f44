"""What counts as a loss spike."""

from __future__ import annotations

import random

import pytest

from pipeline.training.spikes import ENOUGH, SpikeDetector


def noisy(count: int, start: float = 4.0, slope: float = 0.0) -> list[float]:
    chance = random.Random(0)
    return [start + slope * i + chance.gauss(0.0, 0.1) for i in range(count)]


def spikes(losses: list[float]) -> list[int]:
    detector = SpikeDetector()
    return [place for place, loss in enumerate(losses) if detector.is_spike(loss)]


@pytest.mark.parametrize("slope", [0.0, -0.05, 0.005])
def test_noise_and_a_slow_rise_are_none(slope: float) -> None:
    assert spikes(noisy(500, start=30.0, slope=slope)) == []


def test_a_jump_is_one_and_does_not_hide_the_next() -> None:
    losses = noisy(200)
    losses[50] = losses[53] = 6.0
    assert spikes(losses) == [50, 53]


def test_a_fall_is_none() -> None:
    assert spikes([*noisy(50), 0.5, *noisy(5)]) == []


def test_a_small_jump_where_losses_hardly_differ_is_none() -> None:
    assert spikes([1.0] * 50 + [1.4]) == []
    assert spikes([1.0] * 50 + [1.6]) == [50]


def test_nothing_is_unusual_before_enough_is_known() -> None:
    assert spikes([1.0] * (ENOUGH - 1) + [9.0]) == []
    assert spikes([1.0] * ENOUGH + [9.0]) == [ENOUGH]


def test_a_detector_goes_on_from_its_state() -> None:
    first = SpikeDetector()
    for loss in noisy(100):
        first.is_spike(loss)
    second = SpikeDetector(first.state())
    assert second.is_spike(6.0)
    assert not second.is_spike(4.05)
