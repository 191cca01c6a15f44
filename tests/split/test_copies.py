"""Near-copies of training documents among others'."""

from __future__ import annotations

import random
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest

from pipeline.corpus.near_copies import digests
from pipeline.corpus.workers import Workers, start_workers
from pipeline.split import copies
from pipeline.split.copies import Documents, Rows, near_copies


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with start_workers("threads", threads=2) as found:
        yield found


def words(seed: int, number: int = 100) -> list[str]:
    dice = random.Random(seed)
    return ["".join(dice.choices("aeilnorst", k=5)) for _ in range(number)]


def text(seed: int, changed: int | None = None) -> str:
    """A text of its own, but for one word that may be changed."""
    held = words(seed)
    if changed is not None:
        held[changed] = "changed"
    return " ".join(held)


def documents_of(texts: list[str]) -> Documents:
    """Each of as many tokens as it has words."""
    documents = Documents(BytesIO())
    sizes = np.array([len(one.split()) for one in texts])
    documents.add(Rows(sizes, digests(texts), np.ones(len(texts), bool)))
    return documents


@pytest.mark.parametrize("held", [1, 3, 1 << 18])
@pytest.mark.parametrize("part", [1, 7, 1 << 12])
def test_an_edited_copy_is_found_and_another_text_is_not(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, held: int, part: int
) -> None:
    monkeypatch.setattr(copies, "HELD", held)
    monkeypatch.setattr(copies, "PART", part)
    train = documents_of([text(seed) for seed in range(30)])
    others = [text(100), text(3, changed=50), text(101), text(8).upper(), text(5)[:200]]
    other = documents_of(others)
    assert near_copies(train, other, workers) == (2, 200)


def test_a_document_in_parts_is_one(workers: Workers) -> None:
    """However its parts come, and though each of them alone is like no document."""
    train = documents_of([text(seed) for seed in range(5)])
    for sizes in ([1, 1, 1, 1], [2, 2], [3, 1], [4]):
        parts = [text(9), " ".join(words(2)[:60]), " ".join(words(2)[56:]), text(8)]
        ends = np.array([True, False, True, True])
        other = Documents(BytesIO())
        start = 0
        for size in sizes:
            here = slice(start, start + size)
            tokens = np.array([10, 20, 30, 40])
            other.add(Rows(tokens[here], digests(parts[here]), ends[here]))
            start += size
        assert near_copies(train, other, workers) == (1, 50)


def test_equal_ones_are_all_found(workers: Workers) -> None:
    count = 3 * copies.CROWD
    train = documents_of([text(1)])
    other = documents_of([text(1)] * count + [text(2)])
    assert near_copies(train, other, workers) == (count, 100 * count)


def test_a_crowd_with_the_same_letterhead_hides_no_copy(workers: Workers) -> None:
    """Half of every text is the same, and nothing is a copy of anything but one."""
    head = " ".join(words(0))
    train = documents_of([f"{head} {text(seed)}" for seed in range(1, 200)])
    others = [f"{head} {text(seed)}" for seed in range(200, 399)] + [f"{head} {text(7, 3)}"]
    found = near_copies(train, documents_of(others), workers)
    assert found == (1, 200)


def test_texts_of_few_words_are_no_copies(workers: Workers) -> None:
    train = documents_of(["so be it", text(1)])
    assert near_copies(train, documents_of(["so be it"]), workers) == (0, 0)
    assert near_copies(train, documents_of([]), workers) == (0, 0)
