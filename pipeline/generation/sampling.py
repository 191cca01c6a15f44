"""From logits to tokens: temperature, top-k, top-p and min-p, each row with its own settings.

The order is the field's (and that of transformers): the logits are divided by the temperature,
then top-k keeps the k largest, then top-p keeps the smallest set of the largest whose probability
reaches p, then min-p drops what is less likely than min_p times the likeliest. Each looks at the
probabilities that the one before it left, renormalised.

Sharp edges: temperature 0 is greedy, the other settings then do nothing. Among equal logits the
lowest token id wins, at the k-th place as in greedy decoding, so exactly k tokens are kept and
`top_k=1` is greedy. A k above the vocabulary keeps all of it.

Draws use the Gumbel-max trick: Gumbel noise is added to each token's log-probability, and the token
with the largest sum is drawn, each with its probability. (Gumbel noise is minus the logarithm of an
exponential variable; the trick is also known as the exponential race.) Token i's noise in a row's
n-th draw is the i-th output of a SplitMix64 generator keyed by (seed, prompt, n). What a prompt
gets depends neither on the rows beside it nor on how many tokens are asked for; one seed reproduces
it; and logits that differ a little, or another temperature, mostly draw the same token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import UserError

MIN_TEMPERATURE = 1e-30  # float32 still divides by it; anything colder is greedy to the last bit
NUCLEUS = 1024  # likeliest tokens among which top-p looks first
LARGEST_GROUP = 64  # logits whose maximum stands for them in a bound; more save nothing

GOLDEN = 0x9E3779B97F4A7C15  # SplitMix64's constants (Steele, Lea and Flood 2014)
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


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
        """Whether the likeliest token is always taken, whatever the seed."""
        return self.temperature == 0 or self.top_k == 1


def stream_key(seed: int, prompt: Sequence[int]) -> int:
    """The random key of all draws for a prompt under a seed, 64 bits."""
    key = _mixed(seed + GOLDEN)
    for token in prompt:
        key = _mixed(key ^ (token + 1) * GOLDEN)
    return key


def draw_key(stream: int, draw: int) -> int:
    """The random key of one draw of a stream, counted from 0, as a signed 64-bit integer."""
    return _signed(_mixed(stream + (draw + 1) * GOLDEN))


def _mixed(state: int) -> int:
    """SplitMix64's output function on Python's integers."""
    for shift, factor in ((30, MIX_1), (27, MIX_2)):
        state %= 2**64
        state = (state ^ (state >> shift)) * factor % 2**64
    return state ^ (state >> 31)


def exponentials(keys: Tensor, ids: Tensor) -> Tensor:
    """Exponential noise for each draw and token; minus its logarithm is Gumbel noise.

    Args:
        keys: (n, 1) of `draw_key`, int64.
        ids: (n, K) or (K,) token ids, int64.

    Returns:
        (n, K) float64, each exponentially distributed with mean 1.
    """

    def shifted(x: Tensor, places: int) -> Tensor:  # a logical shift, as of unsigned integers
        return (x >> places).bitwise_and_((1 << 64 - places) - 1)

    # In place: over a whole vocabulary, allocating each result would take longer than computing it.
    x = keys + (ids + 1) * _signed(GOLDEN)
    x.bitwise_xor_(shifted(x, 30)).mul_(_signed(MIX_1))
    x.bitwise_xor_(shifted(x, 27)).mul_(_signed(MIX_2))
    x.bitwise_xor_(shifted(x, 31))
    uniform = shifted(x, 11).double().add_(0.5).mul_(2.0**-53)  # never 0, never 1
    return uniform.neg_().log1p_().neg_()


def _signed(bits: int) -> int:
    return bits - (bits >> 63 << 64)


class Sampler:
    """Draws one token for each of a fixed list of rows."""

    def __init__(self, samplings: Sequence[Sampling]) -> None:
        self.size = len(samplings)
        self._greedy = [row for row, s in enumerate(samplings) if s.greedy]
        self.greedy = len(self._greedy) == self.size
        groups: dict[tuple[int | None, bool], list[int]] = {}
        for row, s in enumerate(samplings):
            if not s.greedy:
                groups.setdefault((s.top_k, s.top_p not in (None, 1.0)), []).append(row)
        self._groups = [
            _FilterGroup(rows, top_k, nucleus, [samplings[row] for row in rows])
            for (top_k, nucleus), rows in groups.items()
        ]

    def draw(self, logits: Tensor, keys: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Draw one token per row.

        Args:
            logits: (B, V), finite.
            keys: one `draw_key` per row; greedy rows ignore theirs.

        Returns:
            (B,) int64 token ids, and (B,) margins: the least change of a logit that could change
            the row's token, the k-th place of top-k aside.
        """
        assert len(logits) == self.size, "a sampler draws for the rows it was made for"
        if self.greedy:
            return best_and_margin(logits)
        tokens = torch.empty(self.size, dtype=torch.int64, device=logits.device)
        margins = torch.empty(self.size, dtype=torch.float64, device=logits.device)
        if self._greedy:
            tokens[self._greedy], margins[self._greedy] = best_and_margin(logits[self._greedy])
        for group in self._groups:
            rows = group.rows
            key = torch.tensor([[keys[row]] for row in rows], device=logits.device)
            tokens[rows], margins[rows] = group.draw(logits[rows], key)
        return tokens, margins

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distributions that `draw` draws from, (B, V) float64."""
        result = torch.zeros(logits.shape, dtype=torch.float64, device=logits.device)
        if self._greedy:
            result[self._greedy, logits[self._greedy].argmax(-1)] = 1.0
        for group in self._groups:
            scores, ids = group.candidates(logits[group.rows])
            weights = torch.softmax(scores.double(), dim=-1)
            if ids is None:
                result[group.rows] = weights
            else:
                result[group.rows] = torch.zeros_like(result[group.rows]).scatter(1, ids, weights)
        return result


class _FilterGroup:
    """Rows with one top_k, so that their candidates form one tensor and stay independent."""

    def __init__(
        self, rows: list[int], top_k: int | None, nucleus: bool, samplings: list[Sampling]
    ) -> None:
        self.rows = rows
        self.top_k = top_k
        self.nucleus = nucleus
        self.samplings = samplings

    def draw(self, logits: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Gumbel-max over the candidates; margins are in logits, before the temperature."""
        scores, ids = self.candidates(logits)
        tokens = torch.arange(scores.shape[-1], device=logits.device) if ids is None else ids
        index, margin = best_and_margin(scores - exponentials(keys, tokens).log_())
        drawn = index if ids is None else ids.gather(1, index[:, None])[:, 0]
        return drawn, margin * self._column("temperature", logits)[:, 0]

    def candidates(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Log-weights (n, K), -inf for what a filter drops, and token ids, `None` for 0 .. V-1."""
        best, ids = logits.amax(-1, keepdim=True), None
        # Before the temperature, which changes no rank.
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            logits, ids = top(logits, self.top_k)
        # Less the maximum first, so that no temperature overflows.
        scores = (logits - best) / self._column("temperature", logits)
        if self.nucleus:
            scores, ids = self._nucleus(scores) if ids is None else (self._cut(scores, scores), ids)
        if any(s.min_p for s in self.samplings):  # the best score is 0
            scores = scores.masked_fill(scores.exp() < self._column("min_p", scores), -torch.inf)
        return scores, ids

    def _nucleus(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Top-p over the vocabulary: small as a rule, so it is looked for among the likeliest."""
        reached = self._column("top_p", scores) * _total(scores)
        likeliest, ids = top(scores, min(NUCLEUS, scores.shape[-1]))
        if (_total(likeliest) < reached).any():
            likeliest, ids = top(scores, scores.shape[-1])
        return self._cut(likeliest, scores), ids

    def _cut(self, descending: Tensor, scores: Tensor) -> Tensor:
        """Top-p of `scores`, of which `descending` holds the largest."""
        weights = descending.exp()
        before = weights.cumsum(-1, dtype=torch.float64) - weights
        kept = before < self._column("top_p", scores) * _total(scores)
        return descending.masked_fill(~kept, -torch.inf)

    def _column(self, name: str, like: Tensor) -> Tensor:
        """(n, 1): one setting of each row, on `like`'s device."""
        off, least = {
            "temperature": (1.0, MIN_TEMPERATURE),
            "top_p": (1.0, 0.0),
            "min_p": (0.0, 0.0),
        }[name]
        values = [getattr(s, name) for s in self.samplings]
        values = [off if value is None else max(value, least) for value in values]
        return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None]


