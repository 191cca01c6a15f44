"""Which tokens stand in training: against every run compared with every other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.corpus.workers import Workers, start_workers
from pipeline.split import shared
from pipeline.split.shared import mark_shared
from pipeline.tokens.ngrams import NGRAM
from pipeline.tokens.tokenizer import END_OF_TEXT
from pipeline.tokens.windows import Tokens
from tests.helpers.tokens import write_split

# Tokens of few kinds, so that runs are shared.
BLOCKS = st.sampled_from([[1, 1, 1, 2, 1], [2, 1], [3], [END_OF_TEXT]])
SHARDS = st.lists(st.lists(BLOCKS, min_size=1, max_size=15), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with start_workers("threads", threads=2) as found:
        yield found


def marked(
    folder: Path, train: Sequence[Sequence[int]], other: Sequence[Sequence[int]], workers: Workers
) -> list[int]:
    """The mask of `other`'s tokens; each is a list of shards."""
    splits = [
        Tokens.open(write_split(folder / name, *shards))
        for name, shards in (("train", train), ("val", other))
    ]
    count = mark_shared(*splits, folder / "mask", workers)
    mask = np.fromfile(folder / "mask", np.uint8).tolist()
    assert count == sum(mask)
    return mask


def by_comparing(train: list[int], other: list[int]) -> list[int]:
    """The same: every run of NGRAM tokens with every other."""
    mask = [0] * len(other)
    for here in range(len(other) - NGRAM + 1):
        run = other[here : here + NGRAM]
        for there in range(len(train) - NGRAM + 1):
            if run == train[there : there + NGRAM] and END_OF_TEXT not in run:
                mask[here : here + NGRAM] = [1] * NGRAM
    return mask


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), held=st.integers(1, 40), part=st.integers(1, 40), chunk=st.integers(1, 40))
def test_as_comparing_every_run_with_every_other(
    tmp_path: Path, workers: Workers, data: st.DataObject, held: int, part: int, chunk: int
) -> None:
    """Whatever is held at once, and wherever shards and parts are cut."""
    train, other = ([[*chain(*shard)] for shard in data.draw(SHARDS)] for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("HELD", held), ("PART", part), ("CHUNK", chunk)):
            patch.setattr(shared, name, size)
        found = marked(tmp_path, train, other, workers)
    assert found == by_comparing([*chain(*train)], [*chain(*other)])


def test_runs_end_with_their_document(tmp_path: Path, workers: Workers) -> None:
    text = [*range(20)]
    ended = [*range(7), END_OF_TEXT, *range(7, 20)]
    assert marked(tmp_path / "a", [ended], [ended], workers) == [0] * 8 + [1] * 13
    assert marked(tmp_path / "b", [ended], [text], workers) == [0] * 7 + [1] * 13
    assert marked(tmp_path / "c", [text[:7]], [text[:7]], workers) == [0] * 7


def test_a_copied_passage_is_found_among_a_million_tokens(tmp_path: Path, workers: Workers) -> None:
    dice = np.random.default_rng(0)
    train, other = (dice.integers(0, 50_000, size, np.uint16) for size in (1_000_000, 100_000))
    other[500:512] = train[777_777:777_789]
    other[99_992:] = train[:8]
    mask = marked(tmp_path, [train], [other], workers)
    assert np.flatnonzero(mask).tolist() == [*range(500, 512), *range(99_992, 100_000)]


def test_the_mask_is_the_same_for_any_number_of_threads(tmp_path: Path) -> None:
    dice = np.random.default_rng(1)
    train, other = (dice.integers(0, 3, size, np.uint16) for size in (20_000, 5_000))
    digests = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "PART", 100)
        for threads in (1, 5):
            with start_workers("threads", threads=threads) as workers:
                mask = marked(tmp_path / str(threads), [train], [other], workers)
            digests.add(hashlib.sha256(bytes(mask)).hexdigest())
    assert len(digests) == 1
    assert 0.1 < np.mean(mask) <= 1
