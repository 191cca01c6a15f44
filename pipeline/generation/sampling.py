"""From logits to tokens: temperature, top-k, top-p and min-p, each row with its own settings.

The order is the field's (and that of transformers): the logits are divided by the temperature,
then top-k keeps the k largest, then top-p keeps the smallest set of the largest whose probability
reaches p, then min-p drops what is less likely than min_p times the likeliest. Each looks at the
probabilities that the one before it left, renormalised.

Sharp edges: temperature 0 is greedy, the other settings then do nothing. Among equal logits the
lowest token id wins, at the k-th place as in greedy decoding, so exactly k tokens are kept and
`top_k=1` is greedy. A k above the vocabulary keeps all of it.

A row draws by inverting its distribution's cumulative sum at one uniform number a token, the i-th
of a generator that belongs to the row's seed alone. What a row gets therefore depends neither on
the rows beside it nor on how many tokens are asked for, and one number reproduces it. (Batches of
different sizes round logits differently in the seventh digit, so about one draw in a million, at
the very boundary between two tokens, may fall to the other side.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError

MIN_TEMPERATURE = 1e-30  # float32 still divides by it; what is colder is greedy to the last bit
NUCLEUS = 1024  # candidates among which top-p looks first


@dataclass(frozen=True)
class Sampling:
    """How one row chooses its tokens; `None` switches a filter off.

    Raises:
        UserError: a setting lies outside its range, which the message gives.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"temperature must be a number from 0 up, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k must be at least 1, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p < 1:
            raise UserError(f"min_p must be at least 0 and below 1, not {self.min_p}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed must be at least 0 and below 2**63, not {self.seed}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken, and the seed plays no part."""
        return self.temperature == 0 or self.top_k == 1


def uniforms(seed: int, count: int) -> np.ndarray:
    """The first `count` numbers in [0, 1) of a seed's own generator, float64.

    They are drawn on the CPU whatever the device, and a longer series begins with the shorter.
    """
    return np.random.Generator(np.random.PCG64(seed)).random(count)


class Sampler:
    """Draws one token for each of a fixed list of rows."""

    def __init__(self, samplings: Sequence[Sampling]) -> None:
        self.rows = len(samplings)
        self._greedy = [row for row, s in enumerate(samplings) if s.greedy]
        groups: dict[tuple[int | None, bool], list[int]] = {}
        for row, s in enumerate(samplings):
            if not s.greedy:
                groups.setdefault((s.top_k, s.top_p not in (None, 1.0)), []).append(row)
        self._groups = [
            _Group(rows, top_k, nucleus, [samplings[row] for row in rows])
            for (top_k, nucleus), rows in groups.items()
        ]

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Choose a token a row.

        Args:
            logits: (B, V), finite.
            uniform: (B,) float64 in [0, 1), one number a row; greedy rows ignore theirs.

        Returns:
            (B,) int64 token ids.
        """
        assert len(logits) == self.rows, "a sampler draws for the rows it was made for"
        tokens = torch.empty(self.rows, dtype=torch.int64, device=logits.device)
        if self._greedy:
            tokens[self._greedy] = logits[self._greedy].argmax(-1)
        for group in self._groups:
            tokens[group.rows] = group.draw(logits[group.rows], uniform[group.rows])
        return tokens

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distributions that `draw` draws from, (B, V) float64."""
        result = torch.zeros(logits.shape, dtype=torch.float64, device=logits.device)
        if self._greedy:
            result[self._greedy, logits[self._greedy].argmax(-1)] = 1.0
        for group in self._groups:
            weights, ids = group.candidates(logits[group.rows])
            weights = weights.double() / _total(weights)
            if ids is None:
                result[group.rows] = weights
            else:
                result[group.rows] = torch.zeros_like(result[group.rows]).scatter(1, ids, weights)
        return result


class _Group:
    """Rows with one top_k, so that their candidates are one tensor and no row feels another."""

    def __init__(
        self, rows: list[int], top_k: int | None, nucleus: bool, samplings: list[Sampling]
    ) -> None:
        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32)[:, None]

        self.rows = rows
        self.top_k = top_k
        self.nucleus = nucleus
        self.temperature = column([max(s.temperature, MIN_TEMPERATURE) for s in samplings])
        self.top_p = column([s.top_p or 1.0 for s in samplings])
        self.min_p = column([s.min_p or 0.0 for s in samplings])

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Invert each row's cumulative sum at its uniform number."""
        weights, ids = self.candidates(logits)
        if ids is not None:
            # By id, so that two tokens of nearly the same weight do not change places.
            ids, order = ids.sort(dim=-1)
            weights = weights.gather(1, order)
        cumulative = weights.cumsum(-1, dtype=torch.float64)
        point = uniform[:, None] * cumulative[:, -1:]
        # The first entry whose cumulative weight exceeds the point, so never one of weight 0.
        index = torch.searchsorted(cumulative, point, right=True)
        return (index if ids is None else ids.gather(1, index)).squeeze(1)

    def candidates(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weights (n, K), not normalised, and their token ids, `None` for 0 .. V-1."""
        best = logits.amax(-1, keepdim=True)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            values, ids = top(logits, self.top_k)
            weights = self._weigh(values, best)
            return self._filter(weights, _total(weights)), ids
        weights = self._weigh(logits, best)
        total = _total(weights)
        if not self.nucleus:
            return self._filter(weights, total), None
        # A nucleus is small as a rule: look among the likeliest before sorting them all.
        for size in (min(NUCLEUS, logits.shape[-1]), logits.shape[-1]):
            values, ids = top(logits, size)
            weights = self._weigh(values, best)
            if (_total(weights) >= self.top_p.to(logits.device) * total).all():
                break
        return self._filter(weights, total), ids

    def _weigh(self, logits: Tensor, best: Tensor) -> Tensor:
        # Less the maximum first, so that no temperature overflows.
        return torch.exp((logits - best) / self.temperature.to(logits.device))

    def _filter(self, weights: Tensor, total: Tensor) -> Tensor:
        """Top-p, on weights in descending order, then min-p; the largest weight is 1."""
        if self.nucleus:
            before = weights.cumsum(-1, dtype=torch.float64) - weights
            weights = weights * (before < self.top_p.to(weights.device) * total)
        if self.min_p.any():
            weights = weights * (weights >= self.min_p.to(weights.device))
        return weights


def _total(weights: Tensor) -> Tensor:
    return weights.sum(-1, keepdim=True, dtype=torch.float64)


def top(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row in descending order, the lowest id first among equals.

    `torch.topk` promises no order among equals; it is asked for the k-th value, and ties there
    and before are settled here.

    Args:
        logits: (B, V) with V >= k.

    Returns:
        (B, k) values and (B, k) token ids.
    """
    if k == logits.shape[-1]:
        return torch.sort(logits, dim=-1, descending=True, stable=True)
    values, ids = torch.topk(logits, k)
    tied = (logits == values[:, -1:]).sum(-1) > (values == values[:, -1:]).sum(-1)
    for row in torch.nonzero(tied).flatten().tolist():
        ids[row] = torch.sort(logits[row], descending=True, stable=True).indices[:k]
        values[row] = logits[row, ids[row]]
    # Equals that were all kept still want one order: by value descending, then by id.
    by_id = ids.argsort(-1)
    ids, values = ids.gather(1, by_id), values.gather(1, by_id)
    order = torch.sort(values, dim=-1, descending=True, stable=True).indices
    return values.gather(1, order), ids.gather(1, order)
