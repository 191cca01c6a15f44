"""Whether a book is in the language asked for, and whether it stands in the corpus already.

The language is py3langid's judgement of excerpts (a naive Bayes model over byte n-grams, packaged
with it). Near-duplicates are found by Rensa's MinHash over runs of `RUN` words: two books are one
when they share `ALIKE` of all runs that either has.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier
    from rensa import RMinHash

EXCERPT = 2000  # characters; three of them are judged
RUN = 5  # words
ALIKE = 0.8
PERMUTATIONS = 128
BANDS = 32  # four rows each: what is alike by 0.8 is found but for one in 20 million
WORD = re.compile(r"\w+")


def language_of(text: str) -> str:
    """The ISO 639-1 code that most excerpts of the text are judged to be in."""
    places = (len(text) // 5, len(text) // 2, 4 * len(text) // 5)
    excerpts = [text[max(place - EXCERPT // 2, 0) :][:EXCERPT] for place in places]
    found = Counter(_identifier().classify(excerpt)[0] for excerpt in excerpts)
    return str(found.most_common(1)[0][0])


def can_judge(language: str) -> bool:
    """Whether the model knows the language at all."""
    return language in _identifier().labels


@lru_cache(maxsize=1)
def _identifier() -> LanguageIdentifier:
    """py3langid's model, loaded once a process (a second)."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


def signature(text: str) -> RMinHash | None:
    """What near-duplicates have in common; None for a text of fewer than `RUN` words."""
    from rensa import RMinHash

    words = WORD.findall(text.lower())
    runs = {" ".join(words[start : start + RUN]) for start in range(len(words) - RUN + 1)}
    if not runs:
        return None
    minhash = RMinHash(num_perm=PERMUTATIONS, seed=1)
    minhash.update(list(runs))
    return minhash


class Seen:
    """The signatures of the books that were taken, by their place in the order of taking."""

    def __init__(self) -> None:
        from rensa import RMinHashLSH

        self._index = RMinHashLSH(threshold=ALIKE, num_perm=PERMUTATIONS, num_bands=BANDS)
        self._taken: list[tuple[str, RMinHash]] = []

    def like(self, minhash: RMinHash) -> str | None:
        """The first book taken that is nearly the same; None where there is none."""
        for key in sorted(self._index.query(minhash)):
            name, other = self._taken[key]
            if minhash.jaccard(other) >= ALIKE:
                return str(name)
        return None

    def take(self, name: str, minhash: RMinHash) -> None:
        self._index.insert(len(self._taken), minhash)
        self._taken.append((name, minhash))
