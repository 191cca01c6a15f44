"""Language identification and near-duplicate detection.

The language is what py3langid says of excerpts (a naive Bayes model over byte n-grams, packaged
with it). Near-duplicates are found by Rensa's MinHash and LSH over shingles of `SHINGLE` words: two
books are near-duplicates when their Jaccard similarity, estimated, is `SIMILAR` or more.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier
from rensa import RMinHash, RMinHashLSH

EXCERPT = 2000  # characters; three of them are looked at
SHINGLE = 5  # words
SIMILAR = 0.8
PERMUTATIONS = 128
BANDS = 32  # four rows each: a similarity of 0.8 is missed once in 20 million
WORD = re.compile(r"\w+")


def language_of(text: str) -> str:
    """The ISO 639-1 code of the language that most excerpts of the text are in."""
    places = (len(text) // 5, len(text) // 2, 4 * len(text) // 5)
    excerpts = [text[max(place - EXCERPT // 2, 0) :][:EXCERPT] for place in places]
    found = Counter(_identifier().classify(excerpt)[0] for excerpt in excerpts)
    return str(found.most_common(1)[0][0])


def can_identify(language: str) -> bool:
    """Whether the model knows the language at all."""
    return language in _identifier().labels


@lru_cache(maxsize=1)
def _identifier() -> LanguageIdentifier:
    """py3langid's model, loaded once a process (a second)."""
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def signature(text: str) -> RMinHash | None:
    """The MinHash of the text's shingles; None for a text of fewer than `SHINGLE` words."""
    words = WORD.findall(text.lower())
    starts = range(len(words) - SHINGLE + 1)
    shingles = {" ".join(words[start : start + SHINGLE]) for start in starts}
    if not shingles:
        return None
    minhash = RMinHash(num_perm=PERMUTATIONS, seed=1)
    minhash.update(list(shingles))
    return minhash


class NearDuplicates:
    """An LSH index of the books that were added, in their order."""

    def __init__(self) -> None:
        self._index = RMinHashLSH(threshold=SIMILAR, num_perm=PERMUTATIONS, num_bands=BANDS)
        self._added: list[tuple[str, RMinHash]] = []

    def find(self, minhash: RMinHash) -> str | None:
        """The first book added that is nearly the same; None where there is none."""
        for key in sorted(self._index.query(minhash)):
            name, other = self._added[key]
            if minhash.jaccard(other) >= SIMILAR:
                return str(name)
        return None

    def add(self, name: str, minhash: RMinHash) -> None:
        self._index.insert(len(self._added), minhash)
        self._added.append((name, minhash))