def best_and_margin(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) the index of each row's largest score, the lowest of equals, and its lead."""
    best = scores.argmax(-1, keepdim=True)
    first = scores.gather(-1, best)
    # Two passes for the largest: `torch.topk` takes over a millisecond for a vocabulary.
    second = scores.scatter(-1, best, -torch.inf).amax(-1, keepdim=True)
    return best[:, 0], (first.double() - second)[:, 0]


def _total(scores: Tensor) -> Tensor:
    return scores.exp().sum(-1, keepdim=True, dtype=torch.float64)


def top(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row in descending order, the lowest id first among equals.

    `torch.topk` promises no order among equals, and bf16 has many; to sort a whole vocabulary
    takes milliseconds. So what reaches a lower bound of the k-th value is picked out, and alone
    sorted.

    Args:
        logits: (B, V) with V >= k.

    Returns:
        (B, k) values and (B, k) token ids.
    """
    rows, ids = torch.nonzero(logits >= _lower_bound(logits, k), as_tuple=True)  # by row, by id
    counts = rows.bincount(minlength=len(logits))
    places = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    most = int(counts.max())
    values = logits.new_full((len(logits), most), -torch.inf)
    tokens = ids.new_zeros(len(logits), most)
    values[rows, places], tokens[rows, places] = logits[rows, ids], ids
    values, order = values.sort(dim=-1, descending=True, stable=True)
    return values[:, :k], tokens.gather(1, order[:, :k])


def _lower_bound(logits: Tensor, k: int) -> Tensor:
    """(B, 1): a bound that at least k logits of each row reach, and few more.

    The k-th largest of the maxima of groups is such a bound. With eight groups for each of the k
    largest logits, two of those seldom share a group.
    """
    groups = 8 * k
    size = min(logits.shape[-1] // groups, LARGEST_GROUP)
    if size > 2:
        groups = logits.shape[-1] // size
        logits = logits[:, : groups * size].view(-1, size, groups).amax(1)
    return logits.topk(k).values[:, -1:]
