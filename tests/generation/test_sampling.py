"""Temperature, top-k, top-p, min-p: published numbers, edges, and what is drawn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.generation.sampling import Sampler, Sampling, top, uniforms

# Figure and listings of section 5.3 of the book: after "every effort moves you".
BOOK = torch.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])

# By degrees of freedom: what a right generator exceeds once in 100,000 times.
CHI_SQUARE = {1: 19.5, 2: 23.0, 3: 25.9, 4: 28.5, 5: 30.9, 6: 33.1, 7: 35.3, 8: 37.3}


def probabilities(logits: torch.Tensor, **settings: float | int | None) -> torch.Tensor:
    return Sampler([Sampling(**settings)]).probabilities(logits[None])[0]  # type: ignore[arg-type]


def kept(logits: torch.Tensor, **settings: float | int | None) -> list[int]:
    return torch.nonzero(probabilities(logits, **settings)).flatten().tolist()


def draw_many(logits: torch.Tensor, sampling: Sampling, count: int) -> torch.Tensor:
    """How often each token comes, by the generator of the sampling's seed."""
    sampler = Sampler([sampling] * count)
    uniform = torch.from_numpy(uniforms(sampling.seed, count))
    return sampler.draw(logits.expand(count, -1), uniform).bincount(minlength=len(logits))


def test_top_3_of_the_book() -> None:
    p = probabilities(BOOK, top_k=3)
    assert p.numpy().round(4).tolist() == [0.0615, 0, 0, 0.5775, 0, 0, 0, 0.3610, 0]


def test_temperature_5_of_the_book() -> None:
    assert float(probabilities(BOOK, temperature=5.0)[6]) == pytest.approx(0.043, abs=5e-4)


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 1.4, 5.0])
def test_temperature_divides_the_logits(temperature: float) -> None:
    expected = torch.softmax(BOOK.double() / temperature, -1)
    p = probabilities(BOOK, temperature=temperature)
    torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-9)


def test_filters_apply_in_the_fields_order() -> None:
    """Against transformers' own chain of temperature, top-k, top-p and min-p."""
    generation = pytest.importorskip("transformers.generation")
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(3)) * 3
    rows = [(0.5, 20, 0.9, 0.05), (1.4, 40, 0.5, 0.0), (1.0, 300, 0.95, 0.02), (2.0, 7, 0.99, 0.3)]
    for temperature, k, p, floor in rows:
        expected = logits
        for warper in (
            generation.TemperatureLogitsWarper(temperature),
            generation.TopKLogitsWarper(k),
            generation.TopPLogitsWarper(p),
            generation.MinPLogitsWarper(floor),
        ):
            expected = warper(None, expected)
        sampler = Sampler([Sampling(temperature, k, p, floor)] * len(logits))
        ours = sampler.probabilities(logits)
        torch.testing.assert_close(ours, torch.softmax(expected, -1).double(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=1),
        Sampling(temperature=5.0, seed=2),
        Sampling(temperature=0.7, top_k=3, seed=3),
        Sampling(temperature=1.4, top_k=25, seed=4),
        Sampling(top_p=0.9, seed=5),
        Sampling(temperature=2.0, top_k=6, top_p=0.95, min_p=0.05, seed=6),
    ],
)
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    """Chi-square over 50,000 draws, at a level that one seed in a hundred thousand would miss."""
    count = 50_000
    expected = Sampler([sampling]).probabilities(BOOK[None])[0] * count
    counts = draw_many(BOOK, sampling, count)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    statistic = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert float(statistic) < CHI_SQUARE[int(possible.sum()) - 1]


def test_a_large_vocabulary_is_drawn_from_in_proportion() -> None:
    """GPT-2's 50,257 tokens, where float32 sums would lose the tail."""
    logits = torch.randn(50257, generator=torch.Generator().manual_seed(0)) * 2
    counts = sum(draw_many(logits, Sampling(seed=seed), 100) for seed in range(12))
    order = torch.argsort(logits, descending=True)
    expected = torch.softmax(logits.double(), -1)[order].cumsum(0)
    drawn = counts[order].cumsum(0) / 1200
    assert float((drawn - expected).abs().max()) < 1.95 / 1200**0.5  # Kolmogorov, level 0.001


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(0.0, 5, 0.3), Sampling(1.0, 1)])
def test_greedy_takes_the_likeliest_and_ignores_the_seed(sampling: Sampling) -> None:
    assert sampling.greedy
    assert draw_many(BOOK, sampling, 50)[3] == 50


