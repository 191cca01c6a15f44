"""MinHash of texts: how well it estimates, and what it does not look at."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus import near_copies
from pipeline.corpus.near_copies import (
    BANDS,
    NOTHING,
    PERMUTATIONS,
    SHINGLE,
    SIMILAR,
    WORD,
    NearDuplicates,
    bands,
    digests,
    shingle_hashes,
    signature,
)


def words(seed: int, number: int = 400) -> list[str]:
    dice = random.Random(seed)
    return ["".join(dice.choices("aeilnorst", k=5)) for _ in range(number)]


def edited(text: list[str], every: int) -> list[str]:
    return ["changed" if place % every == 0 else word for place, word in enumerate(text)]


def similarity(one: str, other: str) -> float:
    """The Jaccard similarity of the shingles, counted."""
    first, second = (
        {tuple(found[n : n + SHINGLE]) for n in range(len(found) - SHINGLE + 1)}
        for found in (WORD.findall(text.lower()) for text in (one, other))
    )
    return len(first & second) / len(first | second)


@pytest.mark.parametrize("every", [400, 100, 50, 20, 8])
def test_estimates_what_counting_gives(every: int) -> None:
    one, other = " ".join(words(every)), " ".join(edited(words(every), every))
    first, second = digests([one, other])
    assert np.mean(first == second) == pytest.approx(similarity(one, other), abs=0.12)
    minhash, changed = signature(one), signature(other)
    assert minhash is not None
    assert changed is not None
    assert minhash.jaccard(changed) == np.mean(first == second)


def test_an_accent_is_the_same_in_either_form() -> None:
    text = " ".join(words(3)).replace("e", "é")
    first, second = digests([text, unicodedata.normalize("NFD", text)])
    assert (first == second).all()


def test_texts_that_share_nothing_have_nothing_in_common() -> None:
    first, second = digests([" ".join(words(1)), " ".join(words(2))])
    assert np.mean(first == second) < 0.05


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=6), st.integers(1, 50))
def test_a_shingle_is_five_words_of_one_text(texts: list[str], batch: int) -> None:
    """As many as counted, equal where the words are, and the same whatever is hashed together."""
    texts = [*texts, "a b c d e f", "A, b\nc d-e"]
    found = shingle_hashes(texts)
    known: dict[tuple[str, ...], int] = {}
    for text, hashes in zip(texts, found, strict=True):
        held = WORD.findall(text.lower())
        runs = [tuple(held[n : n + SHINGLE]) for n in range(len(held) - SHINGLE + 1)]
        assert len(hashes) == len(runs)
        for run, value in zip(runs, hashes.tolist(), strict=True):
            assert known.setdefault(run, value) == value
    assert len(set(known.values())) == len(known)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_copies, "BATCH", max(batch, *map(len, texts)))
        for one, other in zip(found, shingle_hashes(texts), strict=True):
            assert np.array_equal(one, other)


def test_a_long_text_is_hashed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(words(3, 2000)) + " naïve Ölwörter"
    (whole,) = shingle_hashes([text])
    monkeypatch.setattr(near_copies, "BATCH", 100)
    (pieced,) = shingle_hashes([text])
    assert np.array_equal(whole, pieced)


def test_the_digest_of_a_text_is_the_smaller_of_its_parts() -> None:
    text = words(4)
    whole, first, second = digests([" ".join(text), " ".join(text[:150]), " ".join(text[146:])])
    assert np.array_equal(whole, np.minimum(first, second))


def test_a_text_of_few_words_has_none() -> None:
    assert signature("one two three four") is None
    assert (digests(["one two three four", "", "!!!"]) == NOTHING).all()
    assert digests([]).shape == (0, PERMUTATIONS)


def test_near_copies_share_a_band() -> None:
    texts = [" ".join(words(seed)) for seed in range(40)]
    copies = [" ".join(edited(words(seed), 100)) for seed in range(40)]
    keys, others = bands(digests(texts)), bands(digests(copies))
    assert keys.shape == (40, BANDS)
    assert (keys == others).any(axis=1).all()
    assert not (keys == np.roll(others, 1, axis=0)).any()


def test_finds_the_first_of_near_duplicates() -> None:
    added = NearDuplicates()
    for name, seed in (("first", 1), ("second", 2)):
        minhash = signature(" ".join(words(seed)))
        assert minhash is not None
        added.add(name, minhash)
    for seed, every, expected in ((2, 200, "second"), (1, 5, None), (3, 400, None)):
        minhash = signature(" ".join(edited(words(seed), every)))
        assert minhash is not None
        assert added.find(minhash) == expected
    assert SIMILAR == 0.8
