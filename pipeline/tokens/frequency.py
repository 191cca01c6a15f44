"""How well tokens are predicted by their frequency alone: the least that a model should learn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.tokens.tokenizer import VOCABULARY
from pipeline.tokens.windows import Tokens, Windows

MOST_COUNTED = 10_000_000  # training tokens, from the first; frequencies change little after that
CHUNK = 1 << 20  # tokens read at once


def loss_by_frequency(train: Tokens, windows: Windows, indices: range) -> float:
    """Nats per token over the targets of `windows`, each predicted by its frequency in `train`.

    Tokens that are not in it share the probability that Witten and Bell (1991) leave to what is
    new, T / (N + T) after N tokens of T kinds; by their method C.
    """
    counts = np.zeros(VOCABULARY, np.int64)
    for start, stop in _chunks(min(len(train), MOST_COUNTED), CHUNK):
        counts += np.bincount(train.read(start, stop), minlength=VOCABULARY)
    losses = -np.log(_probabilities(counts))
    nats, rows = 0.0, max(1, CHUNK // windows.context_length)
    for start, stop in _chunks(len(indices), rows):
        nats += float(losses[windows.targets(indices[start:stop])].sum())
    return nats / (len(indices) * windows.context_length)


def _probabilities(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    total, seen = int(counts.sum()), int((counts > 0).sum())
    new = len(counts) - seen
    if not new:
        return np.asarray(counts / total)
    return np.where(counts > 0, counts / (total + seen), seen / (total + seen) / new)


def _chunks(length: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, length)) for start in range(0, length, size)]