def test_a_temperature_near_0_does_not_overflow() -> None:
    assert float(probabilities(BOOK * 1e4, temperature=1e-300)[3]) == 1.0


def test_ties_at_the_kth_logit_keep_the_lowest_ids() -> None:
    logits = torch.tensor([1.0, 2.0, 1.0, 3.0, 1.0, 2.0])
    assert kept(logits, top_k=2) == [1, 3]
    assert kept(logits, top_k=3) == [1, 3, 5]
    assert kept(logits, top_k=4) == [0, 1, 3, 5]
    assert kept(torch.zeros(7), top_k=3) == [0, 1, 2]
    assert kept(torch.zeros(7), temperature=0.0) == [0]


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.integers(-3, 3), min_size=1, max_size=40),
    k=st.integers(1, 50),
    copies=st.integers(1, 3),
)
def test_top_is_a_stable_sort(logits: list[int], k: int, copies: int) -> None:
    k = min(k, len(logits))
    rows = torch.tensor(logits, dtype=torch.float32).repeat(copies, 1)
    values, ids = top(rows, k)
    expected = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:k]
    assert ids.tolist() == [expected] * copies
    assert values.tolist() == [[logits[i] for i in expected]] * copies


@pytest.mark.parametrize("k", [9, 10, 1000])
def test_a_k_at_or_above_the_vocabulary_keeps_all(k: int) -> None:
    assert kept(BOOK, top_k=k) == list(range(9))


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    logits = torch.log(torch.tensor([0.1, 0.5, 0.15, 0.25]))
    assert kept(logits, top_p=0.45) == [1]
    assert kept(logits, top_p=0.7) == [1, 3]
    assert kept(logits, top_p=0.8) == [1, 2, 3]
    assert kept(logits, top_p=1.0) == [0, 1, 2, 3]
    assert kept(logits, top_p=1e-9) == [1]


def test_top_p_over_a_flat_vocabulary_looks_beyond_the_first_candidates() -> None:
    logits = torch.linspace(0.01, 0, 5000)
    weights = torch.softmax(logits.double(), -1).cumsum(0)
    assert len(kept(logits, top_p=0.9)) == int((weights < 0.9).sum()) + 1


def test_min_p_drops_what_is_too_unlikely_beside_the_best() -> None:
    logits = torch.log(torch.tensor([0.1, 0.5, 0.15, 0.25]))
    assert kept(logits, min_p=0.4) == [1, 3]
    assert kept(logits, min_p=0.25) == [1, 2, 3]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_row_feels_nothing_beside_it(data: st.DataObject) -> None:
    seeded = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    rows = data.draw(st.lists(SETTINGS, min_size=1, max_size=6))
    logits = torch.randn(len(rows), 80, generator=seeded) * 3
    uniform = torch.rand(len(rows), generator=seeded, dtype=torch.float64)
    together = Sampler(rows).draw(logits, uniform).tolist()
    alone = [
        Sampler([row]).draw(logits[i : i + 1], uniform[i : i + 1]).item()
        for i, row in enumerate(rows)
    ]
    assert together == alone


SETTINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([None, 1, 2, 10, 500]),
    top_p=st.sampled_from([None, 0.2, 0.9, 1.0]),
    min_p=st.sampled_from([None, 0.0, 0.1]),
    seed=st.integers(0, 2**63 - 1),
)


def test_the_ends_of_the_unit_interval_draw_possible_tokens() -> None:
    nearly_1 = np.nextafter(1.0, 0.0)
    for sampling, uniform in itertools.product([Sampling(), Sampling(top_k=3)], [0.0, nearly_1]):
        logits = torch.cat([torch.full((3,), -torch.inf), BOOK, torch.full((3,), -torch.inf)])
        token = Sampler([sampling]).draw(logits[None], torch.tensor([uniform]))
        assert 3 <= int(token) < 12


def test_uniforms_are_the_seeds_own() -> None:
    assert uniforms(7, 100)[:10].tolist() == uniforms(7, 10).tolist()
    assert uniforms(7, 10).tolist() != uniforms(8, 10).tolist()
    before = (torch.random.get_rng_state(), np.random.get_state()[1].tolist())
    uniforms(2**63 - 1, 3)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": 1.0}, "min_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=f"^{named} must be"):
        Sampling(**settings)  # type: ignore[arg-type]
