"""Units against a plain reading of the tokens; sums in chunks; memory that does not grow."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.comparison.uncertainty import interval
from pipeline.tokens import units as module
from pipeline.tokens.tokenizer import END_OF_TEXT
from pipeline.tokens.units import BLOCK, BLOCKS, FEWEST, Units, effective, units_of
from pipeline.tokens.windows import Tokens, Windows
from tests.helpers.tokens import write_split


def windows_of(folder: Path, tokens: Sequence[int] | np.ndarray, length: int) -> Windows:
    return Windows(Tokens.open(write_split(folder, tokens)), length)


def with_documents(lengths: Sequence[int]) -> np.ndarray:
    """Tokens of documents of so many tokens each, the end included; none equals another."""
    tokens = np.arange(sum(lengths), dtype=np.uint16) % 50_000
    tokens[np.cumsum(lengths) - 1] = END_OF_TEXT
    return tokens


def numbers(units: Units) -> np.ndarray:
    """The unit of each target, (W * T,)."""
    places = np.arange(units.shape[0] * units.shape[1])
    return units.members[np.searchsorted(units.starts, places, "right") - 1]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_documents_are_those_of_the_tokens(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    length = data.draw(st.integers(1, 6), "context_length")
    ends = data.draw(st.lists(st.booleans(), min_size=length + 1, max_size=120), "ends")
    tokens = np.where(ends, END_OF_TEXT, data.draw(st.sampled_from([[7], range(len(ends))])))
    windows = windows_of(tmp_path_factory.mktemp("units"), tokens, length)
    start = data.draw(st.integers(0, len(windows) - 1), "first")
    chosen = range(start, len(windows), data.draw(st.integers(1, 4), "stride"))
    shape = len(chosen), length
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    left_out = rng.random(shape) < 0.3 if data.draw(st.booleans(), "mask") else None
    losses = rng.random(shape).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", data.draw(st.integers(1, 40), "chunk"))
        units = units_of(windows, chosen, left_out)
        sums = units.sums(losses)

    # The document of target w * T + t, token w * T + t + 1, is how many ended before that token.
    document = np.cumsum(ends)[: len(windows) * length].reshape(-1, length)
    targets = document[list(chosen)]
    if len(np.unique(targets)) == 1:
        assert units.kind == "block"
        return
    texts = [tuple(text) for text in np.split(tokens, np.flatnonzero(ends) + 1)]
    targets = np.array([texts.index(text) for text in texts])[targets]  # copies are one
    counted = np.ones(shape, bool) if left_out is None else ~left_out
    there = np.unique(targets)
    assert units.kind == "document"
    found = numbers(units).reshape(shape)
    assert len(np.unique(np.stack([found, targets]).reshape(2, -1), axis=1).T) == len(there)
    for one in there:
        unit = found[targets == one][0]
        assert units.counts[unit] == counted[targets == one].sum()
        expected = losses[(targets == one) & counted].sum(dtype=np.float64)
        assert sums[unit] == pytest.approx(expected)


def test_documents_where_there_are_enough(tmp_path: Path) -> None:
    windows = windows_of(tmp_path / "val", with_documents([40] * (FEWEST + 1)), 3)
    units = units_of(windows, range(len(windows)))
    assert (units.kind, len(units), units.tokens_per_unit) == ("document", FEWEST + 1, 40)


@pytest.mark.parametrize(
    "lengths",
    [[1000] * (FEWEST - 1), [10] * 99 + [20_000]],
    ids=["too few", "one of them dominates"],
)
def test_few_documents_are_not_cut(tmp_path: Path, lengths: list[int]) -> None:
    """Blocks of them would take tokens of one document for independent."""
    windows = windows_of(tmp_path / "val", with_documents(lengths), 64)
    units = units_of(windows, range(len(windows)))
    assert (units.kind, len(units)) == ("document", len(lengths))
    assert effective(units.counts) < FEWEST


def test_copies_of_a_document_are_one_unit(tmp_path: Path) -> None:
    originals = [[*range(n, n + 60), END_OF_TEXT] for n in range(5)]
    tokens = np.concatenate(originals * 25)
    windows = windows_of(tmp_path / "val", tokens, 64)
    units = units_of(windows, range(len(windows)))
    assert (units.kind, len(units)) == ("document", 5)
    assert (
        interval(units.sums(np.random.default_rng(0).random(units.shape, np.float32)), units.counts)
        is None
    )


def test_a_single_document_is_cut_into_blocks(tmp_path: Path) -> None:
    windows = windows_of(tmp_path / "val", with_documents([20_000]), 64)
    units = units_of(windows, range(len(windows)))
    assert (units.kind, len(units)) == ("block", BLOCKS)
    assert not (units.starts % 64).any()  # whole windows
    assert units.counts.sum() == len(windows) * 64
    assert units.counts.max() - units.counts.min() <= 64
    assert effective(units.counts) > FEWEST


def test_long_windows_are_cut(tmp_path: Path) -> None:
    windows = windows_of(tmp_path / "val", np.ones(8193, np.uint16), 1024)
    units = units_of(windows, range(len(windows)))
    assert (units.kind, len(units), units.tokens_per_unit) == ("block", BLOCKS, 683)
    assert units.counts.max() - units.counts.min() <= 1


@pytest.mark.parametrize(("tokens", "blocks"), [(BLOCKS * BLOCK, BLOCKS), (512, 1), (16, 1)])
def test_a_short_text_is_one_block(tmp_path: Path, tokens: int, blocks: int) -> None:
    windows = windows_of(tmp_path / "val", np.ones(tokens + 1, np.uint16), 16)
    assert len(units_of(windows, range(len(windows)))) == blocks
    if blocks > 1:
        assert len(units_of(windows, range(len(windows) - 1))) == 1


@given(st.lists(st.integers(1, 2**40), min_size=1, max_size=50))
def test_effective_number(counts: list[int]) -> None:
    found = effective(np.array(counts))
    assert 1 - 1e-9 <= found <= len(counts) * (1 + 1e-9)
    assert effective(np.array([7] * len(counts))) == pytest.approx(len(counts))


def test_no_target_counts(tmp_path: Path) -> None:
    windows = windows_of(tmp_path / "val", np.ones(50, np.uint16), 7)
    units = units_of(windows, range(7), np.ones((7, 7), bool))
    assert (len(units), units.counts.tolist(), units.tokens_per_unit) == (0, [0], 0)
    assert units.sums(np.full((7, 7), np.nan, np.float32)).tolist() == [0.0]


def test_a_loss_that_is_not_finite_stays_in_its_unit(tmp_path: Path) -> None:
    windows = windows_of(tmp_path / "val", with_documents([5] * 20), 5)
    losses = np.ones((len(windows), 5), np.float32)
    losses[3, 0], losses[9] = np.nan, np.inf
    units = units_of(windows, range(len(windows)))
    sums = units.sums(losses)
    bad = {int(numbers(units)[place]) for place in (3 * 5, *range(9 * 5, 10 * 5))}
    assert set(np.flatnonzero(~np.isfinite(sums))) == bad


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    rows, length = 4000, 1024
    rng = np.random.default_rng(0)
    tokens = np.ones(rows * length + 1, np.uint16)
    tokens[rng.integers(0, len(tokens), 3000)] = END_OF_TEXT
    windows = windows_of(tmp_path / "val", tokens, length)
    written = np.lib.format.open_memmap(tmp_path / "m.npy", "w+", np.float32, (rows, length))
    written[:] = rng.random(length, np.float32)
    written.flush()
    losses = np.load(tmp_path / "m.npy", mmap_mode="r")
    tracemalloc.start()
    try:
        units = units_of(windows, range(rows))
        sums = units.sums(losses)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert units.kind == "document"
    assert sums.sum() == pytest.approx(losses.sum(dtype=np.float64))
    assert peak < 3 * 8 * module.CHUNK  # all at once: 8 bytes for each of four million
