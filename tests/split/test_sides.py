"""Documents keep their split when others come, and sizes keep to the shares."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.split.sides import BINS, TOLERANCE, Content, Placed, Shares, Sides, sides_of


def position(name: str) -> float:
    return Content.of(name).position


def sided(sizes: dict[str, int], shares: Shares) -> Sides:
    documents = [Placed(position(name), name, size) for name, size in sizes.items()]
    sides, largest = sides_of(documents, sum(sizes.values()), shares)
    assert sides is not None
    assert largest.bytes == max(sizes.values())
    return sides


def share_of(name: str, sizes: dict[str, int], sides: Sides) -> float:
    held = sum(size for one, size in sizes.items() if sides.split_of(position(one)) == name)
    return held / sum(sizes.values())


def drawn(number: int, seed: int = 0, spread: float = 1.0) -> dict[str, int]:
    dice = random.Random(seed)
    return {f"{seed}.{n}": 1 + int(1000 * dice.lognormvariate(0, spread)) for n in range(number)}


@given(st.lists(st.text()))
def test_a_text_is_the_same_wherever_it_is_cut(parts: list[str]) -> None:
    content = Content()
    for part in parts:
        content = content.with_next(Content.of(part))
    assert content == Content.of("".join(parts))


def test_what_makes_no_other_text() -> None:
    copies = ("Naïve Street,\n\nII.\n", "\ufeffnaïve  street,\r\n\r\nii.", "NAÏVE STREET,\tII.")
    assert len({position(text) for text in copies}) == 1
    others = ("naive street, ii.", "naïve street ii.", "naïve street, ii.\0", "\0naïve street, ii.")
    assert len({position(text) for text in (copies[0], *others)}) == 5


def test_in_a_large_corpus_the_hash_alone_decides() -> None:
    shares = Shares(0.9, 0.05)
    sides = sided(drawn(100_000), shares)
    assert (sides.train, sides.val) == (round(0.9 * BINS) / BINS, round(0.95 * BINS) / BINS)
    assert sides.giants == {}


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 10**6), min_size=3, max_size=60),
    train=st.floats(0.5, 0.98),
    test=st.sampled_from([0.0, 0.5]),
)
def test_shares_are_as_near_as_documents_let_them_be(
    sizes: list[int], train: float, test: float
) -> None:
    named = {f"id{n}": size for n, size in enumerate(sizes)}
    shares = Shares(train, test * (1 - train))
    sides = sided(named, shares)
    found = {name: share_of(name, named, sides) for name in shares.splits}
    assert min(found.values()) > 0
    kept_back = 2 if test else 1  # documents at least for the other splits
    if kept_back * max(sizes) <= (1 - train) * sum(sizes):
        wrong = max(TOLERANCE * (1 - train), max(sizes) / sum(sizes) / 2)
        assert abs(found["train"] - train) <= wrong + 1e-9


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), number=st.integers(20, 400))
def test_few_move_when_one_comes(seed: int, number: int) -> None:
    shares = Shares(0.9)
    before = drawn(number, seed, 0.5)
    after = before | {"new": 1000}
    one, two = sided(before, shares), sided(after, shares)
    moved = sum(one.split_of(position(name)) != two.split_of(position(name)) for name in before)
    assert moved <= 2 + number // 50


def test_the_order_of_the_documents_does_not_matter() -> None:
    sizes = drawn(50, spread=3)
    names = sorted(sizes, key=position)
    assert sided({name: sizes[name] for name in names}, Shares(0.8)) == sided(sizes, Shares(0.8))


@pytest.mark.parametrize("giant", range(20))
def test_a_giant_is_for_training_wherever_it_falls(giant: int) -> None:
    sizes = {f"note {n}": 1000 for n in range(9)} | {f"giant {giant}": 1_000_000}
    sides = sided(sizes, Shares(0.9))
    assert [sides.split_of(position(name)) for name in sizes] == ["val"] * 9 + ["train"]
    with_test = sided(sizes, Shares(0.9, 0.05))
    splits = [with_test.split_of(position(name)) for name in sizes]
    assert splits[-1] == "train"
    assert {*splits} == {"train", "val", "test"}


def test_among_giants_the_largest_are_for_training() -> None:
    sides = sided({"a": 10, "b": 60, "c": 30}, Shares(0.95))
    assert {name: sides.split_of(position(name)) for name in "abc"} == {
        "a": "val",
        "b": "train",
        "c": "train",
    }


def test_too_few_documents() -> None:
    for names in ("a", "aa"):
        documents = [Placed(position(name), str(n), 5) for n, name in enumerate(names)]
        assert sides_of(documents, 5 * len(names), Shares(0.9))[0] is None
    two = [Placed(position(name), name, 5) for name in "ab"]
    assert sides_of(two, 10, Shares(0.5, 0.1))[0] is None
