"""Temperature, top-k, top-p, min-p: published numbers, edges, and what is drawn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.generation.sampling import Sampler, Sampling, draw_key, exponentials, stream_key, top

# Figure and listings of section 5.3 of the book: after "every effort moves you".
BOOK = torch.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])

# By degrees of freedom: what a right generator exceeds once in 100,000 times.
CHI_SQUARE = {1: 19.5, 2: 23.0, 3: 25.9, 4: 28.5, 5: 30.9, 6: 33.1, 7: 35.3, 8: 37.3}


def probabilities(logits: torch.Tensor, **settings: float | int | None) -> torch.Tensor:
    return Sampler([Sampling(**settings)]).probabilities(logits[None])[0]  # type: ignore[arg-type]


def kept(logits: torch.Tensor, **settings: float | int | None) -> list[int]:
    return torch.nonzero(probabilities(logits, **settings)).flatten().tolist()


def draw_many(logits: torch.Tensor, sampling: Sampling, count: int) -> torch.Tensor:
    """How often each token comes in the first draws of the sampling's seed."""
    sampler = Sampler([sampling] * count)
    stream = stream_key(sampling.seed, [])
    keys = [draw_key(stream, draw) for draw in range(count)]
    tokens, _ = sampler.draw(logits.expand(count, -1), keys)
    return tokens.bincount(minlength=len(logits))


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
    counts = sum(draw_many(logits, Sampling(seed=seed), 100) for seed in range(6))
    order = torch.argsort(logits, descending=True)
    expected = torch.softmax(logits.double(), -1)[order].cumsum(0)
    drawn = counts[order].cumsum(0) / 600
    assert float((drawn - expected).abs().max()) < 1.95 / 600**0.5  # Kolmogorov, level 0.001


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


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3000)),
    largest=st.sampled_from([1, 30, 10**6]),  # all equal, many equal, few equal
    k=st.integers(1, 60),
    seed=st.integers(0, 10**6),
)
def test_top_is_a_stable_sort(shape: tuple[int, int], largest: int, k: int, seed: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, largest, shape, generator=drawn).float()
    k = min(k, shape[1])
    values, ids = top(logits, k)
    expected = torch.sort(logits, dim=-1, descending=True, stable=True)
    assert torch.equal(ids, expected.indices[:, :k])
    assert torch.equal(values, expected.values[:, :k])


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
def test_rows_are_independent(data: st.DataObject) -> None:
    seeded = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    rows = data.draw(st.lists(SETTINGS, min_size=1, max_size=6))
    logits = torch.randn(len(rows), 80, generator=seeded) * 3
    keys = [draw_key(row.seed, 5) for row in rows]
    tokens, margins = Sampler(rows).draw(logits, keys)
    for i, row in enumerate(rows):
        token, margin = Sampler([row]).draw(logits[i : i + 1], keys[i : i + 1])
        assert (int(token), float(margin)) == (int(tokens[i]), float(margins[i]))


SETTINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([None, 1, 2, 10, 500]),
    top_p=st.sampled_from([None, 0.2, 0.9, 1.0]),
    min_p=st.sampled_from([None, 0.0, 0.1]),
    seed=st.integers(0, 2**63 - 1),
)


@settings(max_examples=40, deadline=None)
@given(sampling=SETTINGS, seed=st.integers(0, 1000))
def test_logits_that_differ_by_less_than_the_margin_draw_the_same(
    sampling: Sampling, seed: int
) -> None:
    seeded = torch.Generator().manual_seed(seed)
    # Far apart at the k-th place and at the filters' edges, where the margin says nothing.
    logits = torch.randperm(60, generator=seeded)[None].double() * 0.4
    sampler = Sampler([Sampling(sampling.temperature, sampling.top_k, seed=sampling.seed)])
    keys = [draw_key(sampling.seed, 0)]
    token, margin = sampler.draw(logits, keys)
    noise = torch.rand(logits.shape, generator=seeded) - 0.5  # at most half the margin each way
    nudged = logits + noise * min(float(margin) * 0.99, 0.19)
    assert int(sampler.draw(nudged, keys)[0]) == int(token)
    above = logits.clone()
    above[0, (int(token) + 1) % 60] += 1000  # a token that can no longer lose
    assert int(sampler.draw(above, keys)[0]) == (int(token) + 1) % 60


def test_what_cannot_be_is_never_drawn() -> None:
    logits = torch.cat([torch.full((3,), -torch.inf), BOOK, torch.full((3,), -torch.inf)])
    for sampling in (Sampling(temperature=1000.0), Sampling(1000.0, top_k=11)):
        counts = draw_many(logits, sampling, 2000)
        assert counts[3:12].sum() == 2000


def test_the_noise_is_exponential_and_independent() -> None:
    keys = torch.tensor(
        [[draw_key(stream_key(seed, [seed % 3]), n)] for seed in range(20) for n in range(20)]
    )
    noise = exponentials(keys, torch.arange(500))
    assert len(noise.unique()) == noise.numel()
    assert float(noise.mean()) == pytest.approx(1, abs=0.01)
    ranks = noise.flatten().sort().values
    expected = -torch.log1p(-(torch.arange(len(ranks)) + 0.5) / len(ranks))
    assert float((torch.exp(-ranks) - torch.exp(-expected)).abs().max()) < 1.95 / len(ranks) ** 0.5
    for a, b in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1]), (noise[20:], noise[:-20])):
        pairs = torch.stack([torch.exp(-a).flatten(), torch.exp(-b).flatten()])
        assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.01


def test_seeds_prompts_and_draws_have_keys_of_their_own() -> None:
    prompts = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (50256,)]
    keys = {
        draw_key(stream_key(seed, prompt), draw)
        for seed in range(30)
        for prompt in prompts
        for draw in range(30)
    }
    assert len(keys) == 30 * len(prompts) * 30


def test_the_generator_is_splitmix64() -> None:
    """Its first outputs from state 1234567, as its authors' program prints them."""
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    noise = exponentials(torch.tensor([[1234567]]), torch.arange(3))
    uniforms = [((bits >> 11) + 0.5) * 2.0**-53 for bits in outputs]
    assert noise[0].tolist() == pytest.approx([-math.log1p(-u) for u in uniforms], rel=1e-12)


def test_a_seed_draws_what_it_drew_before() -> None:
    """Samples that somebody wrote down must come again."""
    keys = [draw_key(stream_key(seed, [7]), draw) for seed in range(4) for draw in range(6)]
    tokens, _ = Sampler([Sampling(2.0)] * 24).draw(BOOK.expand(24, -1), keys)
    assert tokens.view(4, 6).tolist() == [
        [7, 3, 7, 7, 3, 3],
        [3, 7, 7, 7, 3, 7],
        [3, 7, 7, 7, 3, 3],
        [7, 3, 3, 7, 4, 4],
    ]
    assert -(2**63) <= draw_key(stream_key(2**63 - 1, [50256]), 10**9) < 2**63
    before = torch.random.get_rng_state()
    draw_many(BOOK, Sampling(), 3)
    assert torch.equal(torch.random.get_rng_state(), before)


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
