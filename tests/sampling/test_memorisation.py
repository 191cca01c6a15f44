"""Copied runs, against a search that compares everything with everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sampling.memorisation import CopiedSpans, find_copies, hash_ngrams


class Array:
    """A corpus in memory that remembers the most tokens read at once."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = np.array(tokens, dtype=np.uint16)
        self.most = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, stop: int) -> np.ndarray:
        assert 0 <= start <= stop <= len(self.tokens)
        self.most = max(self.most, stop - start)
        return self.tokens[start:stop]


def by_force(sample: list[int], corpus: list[int], n: int) -> CopiedSpans:
    covered, best = set(), (0, 0, 0)
    for i in range(len(sample)):
        for j in range(len(corpus)):
            length = 0
            while sample[i + length : i + length + 1] == corpus[j + length : j + length + 1] != []:
                length += 1
            if length >= n:
                covered |= set(range(i, i + length))
                best = max(best, (length, -j, -i))
    length, position, start = best[0], -best[1], -best[2]
    if not length:
        return CopiedSpans()
    starts = sorted(i for i in covered if i - 1 not in covered)
    stops = sorted(i + 1 for i in covered if i + 1 not in covered)
    spans = tuple(zip(starts, stops, strict=True))
    return CopiedSpans(spans, tuple(sample[start : start + length]), position)


@settings(max_examples=150, deadline=None)
@given(
    samples=st.lists(st.lists(st.integers(0, 2), max_size=14), max_size=4),
    corpus=st.lists(st.integers(0, 2), max_size=40),
    n=st.integers(1, 6),
    chunk=st.integers(1, 50),
)
def test_finds_what_a_search_by_force_finds(
    samples: list[list[int]], corpus: list[int], n: int, chunk: int
) -> None:
    found = find_copies(samples, Array(corpus), n, chunk=chunk)
    for sample, copies in zip(samples, found, strict=True):
        expected = by_force(sample, corpus, n)
        assert (copies.spans, len(copies.longest)) == (expected.spans, len(expected.longest))
        assert copies.position == expected.position
        if copies.position is not None:
            place = slice(copies.position, copies.position + len(copies.longest))
            assert tuple(corpus[place]) == copies.longest


def test_a_passage_across_chunks_is_one_passage() -> None:
    corpus = list(range(1000, 3000))
    sample = [7, 7, *range(1990, 2030), 7]
    array = Array(corpus)
    (copies,) = find_copies([sample], array, chunk=100)
    assert copies == CopiedSpans(((2, 42),), tuple(range(1990, 2030)), 990)
    assert copies.copied == 40
    assert array.most <= 100 + len(sample)


def test_seven_tokens_are_no_copy_and_eight_are() -> None:
    corpus = Array(list(range(100)))
    seven, eight = find_copies([[500, *range(7), 500], [500, *range(8), 500]], corpus)
    assert (seven.copied, eight.copied) == (0, 8)
    assert seven.position is None


def test_one_token_over_and_over_is_one_passage() -> None:
    """Every place of the corpus is a hit of every place of the samples."""
    found = find_copies([[5] * 60] * 20, Array([5] * 200_000))
    assert found == [CopiedSpans(((0, 60),), (5,) * 60, 0)] * 20


def test_progress_adds_up_to_the_corpus() -> None:
    seen: list[int] = []
    find_copies([list(range(10))], Array([1] * 1050), chunk=100, progress=seen.append)
    assert sum(seen) == 1050


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 13])
def test_hashes_of_equal_ngrams_are_equal_wherever_they_stand(n: int) -> None:
    tokens = np.random.default_rng(1).integers(0, 50257, 40).astype(np.uint16)
    hashes = hash_ngrams(tokens, n)
    assert len(hashes) == 40 - n + 1
    for i in range(len(hashes)):
        assert hash_ngrams(tokens[i : i + n], n)[0] == hashes[i]
    assert len(set(hashes.tolist())) == len({tuple(tokens[i : i + n]) for i in range(len(hashes))})
    assert len(hash_ngrams(tokens[: n - 1], n)) == 0
