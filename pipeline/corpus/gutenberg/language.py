"""Language identification: what py3langid says of excerpts.

It is a naive Bayes model over byte n-grams, packaged with py3langid.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

EXCERPT = 2000  # characters; three of them are looked at


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
